//! Where handles are kept.
//!
//! A handle is a number that looks like a pointer: which entry, and how often that entry was used before. So one that
//! was freed, or is none at all, is told from a live one without a look at what it seems to point to, and a pointer
//! kept too long never means what was made since.

use std::sync::atomic::{AtomicPtr, Ordering};

use kstate_sys::fork::Lock;

/// Entries of the first chunk; each has twice as many as the one before.
const FIRST: usize = 64;
/// With these there are two million entries.
const CHUNKS: usize = 15;
/// Bits of the number of an entry.
pub(crate) const INDEX_BITS: u32 = 21;
/// Bits of how often it was used.
pub(crate) const USE_BITS: u32 = 39;

/// An entry, and which use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) index: usize,
    /// From 1, so that no key is all zeros.
    pub(crate) used: u64,
}

/// Entries that stay where they are for the life of the process.
///
/// In a forked child an entry that another thread of the parent was using at the fork is lost, and so are the free ones if
/// a handle was being made or freed: there they are as if they had never been.
pub(crate) struct Table<T> {
    chunks: [AtomicPtr<Lock<Entry<T>>>; CHUNKS],
    free: Lock<Free>,
}

struct Entry<T> {
    used: u64,
    value: Option<T>,
}

impl<T> Default for Entry<T> {
    fn default() -> Self {
        Self {
            used: 0,
            value: None,
        }
    }
}

/// Entries without a value.
struct Free {
    listed: Vec<usize>,
    /// None from here on was ever used.
    next: usize,
    /// What the uses of an entry are counted from.
    first_use: u64,
}

/// What a forked child begins with that has lost the list. An entry that it has lost as well looks unused to it, and is not to
/// be taken for what the parent had there.
impl Default for Free {
    fn default() -> Self {
        Self {
            listed: Vec::new(),
            next: 0,
            first_use: u64::from(std::process::id()) << 8 | 1,
        }
    }
}

impl<T: 'static> Table<T> {
    pub(crate) const fn new() -> Self {
        Self {
            chunks: [const { AtomicPtr::new(core::ptr::null_mut()) }; CHUNKS],
            free: Lock::new(Free {
                listed: Vec::new(),
                next: 0,
                first_use: 1,
            }),
        }
    }

    /// Keeps `value`; `None` if there is no room.
    pub(crate) fn insert(&'static self, value: T) -> Option<Key> {
        let mut free = self.free.lock();
        let index = match free.listed.pop() {
            Some(index) => index,
            None => {
                let index = self.first_unused(free.next);
                self.make(index)?;
                free.next = index + 1;
                index
            }
        };
        let first_use = free.first_use;
        drop(free);
        let mut entry = self.entry(index)?.lock();
        entry.used = match entry.used {
            0 => first_use,
            used => ((used + 1) & ((1 << USE_BITS) - 1)).max(1),
        };
        entry.value = Some(value);
        Some(Key {
            index,
            used: entry.used,
        })
    }

    /// The first entry from `next` on that was not used: a child may have lost count.
    fn first_unused(&'static self, next: usize) -> usize {
        let mut index = next;
        while self.entry(index).is_some_and(|entry| entry.lock().used > 0) {
            index += 1;
        }
        index
    }

    /// Runs `work` with what is kept under `key`; `None` if nothing is, any more.
    #[inline]
    pub(crate) fn with<R>(&'static self, key: Key, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut entry = self.entry(key.index)?.lock();
        if entry.used != key.used {
            return None;
        }
        entry.value.as_mut().map(work)
    }

    /// Takes out what is kept under `key`.
    pub(crate) fn remove(&'static self, key: Key) -> Option<T> {
        let mut entry = self.entry(key.index)?.lock();
        if entry.used != key.used {
            return None;
        }
        let value = entry.value.take()?;
        drop(entry);
        self.free.lock().listed.push(key.index);
        Some(value)
    }

    #[inline]
    fn entry(&'static self, index: usize) -> Option<&'static Lock<Entry<T>>> {
        let (chunk, offset) = place(index);
        // ORDERING: Acquire with the Release in `make`: the entries are there.
        let start = self.chunks.get(chunk)?.load(Ordering::Acquire);
        // A chunk is a boxed slice that is never given back, of more than `offset` entries.
        self.lend(start, offset)
    }

    /// Has the entry there, with all of its chunk.
    fn make(&'static self, index: usize) -> Option<()> {
        let (chunk, _) = place(index);
        let place = self.chunks.get(chunk)?;
        if place.load(Ordering::Acquire).is_null() {
            let entries: Box<[Lock<Entry<T>>]> =
                (0..FIRST << chunk).map(|_| Lock::default()).collect();
            let start = Box::leak(entries).as_mut_ptr();
            let none = core::ptr::null_mut();
            // ORDERING: Release with the Acquire in `entry`. Where two come at once, in a child that lost the list's lock,
            // the second one's chunk stays unused.
            let _ = place.compare_exchange(none, start, Ordering::AcqRel, Ordering::Acquire);
        }
        Some(())
    }

    #[expect(unsafe_code, reason = "lends what was leaked")]
    #[inline]
    fn lend(
        &'static self,
        start: *mut Lock<Entry<T>>,
        offset: usize,
    ) -> Option<&'static Lock<Entry<T>>> {
        if start.is_null() {
            return None;
        }
        // SAFETY: `make` put it there: the start of a leaked slice, and `place` gives offsets within it.
        let entry = unsafe { start.add(offset) };
        // SAFETY: as above; entries are only shared.
        Some(unsafe { &*entry })
    }
}

/// Which chunk an entry is in, and where there.
#[inline]
fn place(index: usize) -> (usize, usize) {
    let rank = index / FIRST + 1;
    let chunk = rank.ilog2() as usize;
    (chunk, index - FIRST * ((1 << chunk) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_a_place_of_its_own() {
        let mut expected = (0, 0);
        for index in 0..10_000 {
            assert_eq!(place(index), expected);
            expected.1 += 1;
            if expected.1 == FIRST << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        let last = (1 << INDEX_BITS) - 1;
        assert!(place(last - FIRST).0 < CHUNKS);
        assert!(place(last).0 >= CHUNKS);
    }

    #[test]
    fn what_was_taken_out_is_never_found_again() {
        static TABLE: Table<u32> = Table::new();
        let keys: Vec<_> = (0..200).map(|n| TABLE.insert(n).unwrap()).collect();
        for (n, key) in (0..).zip(&keys) {
            assert_eq!(TABLE.with(*key, |value| *value), Some(n));
        }
        assert_eq!(TABLE.remove(keys[7]), Some(7));
        assert_eq!(TABLE.remove(keys[7]), None);
        let again = TABLE.insert(1000).unwrap();
        assert_eq!(again.index, keys[7].index);
        assert_eq!(TABLE.with(keys[7], |_| ()), None);
        assert_eq!(TABLE.with(again, |value| *value), Some(1000));
        for (index, used) in [(5_000_000, 1), (300, 1), (0, 0)] {
            assert_eq!(TABLE.with(Key { index, used }, |_| ()), None);
        }
    }

    #[test]
    fn threads_have_entries_of_their_own() {
        static TABLE: Table<usize> = Table::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for round in 0..500 {
                        let value = thread * 1000 + round;
                        let key = TABLE.insert(value).unwrap();
                        assert_eq!(TABLE.with(key, |found| *found), Some(value));
                        assert_eq!(TABLE.remove(key), Some(value));
                    }
                });
            }
        });
        assert!(TABLE.free.lock().next <= 4);
    }
}
