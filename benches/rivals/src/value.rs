//! Values: words that are all the same, so that a mixture of two versions is seen.

use zerocopy::IntoBytes;

use crate::Result;

/// Sizes measured, in bytes: a number, a cache line, half a kilobyte, a page of most machines.
pub(crate) const SIZES: [usize; 4] = [8, 64, 512, 4096];

/// A value of `W` words.
pub(crate) type Value<const W: usize> = [u64; W];

/// Where a program keeps a copy: aligned to a page, so that it lies the same way for all peers.
#[repr(align(4096))]
pub(crate) struct Place<const W: usize>(Value<W>);

impl<const W: usize> Place<W> {
    /// One with zeros in it.
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self([0; W]))
    }
}

impl<const W: usize> std::ops::Deref for Place<W> {
    type Target = Value<W>;

    #[inline(always)]
    fn deref(&self) -> &Value<W> {
        &self.0
    }
}

impl<const W: usize> std::ops::DerefMut for Place<W> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Value<W> {
        &mut self.0
    }
}

/// Whether first and last word differ: what every timed read looks at, so that no copy can be
/// left out, and which costs under a nanosecond for every peer.
#[inline(always)]
pub(crate) fn ends_differ<const W: usize>(value: &Value<W>) -> bool {
    let value = std::hint::black_box(value);
    value[0] != value[W - 1]
}

/// Whether any word differs from the first.
pub(crate) fn is_torn<const W: usize>(value: &Value<W>) -> bool {
    let value = std::hint::black_box(value);
    value.iter().any(|word| *word != value[0])
}

/// The bytes of a value.
#[inline(always)]
pub(crate) fn bytes_of<const W: usize>(value: &Value<W>) -> &[u8] {
    value.as_bytes()
}

/// The bytes of a value, to be filled.
#[inline(always)]
pub(crate) fn bytes_of_mut<const W: usize>(value: &mut Value<W>) -> &mut [u8] {
    value.as_mut_bytes()
}

/// Copies a value out of bytes, which have its length.
#[inline(always)]
pub(crate) fn copy_from<const W: usize>(bytes: &[u8], value: &mut Value<W>) -> Result<()> {
    if bytes.len() != size_of::<Value<W>>() {
        return Err(format!("a value of {} bytes", bytes.len()).into());
    }
    value.as_mut_bytes().copy_from_slice(bytes);
    Ok(())
}

/// Calls `$work::<WORDS>($arguments)` for the size `$size`, one of [`SIZES`], as so many words.
macro_rules! for_size {
    ($size:expr, $work:ident, $($argument:expr),*) => {
        match $size {
            8 => $work::<1>($($argument),*),
            64 => $work::<8>($($argument),*),
            512 => $work::<64>($($argument),*),
            _ => $work::<512>($($argument),*),
        }
    };
}

pub(crate) use for_size;
