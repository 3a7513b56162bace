#![expect(unsafe_code, reason = "lends a mapped page to the protocol")]
//! Another process, in between the steps of this one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use kstate_sys::abi::Class;
use kstate_sys::region::{
    Header, IntentList, Mapped, Memory, Payload, Record, Recorded, Slot, SlotMeta, StatusWord,
};

use crate::input::Place;
use crate::pages::Pages;

/// Steps that one call may take: the words that move under it (at most [`MOST_STORES`]), times the
/// looks at an intent that each may cost, times what a look takes, and much to spare.
const MOST_STEPS: u64 = 10_000_000;

/// Words that one input has stored later.
const MOST_STORES: usize = 200;

/// All memory that somebody else may write, and what is going to be written there.
pub(crate) struct Enemy {
    /// The two regions, as far as they are mapped.
    pub(crate) regions: [Pages; 2],
    statuses: Pages,
    list: Pages,
    later: RefCell<VecDeque<(u8, Place, u64)>>,
    steps: Cell<u64>,
}

impl Enemy {
    pub(crate) fn new(regions: [Pages; 2], statuses: Pages, list: Pages) -> Self {
        for pages in regions.iter().chain([&statuses, &list]) {
            pages.clear();
        }
        let enemy = Self {
            regions,
            statuses,
            list,
            later: RefCell::default(),
            steps: Cell::default(),
        };
        for index in 0..4 {
            enemy.status_word(index).initialise();
        }
        enemy
    }

    pub(crate) fn store(&self, place: Place, word: u64) {
        match place {
            Place::Region(region, index) => self.regions[region % 2].store(index, word),
            Place::Status(index) => self.statuses.store(index % 4, word),
            Place::List(index) => self.list.store(index, word),
        }
    }

    /// Has `word` stored `delay` steps after what is stored before it.
    pub(crate) fn store_later(&self, delay: u8, place: Place, word: u64) {
        let mut later = self.later.borrow_mut();
        if later.len() < MOST_STORES {
            later.push_back((delay, place, word));
        }
    }

    /// Whether nothing is going to be stored.
    pub(crate) fn rests(&self) -> bool {
        self.later.borrow().is_empty()
    }

    fn step(&self) {
        self.steps.set(self.steps.get() + 1);
        let mut later = self.later.borrow_mut();
        // Several at once are one step of ours.
        while let Some((delay, place, word)) = later.front_mut() {
            if *delay > 0 {
                *delay -= 1;
                return;
            }
            self.store(*place, *word);
            later.pop_front();
        }
    }

    /// Ends a call.
    pub(crate) fn end_call(&self) {
        let steps = self.steps.replace(0);
        assert!(steps < MOST_STEPS, "a call took {steps} steps");
    }

    pub(crate) fn status_word(&self, index: usize) -> &StatusWord {
        // SAFETY: within the page (its invariant 1).
        let word = unsafe { self.statuses.start().add(index % 4 * 8) };
        // SAFETY: aligned, mapped as long as the program runs; any bytes are a value of an atomic.
        unsafe { word.cast().as_ref() }
    }

    pub(crate) fn intents(&self) -> &IntentList {
        const { assert!(size_of::<IntentList>() <= 4096) };
        // SAFETY: a page, which it fits, mapped as long as the program runs; any bytes are a value.
        unsafe { self.list.start().cast().as_ref() }
    }
}

/// A region that changes whenever it is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Hostile<'a> {
    pub(crate) mapped: Mapped<'static>,
    pub(crate) enemy: &'a Enemy,
}

impl Memory for Hostile<'_> {
    fn header(&self) -> &Header {
        self.enemy.step();
        self.mapped.header()
    }

    fn slot(&self, slot: Slot) -> &SlotMeta {
        self.enemy.step();
        self.mapped.slot(slot)
    }

    fn payload(&self, slot: Slot, class: Class) -> Option<Payload<'_>> {
        self.enemy.step();
        self.mapped.payload(slot, class)
    }

    fn live(&self) -> Payload<'_> {
        self.enemy.step();
        self.mapped.live()
    }

    fn status(&self, record: u32) -> Recorded {
        self.enemy.step();
        match record {
            1..=4 => {
                let word = self.enemy.status_word(record as usize - 1);
                Recorded::Known(word.load())
            }
            5 | 6 => Recorded::Gone,
            _ => Recorded::Unmapped,
        }
    }

    fn slot_bytes(&self, class: Class) -> usize {
        self.mapped.slot_bytes(class)
    }
}

/// The record 1, through which this process commits.
pub(crate) struct Own<'a>(pub(crate) &'a Enemy);

impl Record for Own<'_> {
    fn number(&self) -> u32 {
        1
    }

    fn status(&self) -> &StatusWord {
        self.0.step();
        self.0.status_word(0)
    }

    fn list(&self) -> &IntentList {
        self.0.step();
        self.0.intents()
    }
}
