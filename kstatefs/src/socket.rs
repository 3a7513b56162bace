//! Descriptors to and from programs: those of regions, where the kernel cannot pass their maps through, and
//! those of the files that states are to be kept in.
//!
//! A program that has opened a state asks for a ticket by ioctl and shows it here. The ticket
//! stands for the rights of that open file, so the mode bits have been checked by the kernel; the
//! peer's credentials must be those of the asker, and a ticket serves once.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use kstate_sys::ioctl::Ticket;
use kstate_sys::persist::{Answer, Request, outcome};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, accept4, bind, getsockopt, listen, recvmsg, sendmsg, socket, sockopt,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::backing::RegionFile;
use crate::closing::{Closers, Foreign};
use crate::descriptors;
use crate::errno::{Errno, Seldom};
use crate::fs::{Caller, Refused};
use crate::private::PrivateDirectory;
use crate::state::State;

/// Bytes of a ticket's secret.
const SECRET_BYTES: usize = 16;
/// How long a ticket is good.
const TICKET_LIFE: Duration = Duration::from_secs(5);
/// How long a connection may take to show its ticket.
const PATIENCE: Duration = Duration::from_millis(1000);
/// Connections of one user that have not shown a ticket yet; the oldest makes room.
const MAX_SILENT: usize = 32;
/// Tickets of one user that nobody has shown yet; the oldest makes room.
const MAX_TICKETS: usize = 1024;

/// The socket, and the tickets that are good there.
pub(crate) struct Desk {
    directory: PrivateDirectory,
    path: PathBuf,
    listener: OwnedFd,
    tickets: Mutex<HashMap<[u8; 16], Issued>>,
    /// Makes states persistent.
    persist: OnceLock<Persist>,
    closers: Closers,
    stopped: AtomicBool,
}

#[derive(Debug)]
struct Issued {
    right: Right,
    uid: u32,
    /// The open file it stands for, which has one ticket at a time.
    file: u64,
    expires: Instant,
}

/// What a ticket is good for. It is no descriptor yet, so that who hoards tickets hoards none, and
/// keeps no region from going.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    region: Weak<RegionFile>,
    writable: bool,
    /// Of a state's file.
    state: Option<Weak<State>>,
}

impl Right {
    /// To the descriptor of a region, one that can be mapped writable or not.
    pub(crate) fn new(region: &Arc<RegionFile>, writable: bool) -> Self {
        Self {
            region: Arc::downgrade(region),
            writable,
            state: None,
        }
    }

    /// To what concerns a state besides.
    pub(crate) fn of_state(state: &Arc<State>, writable: bool) -> Self {
        Self {
            state: Some(Arc::downgrade(state)),
            ..Self::new(state.region_file(), writable)
        }
    }

    /// The descriptor; `ESTALE` when the state has gone, `ENOTTY` where programs map by themselves.
    fn exercise(&self) -> Result<OwnedFd, Errno> {
        let region = self.region.upgrade().ok_or(Errno::ESTALE)?;
        match *region {
            // Which could be cut short through it, under who has it mapped.
            RegionFile::Tmpfs { .. } => Err(Errno::ENOTTY),
            RegionFile::Memfd { .. } => Ok(region.for_program(self.writable)?),
        }
    }

    fn state(&self) -> Result<Arc<State>, Errno> {
        let state = self.state.as_ref().ok_or(Errno::EINVAL)?;
        state.upgrade().ok_or(Errno::ESTALE)
    }
}

/// A state that somebody wants to be persistent, by a ticket.
pub(crate) struct Asked {
    pub(crate) state: Arc<State>,
    pub(crate) request: Box<Request>,
    /// The file as the program has it open.
    pub(crate) file: Foreign,
    pub(crate) caller: Caller,
    pub(crate) answer: PersistAnswer,
}

/// Where the answer to that goes.
pub(crate) struct PersistAnswer(Foreign);

