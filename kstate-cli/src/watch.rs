//! `kstate watch`: shows a value whenever it changes, or runs a command.

mod command;

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use kstate::{Bytes, Generation, Reader, RecordedLayout, Watch, WatchError};
use serde_json::json;

use crate::cli::{Context, Run};
use crate::daemon;
use crate::duration;
use crate::encoding::{Codec, EncodingArguments};
use crate::error::CommandError;
use crate::output;
use command::Runner;

/// Show values whenever they change
///
/// First the value that is there, then the newest one after each change: generation, age and value,
/// with the state's name before them where there are several. Changes that come faster than they
/// can be written are passed over; the last one before quiet is always shown. A state that is not
/// there yet is made, so that nothing its publisher says is missed. Ends with exit status 3 when the
/// daemon has died.
///
/// With --exec a command is run for each change instead, by `sh -c`, one at a time. It has the value's bytes
/// on its standard input, and in its environment KSTATE_NAME, KSTATE_GENERATION, KSTATE_LENGTH in bytes,
/// KSTATE_TIME_NS, the time of the commit in nanoseconds since the epoch, empty where it is not known,
/// KSTATE_OVERDUE, 1 where the next value is overdue and else 0, and KSTATE_MOUNT, which `kstate`
/// commands go by. While it runs, changes come together: it is run again for the newest, and never
/// misses the last. One that fails is told of on standard error, and the next change runs it again. Ctrl-C
/// and `kill` end the command that runs, by SIGTERM to its process group and SIGKILL if it is there after
/// two seconds, and then this. What a command left in the background when it ended goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate watch robot.gps
  kstate watch robot.gps --max-rate 4hz         at most 4 times a second
  kstate watch fix --format '<lat:f64 lon:f64' --json | jq .value.lat
  kstate watch a b c                            several states at once
  kstate watch door --count 2 --timeout 10s     ends after 2 values, or 10 s without one (status 4)
  kstate watch load | cut -f3                   the columns are separated by tabs
  kstate watch door --exec 'logger \"$KSTATE_NAME is $(cat)\"'
                                                runs a command for each change")]
pub(crate) struct Arguments {
    /// The states
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    #[command(flatten)]
    encoding: EncodingArguments,

    /// At most so often for each state, as 4hz or 250ms
    #[arg(long, value_name = "RATE", value_parser = duration::parse_rate)]
    max_rate: Option<Duration>,

    /// End after so many values, of all states together
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// End with exit status 4 when nothing changes for so long
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    timeout: Option<Duration>,

    /// Run COMMAND by `sh -c` for each change, with the value on its standard input, and show nothing else
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["encoding", "format"])]
    exec: Option<String>,

    /// Fail with exit status 3 where a state is not there, rather than make it
    #[arg(long)]
    existing: bool,
}

/// One version of one state.
struct Change {
    state: usize,
    /// What is recorded with the state; asked for with its first version.
    layout: Option<RecordedLayout>,
    generation: Generation,
    age: Option<Duration>,
    /// The next one is.
    overdue: bool,
    value: Vec<u8>,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let mount = context.mount()?;
        if self.exec.is_some() && context.json() {
            return Err(CommandError::Usage(
                "--exec shows nothing, and so nothing as JSON: the command has the value's bytes"
                    .into(),
            ));
        }
        // No room: who is ahead of the output waits with what it has read last, and then reads the
        // newest.
        let (sender, changes) = mpsc::sync_channel(0);
        // Before any thread: what a signal does is said for all of them.
        let runner = match &self.exec {
            Some(command) => {
                let sender = sender.clone();
                let ended = move || {
                    // Nobody listens any more where that was seen already.
                    let _ = sender.send(Err(CommandError::Ended));
                };
                let mount = mount.path().to_owned();
                let runner = Runner::new(command.clone(), mount, ended);
                Some(runner.map_err(CommandError::System)?)
            }
            None => None,
        };
        let mut followed = Vec::new();
        for (index, name) in self.names.iter().enumerate() {
            let mut subscribe = mount.subscribe(name);
            if self.existing {
                subscribe = subscribe.existing();
            }
            let state = subscribe
                .bytes()
                .map_err(|error| CommandError::of_existing(name, error))?;
            let mut watch = state.watch();
            if let Some(interval) = self.max_rate {
                watch = watch.at_most_every(interval);
            }
            if index == 0 {
                // One daemon serves them all.
                let sender = sender.clone();
                daemon::when_it_dies(&mount, state.reader(), move |error| {
                    // Who asked has ended by itself.
                    let _ = sender.send(Err(error.into()));
                })
                .map_err(CommandError::System)?;
            }
            let (shown, answers) = mpsc::channel();
            followed.push(Followed {
                reader: watch.reader().clone(),
                shown,
            });
            let sender = sender.clone();
            let answers = runner.is_some().then_some(answers);
            let rate = self.max_rate;
            thread::Builder::new()
                .name(name.clone())
                .spawn(move || follow(index, watch, &sender, answers.as_ref(), rate))
                .map_err(CommandError::System)?;
        }
        drop(sender);
        output::end_with_reader().map_err(CommandError::System)?;
        match runner {
            Some(runner) => self.run_for_each(&runner, &followed, &changes),
            None => self.print(context, &changes),
        }
    }
}

/// A state whose changes run a command.
struct Followed {
    reader: Reader<Bytes>,
    /// Tells the thread that follows it what the command had.
    shown: Sender<Shown>,
}

