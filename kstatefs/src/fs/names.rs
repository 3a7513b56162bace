//! Calls by name or inode number: looking up, listing, attributes, deleting.

use std::sync::Arc;

use kstate_sys::abi::page_size;
use kstate_sys::name::StateName;

use super::{Caller, OpenFile, Shared};
use crate::attr::{Attr, Kind};
use crate::changes;
use crate::errno::Errno;
use crate::inode::{ALL_CHANGES, Node, REPORTS};
use crate::intents::{IntentRecord, Part};
use crate::process::process_of;
use crate::rights::Credentials;
use crate::state::{Cause, State};
use crate::view::View;
use crate::xattr::{self, Mode};

/// A directory entry.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) ino: u64,
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Change {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
}

impl Shared {
    pub(crate) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr, Errno> {
        match Node::from_ino(parent) {
            Node::Root if name == b".kstate" => Ok(self.directory(Node::Control)),
            Node::Root => match View::split(name)? {
                Some((name, view)) => Ok(view_attr(&*self.named(&name)?, view)),
                None => Ok(Attr::of_state(&*self.named(&StateName::new(name)?)?)),
            },
            Node::Control => self.lookup_control(name),
            Node::Intents => {
                let (record, part) = self.common.intents.named(name).ok_or(Errno::ENOENT)?;
                Ok(self.record_attr(&record, part))
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn lookup_control(&self, name: &[u8]) -> Result<Attr, Errno> {
        match name {
            b"registry" => return Ok(self.text_attr(Node::Registry)),
            b"intents" => return Ok(self.directory(Node::Intents)),
            _ => {}
        }
        if let Some((report, _)) = REPORTS.iter().find(|(_, known)| known.as_bytes() == name) {
            return Ok(self.text_attr(Node::Report(*report)));
        }
        let changes = self.prefixes.lookup(name)?.ok_or(Errno::ENOENT)?;
        Ok(self.text_attr(Node::Changes(changes)))
    }

    /// The kernel has forgotten so many lookups of a file.
    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        if let Node::Changes(ino) = Node::from_ino(ino) {
            self.prefixes.forget(ino, lookups);
        }
    }

    pub(crate) fn getattr(&self, ino: u64) -> Result<Attr, Errno> {
        match Node::from_ino(ino) {
            node @ (Node::Root | Node::Control | Node::Intents) => Ok(self.directory(node)),
            node @ (Node::Registry | Node::Report(_) | Node::Changes(_)) => {
                Ok(self.text_attr(node))
            }
            Node::Record(number, part) => {
                let record = self.common.intents.get(number).ok_or(Errno::ESTALE)?;
                Ok(self.record_attr(&record, part))
            }
            // The kernel asks by number for open files as well.
            Node::State(ino) => Ok(Attr::of_state(&*self.known(ino)?)),
            Node::View(ino, view) => Ok(view_attr(&*self.known(ino)?, view)),
            Node::Unknown => Err(Errno::ESTALE),
        }
    }

    pub(crate) fn setattr(
        &self,
        ino: u64,
        file: Option<u64>,
        change: Change,
    ) -> Result<Attr, Errno> {
        let Node::State(ino) = Node::from_ino(ino) else {
            return Err(Errno::EPERM);
        };
        let handle = match file.map(|file| self.file(file)) {
            Some(Ok(OpenFile::State(handle))) => Some(handle),
            _ => None,
        };
        let state = match &handle {
            Some(handle) => handle.state.clone(),
            None => self.known(ino)?,
        };
        match (change.size, &handle) {
            (Some(0), Some(handle)) => handle.truncate(),
            // Without an open file there is no next write: nothing to do, as nothing is committed.
            (Some(0), None) | (None, _) => {}
            (Some(size), _) => {
                state.set_capacity(size)?;
            }
        }
        if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() {
            state.set_attributes(|attributes| {
                // No program is ever run from here: set-id bits mean nothing.
                attributes.mode = change.mode.map_or(attributes.mode, |mode| mode & 0o1777);
                attributes.uid = change.uid.unwrap_or(attributes.uid);
                attributes.gid = change.gid.unwrap_or(attributes.gid);
            })?;
            if change.uid.is_some() || change.gid.is_some() {
                self.give_file(&state, change.uid.is_some());
            }
            self.common.streams.rights_changed(&state);
            self.look_after(&state);
        }
        Ok(Attr::of_state(&state))
    }

    pub(crate) fn unlink(&self, caller: Caller, parent: u64, name: &[u8]) -> Result<(), Errno> {
        if Node::from_ino(parent) != Node::Root
            || name == b".kstate"
            || View::split(name)?.is_some()
        {
            return Err(Errno::EPERM);
        }
        let name = StateName::new(name)?;
        let process = process_of(i32::try_from(caller.tid).unwrap_or(0));
        let state = self.named(&name)?;
        if self.has_others(&state, process) {
            return Err(Errno::EBUSY);
        }
        // Not with the table locked: it writes to a file. A state that stays after all is put back.
        let listed = self.unlist(&state)?;
        let deleted = self.delete(&state, process);
        match deleted {
            Ok(()) => self.let_go_of_store(&state),
            Err(_) => self.list_again(listed),
        }
        deleted
    }

    fn delete(&self, state: &Arc<State>, process: Option<i32>) -> Result<(), Errno> {
        let mut table = self.table_mut();
        let found = table.numbered(state.ino()).cloned();
        let state = found.ok_or(Errno::ENOENT)?;
        if self.has_others(&state, process) {
            return Err(Errno::EBUSY);
        }
        if self.common.ledger.is_left() {
            // Nothing goes any more; the next daemon can be asked.
            return Err(Errno::ENOTCONN);
        }
        let retired = self.retire(&mut table, &state, Cause::Deleted);
        drop(table);
        retired.tell();
        Ok(())
    }

    /// Whether another process than this one is subscribed.
    fn has_others(&self, state: &Arc<State>, process: Option<i32>) -> bool {
        if state.is_awaited_by_others(process, &self.reaper) {
            return true;
        }
        self.files().values().any(|file| match file {
            OpenFile::State(handle) => {
                Arc::ptr_eq(&handle.state, state)
                    && (handle.opener.is_none() || handle.opener != process)
            }
            _ => false,
        })
    }

    /// What is in a directory, as it is now. Views, and streams of what begins alike, are not listed.
    pub(crate) fn list(&self, ino: u64) -> Result<Vec<Entry>, Errno> {
        let node = Node::from_ino(ino);
        let entry = |node: Node, kind, name: &str| Entry {
            ino: node.ino(),
            kind,
            name: name.into(),
        };
        let mut entries = vec![
            entry(node, Kind::Directory, "."),
            entry(Node::Root, Kind::Directory, ".."),
        ];
        match node {
            Node::Root => {
                entries.push(entry(Node::Control, Kind::Directory, ".kstate"));
                let table = self.table();
                entries.reserve(table.len());
                let state =
                    |s: &Arc<State>| entry(Node::State(s.ino()), Kind::File, s.name().as_str());
                entries.extend(table.iter().map(state));
            }
            Node::Control => {
                entries.push(entry(Node::Registry, Kind::File, "registry"));
                entries.push(entry(Node::Intents, Kind::Directory, "intents"));
                for (report, name) in REPORTS {
                    entries.push(entry(Node::Report(report), Kind::File, name));
                }
                let changes = Node::Changes(ALL_CHANGES);
                entries.push(entry(changes, Kind::File, changes::NAME));
            }
            Node::Intents => {
                for record in self.common.intents.all() {
                    let name = record.number().to_string();
                    entries.push(entry(record.node(Part::Status), Kind::File, &name));
                    let list = format!("{name}.list");
                    entries.push(entry(record.node(Part::List), Kind::File, &list));
                }
            }
            _ => return Err(Errno::ENOTDIR),
        }
        Ok(entries)
    }

    // --- extended attributes ----------------------------------------------------------------

    pub(crate) fn get_xattr(&self, ino: u64, name: &str) -> Result<Vec<u8>, Errno> {
        // Said of all files, so that programs that ask each for a label or for lists of rights
        // ask only once.
        if !name.starts_with("user.") {
            return Err(Errno::EOPNOTSUPP);
        }
        match Node::from_ino(ino) {
            Node::State(ino) | Node::View(ino, _) => xattr::get(&*self.known(ino)?, name),
            _ => Err(Errno::ENODATA),
        }
    }

    pub(crate) fn list_xattr(&self, caller: Caller, ino: u64) -> Result<Vec<u8>, Errno> {
        match Node::from_ino(ino) {
            Node::State(ino) | Node::View(ino, _) => {
                let state = self.known(ino)?;
                // The kernel asks for rights when one is read, and for none here.
                match Credentials::of(caller).may_read(&state.attributes()) {
                    true => Ok(xattr::list(&state)),
                    false => Ok(Vec::new()),
                }
            }
            _ => Ok(Vec::new()),
        }
    }

    /// `value` is none to remove it.
    pub(crate) fn set_xattr(
        &self,
        caller: Caller,
        ino: u64,
        name: &str,
        value: Option<&[u8]>,
        mode: Mode,
    ) -> Result<(), Errno> {
        if !name.starts_with("user.") {
            return Err(Errno::EOPNOTSUPP);
        }
        let state = match Node::from_ino(ino) {
            Node::State(ino) => self.known(ino)?,
            Node::View(..) => return Err(Errno::EPERM),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        // The kernel asks for write permission; what decides how long a state stays is its
        // owner's to set, as with the ioctl.
        if caller.uid != 0 && caller.uid != state.attributes().uid {
            return Err(Errno::EPERM);
        }
        match value {
            Some(value) => xattr::set(self, &state, name, value, mode)?,
            None => xattr::remove(self, &state, name)?,
        }
        // It may have to go sooner, or later, than it would have.
        self.look_after(&state);
        Ok(())
    }

    // --- parts ------------------------------------------------------------------------------

    fn named(&self, name: &StateName) -> Result<Arc<State>, Errno> {
        let table = self.table();
        table.named(name.as_str()).cloned().ok_or(Errno::ENOENT)
    }

    fn directory(&self, node: Node) -> Attr {
        Attr {
            ino: node.ino(),
            kind: Kind::Directory,
            mode: match node {
                Node::Root => self.settings.root_mode,
                _ => 0o555,
            },
            uid: self.settings.uid,
            gid: self.settings.gid,
            size: 0,
            modified: self.mounted,
            changed: self.mounted,
            block: page_size(),
        }
    }

    /// A file that anybody may read, and whose length nobody knows before.
    fn text_attr(&self, node: Node) -> Attr {
        Attr {
            kind: Kind::File,
            mode: 0o444,
            ..self.directory(node)
        }
    }

    fn record_attr(&self, record: &IntentRecord, part: Part) -> Attr {
        let (uid, gid) = record.user();
        Attr {
            mode: match part {
                Part::Status => 0o644,
                Part::List => 0o600,
            },
            uid,
            gid,
            ..self.text_attr(record.node(part))
        }
    }
}

/// Of a view: as its state, but for reading alone.
fn view_attr(state: &State, view: View) -> Attr {
    let attr = Attr::of_state(state);
    Attr {
        ino: Node::View(state.ino(), view).ino(),
        mode: attr.mode & 0o444,
        ..attr
    }
}
