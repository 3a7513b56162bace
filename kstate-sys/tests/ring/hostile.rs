//! A process that may write the region scribbles over it.

use std::thread;
use std::time::{Duration, Instant};

use kstate_sys::abi::{Class, Geometry, SLOTS};
use kstate_sys::clock::Ticks;
use kstate_sys::region::{
    self, BUSY, Candidate, CommitError, Generation, Group, Head, Header, LiveOwner, Mapped, Memory,
    Payload, ReadError, Recorded, Slot, SlotMeta, Writer,
};
use kstate_sys::sync::Ordering;

use super::shared::{Process, Region, Until, buffer};

const DURATION: Duration = Duration::from_millis(1500);

/// The longest a call may take, on a busy machine: a hundred thousand copies of a page, and then
/// the time that others have the processor.
const LONGEST_CALL: Duration = Duration::from_secs(10);

/// A cheap sequence of random words (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }

    /// A word that the protocol might have put there, or any.
    fn word(&mut self) -> u64 {
        let any = self.next();
        match any % 8 {
            0 => 0,
            1 => BUSY,
            2 => 1,
            // A small generation.
            3 => self.next() % 16,
            // A head with a small generation and slot, with and without intent.
            4 => ((self.next() % 8) << 53) | (self.next() % 16),
            5 => ((self.next() % 8) << 53) | (self.next() % 16) | (1 << 63),
            // A size within and outside of what there is.
            6 => self.next() & 0x0700_1fff,
            _ => any,
        }
    }
}

/// Where a scribbler writes.
#[derive(Clone, Copy)]
enum Target {
    /// Anywhere from the live page to the end of the metadata.
    Anywhere,
    /// Header and the first slots.
    Protocol,
    /// `head` alone.
    Head,
    /// The tags of the first slots.
    Tags,
}

impl Target {
    fn offset(self, geometry: &Geometry, random: &mut Random) -> usize {
        let first_slots = geometry.slot_meta(8) - geometry.header();
        match self {
            Self::Anywhere => 8 * random.below(geometry.slot_meta(SLOTS - 1) / 8),
            Self::Protocol => geometry.header() + 8 * random.below(first_slots / 8),
            Self::Head => geometry.header() + 64,
            Self::Tags => {
                let slot = u16::try_from(random.below(8)).unwrap_or(0);
                geometry.slot_meta(slot)
            }
        }
    }
}

/// What came of the calls.
#[derive(Debug, Default)]
struct Outcomes {
    fine: u64,
    corrupt: u64,
    other: u64,
    longest: Duration,
}

impl Outcomes {
    fn note<T>(&mut self, call: impl FnOnce() -> Result<T, ReadError>) {
        let start = Instant::now();
        match call() {
            Ok(_) => self.fine += 1,
            Err(ReadError::Corrupt(_)) => self.corrupt += 1,
            Err(_) => self.other += 1,
        }
        self.longest = self.longest.max(start.elapsed());
    }
}

/// Calls everything that a process of good faith calls, until the end.
fn use_region(region: &Region, until: Until) -> Outcomes {
    let (whole, small) = (region.mapped(), region.mapped_up_to(Class::B64));
    let mut room = buffer(region.geometry().page() as usize);
    let mut outcomes = Outcomes::default();
    let mut writer = Writer::claimed(&whole, Group(1), Class::B256);
    while until.lasts() {
        outcomes.note(|| region::read(&whole, &mut room));
        outcomes.note(|| region::read(&whole, &mut room[..64]));
        outcomes.note(|| region::read(&small, &mut room));
        outcomes.note(|| region::describe(&whole));
        outcomes.note(|| {
            let base = region::newest(&whole)?;
            region::read_at(&whole, base, &mut room)?;
            match writer.commit(&whole, base, &[1; 100], Ticks(1)) {
                Ok(_) | Err(CommitError::Conflict { .. } | CommitError::Exhausted) => Ok(()),
                Err(error) => panic!("{error}"),
            }
        });
        outcomes.note(|| match writer.publish(&whole, &[2; 200], Ticks(2)) {
            Ok(head) => {
                let owner = LiveOwner::of(Group(1));
                match region::show_live(&whole, owner, head, &[2; 200]) {
                    true => Ok(()),
                    false => region::refresh_live(&whole, owner),
                }
            }
            Err(CommitError::Conflict { .. } | CommitError::Exhausted) => Ok(()),
            Err(CommitError::Contended) => Err(ReadError::Unstable),
            Err(error) => panic!("{error}"),
        });
        outcomes.note(|| region::refresh_live(&whole, LiveOwner::of(Group(1))));
        outcomes.note(|| region::refresh_live(&small, LiveOwner::of(Group(2))));
        let (dead, heir) = (LiveOwner::of(Group(1)), LiveOwner::of(Group(2)));
        outcomes.note(|| region::seize_live(&whole, dead, heir));
        outcomes.note(|| {
            for region in [&whole, &small] {
                for length in [0, 100, 200, 4096] {
                    if let Some(candidate) = Candidate::newest(region, length) {
                        candidate.payload.load(&mut room[..length]);
                        let _ = candidate.still_stands();
                    }
                }
            }
            Ok(())
        });
        let _ = region::live_generation(&whole);
    }
    outcomes
}

