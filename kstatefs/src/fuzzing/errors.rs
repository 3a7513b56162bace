//! The errors that each call may have, as `docs/semantics.md` and the table of `kstate_sys::ioctl` say.

use kstate_sys::ioctl;

use crate::errno::Errno;

/// Panics when `result` is an error that is none of these. A region that a client has written over is
/// also `EIO`.
#[track_caller]
pub(super) fn allow<T>(
    what: impl std::fmt::Debug,
    result: Result<T, Errno>,
    allowed: &[i32],
    damaged: bool,
) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let is_allowed =
                allowed.contains(&error.code()) || (damaged && error.code() == libc::EIO);
            assert!(is_allowed, "{what:x?} is {error:?}");
            None
        }
    }
}

/// Of ioctls on a state.
pub(super) fn of_state(command: u32) -> &'static [i32] {
    use libc::{
        EACCES, EBADF, EFBIG, EINVAL, ENOSPC, ENOTTY, EOPNOTSUPP, EPERM, ESRCH, ESTALE, EUSERS,
    };
    match command {
        ioctl::SUBSCRIBE => &[EFBIG, ENOSPC, EINVAL],
        ioctl::CLAIM => &[EBADF, EUSERS, ENOSPC, ESTALE, ESRCH],
        ioctl::RELEASE | ioctl::TURN_END => &[EINVAL],
        ioctl::SET_CAPACITY => &[EBADF, EFBIG, EINVAL, ENOSPC],
        ioctl::WAIT_BEGIN => &[ESRCH, EINVAL, ESTALE],
        ioctl::WAIT_END => &[EINVAL],
        ioctl::ARM => &[ENOSPC],
        ioctl::SET_LINGER => &[EPERM],
        ioctl::SET_DEADLINE => &[EPERM, EINVAL],
        ioctl::SET_ANNOUNCE => &[EPERM, EOPNOTSUPP],
        ioctl::TICKET => &[ENOTTY, EACCES],
        ioctl::TURN => &[EINVAL, ESTALE],
        ioctl::SEEN | ioctl::INFO | ioctl::SETTLE | ioctl::VERSION => &[],
        _ => &[ENOTTY],
    }
}

/// Of ioctls on a view.
pub(super) fn of_view(command: u32) -> &'static [i32] {
    match command {
        ioctl::SEEN | ioctl::INFO | ioctl::VERSION => &[],
        _ => &[libc::ENOTTY],
    }
}

/// Of ioctls on the registry.
pub(super) fn of_registry(command: u32) -> &'static [i32] {
    match command {
        ioctl::VERSION | ioctl::MOUNT_ID => &[],
        ioctl::RECORD => &[libc::ESRCH, libc::EUSERS, libc::ENOSPC],
        ioctl::RELEASE_RECORD => &[libc::EINVAL],
        _ => &[libc::ENOTTY],
    }
}

/// Of ioctls on a record, and on what has none.
pub(super) fn of_others(command: u32) -> &'static [i32] {
    match command {
        ioctl::VERSION => &[],
        _ => &[libc::ENOTTY],
    }
}
