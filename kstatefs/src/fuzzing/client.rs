//! One caller and the files it has open.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use kstate_sys::ioctl::{self, Ticket};
use zerocopy::FromBytes;

use super::errors::{allow, of_others, of_registry, of_state};
use super::input::Input;
use super::{Held, ROOT_USER};
use crate::attr::Attr;
use crate::errno::Errno;
use crate::fs::{Caller, Change, Shared};
use crate::handle::OpenMode;
use crate::poll::Poller;
use crate::table::{CONTROL, INTENTS, REGISTRY, ROOT};

#[derive(Debug)]
pub(super) struct Client {
    pub(super) caller: Caller,
    open: Vec<Open>,
    /// Numbers of records that it was given.
    records: Vec<u32>,
    /// Whether anybody has written into a region in this run.
    scribbled: Rc<Cell<bool>>,
}

/// An open file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    file: u64,
    ino: u64,
    kind: Kind,
    read: bool,
    write: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    State,
    Registry,
    Record,
    Directory,
}

/// What only those may change who may write.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    value: Option<(u64, Vec<u8>)>,
    capacity: u32,
    linger: std::time::Duration,
    mode: u32,
    layout: Option<u64>,
    writers: u32,
}

impl Client {
    pub(super) fn new(caller: Caller, scribbled: Rc<Cell<bool>>) -> Self {
        Self {
            caller,
            open: Vec::new(),
            records: Vec::new(),
            scribbled,
        }
    }

    /// As the kernel, for `default_permissions`.
    fn may(&self, attr: &Attr, wanted: u32) -> bool {
        let shift = match () {
            () if self.caller.uid == ROOT_USER => return true,
            () if self.caller.uid == attr.uid => 6,
            () if self.caller.gid == attr.gid => 3,
            () => 0,
        };
        attr.mode >> shift & wanted == wanted
    }

    fn owns(&self, attr: &Attr) -> bool {
        self.caller.uid == ROOT_USER || self.caller.uid == attr.uid
    }

    fn flags(input: &mut Input<'_>) -> i32 {
        let mut flags =
            [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR][input.below(4)];
        let more = input.byte();
        for (bit, flag) in [
            (1, libc::O_APPEND),
            (2, libc::O_TRUNC),
            (4, libc::O_EXCL),
            (8, kstate_sys::abi::O_LIBRARY),
        ] {
            if more & bit != 0 {
                flags |= flag;
            }
        }
        flags
    }

    fn keep(&mut self, file: u64, ino: u64, kind: Kind, flags: i32) {
        let mode = OpenMode::from_flags(flags);
        self.open.push(Open {
            file,
            ino,
            kind,
            read: mode.read,
            write: mode.write,
        });
    }

    fn any(&self, input: &mut Input<'_>) -> Option<Open> {
        match self.open.len() {
            0 => None,
            count => Some(self.open[input.below(count)]),
        }
    }

    /// The inode number of a state, or none of any.
    pub(super) fn state(&self, shared: &Shared, input: &mut Input<'_>) -> u64 {
        match input.byte() % 4 {
            0 => input.number(),
            _ => match shared.lookup(ROOT, &input.name()) {
                Ok(attr) => attr.ino,
                Err(_) => ROOT,
            },
        }
    }

    /// Also where the state is there already, as when somebody else was faster.
    pub(super) fn create(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let name = input.name();
        let mode = [0o644, 0o600, 0o666, 0o1644, 0o444, 0o7777][input.below(6)];
        let flags = Self::flags(input);
        let before = shared.lookup(ROOT, &name).ok();
        let created = shared.create(self.caller, ROOT, &name, mode, flags);
        let allowed = [
            libc::EINVAL,
            libc::ENAMETOOLONG,
            libc::EEXIST,
            libc::ESTALE,
            libc::ENOSPC,
        ];
        let created = allow("create", created, &allowed, self.scribbled.get());
        let Some((attr, opened)) = created else {
            return;
        };
        if let Some(before) = before {
            assert!(self.owns(&before), "{:?} got {before:?}", self.caller);
            assert!(flags & libc::O_EXCL == 0);
        } else {
            assert_eq!((attr.uid, attr.mode), (self.caller.uid, mode & 0o1777));
        }
        self.keep(opened.file, opened.ino, Kind::State, flags);
    }

