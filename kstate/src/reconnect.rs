#![expect(
    unsafe_code,
    reason = "puts another open file in the place of one that others have borrowed"
)]
//! Going on through another daemon when the one that a state was opened at has ended.
//!
//! A daemon that takes over what another one has left keeps the regions, so that mappings go on being valid;
//! what ends is the open file: each request through it fails. Every request of a subscription therefore comes
//! through a [`Link`], which opens the state anew and asks again.
//!
//! # Invariants
//!
//! 1. `descriptor` is open from the beginning to the end, under the same number: who has borrowed it need not
//!    know that another file has taken its place.
//! 2. It is of the state that was subscribed to: another file comes there only if it has the mount id and the
//!    state id that were learnt then, which no other state has.
//! 3. A group in `claims` was claimed by `process`, through this link, and by nothing else.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use kstate_sys::abi::O_LIBRARY;
use kstate_sys::access::Access;
use kstate_sys::fork::{Lock, Process};
use kstate_sys::ioctl::{self, call, outcome, transport};
use kstate_sys::name::StateName;
use kstate_sys::region::Group;

use crate::errno::{self, Refusal};
use crate::host;
use crate::mount;
use crate::reader::Reader;
use crate::streams;

/// How often a state may come and go while it is opened.
const MAX_ATTEMPTS: u32 = 100;

/// Why a subscription was not connected again. What is mapped goes on as before, and can be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconnectError {
    /// The state is not among those that the daemon has taken over, or was deleted since.
    #[error("state `{name}` was deleted; subscribe again to create it anew")]
    Deleted {
        /// Its name.
        name: StateName,
    },
    /// Nobody is there.
    #[error(
        "the daemon of state `{name}` has died, and no other has taken its place; run `kstate mount`"
    )]
    DaemonDied {
        /// The state's name.
        name: StateName,
    },
    /// A daemon is there that has begun afresh.
    #[error(
        "the daemon of state `{name}` has died, and the one that is there now has not taken its \
         states over; subscribe again"
    )]
    Replaced {
        /// The state's name.
        name: StateName,
    },
    /// The mode bits of the state do not allow it any more.
    #[error(
        "state `{name}` may not be opened by this user any more; its owner can allow it with chmod"
    )]
    Denied {
        /// Its name.
        name: StateName,
    },
    /// What the kernel or the daemon said.
    #[error("cannot connect to the daemon of state `{name}` again: {source}")]
    Io {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

/// By what an open state is found again.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The file system's root, absolute.
    pub(crate) root: PathBuf,
    pub(crate) name: StateName,
    pub(crate) access: Access,
    pub(crate) state_id: u64,
    pub(crate) mount_id: u64,
}

/// An open file of a state, and what it takes to open it again.
#[derive(Debug)]
pub(crate) struct Link {
    descriptor: OwnedFd,
    identity: Identity,
    /// The daemon hands the region out at its socket.
    by_socket: AtomicBool,
    /// One thread at a time connects.
    connecting: Lock<()>,
    /// How often it was connected again.
    rounds: AtomicU64,
    claims: Lock<Claims>,
    /// Whether a group of this process is lost: it need not be looked for else.
    any_lost: AtomicBool,
}

/// All links of this process.
static LINKS: Lock<Vec<Weak<Link>>> = Lock::new(Vec::new());

/// The groups of a process. Those of a parent are not for its child.
#[derive(Debug, Default)]
struct Claims {
    process: Option<Process>,
    groups: Vec<Group>,
    /// The daemon did not know of them: they may be another's.
    lost: Vec<Group>,
}

impl Claims {
    fn own(&mut self) -> &mut Self {
        if !self.process.is_some_and(|process| process.is_current()) {
            *self = Self {
                process: Process::current().ok(),
                ..Self::default()
            };
        }
        self
    }
}

/// The groups of this process by states, whatever they were claimed through. It is locked from before a group is
/// claimed until it is in the list, so that no group is missing there that the daemon has given.
static HELD: Lock<Held> = Lock::new(Held {
    process: None,
    groups: Vec::new(),
});

#[derive(Debug, Default)]
struct Held {
    process: Option<Process>,
    groups: Vec<((u64, u64), Group)>,
}

impl Held {
    /// Those of a parent are not for its child.
    fn own(&mut self) -> &mut Self {
        if !self.process.is_some_and(|process| process.is_current()) {
            *self = Self {
                process: Process::current().ok(),
                groups: Vec::new(),
            };
        }
        self
    }

    fn of(&self, key: (u64, u64)) -> ioctl::Groups {
        let mut listed = ioctl::Groups::default();
        for (_, group) in self.groups.iter().filter(|(of, _)| *of == key) {
            listed.set(group.0, true);
        }
        listed
    }

    fn forget(&mut self, key: (u64, u64), group: Group) {
        self.groups.retain(|held| *held != (key, group));
    }
}

