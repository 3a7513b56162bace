//! `kstate feed`: records that arrive become commits.

mod source;

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kstate::{Bytes, State};
use serde_json::json;

use self::source::{Address, Framing, Source, Stop};
pub(crate) use self::source::{FeedError, OpenError};
use crate::cli::{Context, Run};
use crate::daemon;
use crate::duration;
use crate::encoding::{Codec, EncodingArguments};
use crate::error::{CommandError, Exit};
use crate::keeping::{self, KeepingArguments};
use crate::output;
use crate::signals::Ending;

/// How many refused records are told of one by one.
const TOLD_REFUSALS: u64 = 10;

/// Make every record that arrives a value of a state, at the rate they arrive
///
/// A record is a line, without its newline, or so many bytes. With --as or --format each line is
/// text that is converted, as by `kstate set`. A record that does not fit is refused with a message,
/// the rest go on; the exit status is 1 then. Ends with its input, by Ctrl-C, or with exit status 3
/// when the daemon has died. --keep and --linger hold from the first record on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gpspipe -w | kstate feed robot.gps
  ping example.org | kstate feed ping --stats
  kstate feed fix udp:127.0.0.1:9000 --format '<lat:f64 lon:f64'
  kstate feed frame unix:/tmp/frames --record-size 512
  journalctl -f -o json | kstate feed log --as json

SOURCE is `-` (standard input), `unix:PATH` (a stream socket made there, for any number of
clients), `unix-datagram:PATH` (one record a datagram), or `udp:127.0.0.1:PORT` (likewise; port 0
is one that is free).")]
pub(crate) struct Arguments {
    /// The state
    name: String,

    /// Where the records come from
    #[arg(default_value = "-")]
    source: Address,

    /// Records are so many bytes each rather than lines
    #[arg(long, value_name = "BYTES", value_parser = record_size, conflicts_with_all = ["encoding", "format", "keep_newline"])]
    record_size: Option<NonZeroUsize>,

    /// Leave each line its newline
    #[arg(long)]
    keep_newline: bool,

    #[command(flatten)]
    encoding: EncodingArguments,

    #[command(flatten)]
    keeping: KeepingArguments,

    /// Tell at the end how many records came, and how fast
    #[arg(long)]
    stats: bool,
}

/// What came of the records.
#[derive(Debug, Default)]
struct Tally {
    commits: u64,
    refused: u64,
    bytes: u64,
    busy: Duration,
}

fn record_size(text: &str) -> Result<NonZeroUsize, String> {
    let bytes: usize = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number of bytes such as 512"))?;
    NonZeroUsize::new(bytes).ok_or_else(|| "a record has at least one byte".into())
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let longest = self
            .keeping
            .capacity()
            .unwrap_or_else(kstate_sys::abi::page_size) as usize;
        let framing = match self.record_size {
            // Records of which none fits shall not make the state.
            Some(bytes) if bytes.get() > longest => {
                return Err(OpenError::RecordSize {
                    bytes: bytes.get(),
                    bound: longest,
                }
                .into());
            }
            Some(bytes) => Framing::Records(bytes),
            None => Framing::Lines {
                keep_newline: self.keep_newline,
            },
        };
        let mount = context.mount()?;
        let ending = Ending::catch().map_err(CommandError::System)?;
        let state = self
            .keeping
            .apply(mount.subscribe(&self.name).write())
            .bytes()?;
        let found = keeping::last_look(&mount, &state)?;
        self.keeping.check(&mount, &self.name, &found)?;
        let layout = found.layout;
        let codec = match framing {
            Framing::Lines { .. } => self.encoding.codec(layout.as_ref()),
            // They are the bytes already.
            Framing::Records(_) => self.encoding.codec(None),
        };
        let longest_record = codec.longest_text(longest);
        let flag = ending.flag().map_err(CommandError::System)?;
        let (death, closed_by_death) = io::pipe().map_err(CommandError::System)?;
        let (sender, deaths) = mpsc::channel();
        let ended = flag.clone();
        daemon::when_it_dies(&mount, state.reader(), move |error| {
            // Who asked has ended by itself.
            let _ = sender.send(error);
            ended.store(true, Ordering::Relaxed);
            drop(closed_by_death);
        })
        .map_err(CommandError::System)?;
        let stop = Stop {
            flag: &flag,
            wakes: [ending.descriptor(), death.as_fd()],
        };
        let mut source = Source::open(&self.source, framing, longest_record, stop)?;
        if let Some(address) = source.local_address() {
            output::note(format_args!("listening at udp:{address}"));
        }

        let begin = Instant::now();
        let settle = || self.keeping.settle(&mount, &self.name);
        let tally = feed(context, &state, &codec, &mut source, settle)?;
        if let Ok(error) = deaths.try_recv() {
            self.tell(context, &tally, begin.elapsed())?;
            return Err(error.into());
        }
        let info = keeping::last_look(&mount, &state)?;
        drop((state, source));
        self.tell(context, &tally, begin.elapsed())?;
        if keeping::goes_with_its_publisher(&info) {
            keeping::tell_that_it_has_gone(&self.name);
        }
        match tally.refused {
            0 => Ok(()),
            _ => Err(CommandError::Reported(Exit::Failed)),
        }
    }
}

