//! Making states persistent, and bringing back those that were.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, SystemTime};

use kstate_sys::abi::Geometry;
use kstate_sys::announce::Sinks;
use kstate_sys::name::StateName;
use kstate_sys::persist::{USUAL_WITHIN_NS, outcome};
use kstate_sys::region::Generation;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use zerocopy::FromBytes;

use super::files::OpenFile;
use super::{Caller, Shared};
use crate::errno::Errno;
use crate::inode::Node;
use crate::ledger::Model;
use crate::persist::opening::{self, Ids, IfAbsent, OpenError, Opened};
use crate::persist::{
    Done, Entry, FileError, Image, LockedFile, StateFile, Store, ceiling, flush_last,
};
use crate::rights::Credentials;
use crate::socket::Asked;
use crate::state::{Attributes, State};

/// Files that are being opened for one user at once: each takes a thread, which a file system can hang.
const MOST_OF_A_USER: usize = 8;

/// How long a listed state is waited for when it mounts.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a state was not made persistent, by number and as `kstate_sys::persist` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) errno: Errno,
    pub(crate) outcome: u32,
}

impl Refused {
    const fn new(errno: Errno, outcome: u32) -> Self {
        Self { errno, outcome }
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ENOTUNIQ => Self::new(errno, outcome::TWO_VALUES),
            Errno::EPROTOTYPE => Self::new(errno, outcome::LAYOUT),
            _ => Self::new(errno, outcome::SYSTEM),
        }
    }
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        Errno::from(error).into()
    }
}

impl From<OpenError> for Refused {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NoFile => Self::new(Errno::EINVAL, outcome::NO_FILE),
            OpenError::OnTheMount => Self::new(Errno::EXDEV, outcome::ON_THE_MOUNT),
            OpenError::System(error) => error.into(),
        }
    }
}

impl From<FileError> for Refused {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Version { .. } => Self::new(Errno::EPROTONOSUPPORT, outcome::VERSION),
            FileError::NotAStateFile | FileError::NotEmpty { .. } => {
                Self::new(Errno::ENOTEMPTY, outcome::NOT_EMPTY)
            }
            FileError::Io(error) => error.into(),
            _ => Self::new(Errno::EUCLEAN, outcome::DAMAGED),
        }
    }
}

