//! What a ledger begins with, the same in each version: whose it is, and the version of what follows.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::event::Head;
use super::wire::{Reader, Writer};

/// The version of what follows the label. A daemon that finds another one does not take over.
pub(crate) const VERSION: u32 = 1;

/// The first bytes of each ledger.
const MAGIC: u64 = u64::from_le_bytes(*b"kstateLG");
/// No label is longer: a path is 4096 bytes at most.
pub(super) const LABEL_BYTES: u64 = 8 << 10;

/// Whose a ledger is. As bytes: magic (8), version (4), mount namespace (8), length of the path (4), path,
/// CRC-32C of all that (4), little-endian. This never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) version: u32,
    pub(crate) mount_namespace: u64,
    pub(crate) mount: PathBuf,
}

impl Label {
    /// That of a ledger of this version.
    pub(super) fn of(head: &Head) -> Self {
        Self {
            version: VERSION,
            mount_namespace: head.mount_namespace,
            mount: head.mount.clone(),
        }
    }

    /// Whether it is of the mount at `mount` in the mount namespace `namespace`.
    pub(crate) fn names(&self, mount: &Path, namespace: u64) -> bool {
        self.mount == mount && self.mount_namespace == namespace
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u64(MAGIC).u32(self.version).u64(self.mount_namespace);
        to.bytes(self.mount.as_os_str().as_bytes());
        let checksum = crc32c::crc32c(&to.0);
        to.u32(checksum);
        to.0
    }

    /// From the first bytes of a file, and what is behind it.
    ///
    /// # Errors
    ///
    /// `InvalidData` when it is no ledger, or is damaged here.
    pub(super) fn decode(bytes: &[u8]) -> io::Result<(Self, &[u8])> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it does not say whose it is");
        let mut from = Reader(bytes);
        let label = Self::read(&mut from).ok_or_else(damaged)?;
        let length = bytes.len() - from.0.len();
        match from.u32() {
            Some(checksum) if checksum == crc32c::crc32c(&bytes[..length]) => Ok((label, from.0)),
            _ => Err(damaged()),
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        if from.u64()? != MAGIC {
            return None;
        }
        Some(Self {
            version: from.u32()?,
            mount_namespace: from.u64()?,
            mount: OsStr::from_bytes(from.bytes()?).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written down, since daemons of all versions read it.
    #[test]
    fn a_label_is_read_across_versions() {
        let mut bytes = b"kstateLG\x07\0\0\0\x05\0\0\0\0\0\0\0\x02\0\0\0/x".to_vec();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        let label = Label {
            version: 7,
            mount_namespace: 5,
            mount: "/x".into(),
        };
        assert_eq!(label.encode(), bytes);
        bytes.extend(b"whatever");
        let (found, behind) = Label::decode(&bytes).unwrap();
        assert_eq!((found, behind), (label, &b"whatever"[..]));
        for at in 0..bytes.len() - behind.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let error = Label::decode(&damaged).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert!(Label::decode(&[]).is_err());
    }
}
