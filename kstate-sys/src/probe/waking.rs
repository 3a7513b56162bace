//! Waking and watching: futexes, io_uring, pidfds.

#![expect(unsafe_code, reason = "futex and io_uring have no wrappers in nix")]

use super::child::survives;
use super::pages::Pages;
use super::{Capability, Feature};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null;

pub(super) fn futex_read_only() -> Capability {
    let feature = Feature::FutexReadOnly;
    match try_futex_read_only() {
        Ok(()) => Capability::available(
            feature,
            "slept on a word of a read-only mapping until the time was up",
            "readers wait for a state without any right to write it",
        ),
        Err(why) => Capability::unavailable(
            feature,
            why,
            "readers wait through poll(2) on the state's descriptor",
            "use a kernel of 5.15 or later; let the seccomp filter pass futex(2)",
        ),
    }
}

fn try_futex_read_only() -> Result<(), String> {
    survives(libc::SYS_memfd_create).map_err(|why| format!("memfd_create: {why}"))?;
    let says = |call: &'static str| move |errno: Errno| format!("{call}: {errno}");
    let memfd =
        memfd_create(c"kstate-probe", MFdFlags::MFD_CLOEXEC).map_err(says("memfd_create"))?;
    nix::unistd::ftruncate(&memfd, 4).map_err(says("ftruncate"))?;
    let page = Pages::shared_read_only(memfd.as_fd()).map_err(says("mmap"))?;
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    // SAFETY: the word is mapped and aligned, `time` is alive. Without FUTEX_PRIVATE_FLAG, as
    // between processes.
    let slept = unsafe {
        libc::syscall(
            libc::SYS_futex,
            page.start(),
            libc::FUTEX_WAIT,
            0,
            &raw const time,
            0,
            0,
        )
    };
    match Errno::result(slept) {
        // A signal ends the sleep, too, but a sleep it was.
        Err(Errno::ETIMEDOUT | Errno::EINTR) | Ok(_) => Ok(()),
        Err(errno) => Err(format!("futex(FUTEX_WAIT) on a read-only mapping: {errno}")),
    }
}

/// `struct futex_waitv` of `<linux/futex.h>`.
#[repr(C)]
struct futex_waitv {
    val: u64,
    uaddr: u64,
    flags: u32,
    reserved: u32,
}

const _: () = {
    assert!(size_of::<futex_waitv>() == 24);
    assert!(align_of::<futex_waitv>() == 8);
    assert!(std::mem::offset_of!(futex_waitv, val) == 0);
    assert!(std::mem::offset_of!(futex_waitv, uaddr) == 8);
    assert!(std::mem::offset_of!(futex_waitv, flags) == 16);
    assert!(std::mem::offset_of!(futex_waitv, reserved) == 20);
};

pub(super) fn futex_waitv() -> Capability {
    let feature = Feature::FutexWaitv;
    match try_futex_waitv() {
        Ok(()) => Capability::available(
            feature,
            "compared a word with another value and said so",
            "without io_uring, one thread waits for 128 states",
        ),
        Err(why) => Capability::unavailable(
            feature,
            why,
            "without io_uring, waiting for several states goes through poll(2)",
            "use a kernel of 5.16 or later; let the seccomp filter pass futex_waitv(2)",
        ),
    }
}

fn try_futex_waitv() -> Result<(), String> {
    survives(libc::SYS_futex_waitv)?;
    const FUTEX_32: u32 = 2;
    const FUTEX_PRIVATE_FLAG: u32 = 128;
    let word = 1u32;
    let waiter = futex_waitv {
        val: 0,
        uaddr: (&raw const word).expose_provenance() as u64,
        flags: FUTEX_32 | FUTEX_PRIVATE_FLAG,
        reserved: 0,
    };
    let no_timeout = null::<libc::timespec>();
    // SAFETY: one waiter, whose word is alive and aligned. The word is not what is expected, so
    // this does not sleep.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            &raw const waiter,
            1,
            0,
            no_timeout,
            0,
        )
    };
    match Errno::result(answer) {
        Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(format!("futex_waitv: {errno}")),
        Ok(index) => Err(format!(
            "futex_waitv woke ({index}) where it should have refused"
        )),
    }
}

/// `struct io_uring_params` of `<linux/io_uring.h>`, of which nothing is set or read here.
#[repr(C)]
struct io_uring_params {
    words: [u32; 30],
}

/// `struct io_uring_probe_op` of `<linux/io_uring.h>`.
#[repr(C)]
#[derive(Clone, Copy)]
struct io_uring_probe_op {
    op: u8,
    resv: u8,
    flags: u16,
    resv2: u32,
}

/// `struct io_uring_probe` of `<linux/io_uring.h>`, with room for every operation.
#[repr(C)]
struct io_uring_probe {
    last_op: u8,
    ops_len: u8,
    resv: u16,
    resv2: [u32; 3],
    ops: [io_uring_probe_op; OPERATIONS],
}

