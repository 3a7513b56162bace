//! One caller and the files it has open.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use super::ROOT_USER;
use super::errors::allow;
use super::input::Input;
use super::told::Told;
use super::waiting::{Reader, Waiting};
use super::world::{Person, Rights, World};
use crate::attr::Attr;
use crate::errno::Errno;
use crate::fs::{Caller, Change, Opened, Shared};
use crate::handle::OpenMode;
use crate::inode::{Node, REPORTS, Report};
use crate::poll::Poller;
use crate::xattr::Mode;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) caller: Caller,
    pub(super) person: Person,
    pub(super) open: Vec<Open>,
    /// Numbers of records that it was given.
    pub(super) records: Vec<u32>,
    /// States that it may read, or could at some time.
    pub(super) ever: HashSet<u64>,
    /// Who makes those of its reads that wait.
    pub(super) reader: Option<Reader>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) world: Rc<World>,
}

/// An open file.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) opened: Opened,
    pub(super) kind: Kind,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) flags: i32,
    /// What a stream of changes has told.
    pub(super) told: Rc<RefCell<Told>>,
}

impl Open {
    pub(super) fn file(&self) -> u64 {
        self.opened.file
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    State,
    View,
    Registry,
    Record,
    Report(Report),
    Changes,
    Directory,
}

impl Kind {
    fn of(ino: u64) -> Self {
        match Node::from_ino(ino) {
            Node::Root | Node::Control | Node::Intents => Self::Directory,
            Node::Registry => Self::Registry,
            Node::Report(report) => Self::Report(report),
            Node::Changes(_) => Self::Changes,
            Node::State(_) => Self::State,
            Node::View(..) => Self::View,
            Node::Record(..) => Self::Record,
            Node::Unknown => panic!("nobody opens {ino}"),
        }
    }
}

fn root() -> u64 {
    Node::Root.ino()
}

fn rights(attr: &Attr) -> Rights {
    Rights {
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
    }
}

impl Client {
    pub(super) fn new(caller: Caller, world: Rc<World>) -> Self {
        Self {
            caller,
            person: Person::of(caller),
            open: Vec::new(),
            records: Vec::new(),
            ever: HashSet::new(),
            reader: None,
            waiting: Vec::new(),
            world,
        }
    }

    fn may(&self, attr: &Attr, wanted: u32) -> bool {
        self.person.may(rights(attr), wanted)
    }

    pub(super) fn owns(&self, attr: &Attr) -> bool {
        self.person.owns(rights(attr))
    }

