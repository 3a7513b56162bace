//! A process that is taken along its operation by single steps (ptrace(2)).
//!
//! The kernel answers the thread that has seized a process, and no other: all of this is done in
//! the thread of the test.

use std::collections::HashSet;
use std::fmt;
use std::process::Command;

use kstate_tests::Running;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::machine;
use crate::scene::Version;

/// What the process raises before and after its operation.
const MARK: Signal = Signal::SIGUSR1;

/// More steps than any operation has: whoever takes them goes round in a circle.
const MAX_STEPS: u32 = 20_000_000;

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
    /// Those at addresses where it was for the first time, and the addresses.
    firsts: Vec<(u32, u64)>,
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
        self.address = machine::instruction_pointer(self.pid);
    }

    /// Brings it to the place of that number; `false` if the operation ends before.
    ///
    /// Each instruction is a place. A repeated one (`rep movs`) is interrupted after each
    /// repetition, and is a place more after the first, the second, the fourth and so on.
    ///
    /// It runs as far as there is an instruction that it has not come by before, according to
    /// `course`, and is stepped along from there.
    #[track_caller]
    pub(crate) fn step_to(&mut self, course: &Course, place: u32) -> bool {
        let firsts = &course.firsts;
        let before = firsts.partition_point(|(number, _)| *number <= place);
        if let Some(&(number, address)) = firsts[..before].last()
            && number > 0
        {
            self.run_to(number, address);
        }
        while !self.at_end && self.places < place {
            self.step();
        }
        !self.at_end
    }

    /// Lets it run to the place of that number, which is the first at that address; not if no
    /// breakpoint can be put there, as in the pages of the kernel's.
    #[track_caller]
    fn run_to(&mut self, number: u32, address: u64) {
        let Ok(text) = machine::set_breakpoint(self.pid, address) else {
            return;
        };
        loop {
            ptrace::cont(self.pid, self.signal.take()).expect("it stands");
            match self.stopped() {
                Signal::SIGTRAP => break,
                MARK => {
                    self.at_end = true;
                    break;
                }
                signal => self.signal = Some(signal),
            }
        }
        machine::remove_breakpoint(self.pid, address, text).expect("it was set");
        if !self.at_end {
            machine::set_instruction_pointer(self.pid, address).expect("it stands");
            (self.places, self.address) = (number, address);
        }
    }

    /// Steps it along to its end, and returns what it comes by.
    #[track_caller]
    pub(crate) fn step_through(&mut self) -> Course {
        let (mut atomic, mut firsts) = (Vec::new(), Vec::new());
        let mut known = HashSet::new();
        while !self.at_end {
            if known.insert(self.address) {
                firsts.push((self.places, self.address));
            }
            if machine::is_atomic(self.pid, self.address) {
                atomic.push(self.places);
            }
            self.step();
        }
        Course {
            places: self.places,
            atomic,
            firsts,
        }
    }

    #[track_caller]
    fn step(&mut self) {
        self.steps += 1;
        assert!(self.steps < MAX_STEPS, "it has not ended after so many");
        ptrace::step(self.pid, self.signal.take()).expect("it stands");
        match self.stopped() {
            Signal::SIGTRAP => {
                let address = machine::instruction_pointer(self.pid);
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
