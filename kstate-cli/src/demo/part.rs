//! A process of the demo: how it begins, is told to end, and tells what it did.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

use super::report::{Message, Report};
use super::role::Role;
use super::{consumer, counter, publisher};
use crate::error::Exit;
use crate::signals;

/// The hidden subcommand that makes a process one of the demo's.
pub(super) const SUBCOMMAND: &str = "demo-part";

/// How often a process tells how far it is.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// What a part of the demo can end with.
pub(super) type Outcome = Result<Report, Box<dyn Error>>;

/// A process of the demo, seen from inside.
#[derive(Debug)]
pub(super) struct Part {
    role: Role,
    directory: PathBuf,
    stop: Arc<AtomicBool>,
    told: Instant,
}

/// What a part is started with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartArguments {
    pub(super) role: Role,
    /// Where the file system is, or is to be.
    pub(super) directory: PathBuf,
    /// Samples a second.
    pub(super) rate: u32,
    /// The demo's own process.
    pub(super) parent: i32,
    /// Where the daemon may keep regions.
    pub(super) backing: Option<PathBuf>,
}

impl PartArguments {
    /// As arguments of a process.
    pub(super) fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![
            SUBCOMMAND.into(),
            self.role.name().into(),
            self.directory.clone().into(),
            self.rate.to_string().into(),
            self.parent.to_string().into(),
        ];
        arguments.extend(self.backing.clone().map(OsString::from));
        arguments
    }

    /// From the arguments of this process, the program's name left out; `None` when they are not
    /// those of a part.
    pub(super) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        arguments.next().filter(|word| word == SUBCOMMAND)?;
        let role = Role::named(arguments.next()?.to_str()?)?;
        let directory = arguments.next()?.into();
        let mut number = || arguments.next()?.to_str()?.parse().ok();
        let rate = number()?;
        let parent = i32::try_from(number()?).ok()?;
        let backing = arguments.next().map(PathBuf::from);
        Some(Self {
            role,
            directory,
            rate,
            parent,
            backing,
        })
    }
}

/// Runs this process as the part it was started as.
pub(super) fn run(arguments: &PartArguments) -> ExitCode {
    let outcome = begin(arguments).and_then(|mut part| match arguments.role {
        Role::Daemon => serve(&mut part, arguments.backing.as_deref()),
        Role::Publisher => publisher::run(&mut part, arguments.rate),
        Role::FirstCounter | Role::SecondCounter => counter::run(&mut part),
        Role::AtWill => consumer::at_will::run(&mut part),
        Role::EachChange => consumer::each_change::run(&mut part),
        Role::FourASecond => consumer::four_a_second::run(&mut part),
        Role::PlainFile => consumer::plain_file::run(&mut part),
    });
    let (message, exit) = match outcome {
        Ok(report) => (Message::Done(report), Exit::Done),
        Err(error) => (Message::Failed(error.to_string()), Exit::Failed),
    };
    // If nobody listens any more, nobody is to be told.
    let _ = tell(&message);
    exit.into()
}

fn begin(arguments: &PartArguments) -> Result<Part, Box<dyn Error>> {
    // Before anything that takes time: should the demo be killed, so is this.
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    if getppid() != Pid::from_raw(arguments.parent) {
        return Err("the demo has ended".into());
    }
    signals::allow()?;
    prctl::set_name(arguments.role.process_name())?;
    let part = Part {
        role: arguments.role,
        directory: arguments.directory.clone(),
        stop: Arc::new(AtomicBool::new(false)),
        told: Instant::now(),
    };
    if part.role != Role::Daemon {
        part.end_with_input()?;
    }
    Ok(part)
}

impl Part {
    /// Where the file system is mounted.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether this part is to come to its end.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Tells the demo that the work begins.
    pub(super) fn ready(&mut self, how: impl Into<String>) -> io::Result<()> {
        tell(&Message::Ready(how.into()))
    }

    /// Tells the demo how far the work is, unless that was just told.
    pub(super) fn progress(&mut self, report: impl FnOnce() -> Report) -> io::Result<()> {
        if self.told.elapsed() < TELL_EVERY {
            return Ok(());
        }
        self.told = Instant::now();
        tell(&Message::Progress(report()))
    }

    /// The demo tells a part to stop by closing the pipe that is its standard input.
    fn end_with_input(&self) -> io::Result<()> {
        let stop = self.stop.clone();
        thread::Builder::new().name("stop".into()).spawn(move || {
            let mut input = io::stdin().lock();
            // Nothing is ever written to it; an error is an end, too.
            while matches!(input.read(&mut [0]), Ok(1..)) {}
            stop.store(true, Ordering::Relaxed);
        })?;
        Ok(())
    }
}

fn tell(message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

/// Serves the file system until SIGTERM; then takes the directory away, should the demo not be
/// there any more to do it.
fn serve(part: &mut Part, backing: Option<&Path>) -> Outcome {
    let mut config = kstatefs::Config::new(part.directory());
    config.backing = backing.map(Path::to_owned);
    // It goes with the demo.
    config.restartable = false;
    let mut told = Ok(());
    kstatefs::serve(config, |mounted| {
        told = part.ready(match mounted.transport {
            kstatefs::Transport::Passthrough => "passthrough",
            kstatefs::Transport::Socket => "descriptors over a socket",
        });
    })?;
    told?;
    // They are empty by now.
    let above = part.directory().parent();
    let run = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    for left in [Some(part.directory()), run.as_deref(), above, backing]
        .into_iter()
        .flatten()
    {
        let _ = std::fs::remove_dir(left);
    }
    Ok(Report::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_reads_back_what_it_is_started_with() {
        let arguments = PartArguments {
            role: Role::PlainFile,
            directory: "/tmp/a b".into(),
            rate: 1000,
            parent: 77,
            backing: Some("/dev/shm/a".into()),
        };
        let words = arguments.to_arguments();
        assert_eq!(PartArguments::parse(words.iter().cloned()), Some(arguments));
        assert!(PartArguments::parse(words[..5].iter().cloned()).is_some());
        assert_eq!(PartArguments::parse(words[..4].iter().cloned()), None);
        assert_eq!(PartArguments::parse(["demo".into()].into_iter()), None);
    }
}