fn feed(
    context: &Context,
    state: &State<Bytes>,
    codec: &Codec,
    source: &mut Source<'_>,
    settle: impl Fn() -> Result<(), CommandError>,
) -> Result<Tally, CommandError> {
    let mut tally = Tally::default();
    let mut record = Vec::new();
    let mut first: Option<Instant> = None;
    loop {
        let committed = match source.next_record(&mut record) {
            Ok(None) => break,
            Ok(Some(())) => {
                first.get_or_insert_with(Instant::now);
                commit(state, codec, &record)
            }
            Err(error) => Err(error.into()),
        };
        match committed {
            Ok(bytes) => {
                tally.commits += 1;
                tally.bytes += bytes as u64;
                if tally.commits == 1 {
                    settle()?;
                }
            }
            Err(error) if error.is_about_one_record() => {
                tally.refused += 1;
                if tally.refused <= TOLD_REFUSALS {
                    output::report(context, &error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    tally.busy = first.map(|first| first.elapsed()).unwrap_or_default();
    Ok(tally)
}

fn commit(state: &State<Bytes>, codec: &Codec, record: &[u8]) -> Result<usize, CommandError> {
    let value = codec.parse(record)?;
    state.publish(&value)?;
    Ok(value.len())
}

impl Arguments {
    fn tell(&self, context: &Context, tally: &Tally, took: Duration) -> io::Result<()> {
        if tally.refused > TOLD_REFUSALS {
            output::note(format_args!(
                "{} records were refused in all",
                tally.refused
            ));
        }
        if !self.stats {
            return Ok(());
        }
        let rate = tally.rate();
        if context.json() {
            let line = json!({
                "name": self.name,
                "commits": tally.commits,
                "refused": tally.refused,
                "bytes": tally.bytes,
                "seconds": took.as_secs_f64(),
                "commits_per_second": rate,
            });
            return output::json_line(&mut io::stdout().lock(), &line);
        }
        output::note(format_args!(
            "{} commits of {} bytes in {}, {rate:.0} a second from the first on; {} refused",
            tally.commits,
            tally.bytes,
            duration::show(took),
            tally.refused,
        ));
        Ok(())
    }
}

impl Tally {
    /// Commits a second since the first record.
    fn rate(&self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate of fifteen digits is exact enough"
        )]
        let commits = self.commits as f64;
        let seconds = self.busy.as_secs_f64();
        if seconds > 0.0 {
            commits / seconds
        } else {
            0.0
        }
    }
}
