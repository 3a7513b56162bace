//! FUSE requests to calls of [`fs`](crate::fs), and nothing else: alone, with what is below it, this
//! knows FUSE's types.

mod convert;
mod passed;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use fuser::{
    BackingId, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use kstate_sys::ioctl;
use kstate_sys::region;

use crate::backing::Transport;
use crate::blocked::{BlockedRead, Given};
use crate::capabilities;
use crate::errno::Errno;
use crate::fs::{Change, Opened, Shared};
use crate::metrics::Request as Counted;
use crate::poll::Poller;
use crate::xattr::{self, Mode};

use convert::{
    NO_CACHE, caller, errno, file_attr, file_type, open_flags, sized, skipped, valid_for,
};
use passed::Passed;

/// The daemon as fuser sees it. The file system behind it is there from the first request on,
/// but not yet at the handshake, whose outcome it depends on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fuse {
    shared: Arc<OnceLock<Arc<Shared>>>,
    /// What it maps for the files it has opened.
    passed: Arc<Passed<BackingId>>,
}

impl Fuse {
    /// Puts the file system in place, before the first request.
    pub(crate) fn install(&self, shared: Arc<Shared>) {
        let passed = self.passed.clone();
        shared.on_retired(move |ino| passed.retire(ino));
        // Set once, between handshake and first request.
        let _ = self.shared.set(shared);
    }

    /// The file system, for a request.
    fn fs(&self, request: Counted) -> Result<&Arc<Shared>, Errno> {
        let fs = self.shared.get().ok_or(Errno::EIO)?;
        fs.requests.count(request);
        Ok(fs)
    }

