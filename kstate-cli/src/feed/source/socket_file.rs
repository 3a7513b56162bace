//! The file of a Unix socket, which outlives its socket unless it is removed.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::OpenError;

/// Removes the file of a socket when dropped, unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Makes a socket at a path, in the place of one that nobody listens to.
    ///
    /// Of two processes that find the same dead socket at the same moment, the later one wins and
    /// the other hears nothing; its drop then leaves the winner's file alone.
    pub(super) fn bind<S>(
        path: &Path,
        bind: impl Fn(&Path) -> io::Result<S>,
    ) -> Result<(S, Self), OpenError> {
        let refused = |source| OpenError::Refused {
            address: path.display().to_string(),
            source,
        };
        let socket = match bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_dead(path)?;
                bind(path).map_err(refused)?
            }
            result => result.map_err(refused)?,
        };
        let metadata = fs::symlink_metadata(path).map_err(refused)?;
        let file = Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        Ok((socket, file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Ok(metadata) = fs::symlink_metadata(&self.path)
            && (metadata.dev(), metadata.ino()) == (self.device, self.inode)
        {
            // Nobody is left to tell, and the next start replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody listens to.
fn remove_dead(path: &Path) -> Result<(), OpenError> {
    let refused = |source| OpenError::Refused {
        address: path.display().to_string(),
        source,
    };
    if !fs::symlink_metadata(path)
        .map_err(refused)?
        .file_type()
        .is_socket()
    {
        return Err(OpenError::NotASocket {
            path: path.to_owned(),
        });
    }
    // Connecting a datagram socket sends nothing, and is refused without a trace by a listener of
    // streams (EPROTOTYPE; `net/unix/af_unix.c`, unix_find_bsd).
    let probe = UnixDatagram::unbound().and_then(|probe| probe.connect(path));
    match probe {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(refused)
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(refused(error)),
        Err(_) | Ok(()) => Err(OpenError::InUse {
            path: path.to_owned(),
        }),
    }
}
