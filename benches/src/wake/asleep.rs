//! Whether another thread sleeps.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use kstate_sys::futex::Deadline;

use crate::setup::Result;

/// How long who is about to sleep gets before it is looked at: a request to a file system and its
/// answer, which it may sleep for as well.
const REST: Duration = Duration::from_micros(200);
/// The same for who is about to spin.
const SPINNING_REST: Duration = Duration::from_micros(5);
/// Who does not sleep by then never will.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Of `/proc/PID/stat`: the number, the name in brackets, at most 15 bytes, the letter.
const START_BYTES: usize = 64;

/// A thread, as `/proc` shows it.
pub(super) struct Task(File);

impl Task {
    /// The first thread of that process.
    pub(super) fn main_of(process: u32) -> io::Result<Self> {
        Self::open(process, &process.to_string())
    }

    /// All threads of that process.
    pub(super) fn all_of(process: u32) -> io::Result<Vec<Self>> {
        std::fs::read_dir(format!("/proc/{process}/task"))?
            .map(|entry| Self::open(process, &entry?.file_name().to_string_lossy()))
            .collect()
    }

    fn open(process: u32, thread: &str) -> io::Result<Self> {
        Ok(Self(File::open(format!(
            "/proc/{process}/task/{thread}/stat"
        ))?))
    }

    /// Whether it sleeps where a signal would wake it: in futex(2), poll(2), `epoll_wait`.
    pub(super) fn is_asleep(&self) -> io::Result<bool> {
        let mut start = [0; START_BYTES];
        let length = self.0.read_at(&mut start, 0)?;
        let start = &start[..length];
        // The last one: a name may have brackets.
        let name_end = start.iter().rposition(|byte| *byte == b')');
        Ok(name_end.is_some_and(|end| start[end..].starts_with(b") S")))
    }
}

/// Rests, which lets those on the same processor run, until all of `tasks` sleep and `is_ready`.
pub(super) fn await_asleep(tasks: &[Task], is_ready: impl Fn() -> bool) -> Result<()> {
    let deadline = Deadline::after(PATIENCE);
    loop {
        std::thread::sleep(REST);
        // First whether they have come to where they wait: they may have slept before.
        if is_ready() {
            let mut asleep = true;
            for task in tasks {
                asleep = asleep && task.is_asleep()?;
            }
            if asleep {
                return Ok(());
            }
        }
        if deadline.has_passed() {
            return Err("a reader does not wait".into());
        }
    }
}

/// Lets who has said that it is about to look again and again come to that.
pub(super) fn await_spinning() {
    let deadline = Deadline::after(SPINNING_REST);
    while !deadline.has_passed() {
        std::hint::spin_loop();
    }
}
