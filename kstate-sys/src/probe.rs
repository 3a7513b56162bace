//! What this kernel, this container and this user can do: the findings behind `kstate doctor`.
//!
//! Each capability is found by trying it; a version number is only ever a part of the detail.
//! Probing leaves no descriptor, process, mount or file behind, and may run beside other threads.
//! What can only be tried in a process of its own is tried in a short-lived child (`child.rs`).

mod child;
mod fuse;
mod limits;
mod memory;
mod pages;
mod waking;

use std::fmt;

/// Declares the features once: variant, stable name and documentation.
macro_rules! features {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Something a kernel, a container or a user may or may not allow.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Feature {
            $($(#[$doc])+ $variant,)+
        }

        impl Feature {
            /// Every feature, in the order in which a report lists them.
            pub const ALL: &[Feature] = &[$(Feature::$variant),+];

            /// The feature's name: kebab-case, and never changed once released.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Feature::$variant => $name,)+
                }
            }
        }
    };
}

features! {
    /// A kernel that kstate is made for.
    KernelRelease = "kernel-release",
    /// A page size that kstate is tested with.
    PageSize = "page-size",
    /// `/dev/fuse` can be opened.
    FuseDevice = "fuse-device",
    /// `fusermount3` is there, and may mount for ordinary users.
    Fusermount = "fusermount",
    /// An unprivileged user namespace in which a FUSE file system can be mounted.
    UserNamespaces = "user-namespaces",
    /// CAP_SYS_ADMIN is in force.
    CapSysAdmin = "cap-sys-admin",
    /// FUSE passthrough: a mapped state is the daemon's own page.
    FusePassthrough = "fuse-passthrough",
    /// A tmpfs that this user may write, to keep regions in.
    SharedMemory = "shared-memory",
    /// A memfd that can be sealed against shrinking and growing.
    MemfdSealing = "memfd-sealing",
    /// userfaultfd for faults of user mode.
    Userfaultfd = "userfaultfd",
    /// userfaultfd for faults of the kernel too.
    UserfaultfdKernel = "userfaultfd-kernel-faults",
    /// A fault raises SIGBUS instead of an event.
    UserfaultfdSigbus = "userfaultfd-sigbus",
    /// Asynchronous write-protection.
    UserfaultfdWpAsync = "userfaultfd-wp-async",
    /// `PAGEMAP_SCAN`, which finds written pages.
    PagemapScan = "pagemap-scan",
    /// A futex can be waited on through a read-only mapping.
    FutexReadOnly = "futex-read-only",
    /// `futex_waitv(2)`.
    FutexWaitv = "futex-waitv",
    /// io_uring may be used.
    IoUring = "io-uring",
    /// io_uring knows `IORING_OP_FUTEX_WAIT`.
    IoUringFutex = "io-uring-futex",
    /// `pidfd_open(2)`.
    PidfdOpen = "pidfd-open",
    /// No seccomp filter stands between this thread and the kernel.
    SeccompUnfiltered = "seccomp-unfiltered",
    /// A counter that user mode can read, of constant rate.
    InvariantCounter = "invariant-counter",
    /// Descriptors enough for ten thousand states.
    OpenFiles = "open-files",
    /// Mappings enough for ten thousand states.
    MapCount = "map-count",
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a feature can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It was tried and worked.
    Available,
    /// It was tried and refused.
    Unavailable,
    /// It could not be tried; the detail says what is likely.
    Unknown,
}

/// One feature, and what was found out about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capability {
    /// Which feature.
    pub feature: Feature,
    /// Its stable name.
    pub name: &'static str,
    /// Whether it can be used.
    pub status: Status,
    /// What was found, with the kernel's error where there was one.
    pub detail: String,
    /// Which way the library or the daemon goes because of it.
    pub consequence: &'static str,
    /// What to change, where something can be.
    pub advice: Option<&'static str>,
}

