//! One consistent version out of a region that others are writing.

use core::mem::MaybeUninit;

use super::{Generation, Head, Memory, Payload, Slot, SlotMeta, SlotSize, intent};
use crate::abi::Class;
use crate::clock::Ticks;
use crate::sync::{Ordering, fence, load_omittable};

/// How often a reader begins again because `head` moved on under it.
///
/// A ring of four slots makes even one repetition rare; this many in a row mean that somebody
/// moves `head` without publishing.
pub const MAX_READ_ATTEMPTS: u32 = 100_000;

/// What is known of a version besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The head that named it: base of a commit on top of it.
    pub head: Head,
    /// Length in bytes.
    pub length: u32,
    /// Commit time, [`Ticks::NONE`] if not stamped.
    pub time: Ticks,
    /// Whether the next one is overdue, as the daemon had marked it.
    pub overdue: bool,
}

impl Version {
    /// Its generation.
    #[inline]
    pub const fn generation(&self) -> Generation {
        self.head.generation()
    }
}

/// Why no version could be read. Nothing was changed; the destination holds arbitrary bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The version is longer than the room given.
    #[error("the newest version has {length} bytes, the reader has room for {room}")]
    TooLong {
        /// Bytes of the version.
        length: u32,
        /// Bytes of room.
        room: usize,
    },
    /// The version lies in a class this process has not mapped: map more and try again.
    #[error("the state has grown to slots of class {class:?}, which are not mapped yet")]
    Unmapped {
        /// The class to map.
        class: Class,
    },
    /// A commit of several states is under way, and this process has not mapped the record that
    /// decides it: map it and try again.
    #[error("record {record} decides a commit of several states and is not mapped yet")]
    UnmappedRecord {
        /// The record to map.
        record: u32,
    },
    /// The state was deleted, and its head [sealed](super::Header::seal).
    #[error("the state was deleted")]
    Deleted,
    /// A writer has damaged the region.
    #[error("the region is damaged: {0}; a process that may write it wrote over it")]
    Corrupt(Corruption),
    /// `head` kept moving without a readable version behind it.
    #[error(
        "no version stood still in {MAX_READ_ATTEMPTS} attempts; a process that may write the \
         state moves its head without publishing"
    )]
    Unstable,
}

/// What is wrong with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corruption {
    /// `head` stands still and names a slot with another tag.
    #[error("head says generation {expected}, the tag of its slot {found}")]
    Tag {
        /// Generation in `head`.
        expected: u64,
        /// Tag found.
        found: u64,
    },
    /// A size word with no such class, or longer than its class.
    #[error("a slot's size word is {0:#010x}")]
    Size(u32),
    /// The intent bit is set, and no record vouches for it.
    #[error("head carries an intent that no record knows of")]
    Intent,
}

/// Copies the newest version to the start of `into`.
///
/// # Errors
///
/// [`ReadError`]; `into` then holds arbitrary bytes.
///
/// # Memory ordering
///
/// What the committer did before its commit is visible after this.
///
/// # Cost
///
/// No system call; copies `length` bytes once, again for each time that `head` has moved four
/// versions of one writer meanwhile.
#[inline]
pub fn read<M: Memory>(memory: &M, into: &mut [MaybeUninit<u8>]) -> Result<Version, ReadError> {
    // ORDERING: Acquire with the committer's SeqCst swap: its tag and size are visible.
    let mut head = Head::from_raw(memory.header().head.load(Ordering::Acquire));
    for _ in 0..MAX_READ_ATTEMPTS {
        match copy_version(memory, head, into)? {
            Attempt::Done(version) => return Ok(version),
            Attempt::Overtaken(newer) => head = newer,
        }
    }
    Err(ReadError::Unstable)
}

/// A version found in its slot, with the length asked for: what is copied from `payload` is that
/// version if it [still stands](Candidate::still_stands) afterwards.
///
/// The protocol is that of [`read`], once, without its other cases. With a length that the
/// compiler knows it is a few instructions and a copy, made where it is called.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its bytes, of which the first `version.length` count.
    pub payload: Payload<'a>,
    /// Which one it is.
    pub version: Version,
    slot: &'a SlotMeta,
    /// Its tag: the generation, since no version has a tag with the intent bit. Who scribbles one can have a version taken
    /// for decided, as it could by clearing the bit in `head`.
    tag: u64,
}

