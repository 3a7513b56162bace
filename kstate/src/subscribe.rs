//! From a name to a handle.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use kstate_sys::abi::{ABI_VERSION, Geometry, O_LIBRARY};
use kstate_sys::access::Access;
use kstate_sys::clock::Clock;
use kstate_sys::futex::{Deadline, Woken};
use kstate_sys::ioctl::{self, call, outcome, transport};
use kstate_sys::name::{NameError, StateName};
use kstate_sys::region::Generation;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::content::{Bytes, Content};
use crate::errno::{self, Refusal};
use crate::layout::Layout;
use crate::mount::{Mount, MountError};
use crate::reader::Reader;
use crate::state::State;
use crate::subscription::{Subscription, Terms, Transport};
use crate::wait::{LONGEST_SLEEP, WaitError, Waited};

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
    patience: Option<Duration>,
    capacity: u32,
    mode: u32,
    linger: Option<Duration>,
    keep: bool,
}

/// Why there is no subscription.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The file system could not be used.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// No state can have that name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no such state, and it was not to be created.
    #[error(
        "there is no state `{name}`; start its publisher first, wait for it, or let the \
         subscription create it"
    )]
    NotFound {
        /// Its name.
        name: StateName,
    },
    /// Nobody created the state and wrote to it in time.
    #[error("nobody wrote to state `{name}` within {waited:?}; is its publisher running?")]
    TimedOut {
        /// Its name.
        name: StateName,
        /// How long was waited.
        waited: Duration,
    },
    /// A signal handler ran during the wait.
    #[error("the wait for state `{name}` was interrupted by a signal")]
    Interrupted {
        /// Its name.
        name: StateName,
    },
    /// The mode bits of the state do not allow it.
    #[error(
        "state `{name}` may not be opened to {verb} by this user; its owner can allow it with \
         chmod",
        verb = if access.is_write() { "write" } else { "read" }
    )]
    Denied {
        /// Its name.
        name: StateName,
        /// What was asked for.
        access: Access,
    },
    /// Only the owner decides how long a state lives.
    #[error("only the owner of state `{name}` can have it kept or let it linger")]
    NotOwner {
        /// Its name.
        name: StateName,
    },
    /// Another layout is recorded with the state.
    #[error(
        "state `{name}` holds {found} (layout {found_id:#018x}), this program expects {expected} \
         (layout {expected_id:#018x}); use one definition, or another state"
    )]
    Layout {
        /// The state's name.
        name: StateName,
        /// Description of the layout recorded with the state.
        found: String,
        /// Its id.
        found_id: u64,
        /// Description of the layout asked for.
        expected: String,
        /// Its id.
        expected_id: u64,
    },
    /// The daemon is of another version.
    #[error(
        "the daemon speaks ABI version {daemon}, this program version {library}; run a daemon \
         and programs of one version"
    )]
    AbiVersion {
        /// The daemon's version.
        daemon: u32,
        /// This library's version.
        library: u32,
    },
    /// More than a state can have.
    #[error("state `{name}` was asked to hold {wanted} bytes; a state holds at most {page}")]
    TooBig {
        /// The state's name.
        name: StateName,
        /// Bytes wanted.
        wanted: u32,
        /// The machine's page, in bytes.
        page: u32,
    },
    /// The daemon's memory is used up.
    #[error("no memory is left for state `{name}`; delete states or enlarge the daemon's tmpfs")]
    NoSpace {
        /// The state's name.
        name: StateName,
    },
    /// The file belongs to no daemon.
    #[error("`{name}` is a file that no kstate daemon serves")]
    NotKstate {
        /// The state's name.
        name: StateName,
    },
    /// The first version could not be waited for.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// What the kernel or the daemon said.
    #[error("cannot subscribe to state `{name}`: {source}")]
    Io {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

/// A layout as it is told to the daemon.
#[derive(Debug)]
struct Wanted {
    id: u64,
    text: String,
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
        self.patience = Some(timeout);
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

    /// The state stays until it is deleted or the file system unmounted: sets its sticky bit.
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }

    /// A handle on values of type `T`.
    ///
    /// The first typed subscriber that may write, or owns the state, records the layout; others
    /// are refused if theirs differs.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`]. A state that was created on the way evaporates again.
    ///
    /// # Cost
    ///
    /// An `open`, an ioctl and an `mmap`, some 200 µs; another FUSE request if the state is
    /// created. Reading it then causes no page fault if it has been written; writing none after
    /// the first write.
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
        let deadline = self
            .patience
            .map(|patience| (patience, Deadline::after(patience)));
        let name = self.name.as_ref().ok().cloned();
        let subscription = self.make(layout.as_ref(), deadline)?;
        let in_context = |source| match name {
            Some(name) => SubscribeError::Io { name, source },
            None => SubscribeError::Mount(MountError::Io {
                path: "".into(),
                source,
            }),
        };
        let reader = Reader::new(Arc::new(subscription)).map_err(in_context)?;
        if let Some((patience, deadline)) = deadline {
            await_first_version(&reader, patience, deadline)?;
        }
        let name = reader.name().clone();
        State::new(reader).map_err(|source| SubscribeError::Io { name, source })
    }

    fn make(
        self,
        layout: Option<&Wanted>,
        deadline: Option<(Duration, Deadline)>,
    ) -> Result<Subscription, SubscribeError> {
        let (name, mount) = (self.name?, self.mount?);
        let options = Options {
            access: self.access,
            mode: self.mode,
            name: &name,
            mount: &mount,
        };
        let descriptor = match deadline {
            Some((patience, deadline)) => options.open_when_there(patience, deadline)?,
            None => options.open(!self.existing)?,
        };
        if self.keep {
            keep(&descriptor).map_err(|error| options.not_owner(error))?;
        }
        if let Some(linger) = self.linger {
            let millis = u64::try_from(linger.as_millis()).unwrap_or(u64::MAX);
            call::set_linger(&descriptor, millis).map_err(|error| options.not_owner(error))?;
        }
        let (terms, capacity) = options.agree(&descriptor, self.capacity, layout)?;
        let io = |source| SubscribeError::Io {
            name: name.clone(),
            source,
        };
        let class = terms
            .geometry
            .class_for(capacity)
            .ok_or_else(errno::protocol_violation);
        let class = class.map_err(io)?;
        Subscription::new(descriptor, name.clone(), self.access, terms, class).map_err(io)
    }
}

