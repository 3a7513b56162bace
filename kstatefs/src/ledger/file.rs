//! The file of a ledger: a [`Label`], and one record an event, of which a cut one at the end is recognised.
//!
//! A record is its length and the checksum of the rest, 4 bytes each, and an [`Event`]. It is written by
//! one `write`, to room that is allocated before, so that a full tmpfs fails what begins and never what
//! ends. A daemon that is killed in the middle leaves a record at the end that is not whole; nobody has been
//! told yet of what it notes. One that is not whole and not at the end is damage.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{FallocateFlags, fallocate};

use super::event::Event;
use super::label::{LABEL_BYTES, Label, VERSION};
use super::model::Model;

/// Its name in the daemon's private directory.
const NAME: &str = "ledger";
/// A shorter one in the making.
const NEW: &str = "ledger.new";
/// Length and checksum.
const HEADER_BYTES: usize = 8;
/// So much is allocated at once.
const CHUNK_BYTES: u64 = 16 << 10;
/// No record of what ends something is longer.
const END_BYTES: u64 = 24;
/// For what a daemon notes that takes over: a path is 4096 bytes at most.
const TAKEOVER_BYTES: u64 = 6 << 10;
/// None is longer, which is room for a hundred thousand states and for what is noted of them before it is
/// written anew.
const MAX_BYTES: u64 = 256 << 20;
/// A ledger shorter than this is left as it grows.
const SHORT_BYTES: u64 = 64 << 10;

/// An open ledger.
#[derive(Debug)]
pub(super) struct LedgerFile {
    directory: PathBuf,
    file: File,
    /// Bytes of whole records.
    length: u64,
    /// Bytes that have memory.
    allocated: u64,
    /// Bytes when it was written as short as can be.
    shortest: u64,
}

impl LedgerFile {
    /// A fresh one of what `model` says, in place of the one there.
    ///
    /// # Errors
    ///
    /// `ENOSPC`, and what else the kernel says; the old one is still there then.
    pub(super) fn create(directory: &Path, model: &Model) -> io::Result<Self> {
        let new = directory.join(NEW);
        let made = Self::write(directory, &new, model);
        if made.is_err() {
            // What is not there cannot be removed.
            let _ = std::fs::remove_file(&new);
        }
        let made = made?;
        std::fs::rename(new, directory.join(NAME))?;
        Ok(made)
    }

    fn write(directory: &Path, path: &Path, model: &Model) -> io::Result<Self> {
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(true);
        let file = options.mode(0o600).open(path)?;
        let bytes = whole(model);
        let length = bytes.len() as u64;
        let mut made = Self {
            directory: directory.to_owned(),
            file,
            length: 0,
            allocated: 0,
            shortest: length,
        };
        made.allocate(length + reserve(model))?;
        made.file.write_all_at(&bytes, 0)?;
        made.length = length;
        Ok(made)
    }

