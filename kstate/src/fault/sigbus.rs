#![expect(unsafe_code, reason = "a signal handler")]
//! Answering in the thread that touched: userfaultfd raises `SIGBUS` instead of an event.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};
use std::io;

use super::trap::Trap;

/// The handler that was there before.
///
/// # Invariants
///
/// 1. Written before ours is installed, by one thread at a time, and read only when `READY`.
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: invariant 1.
unsafe impl Sync for Previous {}

static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::uninit()));
/// Whether ours is installed, and `PREVIOUS` there.
static READY: AtomicBool = AtomicBool::new(false);

/// Installs the handler, once; a forked child has it already. One thread at a time may come here.
pub(super) fn install() -> io::Result<()> {
    if READY.load(Ordering::Relaxed) {
        return Ok(());
    }
    let ours: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    // SAFETY: all zeros is a valid sigaction.
    let mut found: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: asks only; `found` is a valid place.
    if unsafe { libc::sigaction(libc::SIGBUS, core::ptr::null(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Else this is a child of a process that was just here, and has come with what that one wrote.
    if found.sa_sigaction != ours as libc::sighandler_t {
        // SAFETY: invariant 1: not ready, and this thread is alone here.
        unsafe { PREVIOUS.0.get().write(MaybeUninit::new(found)) };
        let mut action = found;
        action.sa_sigaction = ours as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
        // SAFETY: all zeros is the empty set.
        action.sa_mask = unsafe { core::mem::zeroed() };
        // SAFETY: `action` is a valid place; the handler does only what one may.
        if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, core::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // ORDERING: Release with the Acquire in `pass_on`.
    READY.store(true, Ordering::Release);
    Ok(())
}

/// Async-signal-safe, as what it calls.
extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the calling thread's errno, which a handler must leave as it found it.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let info_now = unsafe { &*info };
    // SAFETY: a SIGBUS carries an address.
    let address = unsafe { info_now.si_addr() }.addr();
    // Sent by kill(2), it has no address.
    let by_kernel = info_now.si_code > 0;
    let wrote = was_write(context);
    let ours = by_kernel && Trap::signalled(address, wrote);
    if !ours {
        pass_on(signal, info, context);
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// Whether the access that faulted was a write.
#[cfg(target_arch = "x86_64")]
fn was_write(context: *mut libc::c_void) -> bool {
    /// In the processor's error code of a page fault.
    const WRITE: i64 = 1 << 1;
    // SAFETY: the kernel passes a valid context to an SA_SIGINFO handler.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    context.uc_mcontext.gregs[libc::REG_ERR as usize] & WRITE != 0
}

/// Whether the access that faulted was a write: unknown here, and a page that is there faults for
/// being written alone, but for two threads that touched it at once.
#[cfg(not(target_arch = "x86_64"))]
fn was_write(_context: *mut libc::c_void) -> bool {
    true
}

/// To the handler that was there before; without one, to the death that it would have been.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // ORDERING: Acquire with the Release in `install`.
    if READY.load(Ordering::Acquire) {
        // SAFETY: invariant 1 of `Previous`.
        let previous = unsafe { &*PREVIOUS.0.get() };
        // SAFETY: as above.
        let previous = unsafe { previous.assume_init_ref() };
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {}
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
                // SAFETY: the program installed it with SA_SIGINFO, so it is such a function.
                let handler: Handler = unsafe { core::mem::transmute(handler) };
                return handler(signal, info, context);
            }
            handler => {
                // SAFETY: the program installed it without SA_SIGINFO.
                let handler: extern "C" fn(i32) = unsafe { core::mem::transmute(handler) };
                return handler(signal);
            }
        }
    }
    // SAFETY: resetting a signal to its default action is always allowed; the fault, or the
    // signal raised here, then ends the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: as above.
    unsafe { libc::raise(signal) };
}
