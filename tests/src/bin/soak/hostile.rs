#![expect(unsafe_code, reason = "maps a region without the library")]
//! A process that may write some states and writes what it likes over all of their memory, and over its
//! own record. Needs passthrough.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

use kstate::Mount;
use kstate_sys::abi::{ABI_VERSION, Class, Geometry, MAGIC, O_LIBRARY, SLOTS};
use kstate_sys::clock::Ticks;
use kstate_sys::ioctl::{self, call};
use kstate_sys::region::{Generation, Group, Head, IntentRef, Mapped, Memory, Round, Slot, Writer};
use kstate_sys::sync::Ordering;
use kstate_tests::checked;

use super::Result;
use super::board::Entry;
use super::part::{ACCOUNTS, BANK, goes_on};
use super::random::Random;
use super::victim::{BAD, MIXED};

/// A mapped file to be written anywhere.
///
/// # Invariants
///
/// 1. `start` is where `len` bytes are mapped, shared and writable, until the process ends.
struct Wild {
    file: File,
    start: NonNull<u8>,
    len: usize,
}

impl Wild {
    fn map(path: &Path, len: usize) -> Result<Self> {
        let mut options = File::options();
        let options = options.read(true).write(true).custom_flags(O_LIBRARY);
        let file = options.open(path)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        // INVARIANT: 1.
        let start = NonNull::new(start.cast()).ok_or("mapped at 0")?;
        Ok(Self { file, start, len })
    }

    fn store(&self, offset: usize, word: u64) {
        let offset = offset % self.len / 8 * 8;
        // SAFETY: within the mapping (invariant 1), whose length is whole words.
        let place = unsafe { self.start.add(offset) };
        // SAFETY: as above, and aligned. Volatile: others use the word meanwhile.
        unsafe { place.cast::<u64>().write_volatile(word) };
    }
}

/// How often it is tried to get hold of a damaged state, which others write meanwhile.
const ATTEMPTS: u32 = 100;

/// Makes a state of it that nobody has written.
fn reset(mapped: &Mapped<'static>) {
    let header = mapped.header();
    header.magic.store(MAGIC, Ordering::Relaxed);
    header.abi_version.store(ABI_VERSION, Ordering::Relaxed);
    let page = mapped.geometry().page();
    header.page_size.store(page, Ordering::Relaxed);
    let slot = mapped.slot(Head::INITIAL.slot());
    slot.size.store(0, Ordering::Relaxed);
    slot.tag.store(0, Ordering::Release);
    header.head.store(Head::INITIAL.raw(), Ordering::SeqCst);
}

/// A state to be damaged.
struct State {
    wild: Wild,
    mapped: Mapped<'static>,
    group: Group,
    class: Class,
    capacity: u32,
}

impl State {
    fn open(mount: &Path, name: &str) -> Result<Self> {
        let geometry = Geometry::of_this_machine();
        let wild = Wild::map(&mount.join(name), geometry.region_len())?;
        // SAFETY: mapped so far, page aligned, writable, never unmapped.
        let mapped = unsafe { Mapped::new(wild.start, wild.len, geometry) }?;
        let mut claim = ioctl::Claim::default();
        // Of what an earlier one has left damaged the daemon gives no group.
        for attempt in 1.. {
            let claimed = call::subscribe(&wild.file, &mut ioctl::Subscribe::default())
                .and_then(|()| call::claim(&wild.file, &mut claim));
            match claimed {
                Ok(()) => break,
                Err(error) if attempt == ATTEMPTS => return Err(error.into()),
                Err(_) => reset(&mapped),
            }
        }
        Ok(Self {
            wild,
            mapped,
            group: Group(u8::try_from(claim.group)?),
            class: Class::from_raw(claim.class).ok_or("no class")?,
            capacity: claim.capacity,
        })
    }

    fn scribble(&self, random: &mut Random) {
        let geometry = *self.mapped.geometry();
        let first_slots = geometry.slot_meta(8) - geometry.header();
        let target = random.below(5);
        for _ in 0..200 {
            let offset = match target {
                // Anywhere from the live page to the end of the metadata.
                0 => random.below(geometry.slot_meta(SLOTS - 1)),
                1 => geometry.header() + random.below(first_slots),
                2 => geometry.header() + 64,
                3 => {
                    let slot = u16::try_from(random.below(8)).unwrap_or(0);
                    geometry.slot_meta(slot)
                }
                // Only slots that are allocated: a full disk is another story.
                _ => {
                    let slot = Slot::of_group(self.group.0, 0).index();
                    let slot = slot + u16::try_from(random.below(4)).unwrap_or(0);
                    geometry.payload(slot, self.class)
                        + random.below(geometry.slot_bytes(self.class))
                }
            };
            self.wild.store(offset, random.word());
        }
    }

