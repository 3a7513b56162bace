//! Making a state persistent: what a program shows the daemon's socket, and the answer.
//!
//! The program opens the file itself, so that its rights decide what can be opened, and sends the
//! descriptor as ancillary data (`SCM_RIGHTS`) of one message, a [`Request`], with a
//! [`TICKET`](crate::ioctl::TICKET) of the open state. The answer is an [`Answer`].

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longest path of a state's file in bytes: `PATH_MAX` of the kernel without the NUL.
pub const MAX_PATH_BYTES: usize = 4095;

/// How soon behind a commit its version is in the file, unless somebody says otherwise.
pub const USUAL_WITHIN_NS: u64 = 1_000_000_000;

/// The one message of a program.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Request {
    /// The ticket's.
    pub secret: [u8; 16],
    /// How soon behind a commit its version is to be in the file, in nanoseconds; 0 for each commit as soon as
    /// can be.
    pub within_ns: u64,
    /// Bytes of `path` in use.
    pub path_length: u32,
    reserved: u32,
    /// The file's absolute path, by which it is opened again later, with the rights of the state's owner.
    pub path: [u8; MAX_PATH_BYTES + 1],
}

impl Request {
    /// A request; `None` when the path is too long.
    pub fn new(secret: [u8; 16], within_ns: u64, path: &[u8]) -> Option<Self> {
        let mut request = Self {
            secret,
            within_ns,
            path_length: u32::try_from(path.len()).ok()?,
            reserved: 0,
            path: [0; MAX_PATH_BYTES + 1],
        };
        let room = request.path.get_mut(..MAX_PATH_BYTES)?;
        room.get_mut(..path.len())?.copy_from_slice(path);
        Some(request)
    }

    /// The path; `None` when its length is out of range.
    pub fn path(&self) -> Option<&[u8]> {
        self.path[..MAX_PATH_BYTES].get(..self.path_length as usize)
    }
}

/// The daemon's answer to a [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Answer {
    /// 0, or an errno.
    pub errno: i32,
    /// An [`outcome`], which says more of it.
    pub outcome: u32,
}

/// What [`Answer::outcome`] can be. The errno beside each is that of `setxattr(2)` as well.
pub mod outcome {
    /// The state is persistent: errno 0. It may have been so already, with this file.
    pub const OK: u32 = 0;
    /// What the errno says and nothing more: `ENOSPC`, `EIO`, `EACCES` for a ticket that is not good, `ESTALE`
    /// for a deleted state.
    pub const SYSTEM: u32 = 1;
    /// `EPERM`: neither root nor the state's owner asks.
    pub const NOT_OWNER: u32 = 2;
    /// `EEXIST`: the state has another file already.
    pub const OTHER_FILE: u32 = 3;
    /// `EINVAL`: not a regular file, not open for reading and writing, or no absolute path that leads to it.
    pub const NO_FILE: u32 = 4;
    /// `EXDEV`: the file is in the mount of states itself.
    pub const ON_THE_MOUNT: u32 = 5;
    /// `EBUSY`: another state has the file, of this mount or of another.
    pub const IN_USE: u32 = 6;
    /// `ENOTEMPTY`: there is something in it that is no state.
    pub const NOT_EMPTY: u32 = 7;
    /// `EUCLEAN`: neither copy in it is whole. It stays as it is.
    pub const DAMAGED: u32 = 8;
    /// `EPROTONOSUPPORT`: of a version that this daemon does not know.
    pub const VERSION: u32 = 9;
    /// `EADDRINUSE`: it is the file of a state with another name.
    pub const OTHER_STATE: u32 = 10;
    /// `ENOTUNIQ`: both have a value, the file and the state.
    pub const TWO_VALUES: u32 = 11;
    /// `EPROTOTYPE`: the value in it has another layout than the state.
    pub const LAYOUT: u32 = 12;
    /// `EOWNERDEAD`: the file is not the state's owner's.
    pub const OTHER_OWNER: u32 = 13;
}

const _: () = {
    assert!(size_of::<Request>() == 4128);
    assert!(offset_of!(Request, within_ns) == 16);
    assert!(offset_of!(Request, path_length) == 24);
    assert!(offset_of!(Request, path) == 32);
    assert!(size_of::<Answer>() == 8);
    assert!(offset_of!(Answer, outcome) == 4);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_request_has_a_bound() {
        let path = vec![b'x'; MAX_PATH_BYTES];
        let mut request = Request::new([0; 16], 0, &path).unwrap();
        assert_eq!(request.path(), Some(&path[..]));
        request.path_length += 1;
        assert_eq!(request.path(), None);
        assert!(Request::new([0; 16], 0, &[b'x'; MAX_PATH_BYTES + 1]).is_none());
    }
}
