#![expect(
    unsafe_code,
    reason = "openat2(2), and changing a single thread's ids, have no wrappers"
)]
//! Opening the file of a state with the rights of whoever has chosen it, and no others.
//!
//! The daemon may be root. So the file is opened by a thread that has given root up for good as far as file
//! systems are concerned: there its ids are those of whom it opens for. No symbolic link on the way is followed, so that what was chosen once leads to
//! the same place later.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};

/// With whose rights something is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

impl Ids {
    /// A user's, with the groups that the user has by the system's databases.
    pub(crate) fn of_user(uid: u32, gid: u32) -> Self {
        let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
        let groups = user.and_then(|user| {
            let name = CString::new(user.name).ok()?;
            nix::unistd::getgrouplist(&name, gid.into()).ok()
        });
        let groups = groups.unwrap_or_default();
        Self {
            uid,
            gid,
            groups: groups.iter().map(|group| group.as_raw()).collect(),
        }
    }
}

/// Whether a file that is not there is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfAbsent {
    Create,
    Fail,
}

/// A regular file, open for reading and writing.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    /// Made by this call, mode 0600.
    pub(crate) created: bool,
    /// Where it was found, to take it away again.
    parent: OwnedFd,
    name: CString,
}

impl Opened {
    /// Takes a file away again that this call has made, and that nobody has put another in the place of.
    pub(crate) fn undo(&self) {
        if !self.created {
            return;
        }
        let theirs = nix::sys::stat::fstatat(
            &self.parent,
            self.name.as_c_str(),
            nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
        );
        let ours = self.file.metadata();
        let is_ours = matches!((theirs, ours), (Ok(theirs), Ok(ours))
            if (theirs.st_dev, theirs.st_ino) == (ours.dev(), ours.ino()));
        let flag = nix::unistd::UnlinkatFlags::NoRemoveDir;
        if is_ours
            && let Err(error) = nix::unistd::unlinkat(&self.parent, self.name.as_c_str(), flag)
        {
            tracing::warn!(%error, "an empty file was left behind");
        }
    }
}

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// No absolute path of a regular file.
    #[error("no absolute path of a regular file")]
    NoFile,
    /// In the mount of states.
    #[error("it is in the mount of states itself")]
    OnTheMount,
    /// What the kernel says.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Opens the regular file at `path`, an absolute one, with the rights of `ids`. `own_device` is the mount
/// of states, in which it must not be: a request to itself would wait for the daemon.
///
/// It takes as long as the file systems on the way do, which may be for ever.
///
/// # Errors
///
/// [`OpenError`]; `EPERM` where the daemon may not take those ids, `ELOOP` at a symbolic link. Nothing was made then.
///
/// # Cost
///
/// A thread.
pub(crate) fn open_as(
    ids: &Ids,
    path: &Path,
    if_absent: IfAbsent,
    own_device: Option<u64>,
) -> Result<Opened, OpenError> {
    let (ids, path) = (ids.clone(), path.to_owned());
    let opening = std::thread::Builder::new()
        .name("kstate-open".into())
        .spawn(move || {
            take_ids(&ids)?;
            open(&path, if_absent, own_device)
        })?;
    let panicked = |_| OpenError::System(io::Error::other("a thread of the daemon panicked"));
    opening.join().map_err(panicked)?
}

