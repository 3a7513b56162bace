#![expect(
    unsafe_code,
    reason = "pidfd_open(2) and tgkill(2) have no wrappers in nix"
)]
//! Processes of others: which one a thread belongs to, and telling one from a later one of its number.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

/// A process by what tells it from all that had its number before or will have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Identity {
    /// Process id in the daemon's pid namespace.
    pub(crate) pid: i32,
    /// When it was started, in ticks since the machine was: field 22 of `/proc/PID/stat`
    /// (proc_pid_stat(5)). 0 when that could not be read.
    pub(crate) started: u64,
}

impl Identity {
    /// That of the process `pid` now.
    ///
    /// # Errors
    ///
    /// What the kernel says: mostly that there is none.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
        let started = started(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, started })
    }

    /// Watches it, if it lives.
    ///
    /// # Errors
    ///
    /// `ESRCH` when it has ended; what else the kernel says.
    pub(crate) fn open(self) -> io::Result<OwnedFd> {
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        let pidfd = pidfd_open(self.pid)?;
        // Behind the open: a later process of this number would show its own start.
        match Self::of(self.pid) {
            Ok(found) if found == self && is_alive(&pidfd) => Ok(pidfd),
            Ok(_) => Err(gone()),
            // Or it is hidden from this user (proc(5), hidepid).
            Err(_) if !is_alive(&pidfd) => Err(gone()),
            Err(error) => Err(error),
        }
    }
}

/// Whether this process has `CAP_SYS_ADMIN`, which registering a file to pass through takes (kernel
/// fs/fuse/backing.c). What cannot be told is left to the kernel.
pub(crate) fn may_pass_through() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let effective = || -> Option<u64> {
        let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    effective().is_none_or(|mask| mask & 1 << CAP_SYS_ADMIN != 0)
}

/// The name is in parentheses and may have anything in it.
fn started(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    // The first one behind the name is number 3.
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The process that thread `tid` belongs to, if the daemon can see it.
pub(crate) fn process_of(tid: i32) -> Option<i32> {
    find_process_of(tid).ok()
}

/// As [`process_of`], with the reason.
///
/// FUSE requests carry thread ids. Most threads that open a file are their process's first, which
/// tgkill(2) tells without a descriptor, and cheaper than reading `/proc`.
///
/// # Errors
///
/// `ESRCH`; `EMFILE` when there is no descriptor to look with.
pub(crate) fn find_process_of(tid: i32) -> io::Result<i32> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    if tid <= 0 {
        return Err(gone());
    }
    if is_first_thread(tid) {
        return Ok(tid);
    }
    let status = std::fs::read_to_string(format!("/proc/{tid}/status"));
    let status = status.map_err(|error| match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => error,
        _ => gone(),
    })?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    let process = line.and_then(|line| line.trim().parse().ok());
    process.ok_or_else(gone)
}

/// Whether there is a process of this number, one that has ended and was not waited for included.
fn is_first_thread(tid: i32) -> bool {
    // SAFETY: takes three integers, and sends nothing for signal 0.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, tid, tid, 0) };
    // Of another user's process the daemon hears that it may not.
    sent == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// A descriptor that is readable once the process has ended.
///
/// # Errors
///
/// `ESRCH`, `EMFILE`.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers. The descriptor is close-on-exec by itself.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A pidfd is readable once its process has ended.
pub(crate) fn is_alive(pidfd: &OwnedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_again_and_no_other_taken_for_it() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = Identity::of(pid).unwrap();
        own.open().unwrap();
        let other = Identity {
            started: own.started + 1,
            ..own
        };
        let error = other.open().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_name_with_parentheses_hides_no_field() {
        let fields: Vec<_> = (4..=52).map(|field| field.to_string()).collect();
        let stat = format!("7 (a) R (b) S {}", fields.join(" "));
        assert_eq!(started(stat.as_bytes()), Some(22));
        assert_eq!(started(b"7 (a"), None);
        assert_eq!(started(b"7 (a) S 1"), None);
    }
}
