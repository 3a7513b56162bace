//! `kstate demo`: everything at work, with nothing to set up.
//!
//! The demo is one process that starts this program again, once for each [`Role`](role::Role): a
//! daemon on a temporary directory, writers, and consumers. They tell it what they do in lines of
//! JSON over pipes, and are told to stop by the end of their standard input. The writers are
//! stopped first; then the consumers have to come to the last value by themselves.

mod board;
mod consumer;
mod counter;
mod crew;
mod latency;
mod lines;
mod observer;
mod part;
mod place;
mod publisher;
mod report;
mod role;
mod sample;
mod states;
mod summary;
mod table;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use self::board::{Board, ProcessRow};
use self::crew::{Crew, Member, MemberState};
use self::observer::Observer;
use self::part::PartArguments;
use self::place::Place;
use self::role::Role;
use self::summary::Summary;
use self::table::Screen;
use crate::cli::{Context, Run};
use crate::doctor::Mounting;
use crate::error::{CommandError, Exit};
use crate::output;
use crate::signals::Ending;

/// See everything at work for a few seconds, with nothing to set up
///
/// Mounts a kstate file system on a temporary directory and starts a publisher that samples this
/// machine a thousand times a second into typed states (cpu, memory, network, load), two processes
/// that count in one state by transactions, and four consumers: one reads whenever it likes, one
/// waits for each change, one looks at most 4 times a second, one uses plain file calls only. Shows
/// a live table on a terminal and lines elsewhere, ends by itself with a summary, and leaves nothing
/// behind.
///
/// Every value carries a check: a torn or lost value, or a consumer that does not end with the last
/// one, makes the exit status 1. Any process may be killed meanwhile; the others go on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate demo
  kstate demo --seconds 60 --rate 5000
  kstate demo --json | jq '.torn, .wake_us_p50'")]
pub(crate) struct Arguments {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    /// Samples a second
    #[arg(long, value_name = "HZ", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,

    /// Lines, even on a terminal
    #[arg(long)]
    plain: bool,
}

/// How long a process may take to get to work.
const TIME_TO_START: Duration = Duration::from_secs(10);

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DemoError {
    /// Nothing can be mounted here.
    #[error("the demo mounts a file system, and this user cannot: {0}; `kstate doctor` says more")]
    CannotMount(String),
    /// A process did not get to work.
    #[error("the demo's {role} did not start: {why}")]
    NotStarted {
        /// Which one.
        role: &'static str,
        /// What it said.
        why: String,
    },
    /// The kernel refuses something else.
    #[error("the demo cannot go on: {0}")]
    System(#[from] io::Error),
}

/// Does what this process was started for, where that is to be a part of a demo.
pub(crate) fn run_as_part() -> Option<ExitCode> {
    let arguments = PartArguments::parse(std::env::args_os().skip(1))?;
    Some(part::run(&arguments))
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let summary = self.demonstrate(context)?;
        let mut output = io::stdout().lock();
        if context.json() {
            let line = serde_json::to_value(&summary).map_err(io::Error::from)?;
            output::json_line(&mut output, &line)?;
        } else {
            summary.write(&mut output)?;
        }
        match summary.is_good() {
            true => Ok(()),
            false => Err(CommandError::Reported(Exit::Failed)),
        }
    }
}

impl Arguments {
    fn demonstrate(&self, context: &Context) -> Result<Summary, CommandError> {
        let ending = Ending::catch().map_err(DemoError::System)?;
        // Dropped in the other order: first the processes end, then their directory goes.
        let place = Place::make().map_err(DemoError::System)?;
        let mut crew = Crew::at(&place, self.rate);
        let directory = place.directory();
        let mounted = mount(&mut crew, &ending)?;
        for roles in [Role::is_writer, Role::is_consumer] {
            for role in Role::ALL.into_iter().filter(|role| roles(*role)) {
                crew.start(role).map_err(DemoError::System)?;
            }
            await_ready(&mut crew, &ending)?;
        }
        let mut observer = Observer::at(&directory)?;
        // Rates are taken from here.
        observer.look()?;
        let elapsed = self.watch(context, &mut crew, &mut observer, &ending, &mounted)?;

        crew.stop(Role::is_writer).map_err(DemoError::System)?;
        let newest = observer.newest()?;
        crew.stop(Role::is_consumer).map_err(DemoError::System)?;
        drop(observer);
        crew.stop(|role| role == Role::Daemon)
            .map_err(DemoError::System)?;
        Ok(Summary {
            mounted,
            ..Summary::of(&crew, &newest, elapsed)
        })
    }

