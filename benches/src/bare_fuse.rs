//! The limit of files: a FUSE file system that answers from a buffer in a lock and decides nothing.
//!
//! It is mounted and served as the daemon is: the same options, capabilities and number of
//! threads, each with a descriptor of its own, and every file direct. Its files are there from the
//! start, and each has one reader.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, PollEvents, PollFlags, PollNotifier,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll, ReplyWrite, Request,
    Session, SessionACL, WriteFlags,
};
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use crate::bare_wake::{BareValue, BareWord, to_bytes};
use crate::setup::{
    IDLE, Result, Role, Worker, await_end, await_line, end, keep_mounted_until_told, leave,
    mount_point, worker,
};

/// The files that are a buffer.
const BUFFERS: usize = 3;
/// The number of the first one; the root directory has 1.
const FIRST_FILE: u64 = 2;
/// The number of the file that is a value in shared memory.
const MAPPED_FILE: u64 = FIRST_FILE + BUFFERS as u64;
/// What a file holds at most.
const PAGE_BYTES: usize = 4096;
/// As the daemon's.
const THREADS: usize = 4;
/// As the daemon's.
const CAPABILITIES: [InitFlags; 6] = [
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_PASSTHROUGH,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
];

/// The file system in a process of its own.
pub(crate) struct BareMount {
    child: Child,
    path: PathBuf,
    mapped: PathBuf,
    // Removed once the child has ended.
    _directory: TempDir,
}

impl BareMount {
    /// With all threads of its server on one processor.
    pub(crate) fn start_on(processor: usize) -> Result<Self> {
        let (directory, path) = mount_point()?;
        let mapped = directory.path().join("mapped");
        let mut child = worker(&Worker {
            role: Role::BareFuse,
            path: path.clone(),
            bare: Some(mapped.clone()),
            processor: Some(processor),
            ..IDLE
        })?;
        if let Err(error) = await_line(&mut child, "mounted") {
            end(&mut child);
            return Err(error);
        }
        Ok(Self {
            child,
            path,
            mapped,
            _directory: directory,
        })
    }

    /// Where the buffer of this index is.
    pub(crate) fn buffer(&self, index: usize) -> PathBuf {
        self.path.join(index.to_string())
    }

    /// Where the file is that shows the value in shared memory.
    pub(crate) fn mapped_file(&self) -> PathBuf {
        self.buffer(BUFFERS)
    }

    /// That value, for publishing to.
    pub(crate) fn mapped(&self) -> Result<BareWord> {
        Ok(BareWord::open(&self.mapped)?)
    }
}

impl Drop for BareMount {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// The main of the process that serves.
pub(crate) fn serve(worker: &Worker) -> Result<()> {
    keep_mounted_until_told()?;
    let mapped_path = worker.bare.as_ref().ok_or("--bare is missing")?;
    let parts = Arc::new(Parts {
        buffers: Default::default(),
        mapped: BareWord::open(mapped_path)?,
        mapped_polled: Mutex::default(),
    });
    let mut config = fuser::Config::default();
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config.acl = match nix::unistd::geteuid().is_root() {
        true => SessionACL::All,
        false => SessionACL::Owner,
    };
    config.mount_options = vec![
        MountOption::FSName("kstate-bare".into()),
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
    ];
    let session = Session::new(BareFuse(parts.clone()), &worker.path, &config)?.spawn()?;
    std::thread::spawn(move || parts.notify_of_mapped());
    println!("mounted");
    await_end()?;
    if session.umount_and_join().is_err() {
        // Somebody has a file open, and loses it with this process.
        umount2(&worker.path, MntFlags::MNT_DETACH)?;
    }
    // Of a parent that lives it goes with the directory.
    let _ = std::fs::remove_file(mapped_path);
    leave(&worker.path);
    Ok(())
}

struct Parts {
    buffers: [Mutex<Buffer>; BUFFERS],
    mapped: BareWord,
    mapped_polled: Mutex<Polled>,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    version: u64,
    polled: Polled,
}

/// What its reader has seen, and how to tell it.
#[derive(Default)]
struct Polled {
    seen: u64,
    poller: Option<PollNotifier>,
}

impl Parts {
    fn buffer(&self, ino: INodeNo) -> Option<MutexGuard<'_, Buffer>> {
        let index = usize::try_from(ino.0.checked_sub(FIRST_FILE)?).ok()?;
        self.buffers.get(index).map(lock)
    }

