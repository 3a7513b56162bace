//! Persistent states come back: from their files when it mounts, and to their files from what a dead daemon
//! has left.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use kstate_sys::abi::Geometry;
use kstate_sys::announce::Sinks;
use kstate_sys::name::StateName;
use kstate_sys::region::Generation;

use super::super::Shared;
use crate::errno::Errno;
use crate::ledger::Model;
use crate::persist::opening::{self, Ids, IfAbsent, OpenError};
use crate::persist::{Entry, FileError, Image, LockedFile, StateFile, Store, ceiling};
use crate::state::{Attributes, State};

/// How long a listed state is waited for when it mounts.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a state did not come back.
#[derive(Debug, thiserror::Error)]
enum NotRestored {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("what was noted of it makes no sense")]
    Note,
    #[error("another state has the file, of this mount or of another")]
    InUse,
    #[error(transparent)]
    File(#[from] FileError),
    #[error("it says that user {0} owns the state, and the file is another user's")]
    OtherOwner(u32),
    #[error("it is the file of the state `{0}`")]
    OtherState(StateName),
    #[error(transparent)]
    System(#[from] std::io::Error),
}

impl From<Errno> for NotRestored {
    fn from(errno: Errno) -> Self {
        Self::System(std::io::Error::from_raw_os_error(errno.code()))
    }
}

impl Shared {
    /// Gives states their files again that a dead daemon has left with the rest of them.
    pub(crate) fn reattach(self: &Arc<Self>, model: &Model) {
        for (ino, noted) in &model.states {
            let (Some(text), Ok(state)) = (&noted.persistent, self.state(*ino)) else {
                continue;
            };
            let entry = Entry::from_line(text).ok_or(NotRestored::Note);
            if let Err(error) = entry.and_then(|entry| self.reattach_one(&state, entry)) {
                tracing::error!(
                    state = %state.name(), %error,
                    "a persistent state has lost its file, and stays in memory alone until it is deleted"
                );
                self.not_restored.fetch_add(1, Ordering::Relaxed);
                // Not noted if there is no room: then a later daemon tries again.
                let _ = state.set_attributes(|attributes| attributes.mode |= libc::S_ISVTX);
            }
        }
    }

    /// What is in memory is newer than what is in the file.
    fn reattach_one(self: &Arc<Self>, state: &Arc<State>, entry: Entry) -> Result<(), NotRestored> {
        let listed = entry.clone();
        let ids = Ids::of_user(entry.uid, entry.gid);
        let opened = opening::open_as(&ids, &entry.path, IfAbsent::Fail, self.own_device())?;
        let identity = opening::identity(&opened.file)?;
        let locked = LockedFile::new(opened.file)?.ok_or(NotRestored::InUse)?;
        let (mut file, image) = StateFile::recover(locked)?;
        if image.name != *state.name() {
            return Err(NotRestored::OtherState(image.name));
        }
        // Said to be on the medium only where that is known.
        file.settle()?;
        let generation = Generation(image.generation);
        let store = Store::new(entry.path, identity, file, image.within, generation);
        let store = Arc::new(store);
        state.attach(store.clone(), None)?;
        // The daemon before this one may have had another list, or was deleting it and did not come to that.
        if let Some(manifest) = &self.manifest
            && !manifest.put(listed)?
        {
            tracing::warn!(state = %state.name(), "listed with another file already");
        }
        self.flusher.begin(state, store);
        Ok(())
    }

    /// Brings back what the manifest lists. What cannot be brought back is told, and stays listed. A file
    /// system that does not answer is waited for once a user, and what is on it comes back when it does.
    pub(crate) fn restore_listed(self: &Arc<Self>) {
        let Some(manifest) = &self.manifest else {
            return;
        };
        let mut late = HashSet::new();
        for entry in manifest.entries() {
            // A dead daemon has left it in memory.
            let known = self.table().named(entry.name.as_str()).cloned();
            if known.is_some_and(|state| state.store().is_some()) {
                continue;
            }
            let (sender, restored) = mpsc::sync_channel(1);
            let (shared, theirs) = (self.clone(), entry.clone());
            let started = std::thread::Builder::new()
                .name("kstate-restore".into())
                .spawn(move || {
                    shared.restore_and_tell(&theirs);
                    // Nobody may wait for it any more.
                    let _ = sender.send(());
                });
            if let Err(error) = started {
                self.count_not_restored(&entry, &error.into());
            } else if !late.contains(&entry.uid)
                && restored.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout)
            {
                late.insert(entry.uid);
                tracing::warn!(state = %entry.name, "a file system does not answer; it is not waited for any more");
            }
        }
    }

    fn restore_and_tell(&self, entry: &Entry) {
        if let Err(error) = self.restore_entry(entry) {
            self.count_not_restored(entry, &error);
        }
    }

    fn count_not_restored(&self, entry: &Entry, error: &NotRestored) {
        let file = entry.path.display();
        tracing::error!(state = %entry.name, %file, %error, "a persistent state did not come back");
        self.not_restored.fetch_add(1, Ordering::Relaxed);
    }

    fn restore_entry(&self, entry: &Entry) -> Result<(), NotRestored> {
        let ids = Ids::of_user(entry.uid, entry.gid);
        let opened = opening::open_as(&ids, &entry.path, IfAbsent::Fail, self.own_device())?;
        let identity = opening::identity(&opened.file)?;
        let owner = opened.file.metadata()?.uid();
        let locked = LockedFile::new(opened.file)?.ok_or(NotRestored::InUse)?;
        let (file, image) = StateFile::recover(locked)?;
        if image.name != entry.name {
            return Err(NotRestored::OtherState(image.name));
        }
        // Whose file it is decides whose state it is, and not what its owner has written there.
        if owner != image.uid && owner != 0 {
            return Err(NotRestored::OtherOwner(image.uid));
        }
        let state = self.make_state(&image)?;
        state.check_restorable(&image)?;
        let within = image.within;
        let (file, generation) = begin_again(file, &image, within)?;
        let generation = Generation(generation);
        state.restore(&image, generation)?;
        let store = Arc::new(Store::new(
            entry.path.clone(),
            identity,
            file,
            within,
            generation,
        ));
        self.insert(&state);
        state.attach(store.clone(), Some(entry.to_line()))?;
        self.restore_attributes(&state, &image, true)?;
        self.flusher.begin(&state, store);
        self.registry.bump();
        Ok(())
    }

    /// How many listed states did not come back.
    pub(crate) fn not_restored(&self) -> u64 {
        self.not_restored.load(Ordering::Relaxed)
    }

    /// A state with the rights that `image` has, in no table yet.
    fn make_state(&self, image: &Image) -> Result<Arc<State>, Errno> {
        let mut table = self.table_mut();
        if table.named(image.name.as_str()).is_some() {
            return Err(Errno::EEXIST);
        }
        let ino = table.fresh_ino().ok_or(Errno::ENFILE)?;
        drop(table);
        let length = Geometry::of_this_machine().region_len();
        let file = self.backing.region(ino, length, self.transport)?;
        let attributes = Attributes {
            mode: image.mode & 0o1777,
            uid: image.uid,
            gid: image.gid,
            changed: SystemTime::now(),
            linger: image.linger,
        };
        let state = State::create(ino, image.name.clone(), file, attributes, &self.common)?;
        Ok(Arc::new(state))
    }

    /// What is kept besides value, rights and room. What somebody has set since stays.
    pub(super) fn restore_attributes(
        &self,
        state: &Arc<State>,
        image: &Image,
        is_new: bool,
    ) -> Result<(), Errno> {
        if image.deadline.is_some() && (is_new || state.deadline().is_none()) {
            self.set_deadline(state, image.deadline)?;
        }
        let sinks = Sinks::from_bits(image.announce).unwrap_or_default();
        if !sinks.is_empty()
            && state.sinks().is_empty()
            && let Err(errno) = self.announce(state, sinks)
        {
            let error = std::io::Error::from_raw_os_error(errno.code());
            tracing::warn!(state = %state.name(), %error, "not announced any more");
        }
        if !is_new && state.attributes().linger.is_zero() {
            state.set_attributes(|attributes| attributes.linger = image.linger)?;
        }
        Ok(())
    }
}

/// Writes down that the file's version has been brought back, before anybody can see it: what is committed
/// then has numbers that the file allows for. Returns the number it has from now on.
pub(super) fn begin_again(
    mut file: StateFile<LockedFile>,
    image: &Image,
    within: Duration,
) -> std::io::Result<(StateFile<LockedFile>, u64)> {
    // Versions up to the ceiling may have been seen that are not in the file.
    let generation = match image.clean {
        true => image.generation,
        false if image.generation == 0 => 0,
        false => image.ceiling,
    };
    let again = Image {
        generation,
        ceiling: ceiling(generation, false),
        clean: false,
        within,
        ..image.clone()
    };
    file.save(&again)?;
    Ok((file, generation))
}
