//! Live state shared between processes.
//!
//! A *state* is a named, typed, versioned value of at most one page. One process publishes it
//! thousands of times a second; others read it whenever they like, wait for it to change, or look
//! at it no more often than they want to. Reading is a copy out of shared memory, publishing a
//! copy into it and one compare-and-swap: no system call, no lock, no server on the way.
//!
//! ```no_run
//! kstate::layout! {
//!     pub struct Gps { pub lat: f64, pub lon: f64, pub fix: u32, pub satellites: u32 }
//! }
//!
//! // The publisher:
//! let gps = kstate::subscribe("robot.gps").write().typed::<Gps>()?;
//! gps.publish(&Gps { lat: 52.2, lon: 0.12, fix: 3, satellites: 9 })?;
//!
//! // A consumer, in another process:
//! let gps = kstate::subscribe("robot.gps").typed::<Gps>()?;
//! let now = gps.snapshot()?;
//! println!("{} N, version {}, {:?} old", now.lat, now.generation(), now.age());
//! # Ok::<(), kstate::Error>(())
//! ```
//!
//! | to | use |
//! |---|---|
//! | get a handle | [`subscribe()`], [`Mount::subscribe`], [`Subscribe`] |
//! | read | [`Reader::snapshot`], [`Reader::changed_since`], [`Reader::live`] |
//! | look no more often than so | [`Reader::view`], [`View`] |
//! | write | [`State::publish`] |
//! | change what is there | [`State::transact`], [`State::begin`]; by pointer [`State::begin_raw`] |
//! | change several states at once | [`begin_many`], [`transact_many`] |
//! | read several states as of one moment | [`cut()`] |
//! | have a value outlive daemon and machine | [`Reader::set_persistent`], [`Durability`] |
//! | commit and know that it does | [`State::publish_durable`], [`Transaction::commit_durable`], [`Reader::sync`] |
//! | have a daemon started where there is none | [`Host`] |
//! | end a state | [`State::delete`], [`Mount::remove`] |
//! | wait in a thread, for a change, a value, any of many | [`Wait`], [`Reader::wait`] |
//! | follow a state in a thread | [`Reader::watch`] |
//! | wait in an event loop, for one state or hundreds | [`Notifier`] |
//! | wait on tokio (feature `tokio`) | `Reader::changes`, `AsyncNotifier` |
//! | poll the state's file | [`Reader::as_fd`](std::os::fd::AsFd::as_fd) |
//!
//! When the daemon is restarted and takes its states over, handles go on by themselves; only who polls a state's
//! own file has to call [`Reader::reconnect`].
//!
//! A handle for reading ([`Reader`]) is shared between threads and cloned freely. A handle for
//! writing ([`State`]) belongs to one thread at a time; [`State::try_clone`] makes another.

mod announce;
mod claim;
mod content;
mod cut;
mod delete;
mod errno;
mod error;
mod fault;
mod host;
mod info;
mod intent;
mod interrupt;
mod layout;
mod live;
mod many;
mod mapping;
mod mount;
mod notify;
mod persist;
mod publish;
mod reader;
mod reconnect;
mod records;
mod registry;
mod retry;
mod seat;
mod sleep;
mod snapshot;
mod stamp;
mod state;
#[cfg(feature = "tokio")]
mod stream;
mod streams;
mod subscribe;
mod subscription;
mod ticket;
mod transaction;
mod turn;
mod view;
mod wait;
mod watch;
mod writing;

#[cfg(test)]
mod testing;

// What `layout!` expands to names the crate as its users do.
extern crate self as kstate;

#[doc(hidden)]
pub use zerocopy;

pub use kstate_sys::access::Access;
pub use kstate_sys::announce::{Record as Announcement, Sinks, SinksError};
pub use kstate_sys::name::{NameError, StateName};
pub use kstate_sys::region::Generation;

pub use announce::AnnounceError;
pub use claim::ClaimError;
pub use content::{Bytes, Content};
pub use cut::{Cut, CutError, cut};
pub use error::Error;
pub use fault::{TrapError, Trapping};
pub use host::{HOST_VARIABLE, Host, HostError};
pub use info::{Info, InfoError, RecordedLayout};
pub use interrupt::Interrupt;
#[doc(hidden)]
pub use layout::Description;
pub use layout::Layout;
pub use live::{Live, LiveError};
pub use many::{
    AddError, CommitManyError, Generations, Many, ManyOutcome, RetriedMany, TouchError,
    TransactManyError, begin_many, transact_many, transact_many_with,
};
pub use mount::{MOUNT_VARIABLE, Mount, MountError, RemoveError};
pub use notify::{Change, Event, Events, Key, Notifier, NotifyBy, NotifyError};
pub use persist::{Durability, DurableError, PersistError, Persistence, SyncError};
pub use publish::PublishError;
pub use reader::Reader;
pub use reconnect::ReconnectError;
pub use retry::{Attempts, Retried, Retry, TransactError};
pub use snapshot::{ReadError, Snapshot};
pub use stamp::{Stamp, Stamping};
pub use state::{CapacityError, State};
#[cfg(feature = "tokio")]
pub use stream::{AsyncNotifier, Changes};
pub use subscribe::{Subscribe, SubscribeError, subscribe};
pub use transaction::{BeginError, CommitError, Outcome, RawTransaction, Transaction};
pub use view::View;
pub use wait::{Readable, Wait, WaitError, Waitable, Waited};
pub use watch::{Watch, WatchError};