    pub(super) fn open(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let name = input.name();
        let flags = Self::flags(input);
        let Ok(attr) = shared.lookup(ROOT, &name) else {
            return;
        };
        self.open_file(shared, &attr, flags, Kind::State);
    }

    fn open_file(&mut self, shared: &Shared, attr: &Attr, flags: i32, kind: Kind) {
        let mode = OpenMode::from_flags(flags);
        let wanted = u32::from(mode.read) << 2 | u32::from(mode.write) << 1;
        if attr.kind == crate::attr::Kind::Directory || !self.may(attr, wanted) {
            return;
        }
        let opened = shared.open(self.caller, attr.ino, flags);
        let mut allowed = vec![libc::ENOSPC];
        if kind == Kind::Registry {
            allowed.push(libc::EACCES);
        }
        if let Some(opened) = allow("open", opened, &allowed, self.scribbled.get()) {
            self.keep(opened.file, opened.ino, kind, flags);
        }
    }

    /// The registry; a record's page; a directory.
    pub(super) fn open_record(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let flags = Self::flags(input);
        match input.byte() % 4 {
            0 | 1 => {
                let attr = shared.getattr(REGISTRY).expect("it is always there");
                self.open_file(shared, &attr, libc::O_RDONLY, Kind::Registry);
            }
            2 => {
                let entries = shared.list(INTENTS).expect("a directory");
                let index = input.below(entries.len());
                let name = entries[index].name.as_bytes();
                let Ok(attr) = shared.lookup(INTENTS, name) else {
                    return;
                };
                self.open_file(shared, &attr, flags, Kind::Record);
            }
            _ => {
                let ino = [ROOT, CONTROL, INTENTS][input.below(3)];
                let file = shared.open_directory(ino).expect("a directory");
                self.keep(file, ino, Kind::Directory, libc::O_RDONLY);
            }
        }
    }

    pub(super) fn write(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let Some(open) = self.any(input).filter(|open| open.write) else {
            return;
        };
        let offset = match input.byte() % 2 {
            0 => 0,
            _ => input.number(),
        };
        let value = input.value();
        let written = shared.write(open.file, offset, &value);
        let allowed = match open.kind {
            Kind::State => &[
                libc::EFBIG,
                libc::ESTALE,
                libc::ENOENT,
                libc::ENOSPC,
                libc::EBUSY,
            ][..],
            _ => &[libc::EBADF],
        };
        allow("write", written, allowed, self.scribbled.get());
    }

    pub(super) fn read(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let Some(open) = self.any(input).filter(|open| open.read) else {
            return;
        };
        let (offset, size) = (input.number(), input.small_number());
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let allowed = match open.kind {
            Kind::Directory => &[libc::EISDIR][..],
            _ => &[],
        };
        let read = shared.read(open.file, offset, size);
        if let Some(bytes) = allow("read", read, allowed, self.scribbled.get()) {
            assert!(bytes.len() <= size.min(4096));
        }
    }

    pub(super) fn poll(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let Some(open) = self.any(input) else { return };
        let poller = input.one_in(2).then(|| Poller::new(|| ()));
        let polled = shared.poll(open.file, poller);
        if let Some(found) = allow("poll", polled, &[], self.scribbled.get()) {
            assert!(!found.writable || open.write);
        }
    }

