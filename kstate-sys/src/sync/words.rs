//! Atomics that loom explores to the end.
//!
//! Loom 0.7 remembers one last access of a word, so a load hides an earlier load of another
//! thread: the store that races with that one is then never tried before it (tokio-rs/loom issues
//! 166 and 392), and whole tests come down to a single interleaving. Here each access of a word
//! first stores to a word beside it that nobody reads. Stores always count as a race, and these
//! order nothing, so that every order of two threads' accesses is tried.

use loom::sync::atomic;

use super::Ordering;

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $bits:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            word: atomic::$name,
            turn: atomic::AtomicBool,
        }

        impl $name {
            /// A word with `value`.
            pub fn new(value: $bits) -> Self {
                Self {
                    word: atomic::$name::new(value),
                    turn: atomic::AtomicBool::new(false),
                }
            }

            fn in_turn(&self) -> &atomic::$name {
                self.turn.store(false, Ordering::Relaxed);
                &self.word
            }

            /// As that of the standard library.
            pub fn load(&self, order: Ordering) -> $bits {
                self.in_turn().load(order)
            }

            /// As that of the standard library.
            pub fn store(&self, value: $bits, order: Ordering) {
                self.in_turn().store(value, order);
            }

            /// As that of the standard library.
            pub fn fetch_add(&self, value: $bits, order: Ordering) -> $bits {
                self.in_turn().fetch_add(value, order)
            }

            /// As that of the standard library.
            pub fn fetch_or(&self, value: $bits, order: Ordering) -> $bits {
                self.in_turn().fetch_or(value, order)
            }

            /// As that of the standard library.
            pub fn fetch_and(&self, value: $bits, order: Ordering) -> $bits {
                self.in_turn().fetch_and(value, order)
            }

            /// As that of the standard library.
            ///
            /// # Errors
            ///
            /// The value found, if it is not `current`.
            pub fn compare_exchange(
                &self,
                current: $bits,
                new: $bits,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$bits, $bits> {
                self.in_turn().compare_exchange(current, new, success, failure)
            }
        }
    };
}

word! {
    /// A 32-bit word shared between processes.
    AtomicU32, u32
}
word! {
    /// A 64-bit word shared between processes.
    AtomicU64, u64
}
