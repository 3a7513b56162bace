//! From a name to a handle.

mod error;
mod open;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kstate_sys::access::Access;
use kstate_sys::announce::Sinks;
use kstate_sys::futex::Deadline;
use kstate_sys::ioctl::call;
use kstate_sys::name::{NameError, StateName};
use kstate_sys::region::Generation;
use nix::sys::stat::Mode;

pub use error::SubscribeError;
use open::{Options, Wanted};

use crate::content::{Bytes, Content};
use crate::errno;
use crate::host;
use crate::layout::Layout;
use crate::mount::{Mount, MountError};
use crate::persist::Durability;
use crate::reader::Reader;
use crate::state::State;
use crate::subscription::Subscription;
use crate::wait::{Wait, Waited};

/// A subscription to be made: say what is wanted, then how the bytes are to be seen.
///
/// ```no_run
/// use std::time::Duration;
///
/// // The publisher creates the state if it is absent.
/// let ours = kstate::subscribe("robot.speed").write().typed::<f64>()?;
/// // A consumer may be started first and wait.
/// let theirs =
///     kstate::subscribe("robot.speed").wait_for(Duration::from_secs(5)).typed::<f64>()?;
/// # Ok::<(), kstate::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is subscribed to before `typed` or `bytes`"]
pub struct Subscribe {
    mount: Result<Mount, MountError>,
    name: Result<StateName, NameError>,
    access: Access,
    existing: bool,
    patience: Option<Patience>,
    capacity: u32,
    mode: u32,
    linger: Option<Duration>,
    deadline: Option<Duration>,
    announce: Option<Sinks>,
    file: Option<PathBuf>,
    durability: Option<Durability>,
    keep: bool,
}

/// What is waited for before subscribing.
#[derive(Clone, Debug)]
struct Patience {
    wait: Wait,
    /// A first version, too.
    written: bool,
}

/// Subscribes to the state `name` of the file system that [`Mount::find`] finds.
pub fn subscribe(name: impl AsRef<str>) -> Subscribe {
    Subscribe::on(Mount::find(), StateName::new(name.as_ref()))
}

impl Subscribe {
    pub(crate) fn on(mount: Result<Mount, MountError>, name: Result<StateName, NameError>) -> Self {
        Self {
            mount,
            name,
            access: Access::Read,
            existing: false,
            patience: None,
            capacity: 0,
            mode: 0o644,
            linger: None,
            deadline: None,
            announce: None,
            file: None,
            durability: None,
            keep: false,
        }
    }

    /// With these rights; without this, for reading.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// For reading and writing.
    pub fn write(self) -> Self {
        self.access(Access::Write)
    }

    /// Only if the state exists; it is not created.
    pub fn existing(mut self) -> Self {
        self.existing = true;
        self
    }

    /// Only when the state exists and somebody has written to it, which is waited for no longer
    /// than `timeout`. Never creates the state.
    pub fn wait_for(mut self, timeout: Duration) -> Self {
        self.patience = Some(Patience {
            wait: Wait::new().timeout(timeout),
            written: true,
        });
        self
    }

    /// Only when the state exists, which is waited for as `wait` says, written or not. Never creates
    /// the state.
    pub fn when_there(mut self, wait: Wait) -> Self {
        self.patience = Some(Patience {
            wait,
            written: false,
        });
        self
    }

    /// With room for at least `bytes`; a typed subscription asks for the size of its type anyway.
    pub fn capacity(mut self, bytes: u32) -> Self {
        self.capacity = bytes;
        self
    }

