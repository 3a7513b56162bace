//! What a state costs as a file: reading, writing, and being told by poll of a version written.
//!
//! Beside it is the barest FUSE file system, so that what the kernel takes for a request, and for
//! a notification, is in both. Programs run on one processor; who serves them on the same one, or
//! on another.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::alternate::{alternate, alternate_single};
use crate::bare_fuse::BareMount;
use crate::bare_wake::{BareValue, to_bytes};
use crate::case::Case;
use crate::place::{pin, processors};
use crate::setup::{Result, Setup};

/// Sizes in bytes, and which of the bare buffers has each.
const SIZES: [(usize, usize); 2] = [(64, 0), (4096, 1)];
/// The bare buffer that is polled.
const POLLED: usize = 2;
/// Versions that are polled for, a block.
const VERSIONS_A_BLOCK: usize = 5;
/// How long a reader gets to sleep in poll(2) again: a request, and what is done after it.
const REST: Duration = Duration::from_micros(200);
/// A reader that waits longer was not told, or looks whether it shall end.
const PATIENCE_MS: u8 = 200;

/// All cases.
pub(crate) fn run(blocks: usize) -> Result<Vec<Case>> {
    // Before this thread is bound to one of them.
    let processors = processors();
    pin(0);
    let mut cases = Vec::new();
    for server in 0..processors.min(2) {
        let place = match server {
            0 => "same core",
            _ => "across cores",
        };
        let setup = Setup::start_on(Some(server))?;
        let bare = BareMount::start_on(server)?;
        for (size, index) in SIZES {
            let files = Files::new(&setup, &bare, size, index)?;
            cases.push(files.read(size, blocks, place));
            cases.push(files.write(size, blocks, place));
        }
        cases.push(written(&setup, &bare, blocks, place)?);
    }
    Ok(cases)
}

/// The file of a state and the limit's, with a value in each.
struct Files {
    ours: Both,
    bare: Both,
}

/// One file, open twice: a write through a file that has read would be validated.
struct Both {
    read: File,
    write: File,
}

impl Both {
    fn open(path: &Path, size: usize) -> Result<Self> {
        let write = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        write.write_all_at(&vec![7; size], 0)?;
        let read = File::open(path)?;
        Ok(Self { read, write })
    }
}

impl Files {
    fn new(setup: &Setup, bare: &BareMount, size: usize, index: usize) -> Result<Self> {
        Ok(Self {
            ours: Both::open(&setup.path(&format!("file.{size}")), size)?,
            bare: Both::open(&bare.buffer(index), size)?,
        })
    }

    fn read(&self, size: usize, blocks: usize, place: &str) -> Case {
        let read = |file: &File, count| {
            let mut value = vec![0; size];
            for _ in 0..count {
                match file.read_at(&mut value, 0) {
                    Ok(length) => assert_eq!(length, size),
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let (ours, limit) = alternate(
            blocks,
            |count| read(&self.ours.read, count),
            |count| read(&self.bare.read, count),
        );
        Case::new(format!("read {size} B, {place}"), ours, limit)
    }

    fn write(&self, size: usize, blocks: usize, place: &str) -> Case {
        let value = vec![8; size];
        let write = |file: &File, count| {
            for _ in 0..count {
                match file.write_at(&value, 0) {
                    Ok(length) => assert_eq!(length, size),
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let (ours, limit) = alternate(
            blocks,
            |count| write(&self.ours.write, count),
            |count| write(&self.bare.write, count),
        );
        Case::new(format!("write {size} B, {place}"), ours, limit)
    }
}

/// From before a write(2) until the value is with who slept in poll(2).
fn written(setup: &Setup, bare: &BareMount, blocks: usize, place: &str) -> Result<Case> {
    let size = size_of::<BareValue>();
    let ours = Both::open(&setup.path("file.written"), size)?;
    let bare = Both::open(&bare.buffer(POLLED), size)?;
    let write = |file: &File, number: u64| Ok(file.write_all_at(&to_bytes(&[number; 8]), 0)?);
    let mut our_reader = Sleeper::start(ours.read);
    let mut bare_reader = Sleeper::start(bare.read);
    let (ours, limit) = alternate_single(
        blocks * VERSIONS_A_BLOCK,
        || our_reader.tell(|number| write(&ours.write, number)),
        || bare_reader.tell(|number| write(&bare.write, number)),
    )?;
    let title = format!("write, poll, read, {place}");
    Ok(Case::new(title, ours, limit))
}

/// A thread that sleeps in poll(2) and then reads.
struct Sleeper {
    number: u64,
    held: Receiver<(u64, Instant)>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sleeper {
    fn start(file: File) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = stop.clone();
        let (sender, held) = channel();
        // On this thread's processor, which it inherits.
        let thread = std::thread::spawn(move || {
            if let Err(error) = read_as_told(&file, &sender, &theirs) {
                eprintln!("kstate-benches: a reader has ended: {error}");
            }
        });
        Self {
            number: 0,
            held,
            stop,
            thread: Some(thread),
        }
    }

    /// Nanoseconds from before `write` until the reader has what was written.
    fn tell(&mut self, write: impl Fn(u64) -> Result<()>) -> Result<f64> {
        std::thread::sleep(REST);
        self.number += 1;
        let start = Instant::now();
        write(self.number)?;
        loop {
            let (number, when) = self.held.recv()?;
            if number == self.number {
                return Ok(when.duration_since(start).as_secs_f64() * 1e9);
            }
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("kstate-benches: a reader has panicked");
        }
    }
}

fn read_as_told(
    file: &File,
    sender: &Sender<(u64, Instant)>,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut bytes = [0; size_of::<BareValue>()];
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(PATIENCE_MS))? == 0 {
            continue;
        }
        file.read_at(&mut bytes, 0)?;
        let when = Instant::now();
        let [first, ..] = bytes.as_chunks::<8>().0 else {
            continue;
        };
        // Nobody listens any more: the loop is about to end.
        let _ = sender.send((u64::from_ne_bytes(*first), when));
    }
    Ok(())
}
