#![expect(unsafe_code, reason = "forks, and looks at a child's registers")]
//! How many instructions a publish takes, and how many of them are system calls: counted one by one in a
//! forked child.

use std::ffi::c_void;

use kstate::State;
use kstate_sys::abi::SLOTS_PER_GROUP;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::publish_one;
use crate::setup::Result;

/// What was counted between two marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    instructions: u32,
    system_calls: u32,
}

/// More than any publish takes.
const MOST: u32 = 1_000_000;

/// Tells both counts, which must be the same, without a system call, if nobody waits for each commit.
///
/// # Errors
///
/// They are not; or the kernel lets nobody trace here.
pub(super) fn compare<const WORDS: usize>(
    title: &str,
    kept: &State<[u64; WORDS]>,
    transient: &State<[u64; WORDS]>,
    each: bool,
) -> Result<()> {
    let (kept, transient) = (count(kept)?, count(transient)?);
    eprintln!(
        "{title}: {} instructions, {} system calls; of a state without a file {} and {}",
        kept.instructions, kept.system_calls, transient.instructions, transient.system_calls
    );
    if each || (kept == transient && kept.system_calls == 0) {
        return Ok(());
    }
    Err(format!("{title}: a commit takes another path").into())
}

fn count<const WORDS: usize>(state: &State<[u64; WORDS]>) -> Result<Count> {
    // SAFETY: this process has no other thread that the child could miss: it publishes, which takes no
    // lock, raises signals and is killed.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let mark = || raise(Signal::SIGSTOP).is_ok();
            if ptrace::traceme().is_ok() && mark() {
                // Claims slots of its own, and fills each: what is new there is stored the first time.
                for _ in 0..2 * SLOTS_PER_GROUP {
                    publish_one(state);
                }
                // Between these nothing, and between these what counts.
                mark();
                mark();
                publish_one(state);
                mark();
            }
            // SAFETY: ends the child without what its parent has to do at the end.
            unsafe { libc::_exit(1) }
        }
        ForkResult::Parent { child } => {
            let counted = trace(child);
            let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
            counted
        }
    }
}

fn trace(child: Pid) -> Result<Count> {
    let stopped = || match waitpid(child, None)? {
        WaitStatus::Stopped(_, signal) => Ok(signal),
        other => Err(Box::<dyn std::error::Error>::from(format!("{other:?}"))),
    };
    let until_mark = || -> Result<()> {
        loop {
            match stopped()? {
                Signal::SIGSTOP => return Ok(()),
                signal => ptrace::cont(child, signal)?,
            }
        }
    };
    until_mark()?;
    ptrace::cont(child, None)?;
    until_mark()?;
    let nothing = until_next_mark(child, stopped)?;
    let publish = until_next_mark(child, stopped)?;
    Ok(Count {
        instructions: publish.instructions - nothing.instructions,
        system_calls: publish.system_calls - nothing.system_calls,
    })
}

/// Steps from one mark to the next; what it takes to make them is counted along.
fn until_next_mark(child: Pid, stopped: impl Fn() -> Result<Signal>) -> Result<Count> {
    let mut count = Count {
        instructions: 0,
        system_calls: 0,
    };
    while count.instructions < MOST {
        count.system_calls += u32::from(is_system_call(child)?);
        ptrace::step(child, None)?;
        match stopped()? {
            Signal::SIGSTOP => return Ok(count),
            Signal::SIGTRAP => count.instructions += 1,
            signal => return Err(format!("{signal}").into()),
        }
    }
    Err("it does not come to an end".into())
}

#[cfg(target_arch = "x86_64")]
fn is_system_call(child: Pid) -> Result<bool> {
    let at = usize::try_from(ptrace::getregs(child)?.rip)?;
    let text = ptrace::read(child, std::ptr::without_provenance_mut::<c_void>(at))?;
    Ok(text.to_le_bytes().starts_with(&[0x0f, 0x05]))
}

#[cfg(not(target_arch = "x86_64"))]
fn is_system_call(_: Pid) -> Result<bool> {
    Err("instructions are only known on x86-64".into())
}
