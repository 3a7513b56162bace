//! Making states persistent: who may, with which file. What comes after is below: `coming_back.rs`,
//! `keeping.rs`.

mod coming_back;
mod keeping;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kstate_sys::persist::{USUAL_WITHIN_NS, outcome};
use kstate_sys::region::Generation;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{Caller, Shared};
use crate::errno::Errno;
use crate::inode::Node;
use crate::persist::opening::{self, Ids, IfAbsent, OpenError, Opened};
use crate::persist::{Entry, FileError, LockedFile, StateFile, Store};
use crate::rights::Credentials;
use crate::socket::Asked;
use crate::state::State;

use coming_back::begin_again;

/// Files that are being opened for one user at once: each takes a thread, which a file system can hang.
const MOST_OF_A_USER: usize = 8;

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

/// The file, locked for as long as it is open.
fn lock(file: File) -> Result<LockedFile, Refused> {
    let locked = LockedFile::new(file)?;
    locked.ok_or(Refused::new(Errno::EBUSY, outcome::IN_USE))
}