    /// The one in `directory`, to go on with, and what its whole records come to. Nothing is behind them any
    /// more then.
    ///
    /// # Errors
    ///
    /// What the kernel says; `InvalidData` when it is damaged, or of another version.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Model)> {
        let mut options = File::options();
        let options = options.read(true).write(true);
        let file = options
            .custom_flags(libc::O_NOFOLLOW)
            .open(directory.join(NAME))?;
        let bytes = bytes_of(&file)?;
        let (model, length) = replay(&bytes)?;
        // Not cut off: memory was allocated for what is written there next.
        let torn = bytes.len() - usize::try_from(length).unwrap_or(bytes.len());
        file.write_all_at(&vec![0; torn], length)?;
        let opened = Self {
            directory: directory.to_owned(),
            file,
            length,
            allocated: 0,
            shortest: length,
        };
        Ok((opened, model))
    }

    /// What is noted in `directory`, for who only looks.
    pub(super) fn look(directory: &Path) -> io::Result<Model> {
        let bytes = bytes_of(&open_to_look(directory)?)?;
        replay(&bytes).map(|(model, _)| model)
    }

    /// Whose the one in `directory` is.
    pub(super) fn label(directory: &Path) -> io::Result<Label> {
        let mut bytes = Vec::new();
        let file = open_to_look(directory)?;
        file.take(LABEL_BYTES).read_to_end(&mut bytes)?;
        Label::decode(&bytes).map(|(label, _)| label)
    }

    /// Has it be written to just now.
    pub(super) fn touch(directory: &Path) -> io::Result<()> {
        open_to_look(directory)?.set_modified(SystemTime::now())
    }

    /// Whether there is a ledger.
    pub(super) fn is_in(directory: &Path) -> bool {
        std::fs::symlink_metadata(directory.join(NAME)).is_ok()
    }

    /// When it was last written to.
    pub(super) fn modified(directory: &Path) -> io::Result<SystemTime> {
        std::fs::symlink_metadata(directory.join(NAME))?.modified()
    }

    /// Removes it.
    pub(super) fn remove(directory: &Path) {
        // What is left of it is as good as none.
        let _ = std::fs::remove_file(directory.join(NAME));
    }

    /// Notes an event of which `model` does not know yet, so that there is still room for all ends behind
    /// it.
    ///
    /// # Errors
    ///
    /// `ENOSPC`; nothing was noted then.
    pub(super) fn append(&mut self, event: &Event, model: &Model) -> io::Result<()> {
        let bytes = record(event);
        let after = self.length + bytes.len() as u64;
        // Three ends at most begin with an event.
        let wanted = after + reserve(model) + 3 * END_BYTES;
        if wanted > MAX_BYTES {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.allocate(wanted)?;
        self.write_at_end(&bytes)
    }

    /// Notes the end of something, for which there is room.
    pub(super) fn append_end(&mut self, event: &Event) -> io::Result<()> {
        self.write_at_end(&record(event))
    }

    fn write_at_end(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn allocate(&mut self, wanted: u64) -> io::Result<()> {
        if wanted <= self.allocated {
            return Ok(());
        }
        let wanted = wanted.next_multiple_of(CHUNK_BYTES);
        let length = i64::try_from(wanted).map_err(io::Error::other)?;
        let how = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, how, 0, length)?;
        self.allocated = wanted;
        Ok(())
    }

    /// Writes it as short as can be if it has become several times longer. If that cannot be, it stays.
    pub(super) fn shorten(&mut self, model: &Model) {
        if self.length > SHORT_BYTES.max(4 * self.shortest) {
            match Self::create(&self.directory, model) {
                Ok(short) => *self = short,
                // Looked at again after as much more.
                Err(_) => self.shortest = self.length,
            }
        }
    }
}

/// What must be allocated behind the last record.
fn reserve(model: &Model) -> u64 {
    model.ends() as u64 * END_BYTES + TAKEOVER_BYTES
}

fn record(event: &Event) -> Vec<u8> {
    let event = event.encode();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + event.len());
    // An event is some megabytes at most.
    bytes.extend(u32::try_from(event.len()).unwrap_or(0).to_le_bytes());
    bytes.extend(crc32c::crc32c(&event).to_le_bytes());
    bytes.extend(event);
    bytes
}

/// All of a ledger that says what `model` does.
fn whole(model: &Model) -> Vec<u8> {
    let mut bytes = Label::of(&model.head).encode();
    bytes.extend(model.events().flat_map(|event| record(&event)));
    bytes
}

fn open_to_look(directory: &Path) -> io::Result<File> {
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_NOFOLLOW);
    options.open(directory.join(NAME))
}

