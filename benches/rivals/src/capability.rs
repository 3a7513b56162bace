//! What a peer can do, one trait a capability.
//!
//! Operations are done in blocks behind one virtual call, so that what is timed is the peer's own
//! code, inlined as in a program.

use crate::Result;
use crate::value::{Value, ends_differ, is_torn};

/// Why a peer has no figure.
#[derive(Clone, Debug)]
pub(crate) struct Cannot(pub(crate) String);

/// A capability, or why there is none.
pub(crate) type Can<T> = std::result::Result<T, Cannot>;

impl<E: std::fmt::Display> From<E> for Cannot {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// A capability that the peer does not have.
pub(crate) fn lacks<T>(why: &str) -> Can<T> {
    Err(Cannot(why.to_owned()))
}

/// Copies a value out.
pub(crate) trait Reads {
    /// Reads so many times; returns how often the ends of a value differed.
    fn read(&mut self, count: u32) -> Result<u64>;

    /// Reads so many times; returns how often any words of a value differed.
    fn check(&mut self, count: u32) -> Result<u64>;

    /// The first word of the value now.
    fn word(&mut self) -> Result<u64>;
}

/// Makes a value the newest.
pub(crate) trait Publishes {
    /// Publishes so many times, other values in turn.
    fn publish(&mut self, count: u32) -> Result<()>;

    /// Publishes a value of that word.
    fn publish_word(&mut self, word: u64) -> Result<()>;
}

/// Sleeps until there is a newer value, and copies it out.
pub(crate) trait Follows {
    /// Calls `held` with the first word of every value as soon as it holds it, and with `None`
    /// when there was none for some 100 ms, until that returns false.
    fn follow(&mut self, held: &mut dyn FnMut(Option<u64>) -> bool) -> Result<()>;
}

/// Reads, changes and writes a value so that no such change of others is lost.
pub(crate) trait Updates {
    /// Adds one to every word, so many times; returns how many attempts that took.
    fn update(&mut self, count: u32) -> Result<u64>;
}

/// Handles several values as one.
pub(crate) trait Several {
    /// Adds one to every word of all values at once, so many times.
    fn commit(&mut self, count: u32) -> Result<()>;

    /// Copies all values out as of one moment, so many times; returns how often a word of any was another than that of
    /// the first.
    fn read(&mut self, count: u32) -> Result<u64>;
}

/// Looks at copies of several values that belong to one moment: no commit leaves them different.
pub(crate) struct Together(Option<u64>, bool);

impl Together {
    pub(crate) const fn new() -> Self {
        Self(None, false)
    }

    /// The next copy.
    #[inline(always)]
    pub(crate) fn look<const W: usize>(&mut self, value: &Value<W>) {
        self.1 |= ends_differ(value) | self.0.is_some_and(|word| word != value[0]);
        self.0 = Some(value[0]);
    }

    /// 1 if they were none of one moment.
    #[inline(always)]
    pub(crate) fn torn(&self) -> u64 {
        u64::from(self.1)
    }
}

/// How long a wait lasts before somebody looks whether it shall go on.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);

/// One way to copy a value out.
pub(crate) trait Source<const W: usize> {
    /// Copies it out whole and looks at the copy where the peer has put it.
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R>;
}

/// Reads by a source.
pub(crate) struct By<S, const W: usize>(pub(crate) S);

impl<S: Source<W>, const W: usize> Reads for By<S, W> {
    fn read(&mut self, count: u32) -> Result<u64> {
        let mut torn = 0;
        for _ in 0..count {
            torn += u64::from(self.0.copy_out(ends_differ)?);
        }
        Ok(torn)
    }

    fn check(&mut self, count: u32) -> Result<u64> {
        let mut torn = 0;
        for _ in 0..count {
            torn += u64::from(self.0.copy_out(is_torn)?);
        }
        Ok(torn)
    }

    fn word(&mut self) -> Result<u64> {
        self.0.copy_out(|value| value[0])
    }
}

/// One way to publish a value.
pub(crate) trait Sink<const W: usize> {
    /// Makes it the newest.
    fn put(&mut self, value: &Value<W>) -> Result<()>;
}

/// How many values are published in turn: few enough for the first cache.
const IN_TURN: usize = 4;

/// Publishes to a sink.
pub(crate) struct To<S, const W: usize> {
    sink: S,
    values: Box<[Value<W>; IN_TURN]>,
    next: usize,
}

impl<S, const W: usize> To<S, W> {
    pub(crate) fn new(sink: S) -> Self {
        let mut values = Box::new([[0; W]; IN_TURN]);
        for (word, value) in (1..).zip(values.iter_mut()) {
            value.fill(word);
        }
        Self {
            sink,
            values,
            next: 0,
        }
    }
}

impl<S: Sink<W>, const W: usize> Publishes for To<S, W> {
    fn publish(&mut self, count: u32) -> Result<()> {
        for _ in 0..count {
            self.next = (self.next + 1) % IN_TURN;
            let value = std::hint::black_box(&self.values[self.next]);
            self.sink.put(value)?;
        }
        Ok(())
    }

    fn publish_word(&mut self, word: u64) -> Result<()> {
        self.sink.put(&[word; W])
    }
}

/// A closure that publishes.
impl<F: FnMut(&Value<W>) -> Result<()>, const W: usize> Sink<W> for F {
    #[inline(always)]
    fn put(&mut self, value: &Value<W>) -> Result<()> {
        self(value)
    }
}