impl PersistAnswer {
    /// Answers.
    pub(crate) fn say(self, result: Result<(), Refused>) {
        let answer = match result {
            Ok(()) => Answer {
                errno: 0,
                outcome: outcome::OK,
            },
            Err(refused) => Answer {
                errno: refused.errno.code(),
                outcome: refused.outcome,
            },
        };
        if let Err(error) = say(&self.0, answer.as_bytes(), &[]) {
            tracing::debug!(%error, "a program was not told that its state is persistent");
        }
    }
}

type Persist = Box<dyn Fn(Asked) + Send + Sync>;

/// A connection that has not shown its ticket yet.
#[derive(Debug)]
struct Peer {
    connection: Foreign,
    caller: Caller,
    until: Instant,
}

impl Desk {
    /// Opens the socket in a directory of its own, which others can reach if it is `for_others`.
    ///
    /// # Errors
    ///
    /// What the kernel says, with the path.
    pub(crate) fn open(for_others: bool) -> io::Result<Self> {
        // The first that will do: root of a user namespace may not write /run, and the address of
        // a socket has room for some 100 bytes. A login session's runtime directory is closed to
        // others.
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let is_open = |directory: &PathBuf| {
            let mode = std::fs::metadata(directory).map(|found| found.permissions().mode());
            mode.is_ok_and(|mode| mode & 0o001 != 0)
        };
        let (first, last): (Vec<_>, Vec<_>) = runtime
            .into_iter()
            .partition(|runtime| !for_others || is_open(runtime));
        let others = ["/run".into(), std::env::temp_dir()];
        let places = first.into_iter().chain(others).chain(last);
        let mut desk = Err(io::Error::other("no place for a socket"));
        for place in places {
            desk = Self::open_in(&place);
            if desk.is_ok() {
                break;
            }
        }
        desk
    }

    fn open_in(place: &Path) -> io::Result<Self> {
        // Others may search it but not list it.
        let directory = PrivateDirectory::create(place, 0o711)?;
        let path = directory.path().join("socket");
        let open = || -> io::Result<OwnedFd> {
            let kind = SockType::SeqPacket;
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let listener = socket(AddressFamily::Unix, kind, flags, None)?;
            bind(listener.as_raw_fd(), &UnixAddr::new(&path)?)?;
            // Anybody may knock; what counts is the ticket and who shows it.
            std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
            listen(&listener, Backlog::new(128)?)?;
            Ok(listener)
        };
        let listener = open().map_err(|error| {
            io::Error::other(format!("cannot listen on {}: {error}", path.display()))
        })?;
        Ok(Self {
            directory,
            path,
            listener,
            tickets: Mutex::default(),
            persist: OnceLock::new(),
            closers: Closers::default(),
            stopped: AtomicBool::new(false),
        })
    }

    /// Has `persist` called when somebody wants a state to be persistent. It must not take long.
    pub(crate) fn on_persist(&self, persist: impl Fn(Asked) + Send + Sync + 'static) {
        // Set once, when the session is made.
        let _ = self.persist.set(Box::new(persist));
    }

    /// Removes the socket and its directory; again, nothing.
    pub(crate) fn remove(&self) {
        self.directory.remove();
    }