    /// With these mode bits, less the umask, if the state is created; 0644 without this.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The state outlives its last subscriber by this long.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = Some(linger);
        self
    }

    /// Expects a commit at least so often, from now on. When none comes in time, or the last writer
    /// goes, whoever waits is woken and finds the state [overdue](crate::Snapshot::is_overdue); its value
    /// stays readable. At least a millisecond; zero for no deadline any more.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Has commits announced there, from now on: see [`Reader::announce`].
    pub fn announce(mut self, sinks: Sinks) -> Self {
        self.announce = Some(sinks);
        self
    }

    /// Kept in the file at `path`: see [`Reader::set_persistent`].
    pub fn persistent(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// How soon behind a commit its version is in the file: see [`Reader::set_durability`]. Without
    /// [`persistent`](Self::persistent) the state must be so already.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// The state stays until it is deleted or the file system unmounted: sets its sticky bit.
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }

    /// A handle on values of type `T`.
    ///
    /// The first typed subscriber that may write, or owns the state, records the layout; others
    /// are refused if theirs differs. Who may do neither and comes before a layout is recorded is
    /// compared when a first version [was waited for](Subscribe::wait_for), and not later.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`]. A state that was created on the way evaporates again.
    ///
    /// # Cost
    ///
    /// An `open`, an ioctl and an `mmap`, some 200 µs; another FUSE request if the state is
    /// created, and one for the slots if it is to be written. Writing it then causes no page
    /// fault, nor does reading it once it has been written.
    pub fn typed<T: Layout>(mut self) -> Result<State<T>, SubscribeError> {
        const { assert!(size_of::<T>() > 0, "a state has at least one byte") };
        let size = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
        self.capacity = self.capacity.max(size);
        self.finish(Some(Wanted {
            id: T::id(),
            text: T::describe(),
        }))
    }

    /// A handle on bytes, whatever they mean.
    ///
    /// # Errors
    ///
    /// As [`Subscribe::typed`], except that layouts are not compared.
    pub fn bytes(self) -> Result<State<Bytes>, SubscribeError> {
        self.finish(None)
    }

    fn finish<T: Content>(self, layout: Option<Wanted>) -> Result<State<T>, SubscribeError> {
        let began = Instant::now();
        let until = self.patience.as_ref().map(|patience| patience.wait.until());
        let (name, mount) = (self.name?, self.mount?);
        let options = Options {
            access: self.access,
            mode: self.mode,
            name: &name,
            mount: &mount,
        };
        let open = || match until {
            Some(until) => options.open_when_there(until),
            None => options.open(!self.existing),
        };
        let descriptor = match open() {
            // A daemon that is started where there is none may end, unused, just before it is used.
            Err(SubscribeError::Mount(error))
                if error.may_come_back()
                    && matches!(host::start_where_absent(mount.path()), Some(Ok(_))) =>
            {
                open()?
            }
            opened => opened?,
        };
        let layout = layout.as_ref();
        let (terms, capacity) = options.agree(descriptor.as_fd(), self.capacity, layout)?;
        let io = |source| options.refused(source);
        let class = terms.geometry.class_for(capacity);
        let class = class.ok_or_else(errno::protocol_violation).map_err(io)?;
        let root = std::path::absolute(mount.path()).map_err(io)?;
        let subscription =
            Subscription::new(descriptor, &root, name.clone(), self.access, terms, class)
                .map_err(io)?;
        let state = State::new(Reader::new(Arc::new(subscription)).map_err(io)?)?;
        if let Some(until) = until
            && self
                .patience
                .as_ref()
                .is_some_and(|patience| patience.written)
        {
            await_first_version(&state, until.deadline, || options.timed_out(began))?;
            // Whoever wrote it may have recorded a layout since.
            let link = state.subscription().link();
            let agree = || options.agree(link.descriptor(), self.capacity, layout);
            if let Err(error) = agree() {
                // Another daemon may have taken over, of which reading needs to know nothing.
                match link.connect() {
                    Ok(true) => agree().map(drop)?,
                    _ => return Err(error),
                }
            }
        }
        if let Some(sinks) = self.announce {
            state.announce(sinks)?;
        }
        match (self.file, self.durability) {
            (Some(file), durability) => {
                state.set_persistent_so(file, durability.unwrap_or_default())?;
            }
            (None, Some(durability)) => state.set_durability(durability)?,
            (None, None) => {}
        }
        // Last, so that a subscription that fails has not made the state stay.
        if self.keep {
            let kept = state.subscription().request(keep);
            kept.map_err(|error| options.not_owner(error))?;
        }
        if let Some(linger) = self.linger {
            let millis = u64::try_from(linger.as_millis()).unwrap_or(u64::MAX);
            let set = |descriptor: BorrowedFd<'_>| call::set_linger(descriptor, millis);
            let set = state.subscription().request(set);
            set.map_err(|error| options.not_owner(error))?;
        }
        if let Some(deadline) = self.deadline {
            let nanos = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
            let set = |descriptor: BorrowedFd<'_>| call::set_deadline(descriptor, nanos);
            let set = state.subscription().request(set);
            set.map_err(|error| options.not_owner(error))?;
        }
        Ok(state)
    }
}

/// Sets the sticky bit, unless it is set.
fn keep(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(nix::sys::stat::fstat(descriptor)?.st_mode);
    if mode.contains(Mode::S_ISVTX) {
        return Ok(());
    }
    Ok(nix::sys::stat::fchmod(descriptor, mode | Mode::S_ISVTX)?)
}

fn await_first_version<T: Content>(
    reader: &Reader<T>,
    deadline: Option<Deadline>,
    timed_out: impl Fn() -> SubscribeError,
) -> Result<(), SubscribeError> {
    let waited = reader.wait(Generation::NEVER, deadline.map(Deadline::left))?;
    reader.subscription().end_waiting();
    match waited {
        Waited::Changed(_) => {
            reader.populate();
            Ok(())
        }
        Waited::Overdue(_) | Waited::TimedOut => Err(timed_out()),
        Waited::Interrupted => Err(SubscribeError::Interrupted {
            name: reader.name().clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmounted() -> Result<Mount, MountError> {
        Err(MountError::NotMounted {
            path: "/nowhere".into(),
        })
    }

    #[test]
    fn a_bad_name_is_reported_before_a_missing_mount() {
        let error = Subscribe::on(unmounted(), StateName::new("a/b"))
            .bytes()
            .unwrap_err();
        assert!(matches!(error, SubscribeError::Name(_)), "{error:?}");
        let error = Subscribe::on(unmounted(), StateName::new("a.b"))
            .bytes()
            .unwrap_err();
        assert!(matches!(error, SubscribeError::Mount(_)), "{error:?}");
    }
}