impl<'a> Candidate<'a> {
    /// The newest version, if it has `length` bytes and nothing is in the way: [`read`] says
    /// what, or goes round.
    ///
    /// # Memory ordering
    ///
    /// As [`read`].
    #[inline(always)]
    pub fn newest<M: Memory>(memory: &'a M, length: usize) -> Option<Self> {
        // ORDERING: Acquire, as in `read`.
        Self::at(
            memory,
            Head::from_raw(memory.header().head.load(Ordering::Acquire)),
            length,
        )
    }

    /// As [`Candidate::newest`], of the version that `head` names.
    #[inline(always)]
    pub fn at<M: Memory>(memory: &'a M, head: Head, length: usize) -> Option<Self> {
        let class = Class::usual(length);
        let bytes = u32::try_from(length).ok()?;
        let slot = memory.slot(head.slot());
        // ORDERING: Acquire, as in `visit_version`.
        let tag = slot.tag.load(Ordering::Acquire);
        let size = slot.size.load(Ordering::Relaxed);
        let time = Ticks(load_omittable(&slot.time));
        if tag != head.generation_or_intent() || size != SlotSize::new(bytes, class).raw() {
            return None;
        }
        let payload = memory.payload(head.slot(), class)?;
        if length > payload.len() {
            return None;
        }
        let version = Version {
            head,
            length: bytes,
            time,
            overdue: memory.header().is_overdue(head.generation()),
        };
        Some(Self {
            payload,
            version,
            slot,
            tag,
        })
    }

    /// Whether all that was copied before this is of the version.
    #[inline(always)]
    pub fn still_stands(&self) -> bool {
        // ORDERING: the fence keeps the copy before the second look, as in `visit_version`.
        fence(Ordering::Acquire);
        // With what was found, not with the head once more: that would be masked again.
        self.slot.tag.load(Ordering::Relaxed) == self.tag
    }
}

/// Copies the version that `head` names to the start of `into`, even if a newer one stands now;
/// `None` when its slot holds another version by now.
///
/// What a transaction sees is the value as of its start: `head` is its base.
///
/// # Errors
///
/// [`ReadError`]; `into` then holds arbitrary bytes, as it does after `None`.
///
/// # Cost
///
/// No system call; copies `length` bytes once.
#[inline]
pub fn read_at<M: Memory>(
    memory: &M,
    head: Head,
    into: &mut [MaybeUninit<u8>],
) -> Result<Option<Version>, ReadError> {
    match copy_version(memory, head, into)? {
        Attempt::Done(version) => Ok(Some(version)),
        Attempt::Overtaken(_) => Ok(None),
    }
}

/// Whether `bytes` certainly differ from the version that `head` names, in the part they have in
/// common; `false` also where that cannot be told any more.
///
/// # Cost
///
/// No system call; reads as far as the first run of bytes that differs.
pub fn differs<M: Memory>(memory: &M, head: Head, bytes: &[u8]) -> bool {
    let mut differs = false;
    let visited = visit_version(memory, head, |payload, length| {
        differs = payload.differs_from(&bytes[..length.min(bytes.len())]);
        Ok(())
    });
    matches!(visited, Ok(Attempt::Done(_))) && differs
}

/// What is known of the newest version, without its bytes.
///
/// # Errors
///
/// [`ReadError`], except that no length is too long.
pub fn describe<M: Memory>(memory: &M) -> Result<Version, ReadError> {
    // ORDERING: Acquire, as in `read`.
    let mut head = Head::from_raw(memory.header().head.load(Ordering::Acquire));
    for _ in 0..MAX_READ_ATTEMPTS {
        match visit_version(memory, head, |_, _| Ok(()))? {
            Attempt::Done(version) => return Ok(version),
            Attempt::Overtaken(newer) => head = newer,
        }
    }
    Err(ReadError::Unstable)
}

/// As [`describe`], of the version that `head` names; `None` when its slot holds another version by now.
///
/// # Errors
///
/// As [`describe`].
pub fn describe_at<M: Memory>(memory: &M, head: Head) -> Result<Option<Version>, ReadError> {
    match visit_version(memory, head, |_, _| Ok(()))? {
        Attempt::Done(version) => Ok(Some(version)),
        Attempt::Overtaken(_) => Ok(None),
    }
}

