//! Mounting by fusermount3, which may where an ordinary user may not.
//!
//! fuser could do it, too. But what it mounts so it unmounts by its path when the session ends, also
//! when that mount has gone and another one is there (fuser 0.18, `is_mounted` takes POLLERR for
//! mounted).

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::service::ServiceManager;

/// Mounts on `path`, and returns the device that the file system is served through.
///
/// # Errors
///
/// `NotFound` when there is no fusermount3; else what it printed.
pub(crate) fn mount(path: &Path, options: &str) -> io::Result<OwnedFd> {
    let (theirs, ours) = UnixStream::pair()?;
    // It sends the device through the descriptor that this variable names.
    let helper = ServiceManager::hide_from(&mut Command::new("fusermount3"))
        .args(["-o", options, "--"])
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let device = receive(&ours);
    let output = helper.wait_with_output()?;
    match device? {
        Some(device) => Ok(device),
        None => Err(io::Error::other(
            match String::from_utf8_lossy(&output.stderr).trim() {
                "" => "fusermount3 failed without a word".to_owned(),
                said => said.to_owned(),
            },
        )),
    }
}

/// The descriptor that comes; none when the other end is closed without.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut control = nix::cmsg_space!(RawFd);
    let message = loop {
        let mut parts = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            received => break received.map(|message| descriptor(message.cmsgs())),
        }
    };
    Ok(message?)
}

fn descriptor(parts: nix::Result<nix::sys::socket::CmsgIterator<'_>>) -> Option<OwnedFd> {
    let sent = parts.ok()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    })?;
    #[expect(unsafe_code, reason = "nix returns a bare number")]
    // SAFETY: a new descriptor that nobody else owns; there was room for one.
    unsafe {
        Some(<OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(sent))
    }
}
