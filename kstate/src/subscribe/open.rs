//! Opening a state's file and agreeing with the daemon on what it holds.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use kstate_sys::abi::{ABI_VERSION, Geometry, O_LIBRARY};
use kstate_sys::access::Access;
use kstate_sys::clock::Clock;
use kstate_sys::futex::Woken;
use kstate_sys::ioctl::{self, call, outcome, transport};
use kstate_sys::name::StateName;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::SubscribeError;
use crate::errno::{self, Refusal};
use crate::mount::{Mount, MountError};
use crate::sleep::{LONGEST_SLEEP, Until};
use crate::streams;
use crate::subscription::{Terms, Transport};

/// How often a state may come and go while it is opened.
const MAX_ATTEMPTS: u32 = 100;

/// How often it is looked whether a daemon is there again.
const BETWEEN_DAEMONS: Duration = Duration::from_millis(100);

/// A layout as it is told to the daemon.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) id: u64,
    pub(super) text: String,
}

/// What opening a state depends on.
pub(super) struct Options<'a> {
    pub(super) access: Access,
    pub(super) mode: u32,
    pub(super) name: &'a StateName,
    pub(super) mount: &'a Mount,
}

impl Options<'_> {
    pub(super) fn open(&self, create: bool) -> Result<OwnedFd, SubscribeError> {
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
        let path = self.mount.file(self.name);
        let open = |flags| {
            errno::uninterrupted(|| streams::clear_of(nix::fcntl::open(&path, flags, mode)?))
        };
        let mut opened = open(flags);
        // The state came or went between the kernel's look at its name and the daemon's answer.
        // The kernel has tried twice.
        for _ in 0..MAX_ATTEMPTS {
            match &opened {
                Err(error) if errno::refusal(error) == Refusal::Deleted => opened = open(flags),
                _ => break,
            }
        }
        // Where `fs.protected_regular` is set, the kernel takes O_CREAT of another user's file in a
        // sticky directory for an attack, be it there or not; what is there may be opened without.
        if create
            && let Err(error) = &opened
            && errno::refusal(error) == Refusal::Denied
        {
            flags.remove(OFlag::O_CREAT);
            opened = open(flags).or(opened);
        }
        opened.map_err(|source| {
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
    pub(super) fn open_when_there(&self, until: Until<'_>) -> Result<OwnedFd, SubscribeError> {
        let began = Instant::now();
        match self.open(false) {
            Err(SubscribeError::NotFound { .. }) => {}
            opened => return opened,
        }
        let io = |source| SubscribeError::Io {
            name: self.name.clone(),
            source,
        };
        let mut registry = self.mount.registry()?;
        loop {
            let changes = registry.changes().map_err(io)?;
            let mut most = LONGEST_SLEEP;
            match self.open(false) {
                Err(SubscribeError::NotFound { .. }) => {}
                // It was there when this began, and may be followed by another one.
                Err(SubscribeError::Mount(error)) if error.may_come_back() => {
                    most = BETWEEN_DAEMONS
                }
                opened => return opened,
            }
            if until.has_passed() {
                return Err(self.timed_out(began));
            }
            let woken = registry.wait(changes, until, most).map_err(io)?;
            if woken == Woken::Interrupted || until.is_interrupted() {
                return Err(SubscribeError::Interrupted {
                    name: self.name.clone(),
                });
            }
            // A daemon that has begun afresh has another page.
            if woken == Woken::TimedOut
                && let Ok(now) = self.mount.registry()
            {
                registry = now;
            }
        }
    }

    /// What was waited for since `began` did not come.
    pub(super) fn timed_out(&self, began: Instant) -> SubscribeError {
        SubscribeError::TimedOut {
            name: self.name.clone(),
            waited: began.elapsed(),
        }
    }

    /// Tells the daemon what is wanted, and learns the terms and the capacity in force.
    pub(super) fn agree(
        &self,
        descriptor: BorrowedFd<'_>,
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
        let agreed = errno::uninterrupted(|| call::subscribe(descriptor, &mut argument));
        if let Err(source) = agreed {
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
                mount_id: argument.mount_id,
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
    fn foreign(&self, descriptor: BorrowedFd<'_>) -> SubscribeError {
        let mut daemon = 0;
        match call::version(descriptor, &mut daemon) {
            Ok(()) => version_mismatch(daemon),
            Err(_) => SubscribeError::NotKstate {
                name: self.name.clone(),
            },
        }
    }

    pub(super) fn refused(&self, source: io::Error) -> SubscribeError {
        let name = self.name.clone();
        match errno::refusal(&source) {
            Refusal::NotFound => SubscribeError::NotFound { name },
            Refusal::Denied => SubscribeError::Denied {
                name,
                access: self.access,
            },
            Refusal::NoSpace => SubscribeError::NoSpace { name },
            Refusal::Full => SubscribeError::Full { name },
            Refusal::DaemonDied => MountError::DaemonDied {
                path: self.mount.path().to_owned(),
            }
            .into(),
            _ => SubscribeError::Io { name, source },
        }
    }

    pub(super) fn not_owner(&self, source: io::Error) -> SubscribeError {
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
