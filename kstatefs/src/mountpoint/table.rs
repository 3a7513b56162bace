//! The kernel's table of what is mounted where. To read it touches nothing that is mounted, so it
//! never waits for a daemon.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::FILE_SYSTEM_TYPE;

/// What is mounted somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountEntry {
    id: u64,
    /// The mount it is mounted on.
    parent: u64,
    /// Where.
    pub(super) point: PathBuf,
    /// The type of the file system.
    pub(super) kind: String,
    /// The minor device number: the kernel's name of a FUSE connection.
    pub(super) minor: u64,
}

impl MountEntry {
    /// Whether it is a kstate file system.
    pub(super) fn is_ours(&self) -> bool {
        self.kind == FILE_SYSTEM_TYPE
    }
}

/// All mounts that this process sees.
#[derive(Debug)]
pub(super) struct MountTable(Vec<MountEntry>);

impl MountTable {
    /// As it is now.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    /// From text as proc_pid_mountinfo(5) describes it.
    fn parse(text: &[u8]) -> Self {
        Self(
            text.split(|byte| *byte == b'\n')
                .filter_map(entry)
                .collect(),
        )
    }

    /// What a look at `path` meets, if anything is mounted exactly there: the last mount there of
    /// those on which no other is mounted.
    pub(super) fn at(&self, path: &Path) -> Option<&MountEntry> {
        let here = || self.0.iter().filter(|entry| entry.point == path);
        here()
            .rev()
            .find(|entry| !here().any(|above| above.parent == entry.id))
    }

    /// The kstate file systems mounted exactly at `path`, those below others included.
    pub(super) fn ours_at(&self, path: &Path) -> impl Iterator<Item = &MountEntry> {
        let here = self.0.iter().filter(move |entry| entry.point == path);
        here.filter(|entry| entry.is_ours())
    }

    /// Every place of the kstate file system with that device number, the last mounted first.
    pub(super) fn places_of(&self, minor: u64) -> impl Iterator<Item = &Path> {
        let of_device = move |entry: &&MountEntry| entry.is_ours() && entry.minor == minor;
        let entries = self.0.iter().rev().filter(of_device);
        entries.map(|entry| entry.point.as_path())
    }
}

fn entry(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (id, parent) = (text()?.parse().ok()?, text()?.parse().ok()?);
    let (_, minor) = text()?.split_once(':')?;
    let point = unescape(fields.nth(1)?);
    // Optional fields end with a lone dash; the type follows it.
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(MountEntry {
        id,
        parent,
        point: point.into(),
        kind: String::from_utf8_lossy(kind).into_owned(),
        minor: minor.parse().ok()?,
    })
}

/// Undoes the octal escapes of the mount table.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let escape = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match escape {
            Some(value) => {
                bytes.push(value);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(table: &[u8], path: &str) -> Option<(String, u64)> {
        let table = MountTable::parse(table);
        let entry = table.at(path.as_ref())?;
        Some((entry.kind.clone(), entry.minor))
    }

    #[test]
    fn the_last_mount_at_a_place_counts() {
        let table = b"22 1 0:20 / /a\\040b rw,nosuid shared:1 master:2 - tmpfs tmpfs rw\n\
                      23 1 0:21 / /a\\040b rw - fuse.kstatefs kstatefs rw,user_id=0\n\
                      24 1 0:22 / /c rw - ext4 /dev/x rw\n";
        assert_eq!(found(table, "/a b"), Some(("fuse.kstatefs".into(), 21)));
        assert_eq!(found(table, "/a b/"), Some(("fuse.kstatefs".into(), 21)));
        assert_eq!(found(table, "/c"), Some(("ext4".into(), 22)));
        assert_eq!(found(table, "/d"), None);
    }

    #[test]
    fn a_mount_moved_over_another_counts_though_it_is_listed_first() {
        let table = b"22 23 0:20 / /a rw - tmpfs tmpfs rw\n\
                      23 1 0:21 / /a rw - fuse.kstatefs kstatefs rw\n";
        assert_eq!(found(table, "/a"), Some(("tmpfs".into(), 20)));
        let table = MountTable::parse(table);
        assert_eq!(table.ours_at("/a".as_ref()).count(), 1);
    }

    #[test]
    fn a_device_is_found_at_all_its_places() {
        let table = b"22 1 0:21 / /a rw - fuse.kstatefs kstatefs rw\n\
                      23 1 0:22 / /b rw - fuse.kstatefs kstatefs rw\n\
                      24 1 0:21 / /c rw - fuse.kstatefs kstatefs rw\n\
                      25 1 8:21 / /d rw - ext4 /dev/x rw\n";
        let table = MountTable::parse(table);
        let places: Vec<_> = table.places_of(21).collect();
        assert_eq!(places, [Path::new("/c"), Path::new("/a")]);
    }
}
