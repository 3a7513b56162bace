//! A process that is taken along its operation by single steps (ptrace(2)).
//!
//! The kernel answers the thread that has seized a process, and no other: all of this is done in
//! the thread of the test.

use std::fmt;
use std::process::Command;

use kstate_tests::Running;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::scene::Version;

/// What the process raises before and after its operation.
const MARK: Signal = Signal::SIGUSR1;

/// More steps than any operation has: whoever takes them goes round in a circle.
const MAX_STEPS: u32 = 20_000_000;

/// Whether processes can be stepped along here.
///
/// On other processors a loop of exclusive loads and stores never ends that is stopped in its
/// middle each time round, and they do not have the instruction pointer where it is read below.
pub(crate) const fn is_possible() -> bool {
    cfg!(target_arch = "x86_64")
}

/// A process of `kstate-stepped`, seized.
#[derive(Debug)]
pub(crate) struct Tracee {
    worker: Running,
    pid: Pid,
    /// Where it stands.
    address: u64,
    /// How often the instruction there has been repeated.
    repeated: u32,
    /// How many places it has come by since the mark.
    places: u32,
    /// How many steps that took.
    steps: u32,
    /// A signal it is to be given when it goes on.
    signal: Option<Signal>,
    at_end: bool,
}

/// What an operation comes by.
#[derive(Debug)]
pub(crate) struct Course {
    /// How many places there are, but for its beginning.
    pub(crate) places: u32,
    /// Those before atomic instructions.
    pub(crate) atomic: Vec<u32>,
}

/// A place in the middle of an operation.
pub(crate) struct Place {
    operation: &'static str,
    number: u32,
    file: String,
    offset: u64,
}

impl Tracee {
    /// Seizes a process that has said that it is ready, and waits for a line.
    #[track_caller]
    pub(crate) fn seize(worker: Running) -> Self {
        let pid = worker.pid();
        // Whatever becomes of this thread, the process does not outlive it.
        ptrace::seize(pid, Options::PTRACE_O_EXITKILL).expect("a child may be traced");
        Self {
            worker,
            pid,
            address: 0,
            repeated: 0,
            places: 0,
            steps: 0,
            signal: None,
            at_end: false,
        }
    }

    /// Has it do its operation once more; it stands at the beginning then.
    #[track_caller]
    pub(crate) fn begin(&mut self, number: u64) {
        self.worker.say(&number.to_string());
        self.until_mark();
        (self.repeated, self.places, self.steps) = (0, 0, 0);
        self.at_end = false;
        self.address = instruction_pointer(self.pid);
    }

    /// Steps it along to the place of that number; `false` if the operation ends before.
    ///
    /// Each instruction is a place. A repeated one (`rep movs`) is interrupted after each
    /// repetition, and is a place more after the first, the second, the fourth and so on.
    #[track_caller]
    pub(crate) fn step_to(&mut self, place: u32) -> bool {
        while !self.at_end && self.places < place {
            self.step();
        }
        !self.at_end
    }

    /// Steps it along to its end, and returns what it comes by.
    #[track_caller]
    pub(crate) fn step_through(&mut self) -> Course {
        let mut atomic = Vec::new();
        while !self.at_end {
            if is_atomic(self.pid, self.address) {
                atomic.push(self.places);
            }
            self.step();
        }
        Course {
            places: self.places,
            atomic,
        }
    }

    #[track_caller]
    fn step(&mut self) {
        self.steps += 1;
        assert!(self.steps < MAX_STEPS, "it has not ended after so many");
        ptrace::step(self.pid, self.signal.take()).expect("it stands");
        match self.stopped() {
            Signal::SIGTRAP => {
                let address = instruction_pointer(self.pid);
                let same = address == self.address;
                self.address = address;
                self.repeated = if same { self.repeated + 1 } else { 0 };
                self.places += u32::from(!same || self.repeated.is_power_of_two());
            }
            MARK => self.at_end = true,
            // An answer to what it did, such as touching a page that is trapped.
            signal => self.signal = Some(signal),
        }
    }

