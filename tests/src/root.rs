#![expect(unsafe_code, reason = "becomes another user in one thread alone")]
//! Who runs the tests.

/// Whether the caller is root of the machine, and not only of a user namespace: there it can
/// neither become other users nor mount a tmpfs of a size that counts.
pub fn is_real_root() -> bool {
    let whole_range = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    nix::unistd::geteuid().is_root() && whole_range
}

/// A user, who need not be known to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'static [u32],
}

impl User {
    /// One with a group of the same number and no others.
    pub const fn alone(uid: u32) -> Self {
        Self {
            uid,
            gid: uid,
            groups: &[],
        }
    }
}

/// Does `work` in a thread of its own as another user, with root's other threads beside it.
///
/// # Panics
///
/// When the caller may not become that user, or `work` panics.
pub fn as_user<R: Send>(user: User, work: impl FnOnce() -> R + Send) -> R {
    let become_and_work = || {
        let User { uid, gid, groups } = user;
        // Not the C library's calls, which change all threads: ids are a thread's own.
        // SAFETY: takes that many numbers.
        let failed = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
        assert_eq!(failed, 0, "having the groups {groups:?}");
        // SAFETY: takes three integers.
        let failed = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
        assert_eq!(failed, 0, "having group {gid}");
        // SAFETY: takes three integers.
        let failed = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
        assert_eq!(failed, 0, "becoming user {uid}");
        work()
    };
    std::thread::scope(|scope| scope.spawn(become_and_work).join().expect("it ended well"))
}
