//! Sleeping on words of others, beside one's own interrupt.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kstate_sys::futex::{self, Deadline, Woken, Word};

use crate::interrupt::Interrupt;

/// No sleep is longer. A process of another user that has a read-only map can move our place in
/// the futex queue elsewhere, so that a wake misses us; then this is how late we look.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(4);

/// How long a sleep is where the kernel cannot sleep on several words (before Linux 5.16), or a
/// filter does not let it.
const NAP: Duration = Duration::from_millis(5);

/// A word to sleep on as long as its low half is as expected.
pub(crate) type Expected<'w> = (&'w AtomicU64, u32);

/// When a wait ends whatever happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until<'i> {
    pub(crate) deadline: Option<Deadline>,
    pub(crate) interrupt: Option<&'i Interrupt>,
}

impl Until<'_> {
    /// The deadline or the end of a sleep of `most`, whichever comes first.
    pub(crate) fn slice(&self, most: Duration) -> Deadline {
        let slice = Deadline::after(most);
        self.deadline.map_or(slice, |deadline| deadline.min(slice))
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.deadline.is_some_and(Deadline::has_passed)
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupt.is_some_and(Interrupt::is_raised)
    }
}

/// Sleeps while `word` is as expected, at most until `slice`.
///
/// # Errors
///
/// As [`futex::wait`].
pub(crate) fn on(word: Expected<'_>, until: Until<'_>, slice: Deadline) -> io::Result<Woken> {
    match until.interrupt {
        None => futex::wait(word.0, word.1, Some(slice)),
        Some(_) => on_any(&[word], until, slice),
    }
}

/// Sleeps while all of `words` are as expected, of which there are fewer than
/// [`futex::MOST_WORDS`], at most until `slice`.
///
/// # Errors
///
/// As [`futex::wait`].
pub(crate) fn on_any(
    words: &[Expected<'_>],
    until: Until<'_>,
    slice: Deadline,
) -> io::Result<Woken> {
    let mine = until.interrupt.map(Interrupt::word);
    let theirs = words
        .iter()
        .map(|(word, expected)| Word::new(word, *expected));
    let all: smallvec::SmallVec<[Word<'_>; 8]> = theirs.chain(mine).collect();
    // However it is refused: a filter may answer with any number.
    futex::wait_any(&all, Some(slice)).or_else(|_| nap(words, slice))
}

/// Sleeps on the first one, no longer than a nap, and says that all are to be looked at.
fn nap(words: &[Expected<'_>], slice: Deadline) -> io::Result<Woken> {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is compared")]
    let changed =
        |(word, expected): &Expected<'_>| word.load(Ordering::Relaxed) as u32 != *expected;
    if words.iter().any(changed) {
        return Ok(Woken::LookAgain);
    }
    let nap = Deadline::after(NAP);
    let nobody_wakes = AtomicU64::new(0);
    let first = words.first().copied().unwrap_or((&nobody_wakes, 0));
    match futex::wait(first.0, first.1, Some(slice.min(nap)))? {
        Woken::TimedOut if nap < slice => Ok(Woken::LookAgain),
        woken => Ok(woken),
    }
}

/// Sleeps until `until`; `false` when a signal handler ran or it was interrupted, unlike
/// `std::thread::sleep`, which goes on then.
pub(crate) fn for_time(deadline: Deadline, interrupt: Option<&Interrupt>) -> bool {
    let nobody_wakes = AtomicU64::new(0);
    let until = Until {
        deadline: Some(deadline),
        interrupt,
    };
    loop {
        if until.is_interrupted() {
            return false;
        }
        // Fails for no reason that words of our own could have.
        match on((&nobody_wakes, 0), until, deadline).unwrap_or(Woken::TimedOut) {
            Woken::TimedOut => return true,
            Woken::Interrupted => return false,
            Woken::LookAgain => {}
        }
    }
}