/// How many threads each user has open files for states.
#[derive(Debug, Default)]
pub(crate) struct Permits(Arc<Mutex<HashMap<u32, usize>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
struct Permit {
    uid: u32,
    all: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Permits {
    /// None if the user has too many already.
    fn take(&self, uid: u32) -> Option<Permit> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = users.entry(uid).or_default();
        (*count < MOST_OF_A_USER).then(|| {
            *count += 1;
            let all = self.0.clone();
            Permit { uid, all }
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut users = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = users.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

/// What somebody wants to have a state's file.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) path: PathBuf,
    pub(crate) within: Duration,
    /// Whose rights the file is opened with.
    pub(crate) ids: Ids,
    /// The file as the program has it open itself; without it, it is opened and made by its path alone.
    pub(crate) file: Option<File>,
}

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
    /// Makes a state persistent as `caller` asks, by a thread of its own, which calls `done`.
    pub(crate) fn persist_in_background(
        self: &Arc<Self>,
        state: Arc<State>,
        wanted: Wanted,
        done: impl FnOnce(Result<(), Refused>) + Send + 'static,
    ) {
        let Some(permit) = self.permits.take(wanted.ids.uid) else {
            return done(Err(Errno::EBUSY.into()));
        };
        let shared = self.clone();
        // Told by whoever comes to it: the thread, or this one where there is none.
        let done = Arc::new(Mutex::new(Some(done)));
        let theirs = done.clone();
        let take =
            |done: &Mutex<Option<_>>| done.lock().unwrap_or_else(PoisonError::into_inner).take();
        let started = std::thread::Builder::new()
            .name("kstate-persist".into())
            .spawn(move || {
                let _permit = permit;
                let result = shared.persist(&state, wanted);
                shared.look_after(&state);
                if let Some(done) = take(&theirs) {
                    done(result);
                }
            });
        if let Err(error) = started
            && let Some(done) = take(&done)
        {
            done(Err(error.into()));
        }
    }

    /// By path alone, with the caller's rights: what `setxattr(2)` asks for.
    pub(crate) fn persist_by_path(
        self: &Arc<Self>,
        caller: Caller,
        ino: u64,
        path: &[u8],
        done: impl FnOnce(Result<(), Refused>) + Send + 'static,
    ) {
        let found = match Node::from_ino(ino) {
            Node::State(ino) => self.known(ino),
            Node::View(..) => Err(Errno::EPERM),
            _ => Err(Errno::EOPNOTSUPP),
        };
        let state = match found {
            Ok(state) => state,
            Err(errno) => return done(Err(errno.into())),
        };
        if caller.uid != 0 && caller.uid != state.attributes().uid {
            return done(Err(Refused::new(Errno::EPERM, outcome::NOT_OWNER)));
        }
        let Some(path) = opening::text_of(path) else {
            return done(Err(Refused::new(Errno::EINVAL, outcome::NO_FILE)));
        };
        let wanted = Wanted {
            path,
            within: Duration::from_nanos(USUAL_WITHIN_NS),
            ids: Credentials::of(caller).ids(),
            file: None,
        };
        self.persist_in_background(state, wanted, done);
    }

    /// Makes a state persistent. The file is empty, or has what the state had at an earlier time: then that comes
    /// back, if the state has no version of its own.
    fn persist(&self, state: &Arc<State>, wanted: Wanted) -> Result<(), Refused> {
        // One at a time: what two want of one state is decided by the first.
        let _one = state.persisting();
        if state.is_gone() {
            return Err(Errno::ESTALE.into());
        }
        if let Some(store) = state.store() {
            return match store.path() == wanted.path {
                true => {
                    store.set_within(wanted.within);
                    self.flusher.stir(state, &store);
                    Ok(())
                }
                false => Err(Refused::new(Errno::EEXIST, outcome::OTHER_FILE)),
            };
        }
        let if_absent = match wanted.file {
            Some(_) => IfAbsent::Fail,
            None => IfAbsent::Create,
        };
        if let Some(theirs) = &wanted.file {
            self.check_file_of_program(theirs)?;
        }
        let opened = opening::open_as(&wanted.ids, &wanted.path, if_absent, self.own_device());
        let opened = match (opened, &wanted.file) {
            (Ok(opened), Some(theirs))
                if opening::identity(theirs)? != opening::identity(&opened.file)? =>
            {
                return Err(Refused::new(Errno::EINVAL, outcome::NO_FILE));
            }
            // What a program holds and its path does not lead to.
            (Err(OpenError::System(error)), Some(_))
                if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP)) =>
            {
                return Err(Refused::new(Errno::EINVAL, outcome::NO_FILE));
            }
            (opened, _) => opened?,
        };
        let attached = self.attach_opened(state, &wanted, &opened);
        if attached.is_err() {
            opened.undo();
        }
        attached
    }

    /// What can be said of a descriptor that a program has sent, before its path is looked at.
    fn check_file_of_program(&self, file: &File) -> Result<(), Refused> {
        let flags =
            OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).map_err(std::io::Error::from)?);
        let is_open_for_both =
            flags & OFlag::O_ACCMODE == OFlag::O_RDWR && !flags.contains(OFlag::O_PATH);
        let found = file.metadata()?;
        if Some(found.dev()) == self.own_device() {
            return Err(Refused::new(Errno::EXDEV, outcome::ON_THE_MOUNT));
        }
        match is_open_for_both && found.is_file() {
            true => Ok(()),
            false => Err(Refused::new(Errno::EINVAL, outcome::NO_FILE)),
        }
    }

    fn attach_opened(
        &self,
        state: &Arc<State>,
        wanted: &Wanted,
        opened: &Opened,
    ) -> Result<(), Refused> {
        let identity = opening::identity(&opened.file)?;
        let attributes = state.attributes();
        if opened.created && wanted.ids.uid == 0 && nix::unistd::geteuid().is_root() {
            let (uid, gid) = (attributes.uid.into(), attributes.gid.into());
            nix::unistd::fchown(&opened.file, Some(uid), Some(gid))
                .map_err(std::io::Error::from)?;
        }
        if opened.file.metadata()?.uid() != attributes.uid {
            return Err(Refused::new(Errno::EOWNERDEAD, outcome::OTHER_OWNER));
        }
        let file = lock(opened.file.try_clone()?)?;
        let found = match StateFile::recover(&file) {
            Err(FileError::Empty) => None,
            // What is left where power failed before anything of it was on the medium.
            Err(FileError::NotAStateFile) if opening::is_blank(&opened.file)? => None,
            found => Some(found?.1),
        };
        let (file, generation) = match found {
            None => {
                let image = state.image_within(wanted.within)?;
                (StateFile::initialise(file, &image)?, image.generation)
            }
            Some(image) => {
                if image.name != *state.name() {
                    return Err(Refused::new(Errno::EADDRINUSE, outcome::OTHER_STATE));
                }
                // Before anything is written.
                state.check_restorable(&image)?;
                let (file, image) = StateFile::recover(file)?;
                let (file, generation) = begin_again(file, &image, wanted.within)?;
                state.restore(&image, Generation(generation))?;
                self.restore_attributes(state, &image, false)?;
                (file, generation)
            }
        };
        let generation = Generation(generation);
        let store = Store::new(
            wanted.path.clone(),
            identity,
            file,
            wanted.within,
            generation,
        );
        let entry = Entry {
            name: state.name().clone(),
            path: wanted.path.clone(),
            uid: wanted.ids.uid,
            gid: wanted.ids.gid,
        };
        let note = entry.to_line();
        if let Some(manifest) = &self.manifest
            && !manifest.put(entry)?
        {
            // Somebody else's state of that name is listed, and its file was absent when this was mounted.
            return Err(Refused::new(Errno::EEXIST, outcome::OTHER_FILE));
        }
        let store = Arc::new(store);
        if let Err(errno) = state.attach(store.clone(), Some(note)) {
            self.unlist_entry(state, &store)?;
            return Err(errno.into());
        }
        self.flusher.begin(state, store);
        Ok(())
    }

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
    fn restore_attributes(
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
    pub(super) fn give_file(&self, state: &State, is_other_user: bool) {
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
    pub(super) fn unlist(&self, state: &State) -> Result<Option<Entry>, Errno> {
        match state.store() {
            Some(store) => self.unlist_entry(state, &store),
            None => Ok(None),
        }
    }

    fn unlist_entry(&self, state: &State, store: &Store) -> Result<Option<Entry>, Errno> {
        match &self.manifest {
            Some(manifest) => Ok(manifest.remove(state.name(), store.path())?),
            None => Ok(None),
        }
    }

    /// Puts one back that stays after all.
    pub(super) fn list_again(&self, listed: Option<Entry>) {
        if let (Some(entry), Some(manifest)) = (listed, &self.manifest)
            && let Err(error) = manifest.put(entry).map(drop)
        {
            tracing::error!(%error, "a persistent state is not listed any more");
        }
    }

    /// The file of a state that has been deleted gets the last version there was, and is nobody's then.
    pub(super) fn let_go_of_store(&self, state: &State) {
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

    /// As a program asks at the socket.
    pub(crate) fn persist_as_asked(self: &Arc<Self>, asked: Asked) {
        let Asked {
            state,
            request,
            file,
            caller,
            answer,
        } = asked;
        if caller.uid != 0 && caller.uid != state.attributes().uid {
            return answer.say(Err(Refused::new(Errno::EPERM, outcome::NOT_OWNER)));
        }
        let path = request.path().and_then(opening::text_of);
        let Some(path) = path else {
            return answer.say(Err(Refused::new(Errno::EINVAL, outcome::NO_FILE)));
        };
        let wanted = Wanted {
            path,
            within: Duration::from_nanos(request.within_ns),
            ids: Credentials::of(caller).ids(),
            file: file.into_inner().map(Into::into),
        };
        self.persist_in_background(state, wanted, move |done| answer.say(done));
    }

    /// Device number of the mount, once it is mounted.
    fn own_device(&self) -> Option<u64> {
        self.device.get().copied()
    }

    /// The mount has this device number.
    pub(crate) fn is_mounted_as(&self, minor: u64) {
        let minor = u32::try_from(minor).unwrap_or(u32::MAX);
        // Set once, when it is mounted.
        let _ = self.device.set(libc::makedev(0, minor));
    }
}

/// Writes down that the file's version has been brought back, before anybody can see it: what is committed
/// then has numbers that the file allows for. Returns the number it has from now on.
fn begin_again(
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

/// The file, locked for as long as it is open.
fn lock(file: File) -> Result<LockedFile, Refused> {
    let locked = LockedFile::new(file)?;
    locked.ok_or(Refused::new(Errno::EBUSY, outcome::IN_USE))
}