fn attack(targets: &'static [Target]) {
    let region = Region::new();
    let until = Until::after(DURATION);
    let attackers: Vec<Process> = targets
        .iter()
        .zip(1_u64..)
        .map(|(target, seed)| {
            Process::fork(|| {
                let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let geometry = region.geometry();
                while until.lasts() {
                    for _ in 0..1000 {
                        let offset = target.offset(&geometry, &mut random);
                        region.scribble(offset, random.word());
                    }
                }
                0
            })
        })
        .collect();
    let outcomes = thread::scope(|scope| {
        let users: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| use_region(&region, until)))
            .collect();
        let join = |user: thread::ScopedJoinHandle<'_, Outcomes>| user.join().unwrap();
        users.into_iter().map(join).collect::<Vec<_>>()
    });
    for attacker in attackers {
        attacker.join();
    }
    for outcomes in outcomes {
        assert!(
            outcomes.corrupt > 0,
            "nothing was scribbled over: {outcomes:?}"
        );
        assert!(outcomes.longest < LONGEST_CALL, "{outcomes:?}");
    }
    // The mapping survived it too: whatever is in the region now, a read comes back.
    let mut room = buffer(region.geometry().page() as usize);
    let _ = region::read(&region.mapped(), &mut room);
    let _ = region.mapped().header().notice();
}

#[test]
fn scribbling_anywhere_gives_typed_errors_only() {
    attack(&[Target::Anywhere]);
}

#[test]
fn scribbling_over_the_protocol_gives_typed_errors_only() {
    attack(&[Target::Protocol, Target::Protocol]);
}

#[test]
fn a_head_that_never_stands_still_ends_in_a_typed_error() {
    attack(&[Target::Head]);
}

#[test]
fn tags_that_never_stand_still_end_in_a_typed_error() {
    attack(&[Target::Tags, Target::Head]);
}

/// A region whose head is another each time that a version's bytes are looked for: what a writer would
/// do that were always just in time.
struct AlwaysMoved<'a>(Mapped<'a>);

impl Memory for AlwaysMoved<'_> {
    fn header(&self) -> &Header {
        self.0.header()
    }

    fn slot(&self, slot: Slot) -> &SlotMeta {
        self.0.slot(slot)
    }

    fn payload(&self, slot: Slot, class: Class) -> Option<Payload<'_>> {
        let next = Head::from_raw(self.0.header().head.load(Ordering::Relaxed)).generation();
        let next = Head::new(Generation(next.0 + 1), slot);
        self.0.header().head.store(next.raw(), Ordering::Relaxed);
        let tag = &self.0.slot(slot).tag;
        tag.store(next.generation().0, Ordering::Relaxed);
        self.0.payload(slot, class)
    }

    fn live(&self) -> Payload<'_> {
        self.0.live()
    }

    fn status(&self, record: u32) -> Recorded {
        self.0.status(record)
    }

    fn slot_bytes(&self, class: Class) -> usize {
        self.0.slot_bytes(class)
    }
}

#[test]
fn a_head_that_always_moves_in_time_holds_nobody_for_long() {
    let region = Region::new();
    let always_moved = AlwaysMoved(region.mapped());
    let mut writer = Writer::claimed(&region.mapped(), Group(1), Class::Page);
    writer
        .publish(&region.mapped(), &[1; 4096], Ticks(1))
        .unwrap();
    let mut room = buffer(4096);
    let start = Instant::now();
    let read = region::read(&always_moved, &mut room);
    assert_eq!(read.map(drop), Err(ReadError::Unstable));
    let refreshed = region::refresh_live(&always_moved, LiveOwner::of(Group(1)));
    assert_eq!(refreshed, Err(ReadError::Unstable));
    let took = start.elapsed();
    assert!(took < LONGEST_CALL, "{took:?}");
}
