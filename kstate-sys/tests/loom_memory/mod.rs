//! A region of a few loom words, and values that show a mixture.
//!
//! Loom explores every interleaving and every store a relaxed load may return, of the real
//! protocol code. What it cannot show: a store that moves before an earlier load of another word
//! (load buffering), a failed compare-and-swap that returns an old value, and `SeqCst` accesses,
//! which it takes for acquire-release; `sync::fence_for_loom` stands in for the last.

#![allow(dead_code, reason = "each test file uses a part of it")]

use core::cell::Cell;
use core::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kstate_sys::abi::{Class, SLOTS_PER_GROUP};
use kstate_sys::clock::Ticks;
use kstate_sys::region::{
    self, Candidate, Check, CommitError, Decision, Generation, Group, Head, Header, IntentList,
    IntentRef, LiveOwner, Memory, Payload, Record, Recorded, Round, SeveralError, Slot, SlotMeta,
    StatusWord, Version, Write, Writer,
};
use kstate_sys::sync::{AtomicU64, Ordering, fence};

/// Words of a payload: two are enough to see a mixture.
pub(crate) const WORDS: usize = 2;

/// The class every version of these tests has.
pub(crate) const CLASS: Class = Class::B64;

/// Runs `model` in every interleaving with at most `preemptions` involuntary switches, all of
/// them with `None`.
pub(crate) fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // A hand-set LOOM_MAX_PREEMPTIONS wins, to look further than the test's time allows.
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    builder.check(model);
}

/// A region with the slots of the first groups only.
#[derive(Debug)]
pub(crate) struct Words {
    header: Header,
    slots: Vec<SlotMeta>,
    payloads: Vec<[AtomicU64; WORDS]>,
    live: [AtomicU64; WORDS],
    ledger: Arc<Ledger>,
}

impl Words {
    /// A fresh region whose slots are those of groups 0 to `groups - 1`.
    pub(crate) fn with_groups(groups: u16) -> Arc<Self> {
        Self::beside(groups, &Ledger::of(0))
    }

    /// The same, of a mount with the records of `ledger`.
    pub(crate) fn beside(groups: u16, ledger: &Arc<Ledger>) -> Arc<Self> {
        let slots = groups * SLOTS_PER_GROUP;
        // A std `Arc`: loom would explore the order of its reference counts.
        Arc::new(Self {
            header: Header::for_loom(),
            slots: (0..slots).map(|_| SlotMeta::for_loom()).collect(),
            payloads: (0..slots).map(|_| words()).collect(),
            live: words(),
            ledger: ledger.clone(),
        })
    }

    /// A writer for `group`, as after a claim.
    pub(crate) fn writer(&self, group: u8) -> Writer {
        Writer::claimed(self, Group(group), CLASS)
    }

    /// Reads the newest version; `None` for nobody's of generation 0. Fails if it is a mixture.
    pub(crate) fn read(&self) -> (Head, Option<Value>) {
        let mut buffer = Buffer::new();
        let version = region::read(self, &mut buffer.0).expect("a region nobody has damaged");
        (version.head, Value::of(&version, buffer.bytes()))
    }

    /// Reads the version that `head` names; `None` when it is there no more.
    pub(crate) fn read_at(&self, head: Head) -> Option<Value> {
        let mut buffer = Buffer::new();
        let version = region::read_at(self, head, &mut buffer.0);
        let version = version.expect("a region nobody has damaged")?;
        assert_eq!(version.head, head);
        Value::of(&version, buffer.bytes())
    }

    /// The newest version, if it has `length` bytes and stood until it was copied.
    pub(crate) fn candidate(&self, length: usize) -> Option<(Head, Option<Value>)> {
        let candidate = Candidate::newest(self, length)?;
        let mut buffer = Buffer::new();
        candidate.payload.load(&mut buffer.0[..length]);
        let version = candidate.version;
        let stood = candidate.still_stands();
        stood.then(|| (version.head, Value::of(&version, buffer.bytes())))
    }

