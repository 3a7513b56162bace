#![expect(
    unsafe_code,
    reason = "pushes entries whose addresses the kernel keeps, and closes a descriptor"
)]
//! All waits in an io_uring, which makes an eventfd readable.
//!
//! A futex wait that is in flight completes when it is woken, or at once if the word is not as
//! expected any more. Where news must wait for the rate of a view, a timeout goes before it that leaves
//! no completion: what has changed meanwhile shows when the futex wait begins.
//!
//! At first the ring is one thread's (`IORING_SETUP_DEFER_TASKRUN`, Linux 6.1): who wakes makes the
//! eventfd readable and disturbs nobody. Other threads are refused; when one comes, a ring takes over
//! that lets all in. There the kernel interrupts the thread that has begun a wait, be it in
//! `epoll_wait` or anywhere, to complete it.
//!
//! # Invariants
//!
//! 1. What an entry in the ring points at, a word of a mapping or a time, is read by the kernel when
//!    the entry is taken or, behind a timeout, while [`Armed`] is in the table: the reader in it keeps
//!    the mapping, and it goes after the entry has been cancelled or the ring closed. The kernel
//!    fails what it cannot read, and writes nothing there.

use std::collections::BTreeMap;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::squeue::{self, Flags};
use io_uring::{EnterFlags, IoUring, opcode, types};
use kstate_sys::fork::Process;
use kstate_sys::futex::{Deadline, FUTEX2_SIZE_U32};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::NotifyError;
use super::entry::{Entry, Look};
use crate::reader::{Reader, Untyped};
use crate::seat::{CROWD_SLEEP, Place};
use crate::sleep::LONGEST_SLEEP;

const FUTEX_BITSET_MATCH_ANY: u64 = u32::MAX as u64;

/// Entries that are handed over at once, and completions that find room before the kernel keeps them in
/// memory of its own: for one state as for hundreds.
const SUBMISSIONS: u32 = 16;
const COMPLETIONS: u32 = 64;

/// How often completions are taken that come while others are.
const ROUNDS: u32 = 3;

/// What an entry was, in the low bits of its user data; above them is whose it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A wait, or a look that is due at once.
    Wait = 0,
    /// The time before which nothing is told.
    Pause = 1,
    /// The time to look whether the daemon wakes the crowds.
    Round = 2,
    /// A cancellation.
    Cancel = 3,
}

impl Kind {
    const BITS: u32 = 2;

    fn data(self, id: u64) -> u64 {
        id << Self::BITS | self as u64
    }

    fn of(data: u64) -> (Self, u64) {
        let kind = match data & 3 {
            0 => Self::Wait,
            1 => Self::Pause,
            2 => Self::Round,
            _ => Self::Cancel,
        };
        (kind, data >> Self::BITS)
    }
}

pub(super) struct Uring {
    ring: ManuallyDrop<IoUring>,
    event: EventFd,
    armed: BTreeMap<u64, Armed>,
    /// Taken out while entries in the queue may still name what is theirs.
    parked: Vec<Armed>,
    /// Of a ring that is no more: to be looked at.
    left: Vec<u64>,
    round: Round,
    /// Whose it is; none where that cannot be told.
    process: Option<Process>,
}

/// Where the daemon wakes it may be that nobody does. So what sleeps there is looked at: first after
/// [`CROWD_SLEEP`], then less and less often; and what no daemon was there for, when one may be.
struct Round {
    time: Box<types::Timespec>,
    after: Duration,
    is_due: bool,
    /// A timeout is in flight, or queued.
    is_armed: bool,
}

/// Who may use a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Users {
    OneThread,
    All,
}

/// An entry of which something may be in flight.
#[derive(Debug)]
struct Armed {
    /// Keeps the mapping.
    _reader: Reader<Untyped>,
    pause: Box<types::Timespec>,
    /// Waits in flight. Behind news that were seen in memory a second one begins, as the first is
    /// about to complete: who commits wakes it, or the daemon does where a committer has died.
    waits: u8,
    in_crowd: bool,
    /// No daemon was there to be asked for a place to sleep.
    is_alone: bool,
}

/// Ends all of that kind that an entry has in flight.
fn cancel(kind: Kind, id: u64) -> squeue::Entry {
    let all = types::CancelBuilder::user_data(kind.data(id)).all();
    let cancel = opcode::AsyncCancel2::new(all).build();
    cancel
        .flags(Flags::SKIP_SUCCESS)
        .user_data(Kind::Cancel.data(id))
}

/// A ring that makes `event` readable.
fn ring(users: Users, event: &EventFd) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    // A child that touched it would submit in its parent's name.
    builder.dontfork().setup_cqsize(COMPLETIONS);
    if users == Users::OneThread {
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag();
    }
    let ring = builder.build(SUBMISSIONS)?;
    let mut probe = io_uring::Probe::new();
    let submitter = ring.submitter();
    submitter.register_probe(&mut probe)?;
    if !probe.is_supported(opcode::FutexWait::CODE) {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    submitter.register_eventfd(event.as_fd().as_raw_fd())?;
    Ok(ring)
}