const OPERATIONS: usize = 256;
const _: () = {
    assert!(size_of::<io_uring_params>() == 120);
    assert!(align_of::<io_uring_params>() == 4);
    assert!(size_of::<io_uring_probe_op>() == 8);
    assert!(align_of::<io_uring_probe_op>() == 4);
    assert!(std::mem::offset_of!(io_uring_probe_op, op) == 0);
    assert!(std::mem::offset_of!(io_uring_probe_op, resv) == 1);
    assert!(std::mem::offset_of!(io_uring_probe_op, flags) == 2);
    assert!(std::mem::offset_of!(io_uring_probe_op, resv2) == 4);
    assert!(size_of::<io_uring_probe>() == 16 + 8 * OPERATIONS);
    assert!(std::mem::offset_of!(io_uring_probe, last_op) == 0);
    assert!(std::mem::offset_of!(io_uring_probe, ops_len) == 1);
    assert!(std::mem::offset_of!(io_uring_probe, resv) == 2);
    assert!(std::mem::offset_of!(io_uring_probe, resv2) == 4);
    assert!(std::mem::offset_of!(io_uring_probe, ops) == 16);
};

const IORING_ADVICE: &str = "sysctl kernel.io_uring_disabled=0 (or io_uring_group), and let the \
                             container's seccomp filter pass io_uring_setup(2)";

pub(super) fn io_uring() -> Capability {
    let feature = Feature::IoUring;
    match ring() {
        Ok(_) => Capability::available(
            feature,
            "io_uring_setup made a ring",
            "one thread can watch ten thousand states, if `io-uring-futex` is available",
        ),
        Err(why) => Capability::unavailable(
            feature,
            why,
            "states are watched by futex_waitv threads, 128 each",
            IORING_ADVICE,
        ),
    }
}

pub(super) fn io_uring_futex() -> Capability {
    let feature = Feature::IoUringFutex;
    let without = "states are watched by futex_waitv threads, 128 each";
    match ring().and_then(|ring| operations(&ring)) {
        Err(why) => Capability::unavailable(feature, why, without, IORING_ADVICE),
        Ok(probe) if supports(&probe, IORING_OP_FUTEX_WAIT) => Capability::available(
            feature,
            format!(
                "IORING_OP_FUTEX_WAIT is one of {} operations",
                u32::from(probe.last_op) + 1
            ),
            "a state's change wakes an event loop in 5 to 9 µs, ten thousand states a thread",
        ),
        Ok(probe) => Capability::unavailable(
            feature,
            format!(
                "the last operation known is {}, not 51 (FUTEX_WAIT)",
                probe.last_op
            ),
            without,
            "use a kernel of 6.7 or later",
        ),
    }
}

const IORING_OP_FUTEX_WAIT: u8 = 51;

fn supports(probe: &io_uring_probe, op: u8) -> bool {
    const IO_URING_OP_SUPPORTED: u16 = 1;
    op <= probe.last_op && probe.ops[usize::from(op)].flags & IO_URING_OP_SUPPORTED != 0
}

fn ring() -> Result<OwnedFd, String> {
    survives(libc::SYS_io_uring_setup).map_err(|why| format!("io_uring_setup: {why}"))?;
    let mut params = io_uring_params { words: [0; 30] };
    // SAFETY: `params` has the size of the kernel's structure (asserted), alive and writable.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut params) };
    let fd = Errno::result(fd).map_err(|errno| match errno {
        Errno::EPERM => {
            let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
            let setting = setting.map_or("unreadable".into(), |text| text.trim().to_owned());
            format!("io_uring_setup: {errno} (kernel.io_uring_disabled is {setting})")
        }
        errno => format!("io_uring_setup: {errno}"),
    })?;
    owned(fd).map_err(|errno| format!("io_uring_setup: {errno}"))
}

fn operations(ring: &OwnedFd) -> Result<io_uring_probe, String> {
    const IORING_REGISTER_PROBE: u32 = 8;
    let none = io_uring_probe_op {
        op: 0,
        resv: 0,
        flags: 0,
        resv2: 0,
    };
    // The kernel refuses a structure that is not all zeros.
    let mut probe = io_uring_probe {
        last_op: 0,
        ops_len: 0,
        resv: 0,
        resv2: [0; 3],
        ops: [none; OPERATIONS],
    };
    survives(libc::SYS_io_uring_register).map_err(|why| format!("io_uring_register: {why}"))?;
    // SAFETY: `probe` has room for the number of operations given, alive and writable.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            IORING_REGISTER_PROBE,
            &raw mut probe,
            OPERATIONS,
        )
    };
    Errno::result(answer).map_err(|errno| format!("io_uring_register: {errno}"))?;
    Ok(probe)
}

pub(super) fn pidfd_open() -> Capability {
    let feature = Feature::PidfdOpen;
    match try_pidfd_open() {
        Ok(()) => Capability::available(
            feature,
            "opened for this process, which it shows as alive",
            "the daemon notices a process's death at once",
        ),
        Err(why) => Capability::unavailable(
            feature,
            why,
            "the daemon cannot run: it would not know whose claims are a dead process's",
            "use a kernel of 5.15 or later; let the seccomp filter pass pidfd_open(2)",
        ),
    }
}

fn try_pidfd_open() -> Result<(), String> {
    survives(libc::SYS_pidfd_open).map_err(|why| format!("pidfd_open: {why}"))?;
    // SAFETY: takes plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) };
    let pidfd = Errno::result(fd)
        .and_then(owned)
        .map_err(|errno| format!("pidfd_open: {errno}"))?;
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `poll` is one pollfd, alive throughout.
    match Errno::result(unsafe { libc::poll(&raw mut poll, 1, 0) }) {
        Ok(0) => Ok(()),
        Ok(_) => Err("poll calls this process dead".into()),
        Err(errno) => Err(format!("poll: {errno}")),
    }
}

fn owned(fd: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the callers have this number fresh from the kernel's success, and pass it nowhere
    // else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