/// Gives up the calling thread's ids for others, for good. The calls of libc would change those of all
/// threads (nptl(7)).
fn take_ids(ids: &Ids) -> io::Result<()> {
    let own = nix::unistd::geteuid();
    if own.as_raw() == ids.uid {
        return Ok(());
    }
    if !own.is_root() {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let succeeded = |result: libc::c_long| match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    // SAFETY: the array has as many ids as it says.
    succeeded(unsafe {
        libc::syscall(libc::SYS_setgroups, ids.groups.len(), ids.groups.as_ptr())
    })?;
    // Only what file systems look at: with the other ids the thread would be the user's to signal, and so all
    // of the daemon, for whom a signal to a thread that ends it ends the process. The kernel takes the capabilities that
    // concern files from who is no longer root there (capabilities(7)).
    // SAFETY: takes an integer.
    unsafe { libc::syscall(libc::SYS_setfsgid, ids.gid) };
    // Last, as it takes the right to do the others.
    // SAFETY: takes an integer.
    unsafe { libc::syscall(libc::SYS_setfsuid, ids.uid) };
    // They tell what was before, and nothing of a refusal; of an id that is none they change nothing.
    // SAFETY: takes an integer.
    let gid = unsafe { libc::syscall(libc::SYS_setfsgid, u32::MAX) };
    // SAFETY: takes an integer.
    let uid = unsafe { libc::syscall(libc::SYS_setfsuid, u32::MAX) };
    match (gid, uid) == (ids.gid.into(), ids.uid.into()) {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

fn open(path: &Path, if_absent: IfAbsent, own_device: Option<u64>) -> Result<Opened, OpenError> {
    let (parent, name) = split(path).ok_or(OpenError::NoFile)?;
    let no_links = libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    let directory = libc::O_PATH | libc::O_DIRECTORY;
    // SAFETY: AT_FDCWD is what openat2(2) takes besides descriptors, and is not looked at for an absolute path.
    let nowhere = unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };
    let parent = openat2(nowhere, &parent, directory, 0, no_links)?;
    if own_device.is_some() && device_of(parent.as_fd())? == own_device {
        return Err(OpenError::OnTheMount);
    }
    let beneath = no_links | libc::RESOLVE_BENEATH;
    let open = |flags| openat2(parent.as_fd(), &name, flags, 0o600, beneath);
    let usual = libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    // What is there is looked at before it is opened: a device may act on that.
    let (file, created) = match open(libc::O_PATH | libc::O_NOFOLLOW) {
        Ok(found) => {
            let found = File::from(found).metadata()?;
            if !found.is_file() {
                return Err(match found.file_type().is_symlink() {
                    true => io::Error::from_raw_os_error(libc::ELOOP).into(),
                    false => OpenError::NoFile,
                });
            }
            (File::from(open(usual)?), false)
        }
        Err(error)
            if error.raw_os_error() == Some(libc::ENOENT) && if_absent == IfAbsent::Create =>
        {
            let made = open(usual | libc::O_CREAT | libc::O_EXCL)?;
            // Whatever the daemon's umask is.
            fchmodat(
                &parent,
                name.as_c_str(),
                Mode::from_bits_truncate(0o600),
                FchmodatFlags::NoFollowSymlink,
            )
            .ok();
            (File::from(made), true)
        }
        Err(error) => return Err(error.into()),
    };
    let kind = file.metadata()?.file_type();
    if !kind.is_file() || kind.is_fifo() {
        return Err(OpenError::NoFile);
    }
    if created {
        sync_directory(parent.as_fd());
    }
    Ok(Opened {
        file,
        created,
        parent,
        name,
    })
}

/// The directory of an absolute path, and the name in it.
fn split(path: &Path) -> Option<(CString, CString)> {
    let (parent, name) = (path.parent()?, path.file_name()?);
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).ok();
    // A path that ends in a slash means a directory.
    let is_file = path.is_absolute() && path.as_os_str().as_bytes().last() != Some(&b'/');
    is_file.then_some((c_string(parent.as_os_str())?, c_string(name)?))
}

/// Has the new name survive a power cut, where the directory can be opened for that.
fn sync_directory(parent: BorrowedFd<'_>) {
    let here = c".";
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    match openat2(parent, here, flags, 0, 0) {
        Ok(directory) => {
            if let Err(error) = File::from(directory).sync_all() {
                tracing::warn!(%error, "a directory was not synced");
            }
        }
        Err(error) => tracing::debug!(%error, "a directory cannot be synced"),
    }
}

/// The file system a descriptor is on, as far as it is known without asking that.
fn device_of(file: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: an empty path, and a place for the answer.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            flags,
            libc::STATX_TYPE,
            found.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled by the kernel, and any bytes are a value.
    let found = unsafe { found.assume_init() };
    Ok(Some(libc::makedev(
        found.stx_dev_major,
        found.stx_dev_minor,
    )))
}

fn openat2(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u64,
    resolve: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: integers, for which zero is a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC).cast_unsigned().into();
    how.mode = match flags & libc::O_CREAT {
        0 => 0,
        _ => mode,
    };
    how.resolve = resolve;
    // SAFETY: a path that ends in NUL, and a struct of the size given.
    let opened = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    let opened = i32::try_from(opened).map_err(io::Error::other)?;
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// Which file it is, whatever it is called.
pub(crate) fn identity(file: &File) -> io::Result<(u64, u64)> {
    let found = file.metadata()?;
    Ok((found.dev(), found.ino()))
}

/// Whether there are only zeros in it, and no more of them than a state's file has bytes.
pub(crate) fn is_blank(file: &File) -> io::Result<bool> {
    const MOST: u64 = 4 * 65_536;
    if file.metadata()?.len() > MOST {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    let mut at = std::io::BufReader::new(file);
    std::io::Seek::seek(&mut at, io::SeekFrom::Start(0))?;
    std::io::Read::read_to_end(&mut at, &mut bytes)?;
    Ok(bytes.iter().all(|byte| *byte == 0))
}

/// A path as it is kept: text, and absolute.
pub(crate) fn text_of(path: &[u8]) -> Option<PathBuf> {
    let text = std::str::from_utf8(path).ok()?;
    let path = PathBuf::from(text);
    split(&path).map(|_| path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn own() -> Ids {
        Ids {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            groups: Vec::new(),
        }
    }

    fn open_own(path: &Path, if_absent: IfAbsent) -> Result<Opened, OpenError> {
        open_as(&own(), path, if_absent, None)
    }

    fn code(result: Result<Opened, OpenError>) -> Option<i32> {
        match result.unwrap_err() {
            OpenError::System(error) => error.raw_os_error(),
            _ => None,
        }
    }

    #[test]
    fn a_new_file_is_the_openers_alone_and_can_be_taken_away_again() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let path = directory.join("file");
        assert_eq!(code(open_own(&path, IfAbsent::Fail)), Some(libc::ENOENT));
        let made = open_own(&path, IfAbsent::Create).unwrap();
        assert!(made.created);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let again = open_own(&path, IfAbsent::Create).unwrap();
        assert!(!again.created);
        again.undo();
        assert!(path.exists());
        made.undo();
        assert!(!path.exists());
    }

    #[test]
    fn no_symbolic_link_is_followed_and_nothing_but_a_regular_file_opened() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let real = directory.join("real");
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("file"), "").unwrap();
        symlink(&real, directory.join("link")).unwrap();
        symlink(real.join("file"), directory.join("last")).unwrap();
        for path in ["link/file", "last"] {
            let opened = open_own(&directory.join(path), IfAbsent::Create);
            assert_eq!(code(opened), Some(libc::ELOOP), "{path}");
        }
        nix::unistd::mkfifo(&directory.join("fifo"), Mode::S_IRWXU).unwrap();
        for path in [
            &directory.join("fifo"),
            &real,
            Path::new("relative"),
            Path::new("/dev/null"),
        ] {
            let opened = open_own(path, IfAbsent::Create);
            assert!(
                matches!(opened, Err(OpenError::NoFile)),
                "{path:?}: {opened:?}"
            );
        }
        assert!(open_own(&real.join("file"), IfAbsent::Fail).is_ok());
    }

    #[test]
    fn what_is_on_the_mount_itself_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let device = directory.metadata().unwrap().dev();
        let opened = open_as(&own(), &directory.join("x"), IfAbsent::Create, Some(device));
        assert!(matches!(opened, Err(OpenError::OnTheMount)));
        assert!(!directory.join("x").exists());
    }

    #[test]
    fn somebody_elses_rights_are_taken_and_not_the_daemons() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let ids = Ids {
            uid: 65_534,
            gid: 65_534,
            groups: Vec::new(),
        };
        let opened = open_as(&ids, &directory.join("x"), IfAbsent::Create, None);
        // Root may not write for others where those may not; nobody else may take their ids.
        let expected = match nix::unistd::geteuid().is_root() {
            true => libc::EACCES,
            false => libc::EPERM,
        };
        assert_eq!(code(opened), Some(expected));
        assert!(!directory.join("x").exists());
    }
}