/// What opening a state depends on.
struct Options<'a> {
    access: Access,
    mode: u32,
    name: &'a StateName,
    mount: &'a Mount,
}

impl Options<'_> {
    fn open(&self, create: bool) -> Result<OwnedFd, SubscribeError> {
        let mut flags = OFlag::O_CLOEXEC | OFlag::from_bits_retain(O_LIBRARY);
        flags |= if self.access.is_write() {
            OFlag::O_RDWR
        } else {
            OFlag::O_RDONLY
        };
        if create {
            self.mount.check_mounted()?;
            flags |= OFlag::O_CREAT;
        }
        let mode = Mode::from_bits_truncate(self.mode);
        nix::fcntl::open(&self.mount.file(self.name), flags, mode).map_err(|error| {
            let source = io::Error::from(error);
            match errno::refusal(&source) {
                // Not an answer to a creation: the daemon has lost its memory.
                Refusal::NotFound if create => SubscribeError::Io {
                    name: self.name.clone(),
                    source,
                },
                _ => self.refused(source),
            }
        })
    }

    /// Opens the state as soon as there is one.
    fn open_when_there(
        &self,
        patience: Duration,
        deadline: Deadline,
    ) -> Result<OwnedFd, SubscribeError> {
        match self.open(false) {
            Err(SubscribeError::NotFound { .. }) => {}
            opened => return opened,
        }
        let io = |source| SubscribeError::Io {
            name: self.name.clone(),
            source,
        };
        let registry = self.mount.registry()?;
        loop {
            let changes = registry.changes().map_err(io)?;
            match self.open(false) {
                Err(SubscribeError::NotFound { .. }) => {}
                opened => return opened,
            }
            if deadline.has_passed() {
                return Err(SubscribeError::TimedOut {
                    name: self.name.clone(),
                    waited: patience,
                });
            }
            let slice = deadline.min(Deadline::after(LONGEST_SLEEP));
            if registry.wait(changes, slice).map_err(io)? == Woken::Interrupted {
                return Err(SubscribeError::Interrupted {
                    name: self.name.clone(),
                });
            }
        }
    }

    /// Tells the daemon what is wanted, and learns the terms and the capacity in force.
    fn agree(
        &self,
        descriptor: &OwnedFd,
        capacity: u32,
        layout: Option<&Wanted>,
    ) -> Result<(Terms, u32), SubscribeError> {
        let mut argument = ioctl::Subscribe::default();
        argument.capacity = capacity;
        if let Some(layout) = layout {
            argument.layout_id = layout.id;
            argument.set_layout_text(&layout.text);
        }
        let geometry = Geometry::of_this_machine();
        if let Err(source) = call::subscribe(descriptor, &mut argument) {
            return Err(match errno::refusal(&source) {
                Refusal::NotOurs => self.foreign(descriptor),
                Refusal::TooBig => SubscribeError::TooBig {
                    name: self.name.clone(),
                    wanted: capacity,
                    page: geometry.page(),
                },
                _ => self.refused(source),
            });
        }
        match (argument.outcome, layout) {
            (outcome::OK, _) => {}
            (outcome::LAYOUT, Some(layout)) => {
                return Err(SubscribeError::Layout {
                    name: self.name.clone(),
                    found: argument
                        .layout_text()
                        .unwrap_or("an unreadable layout")
                        .to_owned(),
                    found_id: argument.layout_id,
                    expected: layout.text.clone(),
                    expected_id: layout.id,
                });
            }
            (outcome::ABI_VERSION, _) => return Err(version_mismatch(argument.abi_version)),
            _ => return Err(self.refused(errno::protocol_violation())),
        }
        let terms = || {
            Some(Terms {
                state_id: argument.state_id,
                clock: Clock::from_raw(argument.clock_kind, argument.clock_ns_per_tick_32)?,
                geometry,
                transport: match argument.transport {
                    transport::PASSTHROUGH => Transport::Passthrough,
                    transport::SOCKET => Transport::Socket,
                    _ => return None,
                },
            })
        };
        match terms() {
            Some(terms) => Ok((terms, argument.capacity)),
            None => Err(self.refused(errno::protocol_violation())),
        }
    }

    /// The file does not know `SUBSCRIBE`, as a daemon of another version may not.
    fn foreign(&self, descriptor: &OwnedFd) -> SubscribeError {
        let mut daemon = 0;
        match call::version(descriptor, &mut daemon) {
            Ok(()) => version_mismatch(daemon),
            Err(_) => SubscribeError::NotKstate {
                name: self.name.clone(),
            },
        }
    }

    fn refused(&self, source: io::Error) -> SubscribeError {
        let name = self.name.clone();
        match errno::refusal(&source) {
            Refusal::NotFound => SubscribeError::NotFound { name },
            Refusal::Denied => SubscribeError::Denied {
                name,
                access: self.access,
            },
            Refusal::NoSpace => SubscribeError::NoSpace { name },
            Refusal::DaemonDied => MountError::DaemonDied {
                path: self.mount.path().to_owned(),
            }
            .into(),
            _ => SubscribeError::Io { name, source },
        }
    }

    fn not_owner(&self, source: io::Error) -> SubscribeError {
        match errno::refusal(&source) {
            Refusal::Denied => SubscribeError::NotOwner {
                name: self.name.clone(),
            },
            _ => self.refused(source),
        }
    }
}

fn version_mismatch(daemon: u32) -> SubscribeError {
    SubscribeError::AbiVersion {
        daemon,
        library: ABI_VERSION,
    }
}

/// Sets the sticky bit, unless it is set.
fn keep(descriptor: &OwnedFd) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(nix::sys::stat::fstat(descriptor)?.st_mode);
    if mode.contains(Mode::S_ISVTX) {
        return Ok(());
    }
    Ok(nix::sys::stat::fchmod(descriptor, mode | Mode::S_ISVTX)?)
}

fn await_first_version<T: Content>(
    reader: &Reader<T>,
    patience: Duration,
    deadline: Deadline,
) -> Result<(), SubscribeError> {
    let waited = reader.wait(Generation::NEVER, Some(deadline.left()))?;
    reader.subscription().end_waiting();
    let name = reader.name().clone();
    match waited {
        Waited::Changed(_) => {
            reader.populate();
            Ok(())
        }
        Waited::TimedOut => Err(SubscribeError::TimedOut {
            name,
            waited: patience,
        }),
        Waited::Interrupted => Err(SubscribeError::Interrupted { name }),
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