    /// Copies the live page as any program may: generation, length and bytes, generation again.
    /// `None` when it was changing.
    pub(crate) fn copy_live(&self) -> Option<(Generation, u32, [u8; WORDS])> {
        let before = region::live_generation(self)?;
        let (length, bytes) = self.copy_live_at(before)?;
        Some((before, length, bytes))
    }

    /// As `copy_live` for a program that has seen that the generation is `before`.
    pub(crate) fn copy_live_at(&self, before: Generation) -> Option<(u32, [u8; WORDS])> {
        let length = self.header.live_length.load(Ordering::Relaxed);
        let mut buffer = Buffer::new();
        self.live().load(&mut buffer.0);
        // ORDERING: Acquire: partner of the refresher's Release fence behind its lock.
        fence(Ordering::Acquire);
        let after = region::live_generation(self)?;
        (before == after).then(|| (length, buffer.bytes()))
    }

    /// The head as the calling thread can be sure of it.
    pub(crate) fn head(&self) -> Head {
        Head::from_raw(self.header.head.load(Ordering::Acquire))
    }
}

fn words() -> [AtomicU64; WORDS] {
    core::array::from_fn(|_| AtomicU64::new(0))
}

impl Memory for Words {
    fn header(&self) -> &Header {
        &self.header
    }

    fn slot(&self, slot: Slot) -> &SlotMeta {
        &self.slots[usize::from(slot.index())]
    }

    fn payload(&self, slot: Slot, class: Class) -> Option<Payload<'_>> {
        assert_eq!(class, CLASS, "a class from another version's size word");
        Some(Payload(&self.payloads[usize::from(slot.index())]))
    }

    fn live(&self) -> Payload<'_> {
        Payload(&self.live)
    }

    fn status(&self, record: u32) -> Recorded {
        match self.ledger.record(record) {
            Some((status, _)) => Recorded::Known(status.load()),
            None => Recorded::Gone,
        }
    }

    fn slot_bytes(&self, _: Class) -> usize {
        WORDS
    }
}

/// A value whose two bytes, length and time tell of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    id: u8,
    length: u8,
}

impl Value {
    /// The value `id`, two bytes long.
    pub(crate) const fn new(id: u8) -> Self {
        Self { id, length: 2 }
    }

    /// The value `id`, one byte long.
    pub(crate) const fn short(id: u8) -> Self {
        Self { id, length: 1 }
    }

    /// Which it is.
    pub(crate) const fn id(self) -> u8 {
        self.id
    }

    /// Replaces whatever is newest by it.
    pub(crate) fn publish<M: Memory>(
        self,
        writer: &mut Writer,
        memory: &M,
    ) -> Result<Head, CommitError> {
        writer.publish(memory, &self.bytes()[..self.length.into()], self.time())
    }

    /// Shows it on the live page, just committed as `head`.
    pub(crate) fn refresh_live<M: Memory>(self, memory: &M, owner: LiveOwner, head: Head) {
        let bytes = &self.bytes()[..self.length.into()];
        if !region::show_live(memory, owner, head, bytes) {
            region::refresh_live(memory, owner).unwrap();
        }
    }

    /// Commits it on top of `base`.
    pub(crate) fn commit<M: Memory>(
        self,
        writer: &mut Writer,
        memory: &M,
        base: Head,
    ) -> Result<Head, CommitError> {
        writer.commit(
            memory,
            base,
            &self.bytes()[..self.length.into()],
            self.time(),
        )
    }

    /// The value that `version` describes; fails if length and time are of two. Nobody's value,
    /// of generation 0, is `None`.
    pub(crate) fn described(version: &Version) -> Option<Self> {
        if version.generation().is_never() {
            assert_eq!(
                (version.length, version.time),
                (0, Ticks::NONE),
                "{version:?}"
            );
            return None;
        }
        let [.., length, id] = version.time.0.to_be_bytes();
        assert_eq!(
            u32::from(length),
            version.length,
            "time and length: {version:?}"
        );
        Some(Self { id, length })
    }

