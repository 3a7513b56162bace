//! Commits in bursts against waiters of every kind that come, go, are stopped and killed: none of them
//! misses the last value, none wakes without cause more than once a commit. If any of that does not
//! hold the exit code is 1.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use kstate::{Mount, Reader, State};
use kstate_sys::clock::monotonic_ns;
use kstate_tests::{Board, Running, Setup, passthrough};
use kstatefs::config::Passthrough;
use nix::sys::signal::{SigSet, Signal};

#[path = "wakes/crew.rs"]
mod crew;
#[path = "wakes/findings.rs"]
mod findings;
#[path = "wakes/kind.rs"]
mod kind;
#[path = "wakes/note.rs"]
mod note;
#[path = "soak/random.rs"]
#[expect(dead_code, reason = "words by chance are for the other soak")]
mod random;

use crew::Crew;
use findings::Findings;
use kind::Kind;
use note::{Note, STATES};
use random::Random;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long after a burst a waiter may be behind that is there. Who sleeps in the crowd looks after a
/// second by itself, which must not hide that nobody woke it.
const DEADLINE: Duration = Duration::from_millis(900);
/// A waiter is there for good so long after it was started or went on.
const BRIEF: Duration = Duration::from_millis(100);
/// How long what the dead have left may stay.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two disturbances at most; an eighth of it on average.
const BETWEEN: Duration = Duration::from_millis(120);
/// Commits of a burst at most.
const BURST: usize = 4000;

/// Commit in bursts to waiters of every kind that come, go, are stopped and killed
///
/// In each pause all that are there must be at the last version within 0.9 seconds, before any looks by itself. Ends early when it is
/// interrupted, with what it has by then.
#[derive(Parser, Debug)]
#[command(after_help = "\
Exit status: 0 nothing is wrong; 1 something is, named in the last lines.

Examples:
  cargo run --release -p kstate-tests --bin wakes
  cargo run --release -p kstate-tests --bin wakes -- --commits 50000000 --seconds 3600
  cargo run --release -p kstate-tests --bin wakes -- --seconds 10 --json | jq .faults")]
struct Cli {
    /// Commits of both writers together
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    commits: u64,

    /// No longer than so, whatever has been committed [default: until it is done]
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,

    /// Waiters at any time
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    waiters: u16,

    /// Waiters of these kinds only
    #[arg(long, value_enum, value_delimiter = ',', hide_possible_values = true)]
    kinds: Vec<Kind>,

    /// Let the kernel pass maps through if it can (auto) or fail, or use the daemon's socket (off)
    #[arg(long, value_enum, default_value_t)]
    passthrough: Passthrough,

    /// Print one JSON object, and nothing while it runs
    #[arg(long)]
    json: bool,

    /// The rest is for the processes that it starts
    #[command(flatten)]
    part: Option<Part>,
}

#[derive(clap::Args, Debug)]
struct Part {
    #[arg(long, hide = true, required = false)]
    mount: PathBuf,
    #[arg(long, hide = true, required = false)]
    board: PathBuf,
    /// Of the form NOTE:KIND
    #[arg(long, hide = true)]
    waiter: Vec<String>,
    /// They have handles in common
    #[arg(long, hide = true)]
    share: bool,
    /// Of the form NOTE:STATE
    #[arg(long, hide = true)]
    writer: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let failed = |error: &dyn std::fmt::Display| {
        eprintln!("wakes: {error}");
        ExitCode::FAILURE
    };
    if let Some(part) = &cli.part {
        return match take_part(part) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        };
    }
    match wakes(&cli) {
        Ok(findings) => {
            match cli.json {
                true => println!("{}", findings.json()),
                false => findings.print(),
            }
            match findings.passed() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(error) => failed(&error),
    }
}

fn errors_beside(board: &Path) -> PathBuf {
    board.with_extension("errors")
}

