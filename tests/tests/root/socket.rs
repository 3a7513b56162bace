//! The daemon's socket, where a ticket stands for a file that somebody has opened.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kstate_sys::ioctl::{Ticket, call};
use kstate_tests::{Daemon, PATIENCE, Setup, User, as_user};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg,
    send, socket,
};

use crate::{ALICE, BOB, CAROL, ROOT, create_for, open_home, set_mode};

fn ticket(file: &File) -> io::Result<Ticket> {
    let mut ticket = Ticket::new([0; 16], b"").unwrap();
    call::ticket(file, &mut ticket)?;
    Ok(ticket)
}

fn address(ticket: &Ticket) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(ticket.path().unwrap()))
}

/// A connection to the daemon's socket, made by somebody.
fn knock(user: User, path: &Path) -> OwnedFd {
    as_user(user, || {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        socket
    })
}

/// What the daemon hands out to somebody who says this, or the error it answers with.
fn shown(user: User, path: &Path, said: &[u8]) -> Result<File, i32> {
    let socket = knock(user, path);
    send(socket.as_raw_fd(), said, MsgFlags::MSG_NOSIGNAL).unwrap();
    let mut errno = [0; 4];
    let mut parts = [IoSliceMut::new(&mut errno)];
    let mut room = nix::cmsg_space!(OwnedFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags).unwrap();
    let received = message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    #[expect(unsafe_code, reason = "nix hands out bare numbers")]
    // SAFETY: a new descriptor that nobody else owns.
    let received = received.map(|fd| unsafe { File::from_raw_fd(fd) });
    received.ok_or(i32::from_ne_bytes(errno))
}

/// A daemon whose socket is needed, with a state of Alice's that is hers alone.
fn daemon() -> (Daemon, File) {
    let daemon = Setup::default().with("--passthrough=off").start();
    open_home(&daemon);
    let file = create_for(&daemon, "x", ALICE);
    file.write_all_at(b"hers", 0).unwrap();
    set_mode(&daemon, "x", 0o600);
    (daemon, file)
}

pub(crate) fn a_ticket_is_good_once_for_who_asked() {
    let (daemon, _file) = daemon();
    let mine = as_user(ALICE, || File::open(daemon.file("x")).unwrap());
    let ask = || as_user(ALICE, || ticket(&mine).unwrap());
    let first = ask();
    let path = address(&first);
    for other in [BOB, CAROL, ROOT] {
        let refused = shown(other, &path, &first.secret).unwrap_err();
        assert_eq!(refused, libc::EACCES, "stolen by {other:?}");
    }
    shown(ALICE, &path, &first.secret).expect("theft does not use it up");
    let refused = |secret: &[u8]| {
        assert_eq!(shown(ALICE, &path, secret).unwrap_err(), libc::EACCES);
    };
    refused(&first.secret);
    // The next one for the same file is in the place of the last.
    let (second, third) = (ask(), ask());
    refused(&second.secret);
    for bit in 0..128 {
        let mut guessed = third.secret;
        guessed[bit / 8] ^= 1 << (bit % 8);
        refused(&guessed);
    }
    refused(&third.secret[..15]);
    refused(&[&third.secret[..], &[0]].concat());
    refused(&[0; 16]);
    shown(ALICE, &path, &third.secret).expect("guesses do not use it up");
    // Who cannot open it has nothing to ask with; what was asked for before is of no use once the
    // state has gone.
    let denied = as_user(BOB, || File::open(daemon.file("x"))).unwrap_err();
    assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
    // Nor does the directory of the socket tell anything.
    let listed = as_user(BOB, || fs::read_dir(path.parent().unwrap()).map(drop));
    assert_eq!(listed.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
}

pub(crate) fn a_ticket_is_for_what_its_file_may() {
    let (daemon, file) = daemon();
    // For root's thread the file is as open as it is for Alice's.
    let ticket_for = |user| as_user(user, || ticket(&file).unwrap());
    let both = ticket_for(ALICE);
    let path = address(&both);
    let region = shown(ALICE, &path, &both.secret).unwrap();
    assert_eq!(flags_of(&region), libc::O_RDWR);
    set_mode(&daemon, "x", 0o644);
    let reading = as_user(BOB, || File::open(daemon.file("x")).unwrap());
    // Open stays open; what is opened by it stays what it was.
    set_mode(&daemon, "x", 0o600);
    let to_read = as_user(BOB, || ticket(&reading).unwrap());
    let region = shown(BOB, &path, &to_read.secret).unwrap();
    assert_eq!(flags_of(&region), libc::O_RDONLY);
    // A descriptor passed on is asked with by whoever has it.
    let passed_on = ticket_for(BOB);
    assert_eq!(
        shown(ALICE, &path, &passed_on.secret).unwrap_err(),
        libc::EACCES
    );
    shown(BOB, &path, &passed_on.secret).unwrap();
}

fn flags_of(file: &File) -> i32 {
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL).unwrap() & libc::O_ACCMODE
}

pub(crate) fn tickets_expire_and_who_keeps_silent_is_hung_up_on() {
    let (_daemon, file) = daemon();
    let late = ticket(&file).unwrap();
    let path = address(&late);
    let issued = Instant::now();
    // Each has a second to say something.
    while issued.elapsed() <= Duration::from_secs(5) {
        let silent = knock(BOB, &path);
        let mut fds = [PollFd::new(silent.as_fd(), PollFlags::POLLIN)];
        let hung_up = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
        assert_eq!(hung_up, 1);
        assert!(fds[0].revents().unwrap().contains(PollFlags::POLLHUP));
    }
    assert_eq!(shown(ROOT, &path, &late.secret).unwrap_err(), libc::EACCES);
}

pub(crate) fn with_passthrough_no_ticket_is_good_for_a_region() {
    let daemon = Setup::default().with("--passthrough=require").start();
    let file = create_for(&daemon, "x", ALICE);
    // It serves to show the daemon a file for the state.
    let given = ticket(&file).unwrap();
    let refused = shown(ROOT, &address(&given), &given.secret).unwrap_err();
    assert_eq!(refused, libc::ENOTTY);
}

pub(crate) fn those_who_may_enter_the_mount_reach_its_socket() {
    // As a login session has one.
    let runtime = tempfile::tempdir().unwrap();
    fs::set_permissions(runtime.path(), Permissions::from_mode(0o700)).unwrap();
    let setup = Setup::default().with("--passthrough=off");
    let setup = setup.environment("XDG_RUNTIME_DIR", runtime.path());
    let daemon = setup.clone().start();
    open_home(&daemon);
    let file = create_for(&daemon, "x", ALICE);
    file.write_all_at(b"read by all", 0).unwrap();
    set_mode(&daemon, "x", 0o644);
    let read = as_user(BOB, || {
        let state = daemon.library().subscribe("x").existing().bytes();
        state.unwrap().snapshot().unwrap().value
    });
    assert_eq!(&*read, b"read by all");
    // A mount that nobody else may enter keeps it in the directory of its user.
    let daemon = setup.with("--allow-other=false").start();
    let file = create_for(&daemon, "x", ROOT);
    let path = address(&ticket(&file).unwrap());
    assert!(path.starts_with(runtime.path()), "{}", path.display());
}
