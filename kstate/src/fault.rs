//! Traps the first touch of a transaction's raw page, and fills it then.
//!
//! A raw page is memory of the process's own, registered with userfaultfd. Unless it holds the base of the
//! transaction already, nothing is there until somebody touches it: the program, or code that was only
//! handed the pointer. The touch is trapped, the page filled with the version the transaction began
//! from, and the first write told apart from a read.
//!
//! | part | what |
//! |---|---|
//! | `trap.rs` | the userfaultfd of the process, and who answers it |
//! | `slab.rs` | pages in numbers, found again by address without a lock |
//! | `record.rs` | what is known of one page, and how it is filled |
//! | `sigbus.rs` | answering in the thread that touched |
//! | `emulated.rs` | where nothing can be trapped because valgrind runs the program |
//!
//! Lock order: a page's record is the last of all locks; whoever holds it touches no raw page.

mod emulated;
mod record;
mod sigbus;
mod slab;
mod trap;

pub(crate) use record::{Contents, Source};
pub(crate) use slab::Page;
pub use trap::TrapError;
pub(crate) use trap::{Noting, Trap};

/// How the first touch of a raw page is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Trapping {
    /// A thread of the library answers; the toucher waits for it: some 8 µs on one processor,
    /// 50 to 70 µs across two. Works for every user. Where userfaultfd is refused, and under
    /// valgrind, as [`Trapping::Software`].
    #[default]
    Thread,
    /// The touching thread answers itself, in a handler of `SIGBUS`: some 5 µs.
    ///
    /// A handler that was there before is called for faults that are not ours. A thread that
    /// blocks `SIGBUS` dies of its first touch.
    Signal,
    /// As [`Trapping::Thread`], and the kernel's own accesses are trapped too, so that an
    /// untouched page can be given to `read` and `write`. Needs a privilege (`CAP_SYS_PTRACE`, or
    /// `vm.unprivileged_userfaultfd`, or a right to `/dev/userfaultfd`). A debugger that reads such a page
    /// of a stopped process hangs until it goes on, and so may a program that locks its memory
    /// (`mlockall`), which the kernel touches in its place.
    Kernel,
    /// Nothing is trapped: the page is filled when its address is asked for, and counts as
    /// written when that is asked for to write.
    Software,
}