    /// Makes a sound state of it, so that there is something to damage.
    fn mend(&self, random: &mut Random) {
        reset(&self.mapped);
        let header = self.mapped.header();
        header.capacity.store(self.capacity, Ordering::Relaxed);
        header.live_tag.store(0, Ordering::Relaxed);
        // Waiters, the live page, or nobody; not always that it was deleted.
        header.notice.store(
            u32::from(random.next().to_le_bytes()[0] % 4),
            Ordering::SeqCst,
        );
        let generation = Generation(random.next() % 1000);
        let slot = Slot::of_group(self.group.0, 0);
        let head = Head::new(generation, slot);
        header.head.store(head.raw(), Ordering::SeqCst);
        let mut writer = Writer::claimed(&self.mapped, self.group, self.class);
        let mut bytes = Vec::new();
        for word in checked(random.next()) {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.truncate((self.capacity as usize).min(bytes.len()));
        for _ in 0..4 {
            // Nobody minds if it fails.
            let _ = writer.publish(&self.mapped, &bytes, Ticks::NONE);
        }
    }

    /// Points the head at a slot as if a commit of several states were under way.
    fn pretend(&self, commit: IntentRef, random: &mut Random) {
        let slot = Slot::of_group(self.group.0, 1);
        let generation = random.next() % 16;
        let meta = self.mapped.slot(slot);
        meta.intent_ref.store(commit.raw(), Ordering::Relaxed);
        let prev = u32::from(Slot::of_group(self.group.0, 0).index());
        meta.prev.store(prev, Ordering::Relaxed);
        meta.tag.store(generation + 1, Ordering::Release);
        let head = Head::new(Generation(generation), slot).raw() | 1 << 63;
        self.mapped.header().head.store(head, Ordering::SeqCst);
    }
}

/// The record of this process.
struct Record {
    number: u32,
    status: Wild,
    list: Wild,
}

impl Record {
    fn claim(mount: &Path) -> Result<Self> {
        let registry = File::open(mount.join(".kstate/registry"))?;
        let mut number = 0;
        call::record(&registry, &mut number)?;
        let page = Geometry::of_this_machine().page() as usize;
        Ok(Self {
            number,
            status: Wild::map(&mount.join(ioctl::record_file(number)), page)?,
            list: Wild::map(&mount.join(ioctl::record_list_file(number)), page)?,
        })
    }

    /// Says of a small round that it has come to anything.
    fn scribble_status(&self, random: &mut Random) -> IntentRef {
        let round = random.next() % 8;
        let word = match random.below(4) {
            0 => random.word(),
            _ => (round << 3) | (random.next() % 8),
        };
        self.status.store(0, word);
        IntentRef::new(self.number, Round(round))
    }

    /// Lists states of others: they are not this process's to be changed.
    fn scribble_list(&self, others: &[(u64, u64)], random: &mut Random) {
        self.list.store(0, random.word());
        for index in 0..64 {
            let (state, generation) = others[random.below(others.len())];
            let (base, intent) = match random.below(3) {
                0 => (random.word(), random.word()),
                _ => {
                    let slot = random.next() % u64::from(SLOTS);
                    let head = (generation + random.next() % 3) | (slot << 53);
                    (head, head | (1 << 63))
                }
            };
            for (at, word) in [state, base, intent].into_iter().enumerate() {
                self.list.store(8 + 24 * index + 8 * at, word);
            }
        }
    }
}

/// States that others hold: inode number and newest generation.
fn others(mount: &Path) -> Result<Vec<(u64, u64)>> {
    let mount = Mount::at(mount)?;
    let mut others = Vec::new();
    for (prefix, count) in [(BANK, ACCOUNTS), (MIXED, 2)] {
        for number in 0..count {
            let info = mount.info(format!("{prefix}.{number}"))?;
            others.push((info.state_id, info.generation.0));
        }
    }
    Ok(others)
}

pub(crate) fn scribble(mount: &Path, entry: &Entry) -> Result {
    let mut random = Random::of_this_process();
    let states = BAD.map(|name| State::open(mount, name));
    let states = states.into_iter().collect::<Result<Vec<_>>>()?;
    let record = Record::claim(mount)?;
    let mut known = others(mount)?;
    while goes_on() {
        let state = &states[random.below(states.len())];
        match random.below(10) {
            0..=2 => state.scribble(&mut random),
            3..=5 => state.mend(&mut random),
            6 => {
                let commit = record.scribble_status(&mut random);
                state.pretend(commit, &mut random);
            }
            7 => {
                record.scribble_list(&known, &mut random);
                let commit = record.scribble_status(&mut random);
                state.pretend(commit, &mut random);
                // What comes of it is the daemon's business.
                let mut argument = ioctl::Settle::new(commit.raw(), 0);
                let _ = call::settle(&state.wild.file, &mut argument);
            }
            8 => known = others(mount)?,
            _ => std::thread::park_timeout(random.time(Duration::from_millis(10))),
        }
        entry.did(1);
    }
    Ok(())
}
