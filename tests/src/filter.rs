#![expect(unsafe_code, reason = "seccomp has no wrapper in nix")]
//! System calls that are refused, as a container's filter refuses them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};

/// Starts `command` under a filter that answers these system calls with `errno`.
///
/// # Panics
///
/// For more than 200 calls.
pub fn refuse(command: &mut Command, calls: &[libc::c_long], errno: i32) {
    let step = |code: u32, jt: usize, k: u32| libc::sock_filter {
        code: u16::try_from(code).expect("codes are small"),
        jt: u8::try_from(jt).expect("at most 200 calls"),
        jf: 0,
        k,
    };
    // seccomp(2): the number of the call is the first word of what the filter looks at.
    let mut filter = vec![step(BPF_LD | BPF_W | BPF_ABS, 0, 0)];
    for (index, call) in calls.iter().enumerate() {
        let number = u32::try_from(*call).expect("numbers of calls are small");
        // To the last step, over the calls that follow and the one that allows.
        filter.push(step(BPF_JMP | BPF_JEQ | BPF_K, calls.len() - index, number));
    }
    let errno = errno.unsigned_abs();
    filter.push(step(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    filter.push(step(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno));
    let install = move || {
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).map_err(io::Error::other)?,
            filter: filter.as_ptr().cast_mut(),
        };
        // An ordinary user may filter only what gains no privileges.
        // SAFETY: takes plain numbers.
        let failed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: `program` and the filter it points to are alive; the kernel copies them.
        let failed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
        match failed {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: two system calls; nothing is allocated but for an error.
    unsafe { command.pre_exec(install) };
}

/// Starts `command` so that no memory of its is written and run, or made runnable later; on kernels before 6.3
/// without that.
pub(crate) fn refuse_gaining_execution(command: &mut Command) {
    let install = || {
        // SAFETY: takes plain numbers.
        let failed =
            unsafe { libc::prctl(libc::PR_SET_MDWE, libc::PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) };
        let error = io::Error::last_os_error();
        match failed == 0 || error.raw_os_error() == Some(libc::EINVAL) {
            true => Ok(()),
            false => Err(error),
        }
    };
    // SAFETY: a system call.
    unsafe { command.pre_exec(install) };
}
