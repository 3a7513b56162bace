//! Mounting, by whatever this user may, and what there is to ask of the device then.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fuser::{BackingId, Session, SessionACL};
use nix::mount::MsFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::ServeError;
use crate::backing::{Backing, Transport};
use crate::fuse::Fuse;
use crate::fusermount;
use crate::mountpoint::{self, FILE_SYSTEM_TYPE, Unmount};

/// Mounts by the system call, or by fusermount3 where only that may.
pub(super) fn mount(
    path: &Path,
    fuse: Fuse,
    allow_other: bool,
    threads: usize,
) -> Result<Session<Fuse>, ServeError> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(threads);
    // A descriptor a thread: each waits in the kernel by itself.
    config.clone_fd = true;
    config.acl = if allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let failed = |source| ServeError::Mount {
        path: path.to_owned(),
        source,
    };
    let device = match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(device) => Ok(device),
        Err(source) => match device_advice(&source) {
            Some(advice) => {
                return Err(ServeError::Device {
                    path: path.to_owned(),
                    advice,
                    source,
                });
            }
            None => Err(source),
        },
    };
    let device = match device.and_then(|device| mount_directly(device, path, allow_other)) {
        Err(refused) if refused.raw_os_error() == Some(libc::EPERM) => {
            let mut options =
                "fsname=kstatefs,subtype=kstatefs,default_permissions,nosuid,nodev,noexec"
                    .to_owned();
            if allow_other {
                options.push_str(",allow_other");
            }
            fusermount::mount(path, &options).map_err(|error| match error.kind() {
                // Its absence is no reason; what it was wanted for is.
                io::ErrorKind::NotFound => refused,
                _ => error,
            })
        }
        device => device,
    };
    let device = device.map_err(failed)?;
    let unmount = Unmounting(Some(path.to_owned()));
    let session = Session::from_fd(fuse, device, config.acl, config).map_err(failed)?;
    unmount.disarm();
    Ok(session)
}

/// What to do about a device that does not open, where that is known.
fn device_advice(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error() {
        Some(libc::ENOENT) => {
            Some("load the module: modprobe fuse; in a container pass the device in")
        }
        // fusermount3 opens it as the user who calls it, and a namespace changes nothing either.
        Some(libc::EACCES) => Some(
            "it is closed to this user; as root: chmod 0666 /dev/fuse, and for good an udev rule: \
             KERNEL==\"fuse\", MODE=\"0666\"",
        ),
        _ => None,
    }
}

/// As root, or as root of a user namespace (the device must have been opened in it).
fn mount_directly(device: File, path: &Path, allow_other: bool) -> io::Result<OwnedFd> {
    let rootmode = std::fs::metadata(path)?.mode();
    let mut options = format!(
        "fd={},rootmode={rootmode:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        nix::unistd::geteuid(),
        nix::unistd::getegid()
    );
    if allow_other {
        options.push_str(",allow_other");
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let kind = Some(FILE_SYSTEM_TYPE);
    nix::mount::mount(Some("kstatefs"), path, kind, flags, Some(options.as_str()))?;
    Ok(device.into())
}

/// Registers a real backing file: INIT offers passthrough to ordinary users too, and only this
/// is then refused (EPERM).
pub(super) fn probe_passthrough(device: BorrowedFd<'_>, backing: &Backing) -> io::Result<()> {
    // A daemon that was killed here may have left one.
    backing.forget(0, Transport::Passthrough);
    let file = backing.region(0, 4096, Transport::Passthrough)?;
    let id = file.with(|fd| BackingId::create_raw(device, fd))?;
    close_backing(device, id)
}

/// `FUSE_DEV_IOC_BACKING_CLOSE` of `<linux/fuse.h>`.
fn close_backing(device: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    const FUSE_DEV_IOC_BACKING_CLOSE: u32 = 1 << 30 | 4 << 16 | 229 << 8 | 2;
    #[expect(unsafe_code, reason = "fuser closes only ids that it has wrapped")]
    // SAFETY: reads four bytes at the address given.
    let result = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            libc::Ioctl::from(FUSE_DEV_IOC_BACKING_CLOSE),
            &raw const id,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Whether the file system that `device` serves is there still: mounted, and not aborted. Of one
/// that is not, poll says that it has failed (kernel fs/fuse/dev.c, fuse_dev_poll).
pub(super) fn is_connected(device: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(device, PollFlags::empty())];
    let polled = poll(&mut fds, PollTimeout::ZERO);
    let failed = |fd: &PollFd<'_>| {
        fd.revents()
            .is_none_or(|events| events.contains(PollFlags::POLLERR))
    };
    polled.is_ok() && !failed(&fds[0])
}

/// Unmounts when something fails between mounting and serving.
pub(super) struct Unmounting(pub(super) Option<PathBuf>);

impl Unmounting {
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Unmounting {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = mountpoint::detach(&path, Unmount::Lazy)
        {
            tracing::warn!(%error, "left mounted");
        }
    }
}
