#![cfg_attr(
    not(kstate_loom),
    expect(unsafe_code, reason = "copies bytes that others are writing")
)]
//! Bytes of a region that another process may be writing while they are copied.
//!
//! Rust has no type for racing memory: a reference promises that nobody writes, and even a
//! volatile copy is a data race. Here the copies are made by instructions the compiler does not
//! look into (`asm!`), which is how a program may do what the language cannot express, provided
//! each access is one the processor makes without tearing what matters. Nothing here depends on
//! a byte's value; a version's tag says afterwards whether they belong together.
//!
//! Under loom a payload is a few atomic words.

#[cfg(not(kstate_loom))]
mod bytes;
#[cfg(not(kstate_loom))]
mod copy;

#[cfg(not(kstate_loom))]
pub use bytes::Payload;

#[cfg(kstate_loom)]
pub use words::Payload;

#[cfg(kstate_loom)]
mod words {
    use core::mem::MaybeUninit;

    use crate::sync::{AtomicU64, Ordering};

    /// A payload of a few words that loom can follow; only the first byte of each is used.
    #[derive(Clone, Copy, Debug)]
    pub struct Payload<'a>(pub &'a [AtomicU64]);

    impl Payload<'_> {
        /// Room in bytes.
        pub fn len(&self) -> usize {
            self.0.len()
        }

        /// Whether there is no room.
        pub fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

        /// Stores each byte in a word.
        pub fn store(&self, bytes: &[u8]) {
            for (word, byte) in self.0.iter().zip(bytes) {
                word.store(u64::from(*byte), Ordering::Relaxed);
            }
        }

        /// Loads a byte of each word.
        pub fn load(&self, into: &mut [MaybeUninit<u8>]) {
            for (word, byte) in self.0.iter().zip(into) {
                byte.write(word.load(Ordering::Relaxed).to_le_bytes()[0]);
            }
        }

        /// Whether the first bytes are others than `bytes`.
        pub fn differs_from(&self, bytes: &[u8]) -> bool {
            let same =
                |(word, byte): (&AtomicU64, &u8)| word.load(Ordering::Relaxed) == u64::from(*byte);
            !self.0.iter().zip(bytes).all(same)
        }

        /// Copies `length` words.
        pub fn copy_to(&self, other: &Payload<'_>, length: usize) {
            for (from, to) in self.0.iter().zip(other.0).take(length) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }

        /// Zeroes words `from..to`.
        pub fn zero(&self, from: usize, to: usize) {
            for word in &self.0[from..to] {
                word.store(0, Ordering::Relaxed);
            }
        }
    }
}