    pub(super) fn set_attributes(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let through = self.any(input).filter(|open| open.kind == Kind::State);
        let through = through.filter(|_| input.one_in(2));
        let ino = match through {
            Some(open) => open.ino,
            None => self.state(shared, input),
        };
        let Ok(attr) = shared.getattr(ino) else {
            return;
        };
        let mut change = Change::default();
        match input.byte() % 4 {
            0 if self.owns(&attr) => change.mode = Some(input.small_number()),
            1 if self.caller.uid == ROOT_USER => {
                change.uid = Some(super::ALICE + u32::from(input.byte() % 3));
                change.gid = Some(input.small_number());
            }
            2 | 3 if through.map_or(self.may(&attr, 2), |open| open.write) => {
                change.size = Some(input.number());
            }
            _ => return,
        }
        let file = through.map(|open| open.file);
        let changed = shared.setattr(ino, file, change);
        let allowed = [libc::EPERM, libc::EFBIG, libc::EINVAL, libc::ENOSPC];
        allow("setattr", changed, &allowed, self.scribbled.get());
    }

    pub(super) fn extended_attributes(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let ino = self.state(shared, input);
        let Ok(attr) = shared.getattr(ino) else {
            return;
        };
        let names = [
            "linger",
            "capacity",
            "generation",
            "age_ns",
            "layout",
            "waiters",
            "x",
        ];
        let name = match input.byte() % 8 {
            7 => String::from_utf8_lossy(&input.some_bytes()).into_owned(),
            _ => format!("user.kstate.{}", names[input.below(names.len())]),
        };
        match input.byte() % 4 {
            0 if self.may(&attr, 2) => {
                let value = match input.byte() % 4 {
                    0 => input.some_bytes(),
                    1 => format!("{}s", input.number()).into_bytes(),
                    _ => input.number().to_string().into_bytes(),
                };
                let set = shared.set_xattr(self.caller, ino, &name, &value);
                if attr.ino >= crate::table::FIRST_STATE && !self.owns(&attr) {
                    assert!(matches!(set, Err(Errno::EPERM | Errno::EOPNOTSUPP)));
                }
                let allowed = [
                    libc::EPERM,
                    libc::EOPNOTSUPP,
                    libc::EINVAL,
                    libc::EFBIG,
                    libc::ENOSPC,
                ];
                allow("setxattr", set, &allowed, self.scribbled.get());
            }
            1 => {
                allow(
                    "listxattr",
                    shared.list_xattr(ino),
                    &[],
                    self.scribbled.get(),
                );
            }
            _ => {
                allow(
                    "getxattr",
                    shared.get_xattr(ino, &name),
                    &[libc::ENODATA],
                    self.scribbled.get(),
                );
            }
        }
    }

    pub(super) fn unlink(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let name = input.name();
        // The directory is sticky, and root's.
        if let Ok(attr) = shared.lookup(ROOT, &name)
            && self.owns(&attr)
        {
            let allowed = [libc::EBUSY, libc::EPERM];
            allow(
                "unlink",
                shared.unlink(self.caller, ROOT, &name),
                &allowed,
                false,
            );
        }
    }

    pub(super) fn close(&mut self, shared: &Shared, input: &mut Input<'_>) {
        if !self.open.is_empty() {
            let index = input.below(self.open.len());
            shared.release(self.open.swap_remove(index).file);
        }
    }

    /// At anything.
    pub(super) fn look(&mut self, shared: &Shared, input: &mut Input<'_>) {
        match input.byte() % 4 {
            0 => {
                let parent = match input.byte() % 4 {
                    0 => input.number(),
                    other => [ROOT, CONTROL, INTENTS][usize::from(other) - 1],
                };
                let allowed = [
                    libc::ENOENT,
                    libc::EINVAL,
                    libc::ENAMETOOLONG,
                    libc::ENOTDIR,
                ];
                let found = shared.lookup(parent, &input.name());
                allow("lookup", found, &allowed, false);
            }
            1 => {
                let found = shared.getattr(input.number());
                allow("getattr", found, &[libc::ESTALE], false);
            }
            2 => {
                let Some(open) = self.any(input) else { return };
                let found = shared.getattr_open(open.ino, open.file);
                allow("fstat", found, &[libc::ESTALE], false);
            }
            _ => {
                let Some(open) = self.any(input) else { return };
                let entries = shared.entries(open.file);
                assert_eq!(entries.is_ok(), open.kind == Kind::Directory);
                shared.space().expect("the tmpfs is there");
            }
        }
    }

