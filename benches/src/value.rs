//! Values of the sizes measured.

/// Sizes in bytes: a number, a cache line, half a kilobyte, a page of most machines.
pub(crate) const SIZES: [usize; 4] = [8, 64, 512, 4096];

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