    /// Rights may have changed.
    pub(super) fn note_rights(&mut self, shared: &Shared) {
        self.ever.extend(self.person.readable(shared).keys());
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

    fn keep(&mut self, opened: Opened, flags: i32, prefix: &str) {
        let mode = OpenMode::from_flags(flags);
        let kind = Kind::of(opened.ino);
        let is_mappable = matches!(kind, Kind::State | Kind::Registry | Kind::Record);
        assert_eq!(opened.mappable, is_mappable);
        let is_stream = match Node::from_ino(opened.ino) {
            Node::Changes(_) => true,
            Node::View(_, view) => view.waits,
            _ => false,
        };
        assert_eq!(opened.stream, is_stream);
        self.open.push(Open {
            opened,
            kind,
            read: mode.read,
            write: mode.write,
            flags,
            told: Rc::new(RefCell::new(Told::new(prefix))),
        });
    }

    pub(super) fn any(&self, input: &mut Input<'_>) -> Option<Open> {
        match self.open.len() {
            0 => None,
            count => Some(self.open[input.below(count)].clone()),
        }
    }

    /// The inode number of a state or of a view, or none of any.
    pub(super) fn state(&self, shared: &Shared, input: &mut Input<'_>) -> u64 {
        match input.byte() % 4 {
            0 => input.number(),
            _ => match shared.lookup(root(), &input.name()) {
                Ok(attr) => attr.ino,
                Err(_) => root(),
            },
        }
    }

    /// Also where the state is there already, as when somebody else was faster.
    pub(super) fn create(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let name = input.name();
        let mode = [0o644, 0o600, 0o666, 0o1644, 0o444, 0o7777][input.below(6)];
        let flags = Self::flags(input);
        let before = shared.lookup(root(), &name).ok();
        let created = shared.create(self.caller, root(), &name, mode, flags);
        let allowed = [
            libc::EINVAL,
            libc::ENAMETOOLONG,
            libc::EEXIST,
            libc::ESTALE,
            libc::ENOSPC,
            // A view of what is not there.
            libc::ENOENT,
        ];
        let created = allow("create", created, &allowed, self.world.scribbled.get());
        let Some((attr, opened)) = created else {
            return;
        };
        if let Some(before) = before {
            assert!(self.owns(&before), "{:?} got {before:?}", self.caller);
            assert!(flags & libc::O_EXCL == 0);
        } else {
            assert_eq!((attr.uid, attr.mode), (self.caller.uid, mode & 0o1777));
        }
        self.keep(opened, flags, "");
    }

    /// A state, or a view of one.
    pub(super) fn open(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let name = match input.byte() % 2 {
            0 => input.name(),
            _ => input.view(),
        };
        let flags = Self::flags(input);
        if let Ok(attr) = shared.lookup(root(), &name) {
            self.open_file(shared, &attr, flags, "");
        }
    }

    fn open_file(&mut self, shared: &Shared, attr: &Attr, flags: i32, prefix: &str) {
        let mode = OpenMode::from_flags(flags);
        let wanted = u32::from(mode.read) << 2 | u32::from(mode.write) << 1;
        if attr.kind == crate::attr::Kind::Directory || !self.may(attr, wanted) {
            return;
        }
        let opened = shared.open(self.caller, attr.ino, flags);
        let mut allowed = vec![libc::ENOSPC];
        if !matches!(Kind::of(attr.ino), Kind::State | Kind::Record) && mode.write {
            allowed.push(libc::EACCES);
        }
        if let Some(opened) = allow("open", opened, &allowed, self.world.scribbled.get()) {
            assert_eq!(opened.ino, attr.ino);
            self.keep(opened, flags, prefix);
        }
    }

    /// Something in `.kstate`, or a directory.
    pub(super) fn open_control(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let flags = Self::flags(input);
        let control = Node::Control.ino();
        match input.byte() % 5 {
            0 => {
                let attr = shared.getattr(Node::Registry.ino());
                self.open_file(shared, &attr.expect("always there"), libc::O_RDONLY, "");
            }
            1 => {
                let (_, name) = REPORTS[input.below(REPORTS.len())];
                let attr = shared.lookup(control, name.as_bytes());
                self.open_file(shared, &attr.expect("always there"), flags, "");
            }
            2 => {
                let name = input.changes();
                let attr = shared.lookup(control, name.as_bytes());
                let Ok(attr) = attr else { return };
                self.world.looked_up(attr.ino);
                let prefix = name.split_once('@').map_or("", |(_, prefix)| prefix);
                self.open_file(shared, &attr, libc::O_RDONLY, prefix);
            }
            3 => {
                let entries = shared.list(Node::Intents.ino()).expect("a directory");
                let index = input.below(entries.len());
                let name = entries[index].name.as_bytes();
                let Ok(attr) = shared.lookup(Node::Intents.ino(), name) else {
                    return;
                };
                self.open_file(shared, &attr, flags, "");
            }
            _ => {
                let ino = [Node::Root, Node::Control, Node::Intents][input.below(3)].ino();
                let file = shared.open_directory(ino).expect("a directory");
                let (mappable, stream) = (false, false);
                let opened = Opened {
                    file,
                    ino,
                    mappable,
                    stream,
                };
                self.keep(opened, libc::O_RDONLY, "");
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
        // fcntl(2) may have changed it since.
        let flags = match input.one_in(4) {
            true => open.flags ^ libc::O_APPEND,
            false => open.flags,
        };
        let written = shared.write(self.caller, open.file(), offset, &value, flags);
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
        allow("write", written, allowed, self.world.scribbled.get());
    }

    pub(super) fn poll(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let Some(open) = self.any(input) else { return };
        let poller = input.one_in(2).then(|| Poller::new(|| ()));
        let polled = shared.poll(open.file(), poller);
        if let Some(found) = allow("poll", polled, &[], self.world.scribbled.get()) {
            assert!(!found.writable || open.write);
        }
    }

    pub(super) fn set_attributes(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let through = self.any(input).filter(|open| open.kind == Kind::State);
        let through = through.filter(|_| !input.one_in(3));
        let ino = match &through {
            Some(open) => open.opened.ino,
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
            2 | 3 if through.as_ref().map_or(self.may(&attr, 2), |o| o.write) => {
                change.size = Some(input.number());
            }
            _ => return,
        }
        // The kernel does not always say through which file.
        let file = through.map(|open| open.file());
        let file = file.filter(|_| !input.one_in(3));
        if change.size.is_none() {
            self.world.changed.borrow_mut().insert(ino);
        }
        let changed = shared.setattr(ino, file, change);
        let allowed = [libc::EPERM, libc::EFBIG, libc::EINVAL, libc::ENOSPC];
        allow("setattr", changed, &allowed, self.world.scribbled.get());
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
            "deadline",
            "overdue",
            "announce",
            "x",
        ];
        let name = match input.byte() % 8 {
            7 => String::from_utf8_lossy(&input.some_bytes()).into_owned(),
            6 => "user.kstate.deadline".into(),
            _ => format!("user.kstate.{}", names[input.below(names.len())]),
        };
        match input.byte() % 4 {
            0 if self.may(&attr, 2) => {
                let value = match input.byte() % 4 {
                    0 => input.some_bytes(),
                    1 => format!("{}s", input.number()).into_bytes(),
                    _ => input.number().to_string().into_bytes(),
                };
                let value = (!input.one_in(8)).then_some(&value[..]);
                let mode = [Mode::Any, Mode::Any, Mode::Create, Mode::Replace][input.below(4)];
                let set = shared.set_xattr(self.caller, ino, &name, value, mode);
                if !self.owns(&attr) {
                    assert!(matches!(set, Err(Errno::EPERM | Errno::EOPNOTSUPP)));
                }
                let allowed = [
                    libc::EPERM,
                    libc::EOPNOTSUPP,
                    libc::EINVAL,
                    libc::EFBIG,
                    libc::ENOSPC,
                    libc::EEXIST,
                    libc::ENODATA,
                ];
                allow("setxattr", set, &allowed, self.world.scribbled.get());
            }
            1 => {
                allow(
                    "listxattr",
                    shared.list_xattr(self.caller, ino),
                    &[],
                    self.world.scribbled.get(),
                );
            }
            _ => {
                allow(
                    "getxattr",
                    shared.get_xattr(ino, &name),
                    &[libc::ENODATA, libc::EOPNOTSUPP],
                    self.world.scribbled.get(),
                );
            }
        }
    }

    pub(super) fn unlink(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let name = input.name();
        // The directory is sticky, and root's.
        if let Ok(attr) = shared.lookup(root(), &name)
            && self.owns(&attr)
        {
            let allowed = [libc::EBUSY, libc::EPERM];
            allow(
                "unlink",
                shared.unlink(self.caller, root(), &name),
                &allowed,
                false,
            );
        }
    }

    pub(super) fn close(&mut self, shared: &Shared, input: &mut Input<'_>) {
        if !self.open.is_empty() {
            let index = input.below(self.open.len());
            self.close_file(shared, index);
        }
    }

    pub(super) fn close_file(&mut self, shared: &Shared, index: usize) {
        let open = self.open.swap_remove(index);
        self.end_reads(shared, &open);
        shared.release(open.file());
    }

    /// Closes those of its files, and gives its records back.
    pub(super) fn leave(&mut self, shared: &Shared, which: impl Fn(Kind) -> bool) {
        for index in (0..self.open.len()).rev() {
            if which(self.open[index].kind) {
                self.close_file(shared, index);
            }
        }
        for number in self.records.drain(..) {
            // Which may have been done already.
            let _ = shared.reaper.release_record(self.caller.tid, number);
        }
    }

    /// At anything.
    pub(super) fn look(&mut self, shared: &Shared, input: &mut Input<'_>) {
        match input.byte() % 4 {
            0 => {
                let nodes = [Node::Root, Node::Control, Node::Intents];
                let parent = match input.byte() % 4 {
                    0 => input.number(),
                    other => nodes[usize::from(other) - 1].ino(),
                };
                let name = match input.byte() % 2 {
                    0 => input.name(),
                    _ => input.changes().into_bytes(),
                };
                let allowed = [
                    libc::ENOENT,
                    libc::EINVAL,
                    libc::ENAMETOOLONG,
                    libc::ENOTDIR,
                ];
                let found = shared.lookup(parent, &name);
                if let Some(attr) = allow("lookup", found, &allowed, false) {
                    self.world.looked_up(attr.ino);
                }
            }
            1 => {
                let found = shared.getattr(input.number());
                allow("getattr", found, &[libc::ESTALE], false);
            }
            2 => {
                let Some(open) = self.any(input) else { return };
                let found = shared.getattr(open.opened.ino);
                // A record's page may be there no more.
                let allowed: &[i32] = match open.kind {
                    Kind::Record => &[libc::ESTALE],
                    _ => &[],
                };
                allow("fstat", found, allowed, false);
            }
            _ => {
                let Some(open) = self.any(input) else { return };
                let entries = shared.entries(open.file(), u64::from(input.byte() % 3));
                assert_eq!(entries.is_ok(), open.kind == Kind::Directory);
                shared.space().expect("the tmpfs is there");
            }
        }
    }
}