/// The newest head, resolved to one without intent.
///
/// # Errors
///
/// As [`look`](super::look).
#[inline]
pub fn newest<M: Memory>(memory: &M) -> Result<Head, ReadError> {
    // ORDERING: Acquire, as in `read`.
    let head = Head::from_raw(memory.header().head.load(Ordering::Acquire));
    if head.has_intent() {
        return intent::look_closer(memory, head).map(|standing| standing.head);
    }
    Ok(head)
}

pub(super) enum Attempt {
    Done(Version),
    Overtaken(Head),
}

/// Copies the version that `head` names, if it is still there.
#[inline]
fn copy_version<M: Memory>(
    memory: &M,
    head: Head,
    into: &mut [MaybeUninit<u8>],
) -> Result<Attempt, ReadError> {
    let room = into.len();
    visit_version(memory, head, |payload, length| {
        if length == room {
            // The usual case, with a length the compiler knows.
            payload.load(into);
        } else if let Some(into) = into.get_mut(..length) {
            payload.load(into);
        } else {
            return Err(ReadError::TooLong {
                length: size_of_version(length),
                room,
            });
        }
        Ok(())
    })
}

fn size_of_version(length: usize) -> u32 {
    // A slot's length has 24 bits.
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Hands the payload of the version that `found` names to `copy`, and says whether what `copy`
/// saw was that version; if `found` has an intent, of the version that counts. `copy` is not called for a version without bytes.
#[inline]
pub(super) fn visit_version<M: Memory>(
    memory: &M,
    found: Head,
    copy: impl FnOnce(Payload<'_>, usize) -> Result<(), ReadError>,
) -> Result<Attempt, ReadError> {
    let (found, head) = match found.has_intent() {
        false => (found, found),
        true => {
            let standing = intent::look_closer(memory, found)?;
            (standing.found, standing.head)
        }
    };
    let slot = memory.slot(head.slot());
    // ORDERING: Acquire with the filler's Release of this tag: size, time and payload are those
    // of this generation or later ones.
    let tag = slot.tag.load(Ordering::Acquire);
    if tag != head.generation().0 {
        return overtaken(memory, found, head, tag);
    }
    // Fetched once: checked below, used for the copy.
    let size = SlotSize::from_raw(slot.size.load(Ordering::Relaxed));
    let time = Ticks(slot.time.load(Ordering::Relaxed));
    let length = size.length() as usize;
    let copied = match length {
        0 => Ok(()),
        _ => checked_payload(memory, head.slot(), size).and_then(|payload| copy(payload, length)),
    };
    // ORDERING: the fence keeps the copy before the second look at the tag. Its partner is the
    // filler's Release fence between BUSY and its first byte: if the copy saw any byte of a
    // later filling, this load sees that filling's BUSY or a later tag.
    fence(Ordering::Acquire);
    let again = slot.tag.load(Ordering::Relaxed);
    if again != tag {
        return overtaken(memory, found, head, again);
    }
    // Only now is an error one of this version and not of a mixture.
    copied?;
    Ok(Attempt::Done(Version {
        head,
        length: size.length(),
        time,
        overdue: memory.header().is_overdue(head.generation()),
    }))
}

#[inline]
fn checked_payload<M: Memory>(
    memory: &M,
    slot: Slot,
    size: SlotSize,
) -> Result<Payload<'_>, ReadError> {
    let corrupt = ReadError::Corrupt(Corruption::Size(size.raw()));
    let class = size.class().ok_or(corrupt)?;
    if size.length() as usize > memory.slot_bytes(class) {
        return Err(corrupt);
    }
    memory
        .payload(slot, class)
        .ok_or(ReadError::Unmapped { class })
}

/// The slot has another tag: `head` has moved on, or the region is damaged.
#[cold]
fn overtaken<M: Memory>(
    memory: &M,
    found: Head,
    was: Head,
    tag: u64,
) -> Result<Attempt, ReadError> {
    // ORDERING: Acquire before the load of `head`. The filler stores BUSY and later tags with
    // Release after it has seen `head` beyond `was`; having seen its tag, this thread sees that
    // head. A head that still stands as it was found therefore means that nobody followed the
    // protocol. One with an intent comes back, but not beyond `was`, which it is resolved to.
    fence(Ordering::Acquire);
    let head = Head::from_raw(memory.header().head.load(Ordering::Acquire));
    if head == found {
        let expected = was.generation().0;
        return Err(ReadError::Corrupt(Corruption::Tag {
            expected,
            found: tag,
        }));
    }
    Ok(Attempt::Overtaken(head))
}
