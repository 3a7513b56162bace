//! Our types as FUSE has them, and FUSE's as we do.

use std::time::{Duration, UNIX_EPOCH};

use fuser::{FileAttr, FileType, FopenFlags, INodeNo, ReplyXattr, Request};

use crate::attr::{Attr, Kind};
use crate::errno::Errno;
use crate::fs::{Caller, Opened};

/// Nothing is cached: the length changes with each commit and a name may evaporate.
pub(super) const NO_CACHE: Duration = Duration::ZERO;
/// But directories, whose attributes never change: the kernel looks at their rights on each path
/// that leads through one. Not for long, as who looks at one wants to know whether the daemon lives.
const FOR_A_WHILE: Duration = Duration::from_secs(1);

/// For how long the kernel may take this for true.
pub(super) fn valid_for(attr: &Attr) -> &'static Duration {
    match attr.kind {
        Kind::Directory => &FOR_A_WHILE,
        Kind::File => &NO_CACHE,
    }
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        tid: request.pid(),
    }
}

pub(super) fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.code())
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let kind = match attr.kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
    };
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: attr.modified,
        mtime: attr.modified,
        ctime: attr.changed,
        crtime: UNIX_EPOCH,
        kind,
        // Masked to the permission bits.
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: if attr.kind == Kind::Directory { 2 } else { 1 },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: attr.block,
        flags: 0,
    }
}

pub(super) fn open_flags(opened: &Opened) -> FopenFlags {
    match opened.stream {
        true => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_STREAM,
        false => FopenFlags::FOPEN_DIRECT_IO,
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
    }
}

pub(super) fn skipped(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Answers an attribute request as its size asks: how long it would be, or the bytes.
pub(super) fn sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    match size {
        0 => reply.size(length),
        _ if size < length => reply.error(fuser::Errno::ERANGE),
        _ => reply.data(value),
    }
}
