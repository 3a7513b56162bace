#![expect(
    unsafe_code,
    reason = "registers a descriptor that it must keep open with tokio"
)]
//! Changes for asynchronous programs, on tokio.

use std::fmt;
use std::future::poll_fn;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use kstate_sys::region::Generation;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::content::Content;
use crate::notify::{Change, Event, Key, Notifier, NotifyError};
use crate::reader::Reader;
use crate::snapshot::{ReadError, Snapshot};
use crate::view::View;
use crate::wait::{Readable, WaitError, Waitable, untyped};
use crate::watch::WatchError;

/// A [`Notifier`] that tasks await: for hundreds of states at one descriptor.
///
/// It belongs to the runtime in which it was made, and to the process: in a forked child its calls are
/// errors.
///
/// ```no_run
/// # async fn watch() -> Result<(), kstate::Error> {
/// let gps = kstate::subscribe("robot.gps").typed::<[f64; 2]>()?;
/// let mut notifier = kstate::Notifier::new()?.into_async()?;
/// notifier.add(&gps)?;
/// for event in notifier.changed().await? {
///     println!("{:?}: {:?}", event.change, gps.snapshot()?.value);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Invariants
///
/// 1. `descriptor` is that of `notifier`, which keeps it open, does not change it in this process,
///    and is dropped later.
pub struct AsyncNotifier {
    registered: AsyncFd<Registered>,
    notifier: Notifier,
}

/// A descriptor of somebody else's.
struct Registered(RawFd);

impl AsRawFd for Registered {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Notifier {
    /// The same for tasks of the tokio runtime in which this is called.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    ///
    /// # Panics
    ///
    /// Outside of a runtime, and in one without I/O.
    pub fn into_async(mut self) -> Result<AsyncNotifier, NotifyError> {
        self.follow_fork()?;
        let registered = Registered(self.as_fd().as_raw_fd());
        // INVARIANT: 1.
        // SAFETY: invariant 1: open, and the same, until after `registered` is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(registered, Interest::READABLE) };
        Ok(AsyncNotifier {
            registered: registered.map_err(|error| error.into_parts().1)?,
            notifier: self,
        })
    }
}

impl AsyncNotifier {
    /// As [`Notifier::add`].
    ///
    /// # Errors
    ///
    /// [`NotifyError`].
    pub fn add<W: Waitable + ?Sized>(&mut self, of: &W) -> Result<Key, NotifyError> {
        self.add_since(of, Generation::NEVER)
    }

    /// As [`Notifier::add_since`].
    ///
    /// # Errors
    ///
    /// [`NotifyError`].
    pub fn add_since<W: Waitable + ?Sized>(
        &mut self,
        of: &W,
        since: Generation,
    ) -> Result<Key, NotifyError> {
        self.own()?.add_since(of, since)
    }

    /// As [`Notifier::remove`].
    pub fn remove(&mut self, key: Key) -> bool {
        self.notifier.remove(key)
    }

    /// As [`Notifier::failure`].
    pub fn failure(&mut self, key: Key) -> Option<NotifyError> {
        self.notifier.failure(key)
    }

    /// What has happened since the last call, as soon as there is something. It can be cancelled: what
    /// was not returned is told next time.
    ///
    /// # Errors
    ///
    /// [`NotifyError`].
    pub async fn changed(&mut self) -> Result<&[Event], NotifyError> {
        poll_fn(|context| self.poll_changed(context).map_ok(|_| ())).await?;
        Ok(self.notifier.events())
    }

    /// As [`changed`](Self::changed), in the form of which futures are made.
    ///
    /// # Errors
    ///
    /// [`NotifyError`].
    pub fn poll_changed(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<&[Event], NotifyError>> {
        loop {
            // What has come is to be seen in memory: it is not held up by waiting for the next.
            self.own()?.glance()?;
            if !self.notifier.events().is_empty() {
                return Poll::Ready(Ok(self.notifier.events()));
            }
            if !self.notifier.changed_at_once()?.is_empty() {
                return Poll::Ready(Ok(self.notifier.events()));
            }
            // Of what has made it readable since, the next look will find what there is.
            ready!(self.registered.poll_read_ready(context))?.clear_ready();
        }
    }

    /// The notifier, unless it is a parent's: in its place a child would make another descriptor.
    fn own(&mut self) -> Result<&mut Notifier, NotifyError> {
        match self.notifier.is_ours() {
            true => Ok(&mut self.notifier),
            false => Err(NotifyError::Forked),
        }
    }
}

/// The notifier's.
impl AsFd for AsyncNotifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifier.as_fd()
    }
}