    /// Where it stands.
    pub(crate) fn place(&self, operation: &'static str) -> Place {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap_or_default();
        let (file, start) = mapping_of(&maps, self.address);
        Place {
            operation,
            number: self.places,
            file: file.to_owned(),
            offset: self.address.wrapping_sub(start),
        }
    }

    /// Lets it go on to the end of its operation, and returns what it says of it.
    #[track_caller]
    pub(crate) fn go_on(&mut self) -> Vec<Version> {
        if !self.at_end {
            ptrace::cont(self.pid, self.signal.take()).expect("it stands");
            self.until_mark();
        }
        ptrace::cont(self.pid, None).expect("it stands");
        let line = self.worker.line();
        let words = line.split_whitespace().map(|word| word.parse());
        let words: Vec<u64> = words.collect::<Result<_, _>>().expect("numbers");
        let (versions, _) = words.as_chunks();
        let version = |&[generation, number]: &[u64; 2]| Version { generation, number };
        versions.iter().map(version).collect()
    }

    /// Waits until it is at a mark; it is on the way there.
    #[track_caller]
    fn until_mark(&self) {
        loop {
            match self.stopped() {
                MARK => return,
                signal => ptrace::cont(self.pid, signal).expect("it stands"),
            }
        }
    }

    /// Waits until it stands, and says what for.
    #[track_caller]
    fn stopped(&self) -> Signal {
        match waitpid(self.pid, None) {
            Ok(WaitStatus::Stopped(_, signal)) => signal,
            other => panic!("in the middle of its operation: {other:?}"),
        }
    }

    /// Kills it where it stands.
    #[track_caller]
    pub(crate) fn kill(mut self) {
        self.worker.signal(Signal::SIGKILL);
        self.worker.finish();
    }

    /// Has it end by itself, after an operation.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.worker.close_input();
        assert!(self.worker.finish().success(), "it ends well");
    }
}

#[cfg(target_arch = "x86_64")]
fn instruction_pointer(pid: Pid) -> u64 {
    ptrace::getregs(pid).expect("it stands").rip
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_pointer(_: Pid) -> u64 {
    unreachable!("nothing is stepped along where that is not possible")
}

/// Whether the instruction at `address` reads and writes memory in one: it has the prefix `lock`, or
/// is an `xchg`. Which prefix comes first is not said, but one of size may.
fn is_atomic(pid: Pid, address: u64) -> bool {
    let address = std::ptr::without_provenance_mut(usize::try_from(address).unwrap_or(0));
    // What is not there to be read is not executed either, such as the page of `vsyscall`.
    let bytes = ptrace::read(pid, address).unwrap_or(0).to_le_bytes();
    let mut bytes = bytes.into_iter().skip_while(|byte| *byte == 0x66);
    match bytes.next() {
        Some(0xf0) => true,
        Some(0x40..=0x4f) => matches!(bytes.next(), Some(0x86 | 0x87)),
        Some(first) => matches!(first, 0x86 | 0x87),
        None => false,
    }
}

/// The file that is mapped at `address`, and where its first byte is.
fn mapping_of(maps: &str, address: u64) -> (&str, u64) {
    let parsed = maps.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        Some((start..end, rest.split_whitespace().nth(4).unwrap_or("?")))
    });
    let parsed: Vec<_> = parsed.collect();
    let file = parsed.iter().find(|(range, _)| range.contains(&address));
    let file = file.map_or("?", |(_, file)| file);
    let first = parsed.iter().find(|(_, of)| *of == file);
    (file, first.map_or(0, |(range, _)| range.start))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operation,
            number,
            file,
            offset,
        } = self;
        write!(f, "{operation}, instruction {number}, {file}+{offset:#x}")
    }
}

/// Says where it was, of a test that fails there.
impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut command = Command::new("addr2line");
            command.args(["-C", "-f", "-i", "-p", "-e", &self.file]);
            let found = command.arg(format!("{:#x}", self.offset)).output();
            let found = found.map(|found| found.stdout).unwrap_or_default();
            eprintln!("at {self}\n{}", String::from_utf8_lossy(&found));
        }
    }
}
