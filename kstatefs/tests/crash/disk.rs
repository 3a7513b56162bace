//! What a disk may have of a file when power fails.
//!
//! The kernel writes pages of its memory when it likes, each by itself, until a sync makes sure of those
//! that have changed. After a sync that failed they count as clean: whether the disk has them is never
//! known, and no later sync asks, unless they are written again. So of each page the disk has one of
//! several *candidates*: what it was when last known, and what each write since made of it.

use crate::recorder::Operation;

const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// Up to so many combinations of candidates all are tried, beyond it some.
const MAX_ALL: usize = 1024;

/// How many of more.
const SOME: usize = 300;

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pages: Vec<Page>,
    /// Lengths in bytes that the file may have; the last is what memory has.
    lengths: Vec<usize>,
    length_is_dirty: bool,
}

#[derive(Clone, Debug)]
struct Page {
    /// What the disk may have; the last is what memory has.
    candidates: Vec<Vec<u8>>,
    /// Whether a sync would write it.
    is_dirty: bool,
}

/// Which candidate of each page.
type Choice<'c> = &'c dyn Fn(usize, &Page) -> usize;

impl Disk {
    /// A disk that has exactly these bytes.
    pub(crate) fn with(bytes: &[u8]) -> Self {
        let mut disk = Self {
            lengths: vec![0],
            ..Self::default()
        };
        disk.apply(&Operation::Allocate(bytes.len()));
        let (offset, bytes) = (0, bytes.to_vec());
        disk.apply(&Operation::Write { offset, bytes });
        disk.apply(&Operation::Sync);
        disk
    }

    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Allocate(length) => self.grow(*length),
            Operation::Write { offset, bytes } => self.write(*offset, bytes),
            Operation::Sync => {
                for page in self.pages.iter_mut().filter(|page| page.is_dirty) {
                    page.candidates.drain(..page.candidates.len() - 1);
                    page.is_dirty = false;
                }
                if self.length_is_dirty {
                    self.lengths.drain(..self.lengths.len() - 1);
                    self.length_is_dirty = false;
                }
            }
            Operation::FailedSync => {
                self.pages.iter_mut().for_each(|page| page.is_dirty = false);
            }
        }
    }

    fn grow(&mut self, length: usize) {
        if self.lengths.last().is_none_or(|last| *last < length) {
            self.lengths.push(length);
            self.length_is_dirty = true;
        }
        let zeros = || Page {
            candidates: vec![vec![0; PAGE_BYTES]],
            is_dirty: false,
        };
        let pages = self.pages.len().max(length.div_ceil(PAGE_BYTES));
        self.pages.resize_with(pages, zeros);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.grow(offset + bytes.len());
        for (index, page) in self.pages.iter_mut().enumerate() {
            let start = index * PAGE_BYTES;
            let from = offset.max(start);
            let to = (offset + bytes.len()).min(start + PAGE_BYTES);
            if from < to {
                let mut new = page.candidates.last().unwrap().clone();
                new[from - start..to - start].copy_from_slice(&bytes[from - offset..to - offset]);
                page.candidates.push(new);
                page.is_dirty = true;
            }
        }
    }

    fn compose(&self, choice: Choice<'_>) -> Vec<u8> {
        let pages = self.pages.iter().enumerate();
        let chosen = pages.map(|(index, page)| page.candidates[choice(index, page)].as_slice());
        chosen.collect::<Vec<_>>().concat()
    }

    /// Shows `visit` what the disk may have, whole pages each.
    pub(crate) fn images(&self, mut visit: impl FnMut(&[u8])) {
        let mut show = |choice: Choice<'_>| {
            let image = self.compose(choice);
            for length in &self.lengths {
                visit(&image[..*length]);
            }
        };
        let counts: Vec<usize> = self
            .pages
            .iter()
            .map(|page| page.candidates.len())
            .collect();
        let all = counts.iter().try_fold(1, |all: usize, count| {
            all.checked_mul(*count).filter(|all| *all <= MAX_ALL)
        });
        if let Some(all) = all {
            for number in 0..all {
                let mut left = number;
                let chosen: Vec<usize> = counts
                    .iter()
                    .map(|count| {
                        let chosen = left % count;
                        left /= count;
                        chosen
                    })
                    .collect();
                show(&|index, _| chosen[index]);
            }
            return;
        }
        for one in 0..self.pages.len() {
            show(&|index, page| if index == one { 0 } else { page.newest() });
            show(&|index, page| if index == one { page.newest() } else { 0 });
        }
        for seed in 0..SOME {
            show(&|index, page| scatter(seed, index) % page.candidates.len());
        }
    }

    /// Shows `visit` what the disk may have when power fails in the middle of a write to it: its first
    /// bytes up to each place, or its last from there; and of what was not sure before, all or nothing.
    pub(crate) fn cuts(
        &self,
        offset: usize,
        bytes: &[u8],
        every: usize,
        mut visit: impl FnMut(&[u8]),
    ) {
        let bases: [Choice<'_>; 2] = [&|_, _| 0, &|_, page| page.newest()];
        for base in bases {
            let mut grown = self.clone();
            grown.grow(offset + bytes.len());
            let old = grown.compose(base);
            let mut first = old.clone();
            let mut last = old.clone();
            last[offset..offset + bytes.len()].copy_from_slice(bytes);
            for (at, byte) in bytes.iter().enumerate() {
                first[offset + at] = *byte;
                last[offset + at] = old[offset + at];
                if at % every == 0 {
                    visit(&first);
                    visit(&last);
                }
            }
            if bytes.len() == PAGE_BYTES && offset.is_multiple_of(PAGE_BYTES) {
                each_sector(&old, offset, bytes, &mut visit);
            }
        }
    }
}

impl Page {
    fn newest(&self) -> usize {
        self.candidates.len() - 1
    }
}

/// Any of the sectors of a block are written.
fn each_sector(old: &[u8], offset: usize, bytes: &[u8], visit: &mut impl FnMut(&[u8])) {
    let sectors = PAGE_BYTES / SECTOR_BYTES;
    for written in 0..1u32 << sectors {
        let mut image = old.to_vec();
        for sector in (0..sectors).filter(|sector| written & (1 << sector) != 0) {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            image[offset + range.start..offset + range.end].copy_from_slice(&bytes[range]);
        }
        visit(&image);
    }
}

/// A number without a pattern, the same in each run.
fn scatter(seed: usize, index: usize) -> usize {
    let mixed = (seed * 0x1_0001 + index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)) >> 20
}
