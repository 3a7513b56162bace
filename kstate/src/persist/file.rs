//! The file of a persistent state: opened by who wants it, and shown to the daemon.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use kstate_sys::persist::{Answer, Request};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, recv, sendmsg};
use zerocopy::{FromBytes, IntoBytes};

use crate::errno::{self, Refusal};
use crate::streams;
use crate::ticket;

/// How long the daemon may take to make a state persistent, in seconds: it waits for the medium.
const PATIENCE_S: i64 = 60;

/// How often a file may come and go while it is opened.
const MAX_ATTEMPTS: u32 = 100;

/// Tickets asked for before a refusal counts.
const MAX_TICKETS: u32 = 10;

/// Who owns a state: a user and a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    uid: u32,
    gid: u32,
}

/// Who owns the state open as `state`.
pub(super) fn owner_of(state: BorrowedFd<'_>) -> io::Result<Owner> {
    let attributes = nix::sys::stat::fstat(state)?;
    Ok(Owner {
        uid: attributes.st_uid,
        gid: attributes.st_gid,
    })
}

/// A file, open, and its absolute path.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) file: File,
    pub(super) path: PathBuf,
    created: bool,
}

impl Chosen {
    /// Opens the file at `path`, or creates it, for the `owner` of the state if that can be.
    ///
    /// # Errors
    ///
    /// What the kernel says. A file created on the way is not left there.
    pub(super) fn open(path: &Path, owner: Owner) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let (file, created) = opened(&path)?;
        let chosen = Self {
            file,
            path,
            created,
        };
        if created && let Err(error) = chosen.settle(owner) {
            chosen.remove_if_created();
            return Err(error);
        }
        Ok(chosen)
    }

    /// What is to be done once about a file that is new.
    fn settle(&self, owner: Owner) -> io::Result<()> {
        if nix::unistd::geteuid().is_root() && owner.uid != 0 {
            fchown(&self.file, Some(owner.uid), Some(owner.gid))?;
        }
        // Else the file could be gone after a loss of power, whatever is in it.
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        File::open(parent)?.sync_all()
    }

    /// Takes back what was created, if it is still what is there.
    pub(super) fn remove_if_created(&self) {
        let here = self.file.metadata();
        let there = std::fs::symlink_metadata(&self.path);
        if let (true, Ok(here), Ok(there)) = (self.created, here, there)
            && (here.dev(), here.ino()) == (there.dev(), there.ino())
        {
            // It was to be there and is not wanted any more: who may not any more leaves an empty one.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens the file, and says whether it was created.
fn opened(path: &Path) -> io::Result<(File, bool)> {
    let mut options = File::options();
    // What is no file, a FIFO or a device, must not hold this up: the daemon says what it is.
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut last = None;
    for _ in 0..MAX_ATTEMPTS {
        match errno::uninterrupted(|| options.open(path)) {
            Ok(file) => return Ok((streams::clear_of(file)?, false)),
            Err(error) if errno::refusal(&error) == Refusal::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut anew = options.clone();
        match errno::uninterrupted(|| anew.create_new(true).open(path)) {
            Ok(file) => return Ok((streams::clear_of(file)?, true)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(errno::protocol_violation))
}

/// Asks the daemon to keep the values of the state open as `state` in `file`, which `path` leads to.
///
/// # Errors
///
/// What keeps the question from being answered.
pub(super) fn ask(
    state: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    path: &Path,
    within_ns: u64,
) -> io::Result<Answer> {
    // An open file has one ticket at a time: another thread may have asked for the next one in between.
    for _ in 0..MAX_TICKETS {
        let answer = ask_once(state, file, path, within_ns)?;
        if !is_late(answer) {
            return Ok(answer);
        }
    }
    ask_once(state, file, path, within_ns)
}

/// Whether it was the ticket that was refused.
fn is_late(answer: Answer) -> bool {
    answer.outcome == kstate_sys::persist::outcome::SYSTEM
        && errno::refusal(&errno::from_code(answer.errno)) == Refusal::Denied
}

fn ask_once(
    state: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    path: &Path,
    within_ns: u64,
) -> io::Result<Answer> {
    let (socket, secret) = ticket::at_the_desk(state, PATIENCE_S)?;
    let request = Request::new(secret, within_ns, path.as_os_str().as_bytes());
    let request = request.ok_or_else(errno::path_too_long)?;
    let parts = [IoSlice::new(request.as_bytes())];
    let files = [file.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&files)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = errno::uninterrupted(|| {
        Ok(sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &parts,
            &rights,
            flags,
            None,
        )?)
    });
    sent?;
    let mut bytes = [0; size_of::<Answer>()];
    // A stop interrupts a receive with a timeout, and the answer comes all the same.
    match errno::uninterrupted(|| Ok(recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty())?))? {
        0 => Err(errno::daemon_died()),
        length if length == bytes.len() => {
            Answer::read_from_bytes(&bytes).map_err(|_| errno::protocol_violation())
        }
        _ => Err(errno::protocol_violation()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Owner = Owner { uid: 0, gid: 0 };

    fn directory() -> PathBuf {
        let unique = format!("kstate-persist-{}", std::process::id());
        let directory = std::env::temp_dir().join(unique);
        // Left by nobody but this test.
        let _ = std::fs::create_dir(&directory);
        directory
    }

    #[test]
    fn a_file_is_created_for_its_owner_alone_and_taken_back_only_if_it_is_still_there() {
        let path = directory().join("created");
        let chosen = Chosen::open(&path, OWN).unwrap();
        assert_eq!(chosen.file.metadata().unwrap().mode() & 0o7777, 0o600);
        let again = Chosen::open(&path, OWN).unwrap();
        again.remove_if_created();
        assert!(path.exists());
        std::fs::rename(&path, path.with_extension("moved")).unwrap();
        std::fs::write(&path, "another").unwrap();
        chosen.remove_if_created();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "another");
        std::fs::rename(path.with_extension("moved"), &path).unwrap();
        chosen.remove_if_created();
        assert!(!path.exists());
    }

    #[test]
    fn a_symbolic_link_is_not_followed_and_a_fifo_holds_nobody_up() {
        let directory = directory();
        let link = directory.join("link");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(Chosen::open(&link, OWN).is_err());
        assert!(!directory.join("nowhere").exists());
        let fifo = directory.join("fifo");
        let _ = std::fs::remove_file(&fifo);
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Chosen::open(&fifo, OWN).is_ok());
    }
}
