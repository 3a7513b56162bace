//! What all handles of one subscription share: the descriptor, the mappings, the wait mark.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use kstate_sys::abi::{CLASSES, Class, Geometry};
use kstate_sys::access::Access;
use kstate_sys::clock::Clock;
use kstate_sys::fork::Once;
use kstate_sys::ioctl::{self, call, outcome};
use kstate_sys::name::StateName;

use crate::errno;
use crate::intent::Met;
use crate::mapping::Map;
use crate::records::Records;
use crate::seat::Seats;
use crate::ticket;

/// An open state file and what is mapped of its region.
///
/// A state grows by classes, so a subscription may come to have several mappings. The old ones
/// stay: somebody may be reading through them.
#[derive(Debug)]
pub(crate) struct Subscription {
    descriptor: OwnedFd,
    name: StateName,
    access: Access,
    state_id: u64,
    clock: Clock,
    geometry: Geometry,
    transport: Transport,
    maps: [Once<Map>; CLASSES.len()],
    seats: Seats,
    records: Arc<Records>,
    met: Met,
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
    pub(crate) clock: Clock,
    pub(crate) geometry: Geometry,
    pub(crate) transport: Transport,
}

impl Subscription {
    /// Maps the state open as `descriptor` as far as slots of `class` reach.
    ///
    /// # Errors
    ///
    /// What the daemon or `mmap` says.
    pub(crate) fn new(
        descriptor: OwnedFd,
        name: StateName,
        access: Access,
        terms: Terms,
        class: Class,
        records: Arc<Records>,
    ) -> io::Result<Self> {
        let Terms {
            state_id,
            clock,
            geometry,
            transport,
        } = terms;
        let subscription = Self {
            descriptor,
            name,
            access,
            state_id,
            clock,
            geometry,
            transport,
            maps: Default::default(),
            seats: Seats::default(),
            records,
            met: Met::default(),
        };
        subscription.map_for(class)?;
        Ok(subscription)
    }

    pub(crate) fn name(&self) -> &StateName {
        &self.name
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    pub(crate) fn state_id(&self) -> u64 {
        self.state_id
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
        self.descriptor.as_fd()
    }

    /// Runs `work` with the descriptor that maps the region.
    pub(crate) fn with_region<R>(
        &self,
        work: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        match self.transport {
            Transport::Passthrough => work(self.descriptor.as_fd()),
            Transport::Socket => work(ticket::redeem(&self.descriptor)?.as_fd()),
        }
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
        let map = self.with_region(|region| Map::new(region, self.geometry, class, self.access))?;
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
        errno::uninterrupted(|| call::subscribe(&self.descriptor, &mut argument))?;
        match argument.outcome {
            outcome::OK => Ok(argument.capacity),
            _ => Err(errno::protocol_violation()),
        }
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
