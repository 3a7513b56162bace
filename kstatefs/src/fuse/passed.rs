//! What the kernel maps for each open file, and how long it must know it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::errno::Errno;

/// The ids under which the kernel knows the files it passes through.
///
/// The opener asks for the id when it has the daemon's answer, some time after that was written:
/// whatever else becomes of the state meanwhile, an id given up by then would be EIO to it. So each
/// is kept for as long as a file is open that it was given to.
#[derive(Debug)]
pub(super) struct Passed<Id>(Mutex<Ids<Id>>);

#[derive(Debug)]
struct Ids<Id> {
    /// One an inode, as long as its name stands for it: a second one while a file is open with the
    /// first would be refused with EIO.
    by_inode: HashMap<u64, Arc<Id>>,
    by_file: HashMap<u64, Arc<Id>>,
}

impl<Id> Default for Passed<Id> {
    fn default() -> Self {
        Self(Mutex::new(Ids {
            by_inode: HashMap::new(),
            by_file: HashMap::new(),
        }))
    }
}

impl<Id> Passed<Id> {
    /// The id of the inode `ino` for the open `file`, made by `register` unless it has one.
    ///
    /// # Errors
    ///
    /// `ESTALE` when it is gone, as `is_gone` says, and what `register` says.
    pub(super) fn give(
        &self,
        file: u64,
        ino: u64,
        is_gone: impl FnOnce() -> bool,
        register: impl FnOnce() -> Result<Id, Errno>,
    ) -> Result<Arc<Id>, Errno> {
        // Held while registering: two openers must not register one inode twice. What is done
        // meanwhile takes no lock of the table or of open files: a state that goes is taken out
        // of here with the table locked.
        let mut ids = self.lock();
        // Gone since the name was looked up: its id was taken out, and while somebody has it open a
        // second one would be refused. What goes from here on waits for the lock to be taken out.
        if is_gone() {
            return Err(Errno::ESTALE);
        }
        let id = match ids.by_inode.get(&ino) {
            Some(id) => id.clone(),
            None => {
                let id = Arc::new(register()?);
                ids.by_inode.insert(ino, id.clone());
                id
            }
        };
        ids.by_file.insert(file, id.clone());
        Ok(id)
    }

    /// Nobody opens `ino` any more.
    pub(super) fn retire(&self, ino: u64) {
        let retired = self.lock().by_inode.remove(&ino);
        // The kernel is told, if this was the last, without this lock.
        drop(retired);
    }

    /// `file` is closed.
    pub(super) fn release(&self, file: u64) {
        let released = self.lock().by_file.remove(&file);
        drop(released);
    }

    fn lock(&self) -> MutexGuard<'_, Ids<Id>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// As the kernel's: known until dropped.
    struct Id<'a>(&'a Cell<u32>);

    impl Drop for Id<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    #[test]
    fn an_id_is_known_as_long_as_a_file_is_open_or_the_name_stands_for_it() {
        let known = Cell::new(0);
        let register = || {
            known.set(known.get() + 1);
            Ok(Id(&known))
        };
        let passed = Passed::default();
        let give = |file, ino| passed.give(file, ino, || false, register).map(drop);
        give(1, 7).unwrap();
        give(2, 7).unwrap();
        give(3, 8).unwrap();
        assert_eq!(known.get(), 2, "one an inode");
        passed.retire(7);
        passed.release(1);
        assert_eq!(known.get(), 2, "the second file is still being opened");
        passed.release(2);
        assert_eq!(known.get(), 1);
        passed.release(3);
        assert_eq!(known.get(), 1, "the next opener of the inode gets it");
        passed.retire(8);
        assert_eq!(known.get(), 0);
    }

    #[test]
    fn what_is_gone_or_refused_is_not_known() {
        let passed = Passed::default();
        let gone = passed.give(1, 7, || true, || Ok(()));
        assert_eq!(gone, Err(Errno::ESTALE));
        let refused = passed.give(1, 7, || false, || Err(Errno::ENFILE));
        assert_eq!(refused, Err(Errno::ENFILE));
        let ids = passed.lock();
        assert!(ids.by_inode.is_empty() && ids.by_file.is_empty());
    }
}