    /// A word into a region that it may write.
    pub(super) fn scribble(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let Some(open) = self.any(input).filter(|open| open.write) else {
            return;
        };
        let (mut place, word) = input.scribble();
        let opened = crate::fs::Opened {
            file: open.file,
            ino: open.ino,
        };
        let Ok(region) = shared.region_of(&opened) else {
            return;
        };
        if open.kind == Kind::Record {
            place = 8 * (place / 8 % 64);
        }
        let offset = i64::try_from(place).expect("within a region");
        let put = |file: BorrowedFd<'_>| {
            nix::sys::uio::pwrite(file, &word.to_ne_bytes(), offset)?;
            Ok(())
        };
        region.file().with(put).expect("memory");
        self.scribbled.set(true);
    }

    pub(super) fn ioctl(&mut self, shared: &Shared, input: &mut Input<'_>) -> Option<Held> {
        let open = self.any(input)?;
        let command = input.command();
        let mut argument = input.argument(command);
        if command == ioctl::RELEASE_RECORD
            && let Some(number) = self.records.last()
            && input.one_in(2)
        {
            argument = number.to_ne_bytes().to_vec();
        }
        let attr = shared.getattr_open(open.ino, open.file).ok()?;
        let is_stranger = open.kind == Kind::State && !open.write && !self.owns(&attr);
        let before = is_stranger.then(|| shown(shared, open));
        let answer = shared.ioctl(self.caller, open.file, command, &argument);
        let allowed = match open.kind {
            Kind::State => of_state(command),
            Kind::Registry => of_registry(command),
            Kind::Record => of_others(command),
            Kind::Directory => &[libc::ENOTTY],
        };
        let allowed = match (open.kind, command) {
            // Only where there is a socket.
            (Kind::Registry | Kind::Record, ioctl::TICKET) => &[libc::ENOTTY],
            _ => allowed,
        };
        let what = (open, command, &argument);
        let answer = allow(what, answer, allowed, self.scribbled.get())?;
        if let Some(before) = before {
            let after = shown(shared, open);
            assert_eq!(before, after, "{:?} did {command:x}", self.caller);
        }
        if command & 1 << 31 == 0 {
            assert!(answer.is_empty());
        }
        match command {
            ioctl::TICKET => {
                if open.kind == Kind::State {
                    assert!(open.read, "a ticket is for who may read");
                }
                Some(Held {
                    ticket: Ticket::read_from_bytes(&answer).expect("as long as a ticket"),
                    uid: self.caller.uid,
                    writable: open.write,
                })
            }
            ioctl::RECORD => {
                let number = u32::read_from_bytes(&answer).expect("a number");
                self.records.push(number);
                None
            }
            ioctl::CLAIM | ioctl::SET_CAPACITY => {
                assert!(open.write, "only for who may write");
                None
            }
            _ => None,
        }
    }

    /// Closes all it has open, and gives its records back.
    pub(super) fn leave(self, shared: &Shared) {
        for open in &self.open {
            shared.release(open.file);
        }
        for number in self.records {
            // Which may have been done already.
            let _ = shared.reaper.release_record(self.caller.tid, number);
        }
    }
}

fn shown(shared: &Shared, open: Open) -> Option<Shown> {
    let opened = crate::fs::Opened {
        file: open.file,
        ino: open.ino,
    };
    let Ok(crate::fs::Region::State(state)) = shared.region_of(&opened) else {
        return None;
    };
    let value = state.read().ok();
    Some(Shown {
        value: value.map(|(head, bytes)| (head.generation().0, bytes)),
        capacity: state.capacity(),
        linger: state.attributes().linger,
        mode: state.attributes().mode,
        layout: state.layout().map(|layout| layout.id),
        writers: state.counts().writers,
    })
}
