//! From before a publish until a reader that slept holds the value.
//!
//! One way: the time stamp counter is read by the writer before it publishes, goes along in the
//! value, and is read by the reader when it has checked that value. An invariant counter is the
//! same on all processors; [`Clock`] falls back on `CLOCK_MONOTONIC` where there is none.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::Ordering;

use kstate_sys::clock::{Clock, Ticks};

use super::asleep::{Task, await_asleep, await_spinning};
use super::board::{Board, Looking, Side, Turn, await_value, tell};
use super::ways::{Way, address_of, name_at};
use crate::alternate::alternate_single;
use crate::bare_fuse::BareMount;
use crate::bare_wake::{BareEvent, BareValue, BareWord};
use crate::case::Case;
use crate::setup::{IDLE, Result, Role, Setup, Worker, await_line, end, worker};

/// Wakes a block: each is one of ours and one of the limit.
const WAKES_A_BLOCK: usize = 5;

/// A way of waiting, its medians beside each other and its 99th percentiles.
pub(super) fn measure(
    way: Way,
    setup: &Setup,
    bare: &BareMount,
    reader: usize,
    blocks: usize,
) -> Result<[Case; 2]> {
    let name = format!("wake.{way}");
    let mut states = Vec::new();
    let mut words = Vec::new();
    for address in 0..way.addresses() {
        let name = name_at(&name, address);
        states.push(setup.state::<8>(&name)?);
        words.push(match way {
            Way::FusePoll => bare.mapped()?,
            _ => BareWord::open(&setup.bare_path(&name))?,
        });
    }
    let shown = match way {
        Way::FusePoll => bare.mapped_file(),
        _ => setup.bare_path(&name),
    };
    let telling = Telling::of(way)?;
    let sleeper = RefCell::new(Sleeper::start(way, setup, name, shown, &telling, reader)?);
    let (ours, limit) = alternate_single(
        blocks * WAKES_A_BLOCK,
        || {
            sleeper.borrow_mut().wake(Side::Ours, |address, value| {
                states[address].publish(value)?;
                Ok(())
            })
        },
        || {
            sleeper.borrow_mut().wake(Side::Limit, |address, value| {
                telling.publish(&words[address], value)
            })
        },
    )?;
    let title = match reader {
        0 => format!("{}, same core", way.title()),
        _ => format!("{}, cross core", way.title()),
    };
    Ok([
        Case::new(title.clone(), ours, limit),
        Case::with_costs(
            format!("{title}, p99"),
            (ours.p99, ours),
            (limit.p99, limit),
        ),
    ])
}

/// How the limit's reader is told of a value.
enum Telling {
    /// It sleeps on the word, or a file system does for it.
    Waking,
    Signalling(BareEvent),
    /// It looks.
    Nothing,
}

impl Telling {
    fn of(way: Way) -> Result<Self> {
        Ok(match way {
            Way::Futex | Way::FusePoll => Self::Waking,
            Way::Descriptor | Way::Stream => Self::Signalling(BareEvent::new()?),
            Way::Spin => Self::Nothing,
        })
    }

    #[inline]
    fn publish(&self, word: &BareWord, value: &BareValue) -> Result<()> {
        match self {
            Self::Waking => {
                word.publish(value);
            }
            Self::Signalling(event) => {
                word.store(value);
                event.signal()?;
            }
            Self::Nothing => word.store(value),
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Signalling(event) => Some(event.as_raw_fd()),
            _ => None,
        }
    }
}

/// A process that waits, now for ours, now for the limit.
struct Sleeper {
    way: Way,
    child: Child,
    task: Task,
    board: Board,
    clock: Clock,
    number: u64,
}

impl Sleeper {
    fn start(
        way: Way,
        setup: &Setup,
        name: String,
        bare: PathBuf,
        telling: &Telling,
        processor: usize,
    ) -> Result<Self> {
        let path = setup.bare_path(&format!("{name}.board"));
        let board = Board::open(&path)?;
        let mut child = worker(&Worker {
            role: Role::Waiter,
            path: setup.mount().path().to_owned(),
            bare: Some(bare),
            board: Some(path),
            way: Some(way),
            descriptor: telling.descriptor(),
            name,
            processor: Some(processor),
            ..IDLE
        })?;
        let started = await_line(&mut child, "ready")
            .and_then(|()| Ok((Task::main_of(child.id())?, Clock::calibrate())));
        match started {
            Ok((task, clock)) => Ok(Self {
                way,
                child,
                task,
                board,
                clock,
                number: 0,
            }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Nanoseconds from before `publish`, which is told the address, until the reader has checked
    /// what was published.
    fn wake(
        &mut self,
        side: Side,
        publish: impl Fn(usize, &BareValue) -> Result<()>,
    ) -> Result<f64> {
        self.number += 1;
        let number = self.number;
        let turn = Turn { number, side };
        tell(&self.board.turn, turn.to_word());
        let looking = self.way.looking();
        match looking {
            // ORDERING: none: what it waits on is the kernel's to order.
            Looking::Sleeping => await_asleep(std::slice::from_ref(&self.task), || {
                self.board.waiting.load(Ordering::Relaxed) == number
            })?,
            Looking::Spinning => {
                await_value(&self.board.waiting, number, looking)?;
                await_spinning();
            }
        }
        let address = address_of(number, self.way.addresses());
        let mut value = [number; 8];
        value[0] = self.clock.now().0;
        publish(address, &value)?;
        await_value(&self.board.held, number, looking)?;
        let at = [&self.board.published_at, &self.board.held_at]
            .map(|word| Ticks(word.load(Ordering::Relaxed)));
        let held = self.clock.between(at[0], at[1]);
        Ok(held.as_secs_f64() * 1e9)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
