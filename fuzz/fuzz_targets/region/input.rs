//! Arbitrary bytes as the words, places and numbers that a hostile writer would choose.

use kstate_sys::abi::{CLASSES, Class, Geometry, SLOTS};
use kstate_sys::region::{BUSY, IntentRef, Round, SlotSize};

/// What is left of the bytes. At their end all is zero.
#[derive(Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

/// Where a word goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// A word of one of the two regions.
    Region(usize, usize),
    /// A record's status.
    Status(usize),
    /// A word of the record's list.
    List(usize),
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    pub(crate) fn class(&mut self) -> Class {
        CLASSES[self.below(CLASSES.len())]
    }

    /// A length of a value; seldom longer than a page.
    pub(crate) fn length(&mut self) -> usize {
        match self.byte() {
            0..=63 => 8,
            64..=127 => self.below(65),
            128..=250 => 16 * usize::from(self.byte()),
            251 => 0,
            252 => 4096,
            253 => 4097,
            _ => 1024,
        }
    }

    /// A word that the protocol might have put there, or any.
    pub(crate) fn word(&mut self) -> u64 {
        match self.byte() % 12 {
            0 => 0,
            1 => BUSY,
            2 => 1,
            // A small generation.
            3 => u64::from(self.byte() % 16),
            // A head with a small generation and slot, with and without intent.
            4 => self.head(),
            5 => self.head() | 1 << 63,
            // Size and the slot before: within and outside of what there is.
            6 => {
                let size = u32::from_le_bytes(self.bytes()) & 0x0700_1fff;
                u64::from(size) | u64::from(self.byte()) << 32
            }
            7 => {
                let class = self.class();
                let length = u32::from(self.byte());
                let prev = u64::from(self.byte() % 16);
                u64::from(SlotSize::new(length, class).raw()) | prev << 32
            }
            8 => self.commit().raw(),
            // A record's status.
            9 => u64::from(self.byte() % 16) << 3 | u64::from(self.byte() % 8),
            // Near the last generation.
            10 => (1 << 53) - 1 - u64::from(self.byte() % 3),
            _ => u64::from_le_bytes(self.bytes()),
        }
    }

    fn head(&mut self) -> u64 {
        let slot = u64::from(self.byte() % 16);
        slot << 53 | u64::from(self.byte() % 16)
    }

    pub(crate) fn commit(&mut self) -> IntentRef {
        let record = u32::from(self.byte() % 8);
        IntentRef::new(record, Round(u64::from(self.byte() % 8)))
    }

    pub(crate) fn place(&mut self, geometry: &Geometry) -> Place {
        let kind = self.byte();
        let region = usize::from(kind >> 7);
        let header = geometry.header() / 8;
        let meta = |slot: u16, word: usize| geometry.slot_meta(slot) / 8 + word;
        let index = match kind % 10 {
            0 => header + 8,
            // `notice`, `live_tag`, `live_length`.
            1 => header + [16, 24, 25][self.below(3)],
            2 => header + self.below(64),
            3 | 4 => meta(u16::from(self.byte() % 16), self.below(4)),
            5 => {
                let slot = u16::from_le_bytes(self.bytes()) % SLOTS;
                meta(slot, self.below(8))
            }
            6 => {
                let class = self.class();
                geometry.payload(u16::from(self.byte() % 16), class) / 8 + self.below(8)
            }
            7 => usize::from(u16::from_le_bytes(self.bytes())),
            8 => return Place::Status(self.below(4)),
            _ => return Place::List(usize::from(self.byte())),
        };
        Place::Region(region, index)
    }
}
