#![expect(
    unsafe_code,
    reason = "an inherited descriptor; an instruction that has no safe wrapper"
)]
//! The process that waits.

use std::sync::atomic::Ordering;

use kstate::{Mount, Reader};
use kstate_sys::clock::{Clock, Ticks};

use super::board::{Board, Side, Turn, await_other, tell};
use super::ways::{self, Way, address_of, name_at};
use crate::bare_wake::{BareEvent, BareValue};
use crate::setup::{Result, Worker, end_when_told};

/// Waits until the value of that number is there and says when it holds it, before it does what is to
/// be done before it waits again.
pub(super) type Waiter = Box<dyn FnMut(u64, &mut dyn FnMut(&BareValue)) -> Result<()>>;

/// The main of a process that waits as it is told.
pub(crate) fn wait_as_told(worker: &Worker) -> Result<()> {
    let way = worker.way.ok_or("--way is missing")?;
    let board = Board::open(worker.board.as_ref().ok_or("--board is missing")?)?;
    let bare = worker.bare.as_ref().ok_or("--bare is missing")?;
    let mount = Mount::at(&worker.path)?;
    let mut addresses = Vec::new();
    for address in 0..way.addresses() {
        let name = name_at(&worker.name, address);
        let reader: Reader<BareValue> = mount.subscribe(&name).typed()?.reader();
        // Beside each other and named as the states are.
        let word = bare.with_file_name(&name);
        let waits: (Waiter, Waiter) = match way {
            Way::Futex => (ways::futex(reader), ways::bare_futex(&word)?),
            Way::Descriptor => (
                ways::descriptor(reader)?,
                ways::bare_descriptor(&word, inherited(worker)?)?,
            ),
            Way::Stream => (
                ways::stream(&reader)?,
                ways::bare_stream(&word, inherited(worker)?)?,
            ),
            Way::FusePoll => (
                ways::fuse_poll(&worker.path.join(&name))?,
                ways::fuse_poll(bare)?,
            ),
            Way::Spin => (ways::spin(reader), ways::bare_spin(&word)?),
        };
        addresses.push(waits);
    }
    let clock = Clock::calibrate();
    end_when_told();
    println!("ready");
    let mut word = 0;
    loop {
        word = await_other(&board.turn, word, way.looking())?;
        let turn = Turn::from_word(word);
        board.waiting.store(turn.number, Ordering::Relaxed);
        let (ours, limit) = &mut addresses[address_of(turn.number, way.addresses())];
        let mut held = |value: &BareValue| {
            let now = now_after_loads(&clock);
            board.published_at.store(value[0], Ordering::Relaxed);
            board.held_at.store(now.0, Ordering::Relaxed);
        };
        match turn.side {
            Side::Ours => ours(turn.number, &mut held),
            Side::Limit => limit(turn.number, &mut held),
        }?;
        tell(&board.held, turn.number);
    }
}

/// The eventfd that is signalled for the limit.
fn inherited(worker: &Worker) -> Result<BareEvent> {
    let number = worker.descriptor.ok_or("--descriptor is missing")?;
    // SAFETY: whoever starts this process makes it for the one address that such a way has.
    Ok(unsafe { BareEvent::inherited(number) })
}

/// Whether this is the value of that number, whole. The first word says when it was published.
#[inline]
pub(super) fn is_whole(value: &BareValue, number: u64) -> bool {
    value[1..].iter().all(|word| *word == number)
}

/// Now, and not before what was loaded is there: the counter may be read ahead of that.
///
/// "If software requires RDTSC to be executed only after all previous instructions have executed
/// and all previous loads are globally visible, it can execute LFENCE" (Intel SDM, RDTSC).
#[inline]
fn now_after_loads(clock: &Clock) -> Ticks {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is SSE2's, which every x86-64 processor has; it touches no memory.
    unsafe {
        core::arch::x86_64::_mm_lfence()
    };
    clock.now()
}