    /// A ticket for `right`, good once for user `uid`, in place of the last one for `file`.
    ///
    /// # Errors
    ///
    /// No randomness.
    pub(crate) fn issue(&self, right: Right, uid: u32, file: u64) -> io::Result<Ticket> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        let ticket = Ticket::new(secret, self.path.as_os_str().as_encoded_bytes())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?;
        let mut tickets = self.lock();
        let now = Instant::now();
        tickets.retain(|_, issued| issued.expires > now && issued.file != file);
        let theirs = || tickets.iter().filter(|(_, issued)| issued.uid == uid);
        if theirs().count() >= MAX_TICKETS
            && let Some((oldest, _)) = theirs().min_by_key(|(_, issued)| issued.expires)
        {
            let oldest = *oldest;
            tickets.remove(&oldest);
        }
        let issued = Issued {
            right,
            uid,
            file,
            expires: now + TICKET_LIFE,
        };
        tickets.insert(secret, issued);
        Ok(ticket)
    }

    /// Serves until [`Desk::stop`]. Whoever keeps silent holds up nobody else.
    pub(crate) fn run(&self) {
        let mut silent: Vec<Peer> = Vec::new();
        while !self.stopped.load(Ordering::Relaxed) {
            let now = Instant::now();
            silent.retain(|peer| peer.until > now);
            let first = silent.iter().map(|peer| peer.until - now).min();
            // Rounded up, so that somebody's time is over when this is.
            let timeout = match first.map(|left| u16::try_from(left.as_millis() + 1)) {
                Some(millis) => PollTimeout::from(millis.unwrap_or(u16::MAX)),
                None => PollTimeout::NONE,
            };
            let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            let theirs = silent.iter().map(|peer| peer.connection.as_fd());
            fds.extend(theirs.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            if let Err(error) = poll(&mut fds, timeout) {
                if error != nix::errno::Errno::EINTR {
                    tracing::error!(%error, "nobody can get at regions any more");
                    std::thread::sleep(Duration::from_millis(50));
                }
                continue;
            }
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
            let mut speaks = ready[1..].iter();
            let spoke = silent.extract_if(.., |_| speaks.next() == Some(&true));
            for peer in spoke {
                if let Err(error) = self.serve(peer) {
                    tracing::debug!(%error, "a program was not served at the socket");
                }
            }
            if ready[0] {
                match self.accept() {
                    Ok(peer) => {
                        let theirs = |known: &&Peer| known.caller.uid == peer.caller.uid;
                        if silent.iter().filter(theirs).count() >= MAX_SILENT
                            && let Some(oldest) = silent.iter().position(|p| theirs(&p))
                        {
                            silent.remove(oldest);
                        } else if descriptors::is_of_the_last(&peer.connection)
                            && !silent.is_empty()
                        {
                            // Whosever it is: the last descriptors are for who speaks.
                            silent.remove(0);
                        }
                        silent.push(peer);
                    }
                    Err(
                        nix::errno::Errno::EINTR
                        | nix::errno::Errno::ECONNABORTED
                        | nix::errno::Errno::EAGAIN
                        | nix::errno::Errno::EINVAL,
                    ) => {}
                    Err(error) => {
                        static TOLD: Seldom = Seldom::new();
                        if TOLD.is_due(Instant::now()) {
                            tracing::error!(%error, "nobody can get at regions now");
                        }
                        // Out of descriptors, most likely: give others time to close some.
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        }
    }

    fn accept(&self) -> nix::Result<Peer> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let connection = accept4(self.listener.as_raw_fd(), flags)?;
        #[expect(unsafe_code, reason = "nix returns a bare number")]
        // SAFETY: a new descriptor that nobody else owns.
        let connection = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(connection) };
        let peer = getsockopt(&connection, sockopt::PeerCredentials)?;
        Ok(Peer {
            connection: Foreign::new(connection, peer.uid(), &self.closers),
            caller: Caller {
                uid: peer.uid(),
                gid: peer.gid(),
                tid: u32::try_from(peer.pid()).unwrap_or(0),
            },
            until: Instant::now() + PATIENCE,
        })
    }

    /// Ends [`Desk::run`].
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Readable from now on.
        let how = nix::sys::socket::Shutdown::Both;
        if let Err(error) = nix::sys::socket::shutdown(self.listener.as_raw_fd(), how) {
            tracing::error!(%error, "the socket cannot be shut down");
        }
    }

    fn serve(&self, peer: Peer) -> io::Result<()> {
        // One byte more than the longest message, so that a longer one is seen as such.
        let mut message = [0; size_of::<Request>() + 1];
        let (length, descriptors) = receive(&peer.connection, &mut message)?;
        let theirs = descriptors.into_iter();
        let theirs = theirs.map(|sent| Foreign::new(sent, peer.caller.uid, &self.closers));
        let file = theirs.collect::<Vec<_>>().into_iter().next();
        let redeem = |secret: &[u8; SECRET_BYTES]| self.redeem(secret, peer.caller.uid);
        if let Ok(secret) = <[u8; SECRET_BYTES]>::read_from_bytes(&message[..length]) {
            let right = redeem(&secret).ok_or(Errno::EACCES);
            return match right.and_then(|right| right.exercise()) {
                Ok(descriptor) => {
                    let descriptors = [descriptor.as_fd().as_raw_fd()];
                    let rights = [ControlMessage::ScmRights(&descriptors)];
                    say(&peer.connection, &0_i32.to_ne_bytes(), &rights)
                }
                Err(error) => say(&peer.connection, &error.code().to_ne_bytes(), &[]),
            };
        }
        match Request::read_from_bytes(&message[..length]) {
            Ok(request) => {
                let right = redeem(&request.secret).ok_or(Errno::EACCES);
                self.persist(peer, request, right, file);
                Ok(())
            }
            Err(_) => say(&peer.connection, &Errno::EACCES.code().to_ne_bytes(), &[]),
        }
    }

    fn persist(
        &self,
        peer: Peer,
        request: Request,
        right: Result<Right, Errno>,
        file: Option<Foreign>,
    ) {
        let answer = PersistAnswer(peer.connection);
        let asked = || {
            let state = right?.state()?;
            Ok((state, file.ok_or(Errno::EINVAL)?))
        };
        match (asked(), self.persist.get()) {
            (Ok((state, file)), Some(persist)) => persist(Asked {
                state,
                request: Box::new(request),
                file,
                caller: peer.caller,
                answer,
            }),
            (Ok(_), None) => answer.say(Err(Errno::EOPNOTSUPP.into())),
            (Err(errno), _) => answer.say(Err(Errno::into(errno))),
        }
    }

    /// Answers what a program of that user has said.
    #[cfg(fuzzing)]
    pub(crate) fn serve_as(&self, connection: OwnedFd, uid: u32) -> io::Result<()> {
        self.serve(Peer {
            connection: Foreign::new(connection, uid, &self.closers),
            caller: Caller {
                uid,
                gid: uid,
                tid: 0,
            },
            until: Instant::now() + PATIENCE,
        })
    }

    fn redeem(&self, secret: &[u8; 16], uid: u32) -> Option<Right> {
        let mut tickets = self.lock();
        let now = Instant::now();
        let good = |issued: &Issued| issued.uid == uid && issued.expires > now;
        // A wrong user does not use up somebody's ticket.
        if !tickets.get(secret).is_some_and(good) {
            return None;
        }
        tickets.remove(secret).map(|issued| issued.right)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 16], Issued>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Descriptors of one message at most, as the kernel has it (SCM_MAX_FD).
const MOST_SENT: usize = 253;

/// One message, with the descriptors that came with it.
fn receive(connection: &Foreign, message: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut parts = [IoSliceMut::new(message)];
    // Room for all: those that find none are cut off, and nix then tells of none, which stay open.
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; MOST_SENT]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let connection = connection.as_fd().as_raw_fd();
    let received = recvmsg::<()>(connection, &mut parts, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for part in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            for number in numbers {
                #[expect(unsafe_code, reason = "nix returns a bare number")]
                // SAFETY: a new descriptor that nobody else owns.
                let received = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number) };
                descriptors.push(received);
            }
        }
    }
    Ok((received.bytes, descriptors))
}

fn say(peer: &Foreign, text: &[u8], rights: &[ControlMessage<'_>]) -> io::Result<()> {
    let parts = [IoSlice::new(text)];
    // A peer that has gone must not end the daemon by SIGPIPE, nor one that does not read hold it up.
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<UnixAddr>(peer.as_fd().as_raw_fd(), &parts, rights, flags, None)?;
    Ok(())
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