    /// Tells the mapped value's reader of each version, as the thread that is woken by its writers.
    fn notify_of_mapped(&self) {
        loop {
            let version = self.mapped.version();
            // Taken first, then called: its owner comes back for the lock at once.
            let poller = {
                let mut polled = lock(&self.mapped_polled);
                match version > polled.seen {
                    true => polled.poller.take(),
                    false => None,
                }
            };
            notify(poller);
            if let Err(error) = self.mapped.wait(version) {
                eprintln!("kstate-benches: nobody is told of the mapped value: {error}");
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn notify(poller: Option<PollNotifier>) {
    // Fails where the poller has gone.
    let _ = poller.map(PollNotifier::notify);
}

struct BareFuse(Arc<Parts>);

impl BareFuse {
    fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o755, 0),
            INodeNo(MAPPED_FILE) => (FileType::RegularFile, 0o644, size_of::<BareValue>()),
            _ => (
                FileType::RegularFile,
                0o644,
                self.0.buffer(ino)?.bytes.len(),
            ),
        };
        Some(FileAttr {
            ino,
            size: size as u64,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for BareFuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in CAPABILITIES {
            // A kernel that lacks one lacks it for the daemon as well.
            let _ = config.add_capabilities(flag);
        }
        if config.capabilities().contains(InitFlags::FUSE_PASSTHROUGH) {
            let _ = config.set_max_stack_depth(1);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let index = name.to_str().and_then(|name| name.parse::<u64>().ok());
        match index.and_then(|index| self.attr(INodeNo(FIRST_FILE.checked_add(index)?))) {
            Some(attr) => reply.entry(&Duration::ZERO, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _file: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&Duration::ZERO, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn flush(
        &self,
        _: &Request,
        _ino: INodeNo,
        _file: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // Copied, so that the lock is free before the reply wakes who asks next.
        let mut copy = [0; PAGE_BYTES];
        let length = if ino.0 == MAPPED_FILE {
            let version = self.0.mapped.version();
            let bytes = to_bytes(&self.0.mapped.read());
            copy[..bytes.len()].copy_from_slice(&bytes);
            lock(&self.0.mapped_polled).seen = version;
            bytes.len()
        } else if let Some(mut buffer) = self.0.buffer(ino) {
            buffer.polled.seen = buffer.version;
            copy[..buffer.bytes.len()].copy_from_slice(&buffer.bytes);
            buffer.bytes.len()
        } else {
            return reply.error(Errno::EINVAL);
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(length);
        let end = start.saturating_add(size as usize).min(length);
        reply.data(&copy[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _file: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(mut buffer) = self.0.buffer(ino).filter(|_| data.len() <= PAGE_BYTES) else {
            return reply.error(Errno::EINVAL);
        };
        buffer.bytes.clear();
        buffer.bytes.extend_from_slice(data);
        buffer.version += 1;
        let poller = buffer.polled.poller.take();
        drop(buffer);
        notify(poller);
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    fn poll(
        &self,
        _: &Request,
        ino: INodeNo,
        _file: FileHandle,
        notifier: PollNotifier,
        _events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        let keep = |polled: &mut Polled| {
            if flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY) {
                polled.poller = Some(notifier);
            }
            polled.seen
        };
        let has_news = if ino.0 == MAPPED_FILE {
            // Kept first: a version after this look finds the poller.
            let seen = keep(&mut lock(&self.0.mapped_polled));
            self.0.mapped.version() > seen
        } else if let Some(mut buffer) = self.0.buffer(ino) {
            keep(&mut buffer.polled) < buffer.version
        } else {
            return reply.error(Errno::EINVAL);
        };
        reply.poll(match has_news {
            true => PollEvents::POLLIN | PollEvents::POLLRDNORM,
            false => PollEvents::empty(),
        });
    }
}