    /// The value that `version` and the bytes read with it are; fails if they are a mixture.
    fn of(version: &Version, bytes: [u8; WORDS]) -> Option<Self> {
        let value = Self::described(version)?;
        let length = usize::from(value.length);
        assert_eq!(
            bytes[..length],
            value.bytes()[..length],
            "torn: {version:?}"
        );
        Some(value)
    }

    /// Length and bytes of a live page that holds it.
    pub(crate) fn in_live_page(self) -> (u32, [u8; WORDS]) {
        let mut bytes = self.bytes();
        bytes[self.length.into()..].fill(0);
        (self.length.into(), bytes)
    }

    const fn bytes(self) -> [u8; WORDS] {
        [self.id, !self.id]
    }

    const fn time(self) -> Ticks {
        Ticks((self.length as u64) << 8 | self.id as u64)
    }
}

/// A buffer for a read, and its bytes afterwards.
struct Buffer([MaybeUninit<u8>; WORDS]);

impl Buffer {
    const fn new() -> Self {
        Self([MaybeUninit::new(0); WORDS])
    }

    /// What was read; bytes that were not are zero.
    fn bytes(&self) -> [u8; WORDS] {
        #[expect(unsafe_code, reason = "looks at what a read has written")]
        // SAFETY: initialised by `new`, and a read only writes bytes.
        self.0.map(|byte| unsafe { byte.assume_init() })
    }
}

/// The death of a process after so many steps.
///
/// A step is a call of [`Memory`]: the protocol asks for the header, a slot or a payload before
/// each thing it does there.
#[derive(Clone, Debug)]
pub(crate) struct Death {
    after_steps: u32,
    came: Arc<AtomicBool>,
}

impl Death {
    /// Explores `model` with a death after 0, 1, 2… steps, until it comes too late in every
    /// interleaving. Returns how many steps that is.
    pub(crate) fn at_each_step(
        preemptions: Option<usize>,
        model: impl Fn(Self) + Clone + Sync + Send + 'static,
    ) -> u32 {
        for after_steps in 0.. {
            let came = Arc::new(AtomicBool::new(false));
            let death = Self {
                after_steps,
                came: came.clone(),
            };
            let model = model.clone();
            explore(preemptions, move || model(death.clone()));
            if !came.load(Ordering::Relaxed) {
                return after_steps;
            }
        }
        unreachable!("no life is endless")
    }

    /// What `life` comes to; `None` when the death came first.
    pub(crate) fn of<T>(&self, memory: &Words, life: impl FnOnce(&Mortal<'_>) -> T) -> Option<T> {
        self.of_several(|steps| life(&steps.see(memory)))
    }

    /// As [`Death::of`] of a process that sees several things.
    pub(crate) fn of_several<T>(&self, life: impl FnOnce(&Steps) -> T) -> Option<T> {
        let steps = Steps(Rc::new(Cell::new(self.after_steps)));
        match catch_unwind(AssertUnwindSafe(|| life(&steps))) {
            Ok(end) => Some(end),
            Err(payload) if payload.is::<Killed>() => {
                self.came.store(true, Ordering::Relaxed);
                None
            }
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// What is left of a life.
#[derive(Clone, Debug)]
pub(crate) struct Steps(Rc<Cell<u32>>);

struct Killed;

impl Steps {
    fn step(&self) {
        match self.0.get().checked_sub(1) {
            Some(left) => self.0.set(left),
            None => resume_unwind(Box::new(Killed)),
        }
    }

    /// The region as the process sees it that is going to die.
    pub(crate) fn see<'a>(&self, memory: &'a Words) -> Mortal<'a> {
        Mortal {
            memory,
            steps: self.clone(),
        }
    }

    /// And its record.
    pub(crate) fn own(&self, owner: &Owner) -> MortalOwner {
        MortalOwner {
            owner: owner.clone(),
            steps: self.clone(),
        }
    }
}

/// A region as the process sees it that is going to die.
#[derive(Debug)]
pub(crate) struct Mortal<'a> {
    memory: &'a Words,
    steps: Steps,
}

impl Mortal<'_> {
    fn step(&self) {
        self.steps.step();
    }
}