    /// The backing id of an open file's region, or `None` where there is no passthrough.
    fn backing_id(
        &self,
        opened: &Opened,
        register: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Result<Option<Arc<BackingId>>, Errno> {
        let fs = self.shared.get().ok_or(Errno::EIO)?;
        if fs.transport() != Transport::Passthrough || !opened.mappable {
            return Ok(None);
        }
        let region = fs.region_of(opened)?;
        let register = || Ok(region.file().with(register)?);
        let id = self
            .passed
            .give(opened.file, opened.ino, || region.is_gone(), register)?;
        Ok(Some(id))
    }
}

/// `match result { Ok(value) => reply.$how(value..), Err(error) => reply.error(error) }`.
macro_rules! reply {
    ($reply:ident, $result:expr, $value:pat => $answer:expr) => {
        match $result {
            Ok($value) => $answer,
            Err(error) => $reply.error(errno(error)),
        }
    };
}

impl Filesystem for Fuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        capabilities::negotiate(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self
            .fs(Counted::Lookup)
            .and_then(|fs| fs.lookup(parent.0, name.as_bytes()));
        reply!(reply, found, attr => {
            reply.entry(valid_for(&attr), &file_attr(&attr), Generation(0));
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        if let Some(fs) = self.shared.get() {
            fs.forget(ino.0, lookups);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.fs(Counted::Getattr).and_then(|fs| fs.getattr(ino.0));
        reply!(reply, found, attr => reply.attr(valid_for(&attr), &file_attr(&attr)));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        file: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode,
            uid,
            gid,
            size,
        };
        let done = self
            .fs(Counted::Other)
            .and_then(|fs| fs.setattr(ino.0, file.map(|file| file.0), change));
        reply!(reply, done, attr => reply.attr(&NO_CACHE, &file_attr(&attr)));
    }

    fn mknod(
        &self,
        _: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(fuser::Errno::EPERM);
    }

    fn mkdir(
        &self,
        _: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rmdir(&self, _: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rename(
        &self,
        _: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::EPERM);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name.as_bytes().to_owned());
        match self.fs(Counted::Other) {
            Ok(fs) => fs.unlink_in_time(caller, parent.0, name, move |done| {
                reply!(reply, done, () => reply.ok());
            }),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self
            .fs(Counted::Open)
            .and_then(|fs| fs.open(caller(request), ino.0, flags.0));
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return reply.error(errno(error)),
        };
        let (file, flags) = (FileHandle(opened.file), open_flags(&opened));
        match self.backing_id(&opened, |fd| reply.open_backing(fd)) {
            Ok(Some(id)) => reply.opened_passthrough(file, flags, &id),
            Ok(None) => reply.opened(file, flags),
            Err(error) => {
                self.forget_file(opened.file);
                reply.error(errno(error));
            }
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self
            .fs(Counted::Open)
            .and_then(|fs| fs.create(caller(request), parent.0, name.as_bytes(), mode, flags));
        let (attr, opened) = match created {
            Ok(created) => created,
            Err(error) => return reply.error(errno(error)),
        };
        let (attr, file) = (file_attr(&attr), FileHandle(opened.file));
        let flags = open_flags(&opened);
        match self.backing_id(&opened, |fd| reply.open_backing(fd)) {
            Ok(Some(id)) => {
                reply.created_passthrough(&NO_CACHE, &attr, Generation(0), file, flags, &id);
            }
            Ok(None) => reply.created(&NO_CACHE, &attr, Generation(0), file, flags),
            Err(error) => {
                self.forget_file(opened.file);
                reply.error(errno(error));
            }
        }
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // sendfile and splice read through the page cache, which would repeat what it has seen.
        // Such reads have no lock owner; programs fall back to reading.
        if lock_owner.is_none() {
            return reply.error(fuser::Errno::EINVAL);
        }
        let (fs, size) = (self.fs(Counted::Read), size as usize);
        let read = fs.and_then(|fs| Ok((fs, fs.read(file.0, offset, size)?)));
        reply!(reply, read, (fs, given) => match given {
            Given::Bytes(bytes) => reply.data(&bytes),
            Given::NotYet if flags.0 & libc::O_NONBLOCK != 0 => reply.error(fuser::Errno::EAGAIN),
            Given::NotYet => {
                let read = BlockedRead::new((request.uid(), request.pid()), size, move |read| {
                    reply!(reply, read, bytes => reply.data(&bytes));
                });
                fs.block(file.0, read);
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        file: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self
            .fs(Counted::Write)
            .and_then(|fs| fs.write(caller(request), file.0, offset, data, flags.0));
        // A request is at most 16 MiB.
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        reply!(reply, written, () => reply.written(length));
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        file: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.forget_file(file.0);
        reply.ok();
    }

    fn flush(
        &self,
        _: &Request,
        _ino: INodeNo,
        _file: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Nothing is held back; ENOSYS tells the kernel never to ask again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _: &Request,
        _ino: INodeNo,
        file: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        match self.fs(Counted::Other) {
            Ok(fs) => fs.fsync(
                file.0,
                Box::new(move |done| reply!(reply, done, _ => reply.ok())),
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        _file: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        // Neither ENOSYS, which the kernel turns into EOPNOTSUPP, nor that: posix_fallocate(3) of
        // glibc would then write a byte a block, each a bogus commit.
        reply.error(fuser::Errno::EINVAL);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // Programs fall back to reading and writing, which are consistent.
        reply.error(fuser::Errno::EOPNOTSUPP);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let opened = self
            .fs(Counted::Other)
            .and_then(|fs| fs.open_directory(ino.0));
        reply!(reply, opened, file => reply.opened(FileHandle(file), FopenFlags::empty()));
    }

    fn readdir(
        &self,
        _: &Request,
        _ino: INodeNo,
        file: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = match self
            .fs(Counted::Other)
            .and_then(|fs| fs.entries(file.0, offset))
        {
            Ok(entries) => entries,
            Err(error) => return reply.error(errno(error)),
        };
        for (at, entry) in (1_u64..).zip(entries.iter()).skip(skipped(offset)) {
            let kind = file_type(entry.kind);
            if reply.add(INodeNo(entry.ino), at, kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        _ino: INodeNo,
        file: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (fs, entries) = match self
            .fs(Counted::Other)
            .and_then(|fs| Ok((fs, fs.entries(file.0, offset)?)))
        {
            Ok(found) => found,
            Err(error) => return reply.error(errno(error)),
        };
        for (at, entry) in (1_u64..).zip(entries.iter()).skip(skipped(offset)) {
            // A state that has evaporated since the directory was opened is left out.
            let Ok(attr) = fs.getattr(entry.ino) else {
                continue;
            };
            let (ino, attr) = (INodeNo(entry.ino), file_attr(&attr));
            if reply.add(ino, at, &entry.name, &NO_CACHE, &attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _ino: INodeNo,
        file: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.forget_file(file.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply!(reply, self.fs(Counted::Other).and_then(|fs| fs.space()), (space, states) => {
            let block = u32::try_from(space.block).unwrap_or(4096);
            let longest = u32::try_from(kstate_sys::name::MAX_NAME_BYTES).unwrap_or(247);
            // A state takes two blocks at least.
            let more = space.free / 2;
            let (all, free) = (space.blocks, space.free);
            reply.statfs(all, free, free, states + more, more, block, longest, block);
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, caller) = (name.to_string_lossy(), caller(request));
        let fs = match self.fs(Counted::Other) {
            Ok(fs) => fs,
            Err(error) => return reply.error(errno(error)),
        };
        if name == xattr::PERSISTENT {
            return fs.persist_by_path(caller, ino.0, value, move |done| {
                let done = done.map_err(|refused| refused.errno);
                reply!(reply, done, () => reply.ok());
            });
        }
        let done = fs.set_xattr(caller, ino.0, &name, Some(value), Mode::from_flags(flags));
        reply!(reply, done, () => reply.ok());
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self
            .fs(Counted::Other)
            .and_then(|fs| fs.get_xattr(ino.0, &name.to_string_lossy()));
        match value {
            Ok(value) => sized(reply, size, &value),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self
            .fs(Counted::Other)
            .and_then(|fs| fs.list_xattr(caller(request), ino.0));
        match names {
            Ok(names) => sized(reply, size, &names),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.fs(Counted::Other).and_then(|fs| {
            let name = name.to_string_lossy();
            fs.set_xattr(caller(request), ino.0, &name, None, Mode::Any)
        });
        reply!(reply, done, () => reply.ok());
    }

    fn ioctl(
        &self,
        request: &Request,
        _ino: INodeNo,
        file: FileHandle,
        _flags: IoctlFlags,
        command: u32,
        argument: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        let fs = match self.fs(Counted::Ioctl) {
            Ok(fs) => fs,
            Err(error) => return reply.error(errno(error)),
        };
        if command == ioctl::SYNC {
            let done = move |done: Result<region::Generation, Errno>| {
                reply!(reply, done, generation => {
                    reply.ioctl(0, &generation.0.to_ne_bytes());
                });
            };
            return fs.sync_file(file.0, argument, Box::new(done));
        }
        let answer = fs.ioctl(caller(request), file.0, command, argument);
        reply!(reply, answer, bytes => {
            // The number says how much the caller has room for.
            let room = bytes.len().min(out_size as usize);
            reply.ioctl(0, &bytes[..room]);
        });
    }

    fn poll(
        &self,
        _: &Request,
        _ino: INodeNo,
        file: FileHandle,
        notifier: PollNotifier,
        _events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        let wanted = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY);
        let poller = wanted.then(|| {
            Poller::new(move || {
                if let Err(error) = notifier.notify() {
                    tracing::debug!(%error, "a poller has gone");
                }
            })
        });
        reply!(reply, self.fs(Counted::Poll).and_then(|fs| fs.poll(file.0, poller)), ready => {
            let mut events = PollEvents::empty();
            if ready.readable {
                events |= PollEvents::POLLIN | PollEvents::POLLRDNORM;
            }
            if ready.overdue {
                events |= PollEvents::POLLPRI;
            }
            if ready.gone {
                events |= PollEvents::POLLHUP | PollEvents::POLLERR;
            }
            if ready.writable {
                events |= PollEvents::POLLOUT | PollEvents::POLLWRNORM;
            }
            reply.poll(events);
        });
    }
}

impl Fuse {
    fn forget_file(&self, file: u64) {
        self.passed.release(file);
        if let Ok(fs) = self.fs(Counted::Release) {
            fs.release(file);
        }
    }
}
