//! The files `.kstate/changes@…`: one a prefix, for as long as the kernel knows of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kstate_sys::name::{MAX_NAME_BYTES, VIEW_SEPARATOR};

use crate::errno::Errno;
use crate::inode::{ALL_CHANGES, FIRST_FILTER};

/// The name of the file without a prefix.
pub(crate) const NAME: &str = "changes";

/// Of more the oldest is forgotten: to open it the kernel has to look its name up once more, as ESTALE
/// makes it do. A file that is open has its prefix itself.
const MOST: usize = 4096;

/// Prefixes by inode number.
#[derive(Debug, Default)]
pub(crate) struct Prefixes(Mutex<Numbered>);

#[derive(Debug, Default)]
struct Numbered {
    by_text: HashMap<String, u64>,
    by_ino: BTreeMap<u64, Known>,
    given: u64,
}

#[derive(Debug)]
struct Known {
    text: String,
    /// How often the kernel was told of it, less how often it has forgotten.
    lookups: u64,
}

impl Prefixes {
    /// The inode number of `changes` or `changes@prefix`, which the kernel is told of now; `None` for
    /// another name.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `ENAMETOOLONG`: no name begins so.
    pub(crate) fn lookup(&self, name: &[u8]) -> Result<Option<u64>, Errno> {
        let Some(rest) = name.strip_prefix(NAME.as_bytes()) else {
            return Ok(None);
        };
        let prefix = match rest.split_first() {
            None => return Ok(Some(ALL_CHANGES)),
            Some((separator, prefix)) if *separator == VIEW_SEPARATOR as u8 => prefix,
            Some(_) => return Ok(None),
        };
        let text = checked(prefix)?;
        let mut known = self.lock();
        let ino = match known.by_text.get(&text) {
            Some(ino) => *ino,
            None => {
                known.given += 1;
                let ino = FIRST_FILTER + known.given;
                known.by_text.insert(text.clone(), ino);
                ino
            }
        };
        let lookups = known.by_ino.get(&ino).map_or(0, |known| known.lookups) + 1;
        known.by_ino.insert(ino, Known { text, lookups });
        if known.by_ino.len() > MOST
            && let Some((_, oldest)) = known.by_ino.pop_first()
        {
            known.by_text.remove(&oldest.text);
        }
        Ok(Some(ino))
    }

    /// The prefix of a file.
    pub(crate) fn of(&self, ino: u64) -> Option<String> {
        match ino {
            ALL_CHANGES => Some(String::new()),
            _ => self.lock().by_ino.get(&ino).map(|known| known.text.clone()),
        }
    }

    /// The kernel has forgotten so many lookups.
    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        let mut numbered = self.lock();
        let Some(known) = numbered.by_ino.get_mut(&ino) else {
            return;
        };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups == 0
            && let Some(known) = numbered.by_ino.remove(&ino)
        {
            numbered.by_text.remove(&known.text);
        }
    }

    /// Those that the kernel knows of.
    #[cfg(fuzzing)]
    pub(crate) fn left(&self) -> Vec<String> {
        let known = self.lock();
        let texts = known.by_text.iter().map(|known| format!("{known:?}"));
        texts
            .chain(known.by_ino.iter().map(|known| format!("{known:?}")))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a name can begin with, which may end within a word or behind a dot.
fn checked(prefix: &[u8]) -> Result<String, Errno> {
    if prefix.len() > MAX_NAME_BYTES {
        return Err(Errno::ENAMETOOLONG);
    }
    let is_of_names = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
    let text = String::from_utf8_lossy(prefix);
    match prefix.iter().all(is_of_names) && !text.starts_with('.') && !text.contains("..") {
        true => Ok(text.into_owned()),
        false => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_one_number_until_it_is_forgotten() {
        let prefixes = Prefixes::default();
        let lookup = |name: &str| prefixes.lookup(name.as_bytes());
        assert_eq!(lookup("changes"), Ok(Some(ALL_CHANGES)));
        assert_eq!(lookup("changer"), Ok(None));
        assert_eq!(lookup("changesx"), Ok(None));
        let ino = lookup("changes@gps.").unwrap().unwrap();
        assert_eq!(lookup("changes@gps."), Ok(Some(ino)));
        assert_ne!(lookup("changes@gps"), Ok(Some(ino)));
        assert_eq!(prefixes.of(ino).as_deref(), Some("gps."));
        prefixes.forget(ino, 1);
        assert!(prefixes.of(ino).is_some());
        prefixes.forget(ino, 1);
        assert_eq!(prefixes.of(ino), None);
        assert_ne!(lookup("changes@gps."), Ok(Some(ino)));
    }

    #[test]
    fn of_many_prefixes_the_oldest_are_forgotten() {
        let prefixes = Prefixes::default();
        let lookup = |number: usize| prefixes.lookup(format!("changes@{number}").as_bytes());
        let first = lookup(0).unwrap().unwrap();
        for number in 1..=MOST {
            lookup(number).unwrap();
        }
        assert_eq!(prefixes.of(first), None);
        assert_ne!(lookup(0), Ok(Some(first)));
        let known = prefixes.lock();
        assert_eq!((known.by_ino.len(), known.by_text.len()), (MOST, MOST));
    }

    #[test]
    fn what_no_name_begins_with_is_einval() {
        for prefix in [&b".a"[..], b"a..b", b"a b", b"a@", b"\xff", b"a/"] {
            assert_eq!(checked(prefix), Err(Errno::EINVAL), "{prefix:?}");
        }
        assert_eq!(checked(&[b'a'; 248]), Err(Errno::ENAMETOOLONG));
        assert_eq!(checked(b""), Ok(String::new()));
    }
}