impl Memory for Mortal<'_> {
    fn header(&self) -> &Header {
        self.step();
        self.memory.header()
    }

    fn slot(&self, slot: Slot) -> &SlotMeta {
        self.step();
        self.memory.slot(slot)
    }

    fn payload(&self, slot: Slot, class: Class) -> Option<Payload<'_>> {
        self.step();
        self.memory.payload(slot, class)
    }

    fn live(&self) -> Payload<'_> {
        self.step();
        self.memory.live()
    }

    fn status(&self, record: u32) -> Recorded {
        self.step();
        self.memory.status(record)
    }

    fn slot_bytes(&self, class: Class) -> usize {
        self.memory.slot_bytes(class)
    }
}

/// The records of a mount.
#[derive(Debug)]
pub(crate) struct Ledger {
    records: Vec<(StatusWord, IntentList)>,
    /// The daemon settles one at a time.
    settling: loom::sync::Mutex<()>,
}

impl Ledger {
    /// With records 1 to `records`.
    pub(crate) fn of(records: u32) -> Arc<Self> {
        let fresh = |_| (StatusWord::for_loom(), IntentList::for_loom());
        Arc::new(Self {
            records: (0..records).map(fresh).collect(),
            settling: loom::sync::Mutex::new(()),
        })
    }

    fn record(&self, number: u32) -> Option<&(StatusWord, IntentList)> {
        self.records
            .get(usize::try_from(number).ok()?.checked_sub(1)?)
    }

    /// The last round of record `number`, and what it came to.
    pub(crate) fn last_round(&self, number: u32) -> (u64, Decision) {
        let status = self.record(number).expect("a record there is").0.load();
        (status.round().0, status.decision())
    }

    /// What the daemon does for the owner of record `number`, who is dead or waits, in the states
    /// that it finds by their numbers.
    pub(crate) fn settle(&self, number: u32, states: &[&Arc<Words>]) {
        let (status, list) = self.record(number).expect("a record there is");
        let _settling = self.settling.lock().unwrap();
        let round = status.load().round();
        let Some(decision) = status.kill(round) else {
            return;
        };
        for listed in list.entries() {
            let memory = states[usize::try_from(listed.state).expect("a small number")];
            listed.settle(&**memory, IntentRef::new(number, round), decision);
        }
    }
}

/// A process that has a record.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) number: u32,
}

impl Record for Owner {
    fn number(&self) -> u32 {
        self.number
    }

    fn status(&self) -> &StatusWord {
        &self.ledger.record(self.number).expect("its own").0
    }

    fn list(&self) -> &IntentList {
        &self.ledger.record(self.number).expect("its own").1
    }
}

/// One that is going to die.
#[derive(Debug)]
pub(crate) struct MortalOwner {
    owner: Owner,
    steps: Steps,
}

impl Record for MortalOwner {
    fn number(&self) -> u32 {
        self.owner.number()
    }

    fn status(&self) -> &StatusWord {
        self.steps.step();
        self.owner.status()
    }

    fn list(&self) -> &IntentList {
        self.steps.step();
        self.owner.list()
    }
}

/// A state to be written by a commit of several: its number, region, writer, base.
pub(crate) type Target<'a, M> = (u64, &'a M, &'a mut Writer, Head);

impl Value {
    /// Commits it to each of `targets`, if the regions of `checks` are at their heads.
    pub(crate) fn commit_several<M: Memory, R: Record>(
        self,
        record: &R,
        last: (u64, Decision),
        targets: Vec<Target<'_, M>>,
        checks: &[(&M, Head)],
    ) -> Result<Vec<Head>, SeveralError> {
        let bytes = self.bytes();
        let write = |(state, memory, writer, base)| Write {
            memory,
            state,
            writer,
            base,
            bytes: &bytes[..self.length.into()],
            time: self.time(),
        };
        let mut writes: Vec<_> = targets.into_iter().map(write).collect();
        let check = |&(memory, base)| Check { memory, base };
        let checks: Vec<_> = checks.iter().map(check).collect();
        let last = (Round(last.0), last.1);
        region::commit_several(record, last, &mut writes, &checks)?;
        Ok(writes.iter().map(Write::committed).collect())
    }
}