impl Link {
    pub(crate) fn new(descriptor: OwnedFd, identity: Identity, by_socket: bool) -> Arc<Self> {
        // INVARIANT: 2: learnt through this very file.
        let link = Arc::new(Self {
            descriptor,
            identity,
            by_socket: AtomicBool::new(by_socket),
            connecting: Lock::default(),
            rounds: AtomicU64::new(0),
            claims: Lock::default(),
            any_lost: AtomicBool::new(false),
        });
        let mut links = LINKS.lock();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(&link));
        link
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Whether the region is had at the daemon's socket.
    pub(crate) fn is_by_socket(&self) -> bool {
        // ORDERING: Relaxed: a daemon that does it another way refuses this one.
        self.by_socket.load(Ordering::Relaxed)
    }

    /// Asks the daemon something, once more if it has been followed by another one.
    ///
    /// # Errors
    ///
    /// What `ask` ends with; [`errno::daemon_died`] and [`errno::replaced`] if there is no daemon that knows
    /// the state, [`errno::deleted`] if there is one that does not. `EINTR` as from `ask`.
    pub(crate) fn request<R>(
        &self,
        mut ask: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        match ask(self.descriptor()) {
            Err(error) if errno::refusal(&error) == Refusal::DaemonDied => {
                self.connect()?;
                ask(self.descriptor())
            }
            answer => answer,
        }
    }

    /// Has an open file in place whose daemon answers; `true` if it is another one than before the call.
    ///
    /// The other links of this process to the state are connected as well: one of them is enough for the daemon not
    /// to keep the state for this process any more, and who holds another one may never ask.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    #[cold]
    pub(crate) fn connect(&self) -> io::Result<bool> {
        let is_new = self.connect_alone()?;
        if is_new {
            let links: Vec<_> = LINKS.lock().iter().filter_map(Weak::upgrade).collect();
            let mut others = links.iter().filter(|other| other.is_of_state_of(self));
            // What is not connected tries again itself when it asks. Until all are, the daemon keeps what this
            // process had.
            if others.all(|other| other.connect_alone().is_ok()) {
                self.say_returned();
            }
        }
        Ok(is_new)
    }

    /// Tells the daemon that nothing of this process is still to come.
    fn say_returned(&self) {
        // No claim of this process is between its answer and the list.
        let mut held = HELD.lock();
        let groups = held.own().of(self.key());
        // A daemon that has died meanwhile knows no more of it than this one did.
        let _ = errno::uninterrupted(|| call::returned(self.descriptor(), groups));
    }

    fn key(&self) -> (u64, u64) {
        (self.identity.mount_id, self.identity.state_id)
    }

    fn is_of_state_of(&self, other: &Self) -> bool {
        self.key() == other.key() && !std::ptr::eq(self, other)
    }