impl Uring {
    /// A ring that can wait on futexes, or why there is none.
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_flags(flags)?;
        Ok(Self {
            ring: ManuallyDrop::new(ring(Users::OneThread, &event)?),
            event,
            armed: BTreeMap::new(),
            parked: Vec::new(),
            left: Vec::new(),
            round: Round {
                time: Box::default(),
                after: CROWD_SLEEP,
                is_due: false,
                is_armed: false,
            },
            process: Process::current().ok(),
        })
    }

    /// Goes on with a ring that all threads may use; what was in flight is to be looked at.
    #[cold]
    fn let_all_in(&mut self) -> io::Result<()> {
        let ring = ManuallyDrop::new(ring(Users::All, &self.event)?);
        let one_threads = std::mem::replace(&mut self.ring, ring);
        drop(ManuallyDrop::into_inner(one_threads));
        self.round.is_armed = false;
        for (id, armed) in &mut self.armed {
            if std::mem::take(&mut armed.waits) > 0 {
                self.left.push(*id);
            }
        }
        self.event.write(1)?;
        Ok(())
    }

    pub(super) fn arm(
        &mut self,
        id: u64,
        entry: &mut Entry,
        look: Look,
    ) -> Result<(), NotifyError> {
        let armed = self.armed.entry(id).or_insert_with(|| Armed {
            _reader: entry.reader().clone(),
            pause: Box::default(),
            waits: 0,
            in_crowd: false,
            is_alone: false,
        });
        let in_crowd = look.place == Place::Crowd;
        let moves = armed.in_crowd && !in_crowd;
        armed.in_crowd = in_crowd;
        armed.is_alone = look.alone_until.is_some();
        let waits = armed.waits > u8::from(look.has_told) && !moves;
        let in_flight = armed.waits;
        armed.waits += u8::from(!waits);
        if moves && in_flight > 0 {
            // Where nobody may wake them: they end before the next one begins, and count until then.
            self.push(&[cancel(Kind::Wait, id)])?;
        }
        if in_crowd {
            if look.has_told {
                self.round.after = CROWD_SLEEP;
            }
            self.arm_round(self.round.after)?;
        } else if let Some(until) = look.alone_until {
            self.arm_round(until.left())?;
        }
        if waits {
            return Ok(());
        }
        if look.is_news() {
            let nop = opcode::Nop::new().build();
            return Ok(self.push(&[nop.user_data(Kind::Wait.data(id))])?);
        }
        let word = entry.known().word(&look).as_ptr().cast::<u32>();
        let wait = opcode::FutexWait::new(
            word.cast_const(),
            u64::from(look.expected),
            FUTEX_BITSET_MATCH_ANY,
            FUTEX2_SIZE_U32,
        );
        let wait = wait.build().user_data(Kind::Wait.data(id));
        if look.is_due() {
            return Ok(self.push(&[wait])?);
        }
        // What is news already is so when the time has come: then the word is not as expected here.
        let wait = match look.has_news() {
            true => opcode::Nop::new().build().user_data(Kind::Wait.data(id)),
            false => wait,
        };
        let pause = self.pause(id, look.due);
        Ok(self.push(&[pause, wait])?)
    }

    /// Has the crowds looked at in a while, unless that is to be done already.
    fn arm_round(&mut self, after: Duration) -> io::Result<()> {
        if self.round.is_armed {
            return Ok(());
        }
        *self.round.time = after.into();
        // INVARIANT: 1, of a time that lives as long as the ring.
        let timeout = opcode::Timeout::new(&raw const *self.round.time).build();
        self.push(&[timeout.user_data(Kind::Round.data(0))])?;
        self.round.is_armed = true;
        Ok(())
    }

    /// Takes the entries whose turn it is to be looked at, and whether one's first wait is in flight
    /// still although a second has begun behind it: then nobody has woken it.
    pub(super) fn unwoken(&mut self) -> Vec<(u64, bool)> {
        if !std::mem::take(&mut self.round.is_due) {
            return Vec::new();
        }
        self.round.after = (self.round.after * 2).min(LONGEST_SLEEP);
        let is_due = |armed: &Armed| armed.in_crowd || armed.is_alone;
        let due = self.armed.iter().filter(|(_, armed)| is_due(armed));
        due.map(|(id, armed)| (*id, armed.waits > 1)).collect()
    }

    /// A timeout that succeeds and leaves no completion, before what is linked to it.
    fn pause(&mut self, id: u64, due: Deadline) -> squeue::Entry {
        let at = due.timespec();
        let time = types::Timespec::new()
            .sec(at.tv_sec.cast_unsigned())
            .nsec(u32::try_from(at.tv_nsec).unwrap_or(0));
        let pause = match self.armed.get_mut(&id) {
            Some(armed) => {
                *armed.pause = time;
                std::ptr::from_ref(&*armed.pause)
            }
            None => std::ptr::null(),
        };
        // INVARIANT: 1.
        let flags = types::TimeoutFlags::ABS | types::TimeoutFlags::ETIME_SUCCESS;
        opcode::Timeout::new(pause)
            .flags(flags)
            .build()
            .flags(Flags::IO_LINK | Flags::SKIP_SUCCESS)
            .user_data(Kind::Pause.data(id))
    }

    pub(super) fn disarm(&mut self, id: u64) {
        let Some(armed) = self.armed.remove(&id) else {
            return;
        };
        // INVARIANT: 1: kept until the kernel has taken what is queued, the cancellations included.
        self.parked.push(armed);
        // What is not in flight any more is not found: no harm. The pause first, with what is linked. What
        // fails here is left in flight, completes some time and is nobody's.
        let cancels = [cancel(Kind::Pause, id), cancel(Kind::Wait, id)];
        let _ = self.push(&cancels).and_then(|()| self.submit());
    }

    /// Whether all that was queued is handed over.
    pub(super) fn submit(&mut self) -> io::Result<bool> {
        let is_empty = self.ring.submission().is_empty();
        if !is_empty {
            self.enter()?;
        }
        let is_empty = self.ring.submission().is_empty();
        if is_empty {
            self.parked.clear();
        }
        Ok(is_empty)
    }

    /// Hands over what is in the queue, and has what has completed put where it is taken.
    fn enter(&mut self) -> io::Result<()> {
        loop {
            // Without waiting for anything, and with IORING_ENTER_GETEVENTS: else a ring of one thread
            // completes nothing.
            let flags = EnterFlags::GETEVENTS.bits();
            let wanted = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
            // SAFETY: without an argument.
            let entered = unsafe { self.ring.submitter().enter::<()>(wanted, 0, flags, None) };
            return match entered {
                Ok(_) => Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    // The kernel keeps more completions than it likes to: they are taken first, and
                    // this goes with what follows.
                    Some(libc::EBUSY) => Ok(()),
                    // Another thread's.
                    Some(libc::EEXIST) => self.let_all_in(),
                    _ => Err(error),
                },
            };
        }
    }

    /// Whether the kernel must be asked for what has completed.
    fn kernel_has(&mut self) -> bool {
        let submission = self.ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    pub(super) fn fired(&mut self, into: &mut Vec<u64>) -> io::Result<()> {
        for _ in 0..ROUNDS {
            if self.kernel_has() || !self.ring.submission().is_empty() {
                self.enter()?;
            }
            // Behind what the kernel puts there, which makes it readable, and before that is taken: what
            // comes later makes it readable again.
            match self.event.read() {
                Ok(_) | Err(nix::errno::Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            into.append(&mut self.left);
            self.take(into);
            if !self.kernel_has() {
                return Ok(());
            }
        }
        // Beside a fast writer there could be no end: what is left makes it readable again.
        self.again();
        Ok(())
    }

    fn take(&mut self, into: &mut Vec<u64>) {
        for completion in self.ring.completion() {
            let (kind, id) = Kind::of(completion.user_data());
            match kind {
                Kind::Wait => {
                    if let Some(armed) = self.armed.get_mut(&id) {
                        armed.waits = armed.waits.saturating_sub(1);
                        into.push(id);
                    }
                }
                Kind::Round => {
                    self.round.is_armed = false;
                    self.round.is_due = true;
                }
                Kind::Pause | Kind::Cancel => {}
            }
        }
    }

    /// Makes it readable.
    pub(super) fn again(&mut self) {
        // Fails only when it is.
        let _ = self.event.write(1);
    }

    /// Pushes entries that go together.
    fn push(&mut self, entries: &[squeue::Entry]) -> io::Result<()> {
        loop {
            // SAFETY: invariant 1.
            if unsafe { self.ring.submission().push_multiple(entries) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
            if self.ring.submission().is_full() {
                // The kernel takes none before its completions are taken.
                return Err(io::Error::from(io::ErrorKind::ResourceBusy));
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.process.is_none_or(|process| process.is_current()) {
            // Before the readers, by invariant 1.
            // SAFETY: not used again.
            unsafe { ManuallyDrop::drop(&mut self.ring) };
        } else {
            // A forked child does not have the ring's memory, and may have something else in its place.
            let _ = nix::unistd::close(self.ring.as_raw_fd());
        }
    }
}

impl AsFd for Uring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").finish_non_exhaustive()
    }
}
