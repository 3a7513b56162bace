//! What is asked of persistent states: when their versions are on the medium, whose their files are, and
//! their end.

use std::sync::Arc;
use std::time::Duration;

use kstate_sys::region::Generation;
use zerocopy::FromBytes;

use super::super::files::OpenFile;
use super::super::{Caller, Shared};
use crate::errno::Errno;
use crate::persist::{Done, Entry, Store, flush_last};
use crate::state::State;

impl Shared {
    /// How soon behind a commit its version is to be in the state's file, from now on.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for a state that has none.
    pub(crate) fn set_durability(&self, state: &Arc<State>, within: Duration) -> Result<(), Errno> {
        let store = state.store().ok_or(Errno::EOPNOTSUPP)?;
        store.set_within(within);
        self.flusher.stir(state, &store);
        Ok(())
    }

    /// As [`sync_state`](Self::sync_state), of an open file, as `SYNC` asks.
    pub(crate) fn sync_file(&self, file: u64, argument: &[u8], done: Done) {
        let generation = u64::read_from_bytes(argument).map_err(|_| Errno::EINVAL);
        match (self.file(file), generation) {
            (Ok(OpenFile::State(handle)), Ok(generation)) if handle.view.is_none() => {
                self.sync_state(&handle.state, generation, done);
            }
            (Err(errno), _) | (_, Err(errno)) => done(Err(errno)),
            _ => done(Err(Errno::ENOTTY)),
        }
    }

    /// Has `done` called once what was written through an open file is on the medium: at once where it
    /// is in memory for good.
    pub(crate) fn fsync(&self, file: u64, done: Done) {
        match self.file(file) {
            Ok(OpenFile::State(handle)) if handle.state.store().is_some() => {
                self.sync_state(&handle.state, 0, done);
            }
            Ok(_) => done(Ok(Generation::NEVER)),
            Err(errno) => done(Err(errno)),
        }
    }

    /// Has `done` called once the version `generation` of a state, or the newest if it is 0, is on the medium.
    pub(crate) fn sync_state(&self, state: &Arc<State>, generation: u64, done: Done) {
        let wanted = || {
            let newest = state.newest()?;
            let store = match state.store() {
                _ if state.is_gone() => return Err(Errno::ESTALE),
                None => return Err(Errno::EOPNOTSUPP),
                Some(store) => store,
            };
            match Generation(generation) {
                Generation::NEVER => Ok((store, newest)),
                wanted if wanted <= newest => Ok((store, wanted)),
                _ => Err(Errno::EINVAL),
            }
        };
        match wanted() {
            Ok((store, generation)) => self.flusher.sync(state, &store, generation, done),
            Err(errno) => done(Err(errno)),
        }
    }

    /// A persistent state has been given to another user or group: so is its file. Another user need not be able to
    /// come to it, and only root can have given it away, with whose rights it is opened from then on.
    pub(in crate::fs) fn give_file(&self, state: &State, is_other_user: bool) {
        let Some(store) = state.store() else { return };
        let attributes = state.attributes();
        let given = || -> Result<(), Errno> {
            store.give_to(attributes.uid, attributes.gid)?;
            if is_other_user {
                let entry = Entry {
                    name: state.name().clone(),
                    path: store.path().to_owned(),
                    uid: 0,
                    gid: 0,
                };
                state.note_file(entry.to_line())?;
                if let Some(manifest) = &self.manifest {
                    manifest.put(entry)?;
                }
            }
            Ok(())
        };
        if let Err(errno) = given() {
            let error = std::io::Error::from_raw_os_error(errno.code());
            tracing::error!(state = %state.name(), %error, "its file is not its new owner's");
        }
    }

    /// Takes a persistent state that is to be deleted out of the list of those that come back.
    ///
    /// # Errors
    ///
    /// What the list's medium says; then the state stays.
    pub(in crate::fs) fn unlist(&self, state: &State) -> Result<Option<Entry>, Errno> {
        match state.store() {
            Some(store) => self.unlist_entry(state, &store),
            None => Ok(None),
        }
    }

    pub(super) fn unlist_entry(
        &self,
        state: &State,
        store: &Store,
    ) -> Result<Option<Entry>, Errno> {
        match &self.manifest {
            Some(manifest) => Ok(manifest.remove(state.name(), store.path())?),
            None => Ok(None),
        }
    }

    /// Puts one back that stays after all.
    pub(in crate::fs) fn list_again(&self, listed: Option<Entry>) {
        if let (Some(entry), Some(manifest)) = (listed, &self.manifest)
            && let Err(error) = manifest.put(entry).map(drop)
        {
            tracing::error!(%error, "a persistent state is not listed any more");
        }
    }

    /// The file of a state that has been deleted gets the last version there was, and is nobody's then.
    pub(in crate::fs) fn let_go_of_store(&self, state: &State) {
        if let Some(store) = state.take_store() {
            self.flusher.end(state, &store);
            flush_last(state, &store, true);
        }
    }

    /// Deletes a state by name, and calls `done`: in a thread of its own where that has to write to files.
    pub(crate) fn unlink_in_time(
        self: &Arc<Self>,
        caller: Caller,
        parent: u64,
        name: Vec<u8>,
        done: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let state = std::str::from_utf8(&name).ok();
        let state = state.and_then(|name| self.table().named(name).cloned());
        if state.is_none_or(|state| state.store().is_none()) {
            return done(self.unlink(caller, parent, &name));
        }
        let shared = self.clone();
        let in_thread = move || done(shared.unlink(caller, parent, &name));
        let started = std::thread::Builder::new()
            .name("kstate-unlink".into())
            .spawn(in_thread);
        if let Err(error) = started {
            // Whoever waits is told by the end of what was to be the thread's: a reply that is dropped is EIO.
            tracing::error!(%error, "a persistent state was not deleted");
        }
    }
}
