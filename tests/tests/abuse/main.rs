//! Programs that want a lot, do nothing, or end badly, by plain system calls: the others go on, and
//! nothing of it stays.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod exhausted;
mod idlers;
mod killed;
mod many;
mod pollers;
mod waiting;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use kstate_tests::{Daemon, Setup};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// Creates a state by opening its file.
fn create(daemon: &Daemon, name: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true);
    options.open(daemon.file(name))
}

fn readable(file: &File, patience: Duration) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap();
    poll(&mut fds, timeout).unwrap();
    fds[0].revents().unwrap().contains(PollFlags::POLLIN)
}

/// An attribute of a state that is a number.
fn attribute(file: &File, name: &str) -> usize {
    #![expect(unsafe_code, reason = "fgetxattr(2) has no wrapper in nix")]
    use std::os::fd::AsRawFd;
    let name = std::ffi::CString::new(format!("user.kstate.{name}")).unwrap();
    let mut text = [0_u8; 64];
    let (descriptor, room) = (file.as_raw_fd(), text.len());
    // SAFETY: the name ends with NUL, and there is room for as many bytes as are asked for.
    let length =
        unsafe { libc::fgetxattr(descriptor, name.as_ptr(), text.as_mut_ptr().cast(), room) };
    let length = usize::try_from(length).expect("the attribute is there");
    std::str::from_utf8(&text[..length])
        .unwrap()
        .parse()
        .unwrap()
}

/// Lets this process open as many files as it may; how many that is.
fn raise_own_limit() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    usize::try_from(hard).unwrap_or(usize::MAX)
}

fn daemon_pid(daemon: &mut Daemon) -> Pid {
    daemon.process().pid()
}

/// Without passthrough, where each state costs the daemon a descriptor.
fn without_passthrough() -> Setup {
    Setup::default().with("--passthrough=off")
}
