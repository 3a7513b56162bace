//! States for unit tests: a region in a memfd, no daemon, so nothing that asks one works.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kstate_sys::abi::{CLASSES, Class, Geometry};
use kstate_sys::access::Access;
use kstate_sys::clock::Clock;
use kstate_sys::name::StateName;
use kstate_sys::region::{self, Group, Writer};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::content::Content;
use crate::mapping::Map;
use crate::reader::Reader;
use crate::state::State;
use crate::subscription::{Subscription, Terms, Transport};

/// A region that several handles can be made of, as of several processes.
pub(crate) struct Region {
    file: OwnedFd,
    capacity: u32,
}

impl Region {
    pub(crate) fn new(capacity: u32) -> Self {
        let geometry = Geometry::of_this_machine();
        let file = memfd_create("kstate-test", MFdFlags::MFD_CLOEXEC).unwrap();
        let length = i64::try_from(geometry.region_len()).unwrap();
        nix::unistd::ftruncate(&file, length).unwrap();
        let region = Self { file, capacity };
        // The header is checked when it is mapped, so it is written through a plain mapping.
        region.initialise();
        region
    }

    fn initialise(&self) {
        let geometry = Geometry::of_this_machine();
        let header = i64::from(geometry.page());
        let write = |offset: i64, bytes: &[u8]| {
            nix::sys::uio::pwrite(&self.file, bytes, header + offset).unwrap();
        };
        write(0, &kstate_sys::abi::MAGIC.to_ne_bytes());
        write(8, &kstate_sys::abi::ABI_VERSION.to_ne_bytes());
        write(12, &geometry.page().to_ne_bytes());
        let map = Map::new(self.file.as_fd(), geometry, Class::B64, Access::Write).unwrap();
        region::initialise(map.mapped(), 7, self.capacity, &Clock::MONOTONIC);
    }

    /// A subscription that maps as far as `class`.
    fn subscription(&self, access: Access, class: Class) -> Arc<Subscription> {
        let terms = Terms {
            state_id: 7,
            mount_id: 0,
            clock: Clock::MONOTONIC,
            geometry: Geometry::of_this_machine(),
            transport: Transport::Passthrough,
        };
        let file = self.file.try_clone().unwrap();
        let name = StateName::new("test").unwrap();
        let root = "/nonexistent".as_ref();
        Arc::new(Subscription::new(file, root, name, access, terms, class).unwrap())
    }

    pub(crate) fn reader<T: Content>(&self, class: Class) -> Reader<T> {
        Reader::new(self.subscription(Access::Read, class)).unwrap()
    }

    /// A handle with the slots of `group`, as if it had claimed them.
    pub(crate) fn state<T: Content>(&self, group: u8) -> State<T> {
        let class = Geometry::of_this_machine()
            .class_for(self.capacity)
            .unwrap();
        let state = State::unclaimed(self.reader_for_writing(class)).unwrap();
        state
            .writing
            .writer
            .set(Some(Writer::claimed(state.memory(), Group(group), class)));
        state
    }

    fn reader_for_writing<T: Content>(&self, class: Class) -> Reader<T> {
        Reader::new(self.subscription(Access::Write, class)).unwrap()
    }

    /// Overwrites a word of the header page, as a hostile writer can.
    pub(crate) fn scribble(&self, offset: i64, bytes: &[u8]) {
        let header = i64::from(Geometry::of_this_machine().page());
        nix::sys::uio::pwrite(&self.file, bytes, header + offset).unwrap();
    }

    /// What the daemon does when the state is deleted.
    pub(crate) fn delete(&self) {
        let geometry = Geometry::of_this_machine();
        let map = Map::new(self.file.as_fd(), geometry, CLASSES[0], Access::Write).unwrap();
        kstate_sys::region::Memory::header(map.mapped()).seal();
    }
}
