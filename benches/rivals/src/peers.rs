//! What is measured: kstate three ways, its peers, and the limits of the machine.

mod arc_swap;
mod checked_ring;
mod eventfd;
mod futex;
mod iceoryx2;
mod kstate_c;
mod kstate_file;
mod kstate_lib;
mod left_right;
mod lmdb;
mod lock;
mod memcpy;
mod mmap_sync;
mod redb;
mod redis;
mod ring;
mod tmpfs;

use crate::capability::{Can, Follows, Publishes, Reads, Several, Updates, lacks};
use crate::site::{Home, Site};

/// How far a peer reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Processes share the value.
    Processes,
    /// Threads of one process do.
    OneProcess,
}

/// What it is measured as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours.
    Kstate,
    /// Shares values between processes; consistent: every read is one version, as documented.
    Between { consistent: bool },
    /// Shares values between threads of a process: no peer, a scale.
    Within,
    /// The bare machine, with nothing that would make it safe.
    Limit,
}

/// Something measured. What it cannot do says so.
pub(crate) trait Peer: Sync {
    /// As it is called on the command line and in the run's file.
    fn id(&self) -> &'static str;

    /// As it is called in the report.
    fn title(&self) -> &'static str;

    fn kind(&self) -> Kind;

    fn reach(&self) -> Reach {
        Reach::Processes
    }

    /// How it is used here, and which of its documentation says so.
    fn used(&self) -> &'static str;

    /// Makes the value, or all [`count`](Site::count) of them, zero at first, and keeps it until
    /// what is returned is dropped.
    fn home(&self, site: &Site) -> Can<Home>;

    /// Whether [`home`](Peer::home) makes several values.
    fn has_many(&self) -> bool {
        false
    }

    fn reads(&self, site: &Site) -> Can<Box<dyn Reads>>;

    /// Reads that also tell how old the value is.
    fn reads_aged(&self, _: &Site) -> Can<Box<dyn Reads>> {
        lacks("keeps no time of a version")
    }

    fn publishes(&self, site: &Site) -> Can<Box<dyn Publishes>>;

    /// Publishes with the time of the commit.
    fn publishes_stamped(&self, _: &Site) -> Can<Box<dyn Publishes>> {
        lacks("keeps no time of a version")
    }

    /// Publishes so that those who follow are woken.
    fn tells(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        self.publishes(site)
    }

    fn follows(&self, _: &Site) -> Can<Box<dyn Follows>> {
        lacks("wakes nobody")
    }

    fn updates(&self, _: &Site) -> Can<Box<dyn Updates>> {
        lacks("has no read-modify-write")
    }

    fn several(&self, _: &Site) -> Can<Box<dyn Several>> {
        lacks("has no commit of several values")
    }
}

/// Builds what is loaded by its name.
pub(crate) fn build_libkstate() -> crate::Result<()> {
    kstate_c::build().map(|_| ())
}

/// All of them, in the order of the report.
pub(crate) const ALL: &[&dyn Peer] = &[
    &kstate_lib::KstateLib,
    &kstate_c::KstateC,
    &kstate_file::KstateFile,
    &iceoryx2::Iceoryx2,
    &mmap_sync::MmapSync,
    &lmdb::Lmdb,
    &redis::Redis,
    &tmpfs::Tmpfs,
    &redb::Redb,
    &arc_swap::ArcSwap,
    &left_right::LeftRight,
    &lock::Lock,
    &memcpy::Memcpy,
    &ring::Ring,
    &checked_ring::CheckedRing,
    &futex::Futex,
    &eventfd::Eventfd,
];

/// The one of that id.
pub(crate) fn find(id: &str) -> Option<&'static dyn Peer> {
    ALL.iter().copied().find(|peer| peer.id() == id)
}
