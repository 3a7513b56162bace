//! A device of KBUS for tests: a FUSE file system with one file, which takes messages as KBUS does and
//! keeps them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, LockOwner, OpenFlags, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};
use kstate_sys::announce::Record;
use kstate_tests::{PATIENCE, eventually};
use zerocopy::FromBytes;

const FILE: INodeNo = INodeNo(2);
const NAME: &str = "kbus";
/// `_IOR('k', 8, char *)`.
const SEND: u32 = 0x8008_6b08;

/// What the device does with messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Takes,
    /// A write finds no room.
    RefusesWrites(i32),
    /// The message is written, and not sent.
    RefusesToSend(i32),
    /// Half of a message is written.
    CutsShort,
    /// A write waits until the mood is another.
    Hangs,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) record: Record,
}

#[derive(Default)]
struct Inner {
    mood: Mood,
    messages: Vec<Vec<u8>>,
    /// By open file: KBUS takes no other message before that one is sent.
    unsent: HashMap<u64, Vec<u8>>,
    hanging: usize,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    files: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mounted device; unmounted when dropped, behind whoever has it open.
pub(crate) struct Device {
    shared: Arc<Shared>,
    directory: PathBuf,
    session: Option<BackgroundSession>,
}

impl Device {
    /// Where the device of a directory is, once one is mounted there.
    pub(crate) fn path_in(directory: &Path) -> PathBuf {
        directory.join(NAME)
    }

    #[track_caller]
    pub(crate) fn mount(directory: &Path) -> Self {
        let shared = Arc::new(Shared::default());
        let mut config = fuser::Config::default();
        // One may hang.
        config.n_threads = Some(2);
        config.clone_fd = true;
        let session = Session::new(Kbus(shared.clone()), directory, &config).unwrap();
        let session = session.spawn().unwrap();
        eventually("the device is there", || {
            std::fs::metadata(Self::path_in(directory)).ok()
        });
        Self {
            shared,
            directory: directory.to_owned(),
            session: Some(session),
        }
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.shared.lock().mood = mood;
        self.shared.changed.notify_all();
    }

    /// All that were sent so far.
    #[track_caller]
    pub(crate) fn messages(&self) -> Vec<Message> {
        let inner = self.shared.lock();
        inner.messages.iter().map(|bytes| parse(bytes)).collect()
    }

    /// Whether a write waits for another mood.
    pub(crate) fn is_hanging(&self) -> bool {
        let inner = self.shared.lock();
        inner.mood == Mood::Hangs && inner.hanging > 0
    }

    /// As if none had been sent.
    pub(crate) fn forget(&self) {
        self.shared.lock().messages.clear();
    }

    /// Waits for the message about a generation of a state.
    #[track_caller]
    pub(crate) fn message(&self, name: &str, generation: u64) -> Message {
        let what = format!("generation {generation} of {name} is announced");
        eventually(&what, || {
            let messages = self.messages().into_iter();
            let mut messages = messages.filter(|message| message.name == name);
            messages.find(|message| message.record.generation == generation)
        })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.set(Mood::Takes);
        if let Some(session) = self.session.take()
            && session.umount_and_join().is_err()
        {
            kstate_tests::unmount(&self.directory);
        }
    }
}

/// Takes a message apart, as KBUS checks it.
fn parse(bytes: &[u8]) -> Message {
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let zeros = |range: std::ops::Range<usize>| bytes[range].iter().all(|byte| *byte == 0);
    assert_eq!(word(0), 0x7375_624b, "the start guard");
    assert!(zeros(4..52), "ids and flags of an announcement");
    let (name_bytes, data_bytes) = (word(52) as usize, word(56) as usize);
    assert!(zeros(60..80), "no pointers");
    assert_eq!(word(80), 0x4b62_7573, "the end guard");
    assert!(zeros(84..88));
    let name = std::str::from_utf8(&bytes[88..88 + name_bytes]).unwrap();
    let data_at = 88 + (name_bytes + 4) / 4 * 4;
    assert!(zeros(88 + name_bytes..data_at), "the name's NUL");
    let end_at = data_at + data_bytes.next_multiple_of(4);
    let data = &bytes[data_at..data_at + data_bytes];
    assert_eq!(word(end_at), 0x4b62_7573, "the last guard");
    assert_eq!(bytes.len(), end_at + 4);
    Message {
        name: name.to_owned(),
        record: Record::read_from_bytes(data).unwrap(),
    }
}

struct Kbus(Arc<Shared>);

impl Kbus {
    fn attr(ino: INodeNo) -> FileAttr {
        let (kind, perm) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o755),
            _ => (FileType::RegularFile, 0o666),
        };
        FileAttr {
            ino,
            size: 0,
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
        }
    }
}

impl Filesystem for Kbus {
    fn lookup(&self, _: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&Duration::ZERO, &Self::attr(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _file: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &Self::attr(ino));
    }

    fn open(&self, _: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let file = self.0.files.fetch_add(1, Ordering::Relaxed);
        reply.opened(FileHandle(file), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        file: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut inner = self.0.lock();
        inner.hanging += 1;
        let hangs = |inner: &mut Inner| inner.mood == Mood::Hangs;
        // Not for ever: a daemon in the middle of a write cannot even be killed.
        let waited = self.0.changed.wait_timeout_while(inner, PATIENCE, hangs);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inner.hanging -= 1;
        let length = match inner.mood {
            Mood::RefusesWrites(errno) => return reply.error(Errno::from_i32(errno)),
            Mood::CutsShort => data.len() / 2,
            _ => data.len(),
        };
        // As KBUS, which has one message a file under way.
        if inner
            .unsent
            .insert(file.0, data[..length].to_vec())
            .is_some()
        {
            return reply.error(Errno::EALREADY);
        }
        reply.written(u32::try_from(length).unwrap());
    }

    fn ioctl(
        &self,
        _: &Request,
        _ino: INodeNo,
        file: FileHandle,
        _flags: IoctlFlags,
        command: u32,
        _input: &[u8],
        room: u32,
        reply: ReplyIoctl,
    ) {
        let mut inner = self.0.lock();
        if command != SEND || room != 8 {
            return reply.error(Errno::ENOTTY);
        }
        if let Mood::RefusesToSend(errno) = inner.mood {
            return reply.error(Errno::from_i32(errno));
        }
        let Some(message) = inner.unsent.remove(&file.0) else {
            return reply.error(Errno::EINVAL);
        };
        inner.messages.push(message);
        let serial = inner.messages.len() as u64;
        drop(inner);
        reply.ioctl(0, &(serial << 32).to_ne_bytes());
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
        self.0.lock().unsent.remove(&file.0);
        reply.ok();
    }
}