impl fmt::Debug for AsyncNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncNotifier")
            .field("notifier", &self.notifier)
            .finish_non_exhaustive()
    }
}

/// The versions of a state as they come, or as a view shows them: a `Stream` of snapshots.
///
/// The newest is never missed, those that come and go between two polls are. When the next version is
/// [overdue](Snapshot::is_overdue), the last one comes once more, with that mark. It ends with the state,
/// after an error that says so. After another error it goes on where the cause is gone. Dropping it is
/// all there is to cancelling it.
///
/// It has descriptors, and no thread.
#[must_use = "streams do nothing unless polled"]
pub struct Changes<R> {
    notifier: AsyncNotifier,
    of: R,
    key: Key,
    seen: Generation,
    has_ended: bool,
}

impl<R: Readable> Changes<R> {
    fn new(of: R) -> Result<Self, NotifyError> {
        let mut notifier = Notifier::new()?;
        let key = notifier.add(&of)?;
        Ok(Self {
            key,
            notifier: notifier.into_async()?,
            of,
            seen: Generation::NEVER,
            has_ended: false,
        })
    }
}

impl<T: Content> Reader<T> {
    /// The changes of the state, beginning with its newest version, if somebody has written one; in
    /// the tokio runtime in which this is called.
    ///
    /// # Errors
    ///
    /// [`NotifyError`].
    ///
    /// # Panics
    ///
    /// Outside of a runtime, and in one without I/O.
    ///
    /// # Cost
    ///
    /// That of a [`Notifier`]. A version costs no system call until it is held, and some four before the
    /// next one is slept for.
    pub fn changes(&self) -> Result<Changes<Self>, NotifyError> {
        Changes::new(self.clone())
    }
}

impl<T: Content> View<T> {
    /// What the view shows, as it changes; as [`Reader::changes`].
    ///
    /// # Errors
    ///
    /// [`NotifyError`].
    ///
    /// # Panics
    ///
    /// Outside of a runtime, and in one without I/O.
    pub fn changes(&self) -> Result<Changes<Self>, NotifyError> {
        // At the same pace, which a clone would not have.
        Changes::new(Self::of(self.shown().clone()))
    }
}

impl<R> Changes<R> {
    /// What is followed.
    pub fn of(&self) -> &R {
        &self.of
    }
}

// Nothing in it is pinned: what is polled is behind `&mut`.
impl<R> Unpin for Changes<R> {}

impl<R: Readable> Stream for Changes<R> {
    type Item = Result<Snapshot<<R::Content as Content>::Owned>, WatchError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        loop {
            let change = match ready!(this.notifier.poll_changed(context)) {
                Ok(events) => events.first().map(|event| event.change),
                Err(error) => return Poll::Ready(Some(Err(this.error(error)))),
            };
            if let Some(Change::Deleted) = change {
                this.has_ended = true;
                let name = untyped(&this.of).name().clone();
                return Poll::Ready(Some(Err(WaitError::Deleted { name }.into())));
            }
            if let Some(Change::Failed) = change {
                this.has_ended = true;
                let failure = this.notifier.failure(this.key);
                let error = failure.unwrap_or(NotifyError::Forked);
                return Poll::Ready(Some(Err(this.error(error))));
            }
            let is_overdue = matches!(change, Some(Change::Overdue(_)));
            match this.of.now() {
                // It was there already when the one before was told.
                Ok(snapshot) if snapshot.generation() == this.seen && !is_overdue => {}
                Ok(snapshot) => {
                    this.seen = snapshot.generation();
                    return Poll::Ready(Some(Ok(snapshot)));
                }
                // Deleted since that was told.
                Err(ReadError::Deleted { name }) => {
                    this.has_ended = true;
                    return Poll::Ready(Some(Err(WaitError::Deleted { name }.into())));
                }
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }
}

impl<R: Readable> Changes<R> {
    fn error(&self, error: NotifyError) -> WatchError {
        let name = || untyped(&self.of).name().clone();
        match error {
            NotifyError::Wait(error) => error.into(),
            NotifyError::Interrupted => WatchError::Interrupted,
            NotifyError::Forked => WatchError::Wait(WaitError::Forked { name: name() }),
            NotifyError::Io { source } => WatchError::Wait(WaitError::Io {
                name: name(),
                source,
            }),
        }
    }
}

impl<R: fmt::Debug> fmt::Debug for Changes<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("of", &self.of)
            .finish_non_exhaustive()
    }
}
