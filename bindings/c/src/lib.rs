//! libkstate: kstate for programs in C and C++.
//!
//! `include/kstate.h` says what there is; each function is in the file of what it is about:
//!
//! | file | what |
//! |---|---|
//! | `handle.rs`, `table.rs` | opaque handles: whatever a program passes in, a live one is told from all else |
//! | `boundary.rs`, `failure.rs` | no panic gets out; negative errno, and a sentence a thread |
//! | `shared.rs` | a subscription, which transactions share with the handle that it was made by |
//! | `state.rs`, `transaction.rs` | the handles of the two kinds, and their calls |
//! | `member.rs`, `page.rs`, `commit.rs` | the states of a transaction, read-only pages, how it is committed |
//! | `retry.rs` | transactions by a function of the program's |
//! | `reading.rs`, `waiting.rs` | snapshots and live pointers; waiting and descriptors |
//! | `persist.rs` | size, files, deletion |
//! | `text.rs` | names, printing, versions |
//! | `host.rs` | a daemon where there is none |
//!
//! Lock order: a transaction's handle, a state's handle, the subscriptions in the order of their addresses, the
//! list of free handles. None is held while a function of the program's runs, or while `kstate_wait` sleeps. A call that asks
//! the daemon, or waits for a medium, keeps those behind it on the same handle waiting.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("a handle has more bits than a pointer of this machine");

mod boundary;
mod commit;
mod failure;
mod handle;
mod host;
mod member;
mod page;
mod persist;
mod reading;
mod retry;
mod shared;
mod state;
mod table;
mod text;
mod transaction;
mod waiting;
