//! The daemon's socket, by which the library gets at a region without passthrough.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kstate_sys::ioctl::{Ticket, call};
use kstate_tests::Setup;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::{create, errno};

#[test]
fn a_file_open_for_writing_alone_is_no_way_to_read_the_value() {
    let daemon = Setup::default().with("--passthrough=off").start();
    let _keep = create(&daemon, "x");
    let writer = OpenOptions::new()
        .write(true)
        .open(daemon.file("x"))
        .unwrap();
    let mut ticket = Ticket::new([0; 16], b"").unwrap();
    assert_eq!(errno(call::ticket(&writer, &mut ticket)), libc::EACCES);
}

#[test]
fn nobody_is_kept_out_by_programs_that_hoard_tickets_or_keep_silent() {
    let daemon = Setup::default().with("--passthrough=off").start();
    let hoarder = create(&daemon, "x");
    let mut ticket = Ticket::new([0; 16], b"").unwrap();
    for _ in 0..5000 {
        call::ticket(&hoarder, &mut ticket).unwrap();
    }
    let socket = PathBuf::from(OsStr::from_bytes(ticket.path().unwrap()));
    let silent: Vec<_> = (0..100).map(|_| knock(&socket)).collect();
    let start = Instant::now();
    for name in ["a", "b", "c"] {
        let state = daemon.library().subscribe(name).write().bytes().unwrap();
        state.publish(b"served").unwrap();
    }
    // Each of the silent ones has a second.
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    drop(silent);
}

/// A connection to the daemon's socket.
fn knock(path: &Path) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    socket
}
