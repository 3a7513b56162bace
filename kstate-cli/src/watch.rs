//! `kstate watch`: shows a value whenever it changes.

use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use kstate::{Bytes, Generation, RecordedLayout, Watch, WatchError};
use serde_json::json;

use crate::cli::{Context, Run};
use crate::daemon;
use crate::duration;
use crate::encoding::{Codec, EncodingArguments};
use crate::error::CommandError;
use crate::output;

/// Show values whenever they change
///
/// First the value that is there, then the newest one after each change: generation, age and value,
/// with the state's name before them where there are several. Changes that come faster than they
/// can be written are passed over; the last one before quiet is always shown. A state that is not
/// there yet is made, so that nothing its publisher says is missed. Ends with exit status 3 when the
/// daemon has died.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate watch robot.gps
  kstate watch robot.gps --max-rate 4hz         at most 4 times a second
  kstate watch fix --format '<lat:f64 lon:f64' --json | jq .value.lat
  kstate watch a b c                            several states at once
  kstate watch door --count 2 --timeout 10s     ends after 2 values, or 10 s without one (status 4)
  kstate watch load | cut -f3                   the columns are separated by tabs")]
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
        // No room: who is ahead of the output waits with what it has read last, and then reads the
        // newest.
        let (sender, changes) = mpsc::sync_channel(0);
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
            let sender = sender.clone();
            thread::Builder::new()
                .name(name.clone())
                .spawn(move || follow(index, watch, &sender))
                .map_err(CommandError::System)?;
        }
        drop(sender);
        output::end_with_reader().map_err(CommandError::System)?;
        self.print(context, &changes)
    }
}

fn follow(
    state: usize,
    mut watch: Watch<Bytes>,
    sender: &SyncSender<Result<Change, CommandError>>,
) {
    let mut is_first = true;
    loop {
        let change = match watch.next(None) {
            // Overdue before there was any: there is nothing to show.
            Ok(Some(snapshot)) if snapshot.generation().is_never() => continue,
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
    }
}

impl Arguments {
    fn print(
        &self,
        context: &Context,
        changes: &mpsc::Receiver<Result<Change, CommandError>>,
    ) -> Result<(), CommandError> {
        let mut shown = 0;
        let mut codecs = vec![self.encoding.codec(None); self.names.len()];
        while self.count.is_none_or(|count| shown < count) {
            let change = match self.timeout {
                Some(timeout) => changes.recv_timeout(timeout),
                None => changes.recv().map_err(RecvTimeoutError::from),
            };
            match change {
                Ok(change) => {
                    let change = change?;
                    if change.layout.is_some() {
                        codecs[change.state] = self.encoding.codec(change.layout.as_ref());
                    }
                    self.print_one(context, &change, &codecs[change.state])?;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let timeout = self.timeout.unwrap_or_default();
                    return Err(CommandError::NoChange { timeout });
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
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