impl Capability {
    fn new(
        feature: Feature,
        status: Status,
        detail: impl Into<String>,
        consequence: &'static str,
        advice: Option<&'static str>,
    ) -> Capability {
        let name = feature.name();
        Capability {
            feature,
            name,
            status,
            detail: detail.into(),
            consequence,
            advice,
        }
    }

    fn available(
        feature: Feature,
        detail: impl Into<String>,
        consequence: &'static str,
    ) -> Capability {
        Capability::new(feature, Status::Available, detail, consequence, None)
    }

    fn unavailable(
        feature: Feature,
        detail: impl Into<String>,
        consequence: &'static str,
        advice: &'static str,
    ) -> Capability {
        Capability::new(
            feature,
            Status::Unavailable,
            detail,
            consequence,
            Some(advice),
        )
    }

    /// Whether the feature was tried and worked.
    pub fn is_available(&self) -> bool {
        self.status == Status::Available
    }
}

/// Everything that was found out, one [`Capability`] a [`Feature`].
///
/// # Invariants
///
/// 1. `capabilities` has one entry for each of [`Feature::ALL`], in that order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    capabilities: Vec<Capability>,
}

impl Report {
    /// What was found out about `feature`.
    pub fn get(&self, feature: Feature) -> &Capability {
        // Invariant 1: the variants are numbered in the order of ALL.
        &self.capabilities[feature as usize]
    }

    /// Whether `feature` was tried and worked.
    pub fn has(&self, feature: Feature) -> bool {
        self.get(feature).is_available()
    }

    /// All findings, in the order of [`Feature::ALL`].
    pub fn iter(&self) -> std::slice::Iter<'_, Capability> {
        self.capabilities.iter()
    }
}

impl<'a> IntoIterator for &'a Report {
    type Item = &'a Capability;
    type IntoIter = std::slice::Iter<'a, Capability>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Tries everything.
///
/// # Cost
///
/// Some hundred system calls and one short-lived child process, a few milliseconds; under a seccomp
/// filter one more child for each call that the filter could answer by killing.
pub fn probe() -> Report {
    // INVARIANT: Report 1, by construction.
    Report {
        capabilities: Feature::ALL
            .iter()
            .map(|&feature| probe_one(feature))
            .collect(),
    }
}

/// Tries one feature, at a fraction of the cost of [`probe`].
pub fn probe_one(feature: Feature) -> Capability {
    match feature {
        Feature::KernelRelease => limits::kernel_release(),
        Feature::PageSize => limits::page_size(),
        Feature::FuseDevice => fuse::device(),
        Feature::Fusermount => fuse::fusermount(),
        Feature::UserNamespaces => fuse::user_namespaces(),
        Feature::CapSysAdmin => fuse::cap_sys_admin(),
        Feature::FusePassthrough => fuse::passthrough(),
        Feature::SharedMemory => memory::shared_memory(),
        Feature::MemfdSealing => memory::memfd_sealing(),
        Feature::Userfaultfd => memory::userfaultfd(),
        Feature::UserfaultfdKernel => memory::userfaultfd_kernel(),
        Feature::UserfaultfdSigbus => memory::userfaultfd_sigbus(),
        Feature::UserfaultfdWpAsync => memory::userfaultfd_wp_async(),
        Feature::PagemapScan => memory::pagemap_scan(),
        Feature::FutexReadOnly => waking::futex_read_only(),
        Feature::FutexWaitv => waking::futex_waitv(),
        Feature::IoUring => waking::io_uring(),
        Feature::IoUringFutex => waking::io_uring_futex(),
        Feature::PidfdOpen => waking::pidfd_open(),
        Feature::SeccompUnfiltered => limits::seccomp(),
        Feature::InvariantCounter => limits::invariant_counter(),
        Feature::OpenFiles => limits::open_files(),
        Feature::MapCount => limits::map_count(),
    }
}

#[cfg(test)]
mod tests;
