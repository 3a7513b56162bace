//! The list of persistent states, by which a daemon finds them when it mounts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kstate_sys::name::StateName;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

/// How long a daemon that ends may have the list.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the first line says.
const FORMAT: &str = "kstate manifest 1";

/// A persistent state of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: StateName,
    /// Its file.
    pub(crate) path: PathBuf,
    /// Who chose it: with these rights it is opened.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Entry {
    /// As one line of JSON.
    pub(crate) fn to_line(&self) -> String {
        json!({
            "state": self.name.as_str(),
            "file": self.path.to_string_lossy(),
            "uid": self.uid,
            "gid": self.gid,
        })
        .to_string()
    }

    /// From such a line.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let id = |key: &str| u32::try_from(value.get(key)?.as_u64()?).ok();
        Some(Self {
            name: StateName::new(value.get("state")?.as_str()?).ok()?,
            path: value.get("file")?.as_str()?.into(),
            uid: id("uid")?,
            gid: id("gid")?,
        })
    }
}

/// The list, in a file of its own.
#[derive(Debug)]
pub(crate) struct Manifest {
    path: PathBuf,
    /// One daemon at a time has it.
    _lock: Flock<File>,
    entries: Mutex<BTreeMap<StateName, Entry>>,
}

impl Manifest {
    /// Reads the list at `path`; an empty one where there is no file.
    ///
    /// # Errors
    ///
    /// What the kernel says, with the path; a file that is no such list, which stays as it is.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("manifest {}: {error}", path.display()),
            )
        };
        let lock = lock(path).map_err(named)?;
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(named(error)),
        };
        let mut entries = BTreeMap::new();
        let mut lines = text.lines();
        if let Some(first) = lines.next()
            && first != FORMAT
        {
            return Err(named(io::Error::other(format!(
                "it begins with `{first}` instead of `{FORMAT}`; name another file"
            ))));
        }
        for (line, number) in lines.zip(2..) {
            let entry = Entry::from_line(line).ok_or_else(|| {
                named(io::Error::other(format!(
                    "line {number} is no state: `{line}`; mend it or take it out"
                )))
            })?;
            entries.insert(entry.name.clone(), entry);
        }
        let manifest = Self {
            path: std::path::absolute(path).map_err(named)?,
            _lock: lock,
            entries: Mutex::new(entries),
        };
        // That it can be written is found out now, and not when it matters.
        manifest.write(&manifest.lock()).map_err(named)?;
        Ok(manifest)
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.lock().values().cloned().collect()
    }

    /// Puts a state in the list. Only root, and who has chosen it, change one that is there: `false` for others.
    ///
    /// # Errors
    ///
    /// What the kernel says; the list is as it was then.
    pub(crate) fn put(&self, entry: Entry) -> io::Result<bool> {
        self.change(|entries| {
            let known = entries.get(&entry.name);
            let may = known.is_none_or(|known| entry.uid == 0 || entry.uid == known.uid);
            if may {
                entries.insert(entry.name.clone(), entry);
            }
            may
        })
    }

    /// Takes a state out that has this file; none if it is not in the list.
    ///
    /// # Errors
    ///
    /// What the kernel says; the list is as it was then.
    pub(crate) fn remove(&self, name: &StateName, path: &Path) -> io::Result<Option<Entry>> {
        self.change(|entries| match entries.get(name) {
            Some(entry) if entry.path == path => entries.remove(name),
            _ => None,
        })
    }

    fn change<R>(
        &self,
        change: impl FnOnce(&mut BTreeMap<StateName, Entry>) -> R,
    ) -> io::Result<R> {
        let mut entries = self.lock();
        let mut changed = entries.clone();
        let result = change(&mut changed);
        if changed != *entries {
            self.write(&changed)?;
            *entries = changed;
        }
        Ok(result)
    }

    /// Writes all of it beside its place, and puts it there when it is on the medium.
    fn write(&self, entries: &BTreeMap<StateName, Entry>) -> io::Result<()> {
        let mut beside = self.path.clone().into_os_string();
        beside.push(".new");
        let _ = fs::remove_file(&beside);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        let mut text = format!("{FORMAT}\n");
        for entry in entries.values() {
            text.push_str(&entry.to_line());
            text.push('\n');
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        match self.path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<StateName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks the file beside the list, waiting a while for a daemon that ends.
fn lock(path: &Path) -> io::Result<Flock<File>> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&beside)?;
    let start = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EWOULDBLOCK)) if start.elapsed() >= PATIENCE => {
                return Err(io::Error::other(
                    "another daemon has this list; give each mount one of its own",
                ));
            }
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, path: &str) -> Entry {
        Entry {
            name: StateName::new(name).unwrap(),
            path: path.into(),
            uid: 7,
            gid: 8,
        }
    }

    #[test]
    fn what_was_put_is_found_again_and_what_was_removed_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        let found = || Manifest::open(&path).unwrap().entries();
        let (a, b) = (entry("a", "/x/a b\n"), entry("b.c", "/x/b\"é"));
        {
            let manifest = Manifest::open(&path).unwrap();
            assert!(manifest.put(a.clone()).unwrap() && manifest.put(b.clone()).unwrap());
        }
        assert_eq!(found(), [a.clone(), b.clone()]);
        let manifest = Manifest::open(&path).unwrap();
        // Another user's, who finds the name free because the file is not there now.
        let theirs = |uid| Entry {
            uid,
            ..entry("a", "/x/theirs")
        };
        assert!(!manifest.put(theirs(9)).unwrap());
        assert!(manifest.put(theirs(0)).unwrap());
        assert!(
            manifest
                .put(Entry {
                    uid: 0,
                    ..a.clone()
                })
                .unwrap()
        );
        // Of another file's: it has been given another one since.
        manifest.remove(&a.name, Path::new("/x/other")).unwrap();
        manifest.remove(&b.name, &b.path).unwrap();
        drop(manifest);
        assert_eq!(found(), [Entry { uid: 0, ..a }]);
    }

    #[test]
    fn a_file_that_is_no_list_is_refused_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        for text in ["something else\n", "kstate manifest 1\n{}\n"] {
            fs::write(&path, text).unwrap();
            let error = Manifest::open(&path).unwrap_err().to_string();
            assert!(error.contains("list"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let error = Manifest::open(Path::new("/proc/no/list")).unwrap_err();
        assert!(error.to_string().contains("/proc/no/list"), "{error}");
    }
}