    fn connect_alone(&self) -> io::Result<bool> {
        let _connecting = self.connecting.lock();
        // Another thread may have done it meanwhile.
        let mut version = 0;
        let answers = errno::uninterrupted(|| call::version(self.descriptor(), &mut version));
        match answers {
            Ok(()) => return Ok(false),
            Err(error) if errno::refusal(&error) == Refusal::DaemonDied => {}
            Err(error) => return Err(error),
        }
        let file = match self.reopened() {
            Err(died) if host::follow(&self.identity.root, &died) => self.reopened(),
            opened => opened,
        }?;
        let (from, to) = (file.as_raw_fd(), self.descriptor.as_raw_fd());
        let place = || {
            // SAFETY: both are open descriptors of this process. What `to` was open as is closed by it, and
            // nothing but that goes: the number stays this link's (invariant 1).
            match unsafe { libc::dup3(from, to, libc::O_CLOEXEC) } {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // INVARIANT: 1, 2.
        errno::uninterrupted(place)?;
        drop(file);
        self.reclaim()?;
        Ok(true)
    }

    /// The state's file, opened anew.
    fn reopened(&self) -> io::Result<File> {
        let Identity {
            root, name, access, ..
        } = &self.identity;
        let path = root.join(name.as_str());
        let mut options = File::options();
        options
            .read(true)
            .write(access.is_write())
            .custom_flags(O_LIBRARY);
        let open = || {
            mount::open_below(root, self.identity.mount_id, || {
                errno::uninterrupted(|| streams::clear_of(options.open(&path)?))
            })
        };
        let mut opened = open();
        for _ in 0..MAX_ATTEMPTS {
            match &opened {
                Err(error) if errno::refusal(error) == Refusal::Deleted => opened = open(),
                _ => break,
            }
        }
        let file = opened.map_err(|error| match errno::refusal(&error) {
            Refusal::NotFound | Refusal::NotDirectory => errno::deleted(),
            _ => error,
        })?;
        let mut argument = ioctl::Subscribe::default();
        let asked = errno::uninterrupted(|| call::subscribe(&file, &mut argument));
        asked.map_err(|error| match errno::refusal(&error) {
            // A file below the mount point, where nothing is mounted now.
            Refusal::NotOurs => errno::daemon_died(),
            _ => error,
        })?;
        let same_mount = argument.mount_id == self.identity.mount_id;
        if argument.outcome != outcome::OK || !same_mount {
            return Err(errno::replaced());
        }
        if argument.state_id != self.identity.state_id {
            return Err(errno::deleted());
        }
        self.by_socket
            .store(argument.transport == transport::SOCKET, Ordering::Relaxed);
        Ok(file)
    }

    /// Has what this process claimed through the file that is gone belong to the one in its place.
    fn reclaim(&self) -> io::Result<()> {
        // ORDERING: SeqCst before the list is looked at: who notes a group behind that finds another number.
        self.rounds.fetch_add(1, Ordering::SeqCst);
        let (mut died, mut lost) = (Ok(()), Vec::new());
        let mut claims = self.claims.lock();
        let own = claims.own();
        own.groups.retain(|group| {
            let number = u32::from(group.0);
            match errno::uninterrupted(|| call::reclaim(self.descriptor(), number)) {
                Ok(()) => true,
                Err(error) if errno::refusal(&error) == Refusal::DaemonDied => {
                    died = Err(error);
                    true
                }
                // Whatever it says: nobody knows of the claim.
                Err(_) => {
                    own.lost.push(*group);
                    lost.push(*group);
                    self.any_lost.store(true, Ordering::Release);
                    false
                }
            }
        });
        drop(claims);
        if !lost.is_empty() {
            let mut held = HELD.lock();
            lost.into_iter()
                .for_each(|group| held.own().forget(self.key(), group));
        }
        died
    }

    /// Claims a group for the calling process.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub(crate) fn claim(&self) -> io::Result<ioctl::Claim> {
        let mut died = None;
        loop {
            if died.is_some() {
                self.connect()?;
            }
            let mut claim = ioctl::Claim::default();
            let mut held = HELD.lock();
            let round = self.rounds.load(Ordering::SeqCst);
            match errno::uninterrupted(|| call::claim(self.descriptor(), &mut claim)) {
                Err(error) if errno::refusal(&error) == Refusal::DaemonDied && died.is_none() => {
                    drop(held);
                    died = Some(error);
                    continue;
                }
                answer => answer?,
            }
            let Ok(group) = u8::try_from(claim.group).map(Group) else {
                return Ok(claim);
            };
            held.own().groups.push((self.key(), group));
            let is_free = {
                let mut claims = self.claims.lock();
                let claims = claims.own();
                // INVARIANT: 3.
                claims.groups.push(group);
                !claims.lost.contains(&group)
            };
            drop(held);
            if self.rounds.load(Ordering::SeqCst) != round {
                // Connected again between the two: reclaimed, if it was not in the list in time.
                let _ = errno::uninterrupted(|| call::reclaim(self.descriptor(), claim.group));
            }
            // A handle that has lost it may not know that yet: it stays claimed, for as long as that is there.
            if is_free {
                return Ok(claim);
            }
        }
    }

    /// Gives back a group that the calling process has claimed and writes to no more.
    pub(crate) fn release(&self, group: Group) {
        let number = u32::from(group.0);
        let is_claimed = self.claims.lock().own().groups.contains(&group);
        if is_claimed {
            // Without a daemon it stays this process's, as long as that lives.
            let _ = self
                .request(|descriptor| errno::uninterrupted(|| call::release(descriptor, number)));
        }
        HELD.lock().own().forget(self.key(), group);
        let mut claims = self.claims.lock();
        let claims = claims.own();
        claims.groups.retain(|claimed| *claimed != group);
        claims.lost.retain(|lost| *lost != group);
    }

    /// Whether the daemon that is there now did not know that the calling process had claimed `group`: it is
    /// not written to any more.
    pub(crate) fn has_lost(&self, group: Group) -> bool {
        // ORDERING: Acquire with the Release in `reclaim`.
        self.any_lost.load(Ordering::Acquire) && self.claims.lock().own().lost.contains(&group)
    }
}

impl<T> Reader<T> {
    /// Goes on through the daemon that has taken the states over, if the one that this was subscribed to has
    /// ended; `true` if that was so. What is read, published, committed and waited for needs no such call: it
    /// is for who [polls the descriptor](std::os::fd::AsFd) himself and is told `POLLERR`.
    ///
    /// The descriptor has the same number afterwards, and is another open file. `poll` and `select` find that by
    /// themselves. An `epoll` had the file before, which has gone from it by now: add it again. Of that file
    /// nothing is [acknowledged](Reader::acknowledge).
    ///
    /// # Errors
    ///
    /// [`ReconnectError`]. The handle goes on reading, and publishing where it has slots, in what is mapped.
    ///
    /// # Cost
    ///
    /// A FUSE request; four more and one for each writing handle if the daemon has ended.
    pub fn reconnect(&self) -> Result<bool, ReconnectError> {
        let subscription = self.subscription();
        let name = || self.name().clone();
        subscription
            .link()
            .connect()
            .map_err(|source| match errno::refusal(&source) {
                Refusal::Deleted => ReconnectError::Deleted { name: name() },
                Refusal::DaemonDied if errno::may_come_back(&source) => {
                    ReconnectError::DaemonDied { name: name() }
                }
                Refusal::DaemonDied => ReconnectError::Replaced { name: name() },
                Refusal::Denied => ReconnectError::Denied { name: name() },
                _ => ReconnectError::Io {
                    name: name(),
                    source,
                },
            })
    }
}