/// Notes what should not have happened, in one write: lines of two processes do not mix.
fn complain(board: &Path, who: &str, error: &dyn std::fmt::Display) {
    let mut options = std::fs::File::options();
    let file = options.append(true).create(true).open(errors_beside(board));
    let written = file.and_then(|mut file| file.write_all(format!("{who}: {error}\n").as_bytes()));
    if let Err(error) = written {
        eprintln!("wakes: {who}: {error}");
    }
}

fn take_part(part: &Part) -> Result {
    let board = Board::<Note>::open(&part.board)?;
    let parse = |text: &str| -> Result<(&'static Note, String)> {
        let (index, rest) = text.split_once(':').ok_or("no note")?;
        let note = board.entry(index.parse()?).ok_or("no such note")?;
        Ok((note, rest.to_owned()))
    };
    if let Some(writer) = &part.writer {
        let (note, state) = parse(writer)?;
        return write(&part.mount, state.parse()?, note);
    }
    let mut waiters = Vec::new();
    for waiter in &part.waiter {
        let (note, kind) = parse(waiter)?;
        waiters.push((note, Kind::from_str(&kind, false)?));
    }
    wait(part, &waiters)
}

/// Has each waiter wait in a thread until the input ends.
fn wait(part: &Part, waiters: &[(&'static Note, Kind)]) -> Result {
    kind::prepare()?;
    let shared = part.share.then(|| kind::readers(&part.mount)).transpose()?;
    let mut threads = Vec::new();
    for (note, kind) in waiters {
        let (note, kind) = (*note, *kind);
        let readers = match &shared {
            Some(readers) => readers.clone(),
            None => kind::readers(&part.mount)?,
        };
        let (mount, board) = (part.mount.clone(), part.board.clone());
        let thread = std::thread::spawn(move || {
            let waited = kind::wait(kind, &mount, &readers, note);
            let failed = waited.is_err();
            if let Err(error) = waited {
                complain(&board, &kind.name(), &error);
            }
            failed
        });
        threads.push((kind, thread));
    }
    std::io::copy(&mut stdin().lock(), &mut std::io::sink())?;
    kind::stop()?;
    for (kind, thread) in threads {
        // Those that block end with the process.
        if !kind.blocks() && thread.join().unwrap_or(true) {
            return Err("a waiter failed".into());
        }
    }
    Ok(())
}

/// Commits its state as each line says: how often, and with how many microseconds in between.
fn write(mount: &Path, state: usize, note: &Note) -> Result {
    let subscribe = Mount::at(mount)?.subscribe(kind::name(state)).write();
    let writer: State<u64> = subscribe.typed()?;
    for line in stdin().lock().lines() {
        let line = line?;
        let (count, pause) = line.split_once(' ').ok_or("no pause")?;
        let (count, pause): (u64, u64) = (count.parse()?, pause.parse()?);
        let (mut newest, mut at) = (writer.generation().0, 0);
        for _ in 0..count {
            at = monotonic_ns();
            // The value is its generation: nobody else writes.
            newest = writer.publish(&(newest + 1))?.0;
            let committed = Instant::now();
            while pause > 0 && committed.elapsed() < Duration::from_micros(pause) {
                std::hint::spin_loop();
            }
        }
        note.committed(state, newest, at);
        writeln!(stdout(), "{newest}")?;
    }
    Ok(())
}

/// Set when somebody asks for an end.
fn interruption() -> Result<Arc<AtomicBool>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Before any other thread or process is there.
    signals.thread_block()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    std::thread::spawn(move || {
        let _ = signals.wait();
        flag.store(true, Ordering::Relaxed);
    });
    Ok(interrupted)
}

/// A process that commits a state.
struct Writer {
    running: Running,
    note: &'static Note,
}

/// As many as are wanted, of each kind as many as of the others.
fn kinds(cli: &Cli) -> Vec<Kind> {
    let chosen = match cli.kinds.is_empty() {
        true => Kind::value_variants(),
        false => &cli.kinds,
    };
    let all = chosen.iter().cycle();
    all.take(usize::from(cli.waiters)).copied().collect()
}

fn wakes(cli: &Cli) -> Result<Findings> {
    let interrupted = interruption()?;
    let setup = Setup::default().apart();
    let mut daemon = setup.with(passthrough(cli.passthrough)).start();
    let mount = daemon.library();
    let make = |name: String| -> Result<Reader<u64>> {
        let state = mount.subscribe(name).write().typed()?;
        state.publish(&1)?;
        Ok(state.reader())
    };
    let kept = [make(kind::name(0))?, make(kind::name(1))?];
    let _idle = kind::idle_names().map(make).collect::<Result<Vec<_>>>()?;
    let path = daemon.home().join("board");
    // A file with holes: what is not used takes no room.
    let board = Board::create(&path, 1_000_000)?;
    let mut crew = Crew::new(daemon.mount().to_owned(), path.clone(), board);
    let mut writers = Vec::new();
    for state in 0..STATES {
        let (index, note) = crew.note()?;
        let running = crew.process(&["--writer".into(), format!("{index}:{state}")])?;
        writers.push(Writer { running, note });
    }
    crew.start_all(kinds(cli))?;
    let mut findings = Findings {
        passthrough: is_passed_through(&kept[0])?,
        ..Findings::default()
    };
    let start = Instant::now();
    run(
        cli,
        &kept,
        &mut writers,
        &mut crew,
        &mut findings,
        &interrupted,
    )?;
    crew.finish();
    findings.seconds = start.elapsed().as_secs_f64();
    let newest = newest(&kept);
    for waiter in &crew.left {
        findings.add(waiter, newest);
    }
    findings.commits = newest.iter().sum::<u64>() - STATES as u64;
    (findings.processes, findings.kills) = (crew.started, crew.kills);
    (findings.ends, findings.stops) = (crew.ends, crew.stops);
    findings.wrong = std::mem::take(&mut crew.wrong);
    findings.daemon_died = daemon.process().ended().is_some();
    let errors = std::fs::read_to_string(errors_beside(&path)).unwrap_or_default();
    findings.errors.extend(errors.lines().map(str::to_owned));
    drop(writers);
    if !findings.daemon_died {
        findings.leaks = leaks(&kept)?;
    }
    Ok(findings)
}

fn newest(kept: &[Reader<u64>; STATES]) -> [u64; STATES] {
    [kept[0].generation().0, kept[1].generation().0]
}

/// Whether maps of a state's file are those of its region.
fn is_passed_through(state: &Reader<u64>) -> Result<bool> {
    use kstate_sys::ioctl::{Subscribe, call, transport};
    let mut terms = Subscribe::default();
    call::subscribe(state, &mut terms)?;
    Ok(terms.transport == transport::PASSTHROUGH)
}

/// What is still held of those who are dead.
fn leaks(kept: &[Reader<u64>; STATES]) -> Result<Vec<String>> {
    let start = Instant::now();
    loop {
        let mut leaks = Vec::new();
        for reader in kept {
            let info = reader.info()?;
            if (info.waiters, info.subscribers) != (0, 1) {
                let (waiters, files) = (info.waiters, info.subscribers);
                leaks.push(format!(
                    "{waiters} waiters, {files} files of `{}`",
                    reader.name()
                ));
            }
        }
        if leaks.is_empty() || start.elapsed() > PATIENCE {
            return Ok(leaks);
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn run(
    cli: &Cli,
    kept: &[Reader<u64>; STATES],
    writers: &mut [Writer],
    crew: &mut Crew,
    findings: &mut Findings,
    interrupted: &AtomicBool,
) -> Result {
    let start = Instant::now();
    let over = cli.seconds.map(Duration::from_secs);
    let mut shown = start;
    let committed = || newest(kept).iter().sum::<u64>() - STATES as u64;
    while !crew.have_all_begun() && start.elapsed() < PATIENCE {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    while committed() < cli.commits
        && over.is_none_or(|over| start.elapsed() < over)
        && !interrupted.load(Ordering::Relaxed)
    {
        let left = (cli.commits - committed()).div_ceil(STATES as u64);
        burst(writers, crew, left)?;
        findings.pauses += 1;
        let ends = [0, 1].map(|state| writers[state].note.at(state));
        pause(newest(kept), ends, crew, findings)?;
        if shown.elapsed() > Duration::from_secs(5) && !cli.json {
            shown = Instant::now();
            eprintln!(
                "{:>4} s: {} commits, {} pauses, {} processes; {} missed, {} wrong",
                start.elapsed().as_secs(),
                committed(),
                findings.pauses,
                crew.started,
                findings.missed.len(),
                crew.wrong.len()
            );
        }
        if findings.missed.len() > 100 {
            break;
        }
    }
    Ok(())
}

/// Has the writers commit, and disturbs the waiters meanwhile.
fn burst(writers: &mut [Writer], crew: &mut Crew, left: u64) -> Result {
    let random: &mut Random = &mut crew.random;
    // As fast as can be, or so slow that each may be waited for; few more often than many.
    let pause = [0, 0, 20, 200][random.below(4)];
    let most = if pause > 0 { BURST / 20 } else { BURST };
    let part = random.below(1000) * random.below(1000);
    let count = (1 + most * part / 1_000_000).min(usize::try_from(left)?);
    let before: Vec<_> = writers.iter().map(|writer| writer.note.bursts()).collect();
    for writer in &mut *writers {
        writer.running.say(&format!("{count} {pause}"));
    }
    let mut next = crew.random.time(BETWEEN);
    let start = Instant::now();
    while writers
        .iter()
        .zip(&before)
        .any(|(writer, before)| writer.note.bursts() == *before)
    {
        if start.elapsed() > next {
            crew.disturb()?;
            next = start.elapsed() + crew.random.time(BETWEEN);
        }
        crew.look(false)?;
        std::thread::park_timeout(Duration::from_micros(200));
        if let Some(status) = writers.iter_mut().find_map(|w| w.running.ended()) {
            return Err(format!("a writer ended: {status}").into());
        }
    }
    for writer in writers {
        writer.running.line();
    }
    Ok(())
}

/// Nobody commits: all who are there get to the last version.
fn pause(
    newest: [u64; STATES],
    committed: [u64; STATES],
    crew: &mut Crew,
    findings: &mut Findings,
) -> Result {
    let quiet = Instant::now();
    let all = crew.random.below(4) == 0;
    crew.look(all)?;
    if crew.random.below(4) == 0 {
        crew.disturb()?;
    }
    let mut waiting = crew.awake();
    findings.looks += waiting.len() as u64;
    loop {
        let behind = crew::behind(&waiting, newest);
        let now = Instant::now();
        let since = |started: Instant| now.duration_since(started.max(quiet));
        let is_behind = |note: &Note| behind.iter().any(|(_, b)| std::ptr::eq(b.note, note));
        for (started, waiter) in waiting.iter().filter(|(_, w)| !is_behind(w.note)) {
            // Of who was there when it was committed.
            if *started + BRIEF < quiet {
                let late = (0..waiter.kind.follows())
                    .map(|state| waiter.note.at(state).saturating_sub(committed[state]));
                let late = late.max().unwrap_or(0);
                findings.caught_up(waiter.kind, Duration::from_nanos(late));
            }
        }
        if behind.is_empty() {
            break;
        }
        let is_late = |(started, _): &&(Instant, crew::Waiter)| since(*started) > DEADLINE;
        if behind.iter().any(|waiter| is_late(&waiter)) {
            for (_, waiter) in behind.iter().filter(is_late) {
                let seen = [waiter.note.seen(0), waiter.note.seen(1)];
                let what = format!("{} is at {seen:?} of {newest:?}", waiter.kind.name());
                findings.missed.push(what);
            }
            break;
        }
        waiting = behind;
        std::thread::park_timeout(Duration::from_micros(200));
    }
    std::thread::park_timeout(crew.random.time(Duration::from_millis(3)));
    Ok(())
}