/// The version that a command was run for, and when that was.
#[derive(Clone, Copy)]
struct Shown {
    generation: Generation,
    overdue: bool,
    at: Instant,
}

impl Shown {
    fn covers(&self, snapshot: &kstate::Snapshot<Vec<u8>>) -> bool {
        snapshot.generation() == self.generation && self.overdue
    }
}

/// Sends each change. Where there are `answers`, the next one is what comes behind the version that each
/// tells of, no sooner than `rate` after that.
fn follow(
    state: usize,
    mut watch: Watch<Bytes>,
    sender: &SyncSender<Result<Change, CommandError>>,
    answers: Option<&Receiver<Shown>>,
    rate: Option<Duration>,
) {
    let mut is_first = true;
    let mut shown: Option<Shown> = None;
    loop {
        let change = match watch.next(None) {
            // Overdue before there was any: there is nothing to show.
            Ok(Some(snapshot)) if snapshot.generation().is_never() => continue,
            // The command had it already.
            Ok(Some(snapshot)) if shown.is_some_and(|shown| shown.covers(&snapshot)) => continue,
            Ok(Some(snapshot)) => Ok(Change {
                state,
                layout: match std::mem::take(&mut is_first) {
                    // Without an answer the value is shown as bytes.
                    true => watch.reader().info().ok().and_then(|info| info.layout),
                    false => None,
                },
                generation: snapshot.generation(),
                age: snapshot.age(),
                overdue: snapshot.is_overdue(),
                value: snapshot.value,
            }),
            // Without a timeout that is nothing but a signal.
            Ok(None) | Err(WatchError::Interrupted) => continue,
            Err(error) => Err(error.into()),
        };
        let is_last = change.is_err();
        if sender.send(change).is_err() || is_last {
            return;
        }
        let Some(answers) = answers else { continue };
        let Ok(answer) = answers.recv() else { return };
        shown = Some(answer);
        watch = watch.since(answer.generation);
        if let Some(rate) = rate {
            thread::sleep(rate.saturating_sub(answer.at.elapsed()));
        }
    }
}

impl Arguments {
    fn run_for_each(
        &self,
        runner: &Runner,
        followed: &[Followed],
        changes: &Receiver<Result<Change, CommandError>>,
    ) -> Result<(), CommandError> {
        let mut runs = 0;
        while self.count.is_none_or(|count| runs < count) {
            let change = self.next(changes);
            if runner.is_asked_to_end() {
                break;
            }
            let Some(mut change) = change? else { break };
            let followed = &followed[change.state];
            // Who is ahead has waited with it while the command ran.
            if let Ok(newest) = followed.reader.snapshot()
                && newest.generation() > change.generation
            {
                change = Change {
                    generation: newest.generation(),
                    age: newest.age(),
                    overdue: newest.is_overdue(),
                    value: newest.value,
                    ..change
                };
            }
            let shown = Shown {
                generation: change.generation,
                overdue: change.overdue,
                at: Instant::now(),
            };
            let name = &self.names[change.state];
            runner.run(name, &change).map_err(CommandError::System)?;
            if runner.is_asked_to_end() {
                break;
            }
            // Its thread ends only after an error, which comes next.
            let _ = followed.shown.send(shown);
            runs += 1;
        }
        Ok(())
    }

    /// The next change, `None` where there will be none.
    fn next(
        &self,
        changes: &Receiver<Result<Change, CommandError>>,
    ) -> Result<Option<Change>, CommandError> {
        let change = match self.timeout {
            Some(timeout) => changes.recv_timeout(timeout),
            None => changes.recv().map_err(RecvTimeoutError::from),
        };
        match change {
            Ok(change) => change.map(Some),
            Err(RecvTimeoutError::Timeout) => {
                let timeout = self.timeout.unwrap_or_default();
                Err(CommandError::NoChange { timeout })
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
        }
    }

    fn print(
        &self,
        context: &Context,
        changes: &mpsc::Receiver<Result<Change, CommandError>>,
    ) -> Result<(), CommandError> {
        let mut shown = 0;
        let mut codecs = vec![self.encoding.codec(None); self.names.len()];
        while self.count.is_none_or(|count| shown < count) {
            let Some(change) = self.next(changes)? else {
                break;
            };
            if change.layout.is_some() {
                codecs[change.state] = self.encoding.codec(change.layout.as_ref());
            }
            self.print_one(context, &change, &codecs[change.state])?;
            shown += 1;
        }
        Ok(())
    }

    fn print_one(
        &self,
        context: &Context,
        change: &Change,
        codec: &Codec,
    ) -> Result<(), CommandError> {
        let name = &self.names[change.state];
        let mut output = io::stdout().lock();
        if context.json() {
            let line = json!({
                "name": name,
                "generation": change.generation.0,
                "age_ns": change.age.map(duration::nanoseconds),
                "overdue": change.overdue,
                "length": change.value.len(),
                "value": codec.to_json(&change.value)?,
            });
            return Ok(output::json_line(&mut output, &line)?);
        }
        let value = codec.to_line(&change.value)?;
        let mut line = Vec::new();
        if !codec.is_raw() {
            if self.names.len() > 1 {
                write!(line, "{name}\t")?;
            }
            let age = change.age.map_or_else(|| "-".to_owned(), duration::show);
            let late = if change.overdue { ", overdue" } else { "" };
            write!(line, "{}\t{age}{late}\t", change.generation)?;
        }
        line.extend(value);
        output.write_all(&line)?;
        Ok(output.flush()?)
    }
}
