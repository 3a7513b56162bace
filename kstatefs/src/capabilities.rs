//! What is asked of the kernel's FUSE, and what is not, with reasons.

use fuser::{InitFlags, KernelConfig};

/// Asked for where the kernel has it.
const WANTED: [(InitFlags, &str); 6] = [
    (
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        "`echo x > state` must not arrive as a truncation first",
    ),
    (
        InitFlags::FUSE_PASSTHROUGH,
        "programs map the backing pages themselves (Linux 6.9)",
    ),
    (
        InitFlags::FUSE_PARALLEL_DIROPS,
        "lookups of different names do not wait for each other",
    ),
    (
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        "else each write asks for security.capability first",
    ),
    (
        InitFlags::FUSE_DO_READDIRPLUS,
        "`ls -l` gets attributes with the names",
    ),
    (
        InitFlags::FUSE_READDIRPLUS_AUTO,
        "but plain `ls` does not pay for them",
    ),
];

/// Not asked for:
///
/// - `FUSE_WRITEBACK_CACHE`, `FUSE_AUTO_INVAL_DATA`, `FUSE_EXPLICIT_INVAL_DATA`: nothing is cached,
///   as every open file is direct I/O;
/// - `FUSE_DIRECT_IO_ALLOW_MMAP`: without passthrough a shared map must fail, or programs would
///   look at a page cache that nobody keeps fresh;
/// - `FUSE_POSIX_LOCKS`, `FUSE_FLOCK_LOCKS`: the kernel's own locks do, within one machine;
/// - `FUSE_NO_OPEN_SUPPORT`: opening is subscribing;
/// - `FUSE_EXPORT_SUPPORT`: a state's number means nothing after a restart.
pub(crate) fn negotiate(config: &mut KernelConfig) {
    for (flag, why) in WANTED {
        if config.add_capabilities(flag).is_err() {
            tracing::info!(?flag, why, "the kernel lacks it");
        }
    }
    if config.capabilities().contains(InitFlags::FUSE_PASSTHROUGH) {
        // Backing files are on tmpfs, which is stacked on nothing.
        if let Err(nearest) = config.set_max_stack_depth(1) {
            tracing::warn!(nearest, "stack depth 1 refused");
        }
    }
}
