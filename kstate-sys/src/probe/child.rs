//! Trying something in a child process, so that nothing of it stays with us.
//!
//! The child is a plain copy made by `clone(2)` without an exit signal: the program's SIGCHLD
//! handler does not hear of it, and its `wait(-1)` does not collect it.

#![expect(unsafe_code, reason = "clone(2), and what a child may do after it")]

use super::limits;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(2);

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It finished, and this is what it found.
    Said(Word),
    /// A signal killed it before it could say anything.
    Killed(i32),
    /// It was still at it after the deadline, and was killed.
    TimedOut,
    /// There was no child to be had.
    NotMade(Errno),
}

/// What a child can say: how far it got, and the errno that stopped it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) step: u8,
    pub(super) errno: u8,
}

/// Runs `work` in a child, and collects the child.
///
/// # Safety
///
/// `work` makes system calls only: no allocation, no lock, no unwinding, no destructor that matters.
/// In the child only this thread lives on, so a lock that another thread held stays locked.
pub(super) unsafe fn in_child(work: impl FnOnce() -> Word) -> End {
    let (ours, theirs) = match pipe2(OFlag::O_CLOEXEC) {
        Ok(pipe) => pipe,
        Err(errno) => return End::NotMade(errno),
    };
    // The program's signal handlers must not run in the child: block all across the clone.
    let before = block_signals();
    // SAFETY: no flags, no stack, no pointers: the child goes on here with a copy of this memory.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    if pid == 0 {
        let word = work();
        let bytes = [word.step, word.errno];
        // SAFETY: `bytes` is alive; write is async-signal-safe.
        unsafe { libc::write(theirs.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        // SAFETY: ends this process at once, running nothing of the program's.
        unsafe { libc::_exit(0) };
    }
    let pid = Errno::result(pid);
    restore_signals(&before);
    drop(theirs);
    match pid.map(libc::pid_t::try_from) {
        Ok(Ok(pid)) => collect(pid, &ours),
        Ok(Err(_)) => End::NotMade(Errno::EOVERFLOW),
        Err(errno) => End::NotMade(errno),
    }
}

fn collect(pid: libc::pid_t, pipe: &OwnedFd) -> End {
    let mut bytes = [0; 2];
    // A child that dies closes its end: that makes the pipe readable, too.
    let in_time = readable_within(pipe, DEADLINE);
    let read = if in_time {
        nix::unistd::read(pipe, &mut bytes)
    } else {
        Ok(0)
    };
    if !in_time {
        // SAFETY: nobody but us collects this child, so the number is still its own.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` is alive. __WALL, because the child has no exit signal.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        if Errno::result(waited) != Err(Errno::EINTR) {
            break;
        }
    }
    match (in_time, read) {
        (false, _) => End::TimedOut,
        (true, Ok(2)) => End::Said(Word {
            step: bytes[0],
            errno: bytes[1],
        }),
        (true, _) => End::Killed(libc::WTERMSIG(status)),
    }
}

fn readable_within(fd: &OwnedFd, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left_ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        let mut poll = libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `poll` is one pollfd, alive throughout.
        match Errno::result(unsafe { libc::poll(&raw mut poll, 1, left_ms) }) {
            Ok(ready) => return ready == 1,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: a sigset_t is an array of integers, for which zeros are a value.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut before = all;
    // SAFETY: `all` is alive and writable.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: both sets are alive; this thread's mask is restored by `restore_signals`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    before
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: `before` is alive; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
}

/// The errno of the last call, for a child: fits its word, since Linux has none above 133.
pub(super) fn last_errno() -> u8 {
    u8::try_from(Errno::last_raw()).unwrap_or(u8::MAX)
}

/// Whether making system call `number` is survivable.
///
/// A seccomp filter may answer a call by killing the process. So where this thread has a filter, a
/// child makes the call first, with arguments that no call accepts.
///
/// # Errors
///
/// A sentence about the filter, fit for a detail.
pub(super) fn survives(number: libc::c_long) -> Result<(), String> {
    if limits::seccomp_mode() == Some(0) {
        return Ok(());
    }
    let attempt = || {
        // SAFETY: with every argument -1 each call that we ask for is refused, and touches nothing.
        unsafe { libc::syscall(number, -1, -1, -1, -1, -1, -1) };
        Word {
            step: 0,
            errno: last_errno(),
        }
    };
    // SAFETY: `attempt` makes one system call and reads errno.
    match unsafe { in_child(attempt) } {
        End::Said(_) => Ok(()),
        End::Killed(signal) => Err(format!(
            "the seccomp filter kills the caller (signal {signal})"
        )),
        end => Err(format!(
            "could not be tried safely under the seccomp filter: {end:?}"
        )),
    }
}