fn bytes_of(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > MAX_BYTES {
        return Err(damaged("it is longer than any"));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn damaged(how: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, how)
}

/// The first record, and the bytes behind it.
fn first(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (event, rest) = rest.split_at_checked(length)?;
    if crc32c::crc32c(event) != u32::from_le_bytes(*checksum) {
        return None;
    }
    Some((Event::decode(event)?, rest))
}

/// Whether `bytes`, which do not begin with a whole record, may be the beginning of one, cut short where a daemon
/// was killed: nothing is behind it but room that was never written to.
fn is_torn(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return true;
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let behind = rest.get(4..).and_then(|rest| rest.get(length..));
    if !behind.unwrap_or_default().iter().all(|byte| *byte == 0) {
        return false;
    }
    // Its length may be what is damaged. Then the records that it seems to cover are still whole.
    (1..bytes.len()).all(|at| first(&bytes[at..]).is_none())
}

/// What the whole records of a ledger come to, and up to where these go.
///
/// # Errors
///
/// `InvalidData` for another version, and for damage: what is not whole, except at the end.
fn replay(bytes: &[u8]) -> io::Result<(Model, u64)> {
    let (label, records) = Label::decode(bytes)?;
    if label.version != VERSION {
        return Err(damaged("it is of another version"));
    }
    let Some((Event::Head(head), mut rest)) = first(records) else {
        return Err(damaged("its first record is damaged"));
    };
    let mut model = Model::new(head);
    while let Some((event, behind)) = first(rest) {
        model.apply(event);
        rest = behind;
    }
    match is_torn(rest) {
        true => Ok((model, (bytes.len() - rest.len()) as u64)),
        false => Err(damaged("it is damaged in the middle")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kstate_sys::abi::Class;
    use kstate_sys::announce::Sinks;
    use kstate_sys::clock::Clock;
    use kstate_sys::name::StateName;

    use super::super::event::Head;
    use super::*;
    use crate::backing::Transport;
    use crate::process::Identity;
    use crate::state::{Attributes, Layout};

    fn head() -> Head {
        Head {
            mount: "/run/x y".into(),
            mount_namespace: 1,
            pid_namespace: 2,
            transport: Transport::Socket,
            mount_id: 3,
            epoch: 4,
            clock: Clock::MONOTONIC,
            minors: vec![5],
            next_ino: 16,
            last_record: 0,
        }
    }

    fn events() -> Vec<Event> {
        let attributes = Attributes {
            mode: 0o1640,
            uid: 1,
            gid: 2,
            changed: SystemTime::UNIX_EPOCH + Duration::from_nanos(77),
            linger: Duration::from_secs(3),
        };
        let owner = Identity {
            pid: 9,
            started: 99,
        };
        let created = |ino, name: &str| Event::StateCreated {
            ino,
            name: StateName::new(name).unwrap(),
            attributes,
            capacity: 4096,
            reach: Class::B64,
            created: attributes.changed,
        };
        let claimed = |ino, group| Event::Claimed { ino, group, owner };
        let layout = Layout {
            id: 7,
            text: "u64".into(),
        };
        vec![
            Event::Mounted(6),
            created(16, "a"),
            created(17, "b.c"),
            Event::Capacity {
                ino: 16,
                capacity: 64,
                chosen: true,
                reach: Class::Page,
            },
            Event::Layout(17, layout),
            claimed(16, 1),
            claimed(16, 2),
            claimed(17, 1),
            Event::Armed(16),
            Event::Closed(16, 1),
            Event::Released(16, 2),
            Event::Deadline(17, Some(Duration::from_millis(5))),
            Event::Deadline(16, None),
            Event::Announced(17, Sinks::KBUS),
            Event::Persistent(16, Some("/var/a".into())),
            Event::RecordMade {
                number: 1,
                owner,
                user: (5, 6),
            },
            Event::RecordMade {
                number: 2,
                owner,
                user: (5, 6),
            },
            Event::RecordGone(1),
            Event::Attributes(
                17,
                Attributes {
                    linger: Duration::MAX,
                    ..attributes
                },
            ),
            Event::StateGone(16),
            Event::Head(Head {
                epoch: 5,
                next_ino: 18,
                last_record: 2,
                ..head()
            }),
        ]
    }

    #[test]
    fn a_ledger_cut_at_any_byte_is_what_its_whole_records_say() {
        let mut model = Model::new(head());
        let mut bytes = whole(&model);
        let mut ends = vec![(bytes.len(), model.clone())];
        for event in events() {
            bytes.extend(record(&event));
            model.apply(event);
            ends.push((bytes.len(), model.clone()));
        }
        for cut in 0..=bytes.len() {
            let expected = ends.iter().rev().find(|(length, _)| *length <= cut);
            let found = replay(&bytes[..cut]).ok();
            let expected = expected.map(|(length, model)| (model.clone(), *length as u64));
            assert_eq!(found, expected, "cut at {cut}");
            // Nor do zeros behind it matter.
            let mut torn = bytes[..cut].to_vec();
            torn.resize(bytes.len() + 40, 0);
            // Records end with zeros, which are whole then.
            let found = replay(&torn).ok();
            let least = expected.map_or(0, |(_, length)| length);
            assert!(
                found.map_or(0, |(_, length)| length) >= least,
                "torn at {cut}"
            );
        }
        assert_eq!(model.states.len(), 1);
        assert_eq!(model.head.next_ino, 18);
        assert_eq!(model.head.last_record, 2);
    }

    #[test]
    fn a_damaged_byte_is_found_but_in_the_last_record() {
        let mut bytes = whole(&Model::new(head()));
        let mut last = 0;
        for event in events() {
            last = bytes.len();
            bytes.extend(record(&event));
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                match replay(&damaged) {
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData),
                    Ok((_, length)) => assert!(at >= last && length == last as u64, "{at}"),
                }
            }
        }
    }

    #[test]
    fn a_ledger_longer_than_any_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let file = LedgerFile::create(directory.path(), &Model::new(head())).unwrap();
        file.file.set_len(1 << 40).unwrap();
        for error in [
            LedgerFile::look(directory.path()).unwrap_err(),
            LedgerFile::open(directory.path()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(
            LedgerFile::label(directory.path()).unwrap().version,
            VERSION
        );
    }

    #[test]
    fn what_was_behind_a_torn_record_is_never_read_later() {
        let directory = tempfile::tempdir().unwrap();
        let mut model = Model::new(head());
        let mut file = LedgerFile::create(directory.path(), &model).unwrap();
        // As a record that goes beyond the end, with what a whole one could be in it.
        let torn = [[0xff, 0xff, 0, 0].as_slice(), &[0x11; 60]].concat();
        file.file.write_all_at(&torn, file.length).unwrap();
        drop(file);
        file = LedgerFile::open(directory.path()).unwrap().0;
        let bytes = std::fs::read(directory.path().join(NAME)).unwrap();
        assert!(bytes.ends_with(&[0; 60]));
        for event in [Event::Mounted(9), Event::Mounted(10)] {
            file.append(&event, &model).unwrap();
            model.apply(event);
            assert_eq!(LedgerFile::look(directory.path()).unwrap(), model);
        }
    }

    #[test]
    fn a_short_ledger_says_the_same_as_a_long_one() {
        let mut model = Model::new(head());
        for event in events() {
            model.apply(event);
            let (again, _) = replay(&whole(&model)).unwrap();
            assert_eq!(again, model);
        }
    }

    #[test]
    fn what_is_noted_is_found_again_and_the_file_stays_short() {
        let directory = tempfile::tempdir().unwrap();
        let mut model = Model::new(head());
        let mut file = LedgerFile::create(directory.path(), &model).unwrap();
        for event in events().into_iter().cycle().take(20_000) {
            file.append(&event, &model).unwrap();
            model.apply(event);
            file.shorten(&model);
            assert!(file.length <= file.allocated);
        }
        assert!(file.length < 2 * SHORT_BYTES, "{}", file.length);
        let (opened, found) = LedgerFile::open(directory.path()).unwrap();
        assert_eq!((opened.length, &found), (file.length, &model));
    }
}