    /// Shows what happens until the time is up or somebody ends it; returns how long that was.
    fn watch(
        &self,
        context: &Context,
        crew: &mut Crew,
        observer: &mut Observer,
        ending: &Ending,
        mounted: &str,
    ) -> Result<Duration, CommandError> {
        let length = Duration::from_secs(self.seconds);
        let begin = Instant::now();
        let on_terminal = !self.plain
            && !context.json()
            && io::stdout().is_terminal()
            && io::stdin().is_terminal();
        let mut screen = match on_terminal {
            true => Some(Screen::take()?),
            false => None,
        };
        let show_every = match on_terminal {
            true => Duration::from_millis(100),
            false => Duration::from_secs(1),
        };
        let mut next = show_every;
        let mut told_deaths = BTreeSet::new();
        loop {
            let elapsed = begin.elapsed();
            if elapsed >= length || ending.is_asked()? || has_no_daemon(crew) {
                return Ok(elapsed);
            }
            if let Some(screen) = &mut screen
                && screen.is_asked_to_end()?
            {
                return Ok(elapsed);
            }
            if screen.is_none() {
                tell_deaths(crew, &mut told_deaths);
            }
            if elapsed >= next {
                next += show_every;
                let board = Board {
                    elapsed,
                    length,
                    mounted: mounted.to_owned(),
                    states: observer.look()?,
                    processes: ProcessRow::all(crew),
                };
                match &mut screen {
                    Some(screen) => screen.show(&board)?,
                    None if context.json() => {}
                    None => lines::write(io::stdout().lock(), &board)?,
                }
            }
            let pause = next.min(length).saturating_sub(begin.elapsed());
            let pause = pause.min(Duration::from_millis(100)) + Duration::from_millis(1);
            crew.listen(ending.descriptor(), pause)
                .map_err(DemoError::System)?;
        }
    }
}

/// Starts the daemon in whatever way this user can, and says which.
fn mount(crew: &mut Crew, ending: &Ending) -> Result<String, CommandError> {
    let mut refused = Vec::new();
    for way in Mounting::ways_of_this_user() {
        let name = way.name();
        if let Mounting::Impossible(why) = way {
            refused.push(why.to_owned());
            break;
        }
        if let Err(error) = place::prepare(way) {
            refused.push(format!("{name}: {error}"));
            continue;
        }
        crew.start(Role::Daemon).map_err(DemoError::System)?;
        match await_ready(crew, ending) {
            Ok(()) => {
                let how = crew
                    .member(Role::Daemon)
                    .map(|daemon| daemon.state().clone());
                return Ok(match how {
                    Some(MemberState::Ready(how)) => format!("{}, {how}", way.in_words()),
                    _ => way.in_words().to_owned(),
                });
            }
            Err(CommandError::Demo(DemoError::NotStarted { why, .. })) => {
                refused.push(format!("{name}: {why}"));
                crew.stop(|_| true).map_err(DemoError::System)?;
                crew.forget_ended();
            }
            Err(error) => return Err(error),
        }
    }
    Err(DemoError::CannotMount(refused.join("; ")).into())
}

/// Says on standard error, once, who died.
fn tell_deaths(crew: &Crew, told: &mut BTreeSet<Role>) {
    for death in crew.members().iter().filter_map(Member::death) {
        if told.insert(death.role) {
            let name = death.role.name();
            output::note(format_args!(
                "{name} (process {}) died: {}",
                death.pid, death.how
            ));
        }
    }
}

fn has_no_daemon(crew: &Crew) -> bool {
    crew.member(Role::Daemon)
        .is_none_or(|daemon| daemon.has_ended())
}

/// Listens until everybody started is at work.
fn await_ready(crew: &mut Crew, ending: &Ending) -> Result<(), CommandError> {
    let deadline = Instant::now() + TIME_TO_START;
    loop {
        let mut all_ready = true;
        for member in crew.members() {
            let role = member.role().name();
            if let Some(death) = member.death() {
                return Err(DemoError::NotStarted {
                    role,
                    why: death.how,
                }
                .into());
            }
            // What has failed says so before it ends, and has to be seen to end.
            if matches!(
                member.state(),
                MemberState::Starting | MemberState::Failed(_)
            ) {
                all_ready = false;
                if Instant::now() >= deadline {
                    let why = "it said nothing for too long".to_owned();
                    return Err(DemoError::NotStarted { role, why }.into());
                }
            }
        }
        if all_ready {
            return Ok(());
        }
        if ending.is_asked()? {
            return Err(CommandError::Ended);
        }
        crew.listen(ending.descriptor(), Duration::from_millis(100))
            .map_err(DemoError::System)?;
    }
}
