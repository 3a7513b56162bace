//! What all handles of one subscription share: the descriptor, the mappings, the wait mark.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kstate_sys::abi::{CLASSES, Class, Geometry};
use kstate_sys::access::Access;
use kstate_sys::clock::Clock;
use kstate_sys::fork::Once;
use kstate_sys::ioctl::{self, call, outcome};
use kstate_sys::name::StateName;

use crate::errno;
use crate::intent::Met;
use crate::mapping::Map;
use crate::reconnect::{Identity, Link};
use crate::records::Records;
use crate::seat::Seats;
use crate::ticket;

/// An open state file and what is mapped of its region.
///
/// A state grows by classes, so a subscription may come to have several mappings. The old ones
/// stay: somebody may be reading through them.
#[derive(Debug)]
pub(crate) struct Subscription {
    link: Arc<Link>,
    clock: Clock,
    geometry: Geometry,
    maps: [Once<Map>; CLASSES.len()],
    seats: Seats,
    records: Arc<Records>,
    met: Met,
    /// The state is in a file, as it is for the rest of its life then.
    persistent: AtomicBool,
}

/// How the region's descriptor is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// The state's own descriptor maps the region.
    Passthrough,
    /// The daemon hands one out at its socket.
    Socket,
}

/// What the daemon said when the state was subscribed to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) state_id: u64,
    pub(crate) mount_id: u64,
    pub(crate) clock: Clock,
    pub(crate) geometry: Geometry,
    pub(crate) transport: Transport,
}

impl Subscription {
    /// Maps the state open as `descriptor`, of the mount at `root`, as far as slots of `class` reach.
    ///
    /// # Errors
    ///
    /// What the daemon or `mmap` says.
    pub(crate) fn new(
        descriptor: OwnedFd,
        root: &Path,
        name: StateName,
        access: Access,
        terms: Terms,
        class: Class,
    ) -> io::Result<Self> {
        let Terms {
            state_id,
            mount_id,
            clock,
            geometry,
            transport,
        } = terms;
        let records = Records::of(root, mount_id);
        let identity = Identity {
            root: root.to_owned(),
            name,
            access,
            state_id,
            mount_id,
        };
        let subscription = Self {
            link: Link::new(descriptor, identity, transport == Transport::Socket),
            clock,
            geometry,
            maps: Default::default(),
            seats: Seats::default(),
            records,
            met: Met::default(),
            persistent: AtomicBool::new(false),
        };
        subscription.map_for(class)?;
        Ok(subscription)
    }

    pub(crate) fn name(&self) -> &StateName {
        &self.link.identity().name
    }

    pub(crate) fn access(&self) -> Access {
        self.link.identity().access
    }

    pub(crate) fn state_id(&self) -> u64 {
        self.link.identity().state_id
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The records of the state's mount.
    pub(crate) fn records(&self) -> &Arc<Records> {
        &self.records
    }

    pub(crate) fn met(&self) -> &Met {
        &self.met
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.link.descriptor()
    }

    /// The open file, and what it takes to open it again.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Asks the daemon something, or the one that has followed it, whatever signals come meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Link::request`], but for `EINTR`.
    pub(crate) fn request<R>(
        &self,
        mut ask: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        self.link
            .request(|descriptor| errno::uninterrupted(|| ask(descriptor)))
    }

    /// Runs `work` with the descriptor that maps the region.
    pub(crate) fn with_region<R>(
        &self,
        mut work: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        self.link
            .request(|descriptor| match self.link.is_by_socket() {
                false => work(descriptor),
                true => work(ticket::redeem(descriptor)?.as_fd()),
            })
    }

    /// A mapping that reaches slots of `class`, made if there is none.
    ///
    /// # Errors
    ///
    /// What the daemon or `mmap` says.
    pub(crate) fn map_for(&self, class: Class) -> io::Result<&Map> {
        // The longest first: a handle that has grown must not fall back.
        if let Some(map) = self.maps[class as usize..].iter().rev().find_map(Once::get) {
            return Ok(map);
        }
        let map =
            self.with_region(|region| Map::new(region, self.geometry, class, self.access()))?;
        map.populate_newest();
        // Another thread may have been first; then its mapping serves and ours goes away.
        Ok(self.maps[class as usize].get_or_set(map))
    }

    /// The capacity in force, as the daemon says: the header's could have been scribbled over.
    ///
    /// # Errors
    ///
    /// What the daemon says.
    pub(crate) fn capacity_in_force(&self) -> io::Result<u32> {
        let mut argument = ioctl::Subscribe::default();
        self.request(|descriptor| call::subscribe(descriptor, &mut argument))?;
        match argument.outcome {
            outcome::OK => Ok(argument.capacity),
            _ => Err(errno::protocol_violation()),
        }
    }

    /// Whether it is known that the state is persistent.
    pub(crate) fn is_persistent(&self) -> bool {
        // ORDERING: Relaxed: it stands for itself.
        self.persistent.load(Ordering::Relaxed)
    }

    /// Notes that it is.
    pub(crate) fn note_persistent(&self) {
        self.persistent.store(true, Ordering::Relaxed);
    }

    /// What has been given to this process to wait with.
    pub(crate) fn seats(&self) -> &Seats {
        &self.seats
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.end_waiting();
    }
}
