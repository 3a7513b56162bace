//! Everything at once for as long as it is wanted, with processes that are stopped and killed at any
//! moment. What must not happen is counted; if any of it does the exit code is 1.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use kstate::{Mount, Reader};
use kstate_tests::{Checked, Daemon, Setup, checked, number_of, passthrough};
use kstatefs::config::Passthrough;
use nix::sys::signal::{SigSet, Signal};

#[path = "soak/board.rs"]
mod board;
#[path = "soak/crew.rs"]
mod crew;
#[path = "soak/findings.rs"]
mod findings;
#[path = "soak/hostile.rs"]
mod hostile;
#[path = "soak/outcome.rs"]
mod outcome;
#[path = "soak/part.rs"]
mod part;
#[path = "soak/random.rs"]
mod random;
#[path = "soak/victim.rs"]
mod victim;

use board::{Board, Entry};
use crew::{Crew, Placement, Work};
use findings::{Findings, Share};
use part::{ACCOUNTS, BANK, COUNT, EACH, FAST, PACED, Role};
use victim::{BAD, MIXED};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long what the dead have left may stay.
const PATIENCE: Duration = Duration::from_secs(10);

/// Run everything at once, and stop and kill processes meanwhile
///
/// Half of the time all processes share one processor, half of the time they have all. Ends early when
/// it is interrupted, with what it has by then.
#[derive(Parser, Debug)]
#[command(after_help = "\
Exit status: 0 nothing is wrong; 1 something is, named in the last lines; 2 there is no passthrough.

Examples:
  cargo run --release -p kstate-tests --bin soak
  cargo run --release -p kstate-tests --bin soak -- --seconds 600 --kills 5000
  cargo run --release -p kstate-tests --bin soak -- --seconds 60 --hostile
  cargo run --release -p kstate-tests --bin soak -- --reads 1000000000 --passthrough off
  cargo run --release -p kstate-tests --bin soak -- --seconds 10 --json | jq .faults")]
struct Cli {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    /// Kills, spread over the time [default: four a second]
    #[arg(long, value_name = "N")]
    kills: Option<u64>,

    /// Goes on until there were at least so many checked reads
    #[arg(long, value_name = "N", default_value_t = 0)]
    reads: u64,

    /// Has a process write any words over states that others read, wait for and commit (takes
    /// passthrough)
    #[arg(long)]
    hostile: bool,

    /// Let the kernel pass maps through if it can (auto) or fail, or use the daemon's socket (off)
    #[arg(long, value_enum, default_value_t)]
    passthrough: Passthrough,

    /// Print one JSON object, and nothing while it runs
    #[arg(long)]
    json: bool,

    /// Print nothing while it runs
    #[arg(long)]
    quiet: bool,

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
    #[arg(long, hide = true, required = false)]
    entry: usize,
    #[arg(long, hide = true, required = false, value_enum)]
    role: Role,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(part) = &cli.part {
        return match take_part(part) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("soak: {}: {error}", part.role.name());
                ExitCode::FAILURE
            }
        };
    }
    match soak(&cli) {
        Ok(None) => {
            eprintln!(
                "soak: --hostile takes passthrough: Linux 6.9 and root, no --passthrough off"
            );
            ExitCode::from(2)
        }
        Ok(Some(findings)) => {
            match cli.json {
                true => println!("{}", findings.json()),
                false => findings.print(),
            }
            match findings.passed() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn errors_beside(board: &Path) -> PathBuf {
    board.with_extension("errors")
}

fn take_part(part: &Part) -> Result {
    let entry = Board::open(&part.board)?.entry(part.entry);
    let played = part::play(part.role, &part.mount, entry.ok_or("no such entry")?);
    if let Err(error) = &played {
        let mut options = std::fs::File::options();
        let mut file = options
            .append(true)
            .create(true)
            .open(errors_beside(&part.board))?;
        // One write: lines of two processes do not mix.
        let line = format!("{}: {error}\n", part.role.name());
        file.write_all(line.as_bytes())?;
    }
    played
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

/// Handles of the soak itself, which keep the states.
struct Kept {
    mount: Mount,
    count: Reader<u64>,
    fast: Reader<Checked>,
    _paced: Reader<Checked>,
    bank: Vec<Reader<i64>>,
    mixed: Vec<Reader<i64>>,
    bad: Option<(Reader<u64>, Reader<Checked>, Reader<kstate::Bytes>)>,
    /// Subscribers of each state before anybody else was there.
    subscribers: BTreeMap<String, u32>,
}

impl Kept {
    /// Makes the states, each with a value.
    fn new(daemon: &Daemon, hostile: bool) -> Result<Self> {
        let mount = daemon.library();
        let value = |name: &str, number| -> Result<Reader<Checked>> {
            let state = mount.subscribe(name).write().typed()?;
            state.publish(&checked(number))?;
            Ok(state.reader())
        };
        let accounts = |prefix: &str, count: usize| -> Result<Vec<Reader<i64>>> {
            let open = |number| -> Result<Reader<i64>> {
                let account = mount
                    .subscribe(format!("{prefix}.{number}"))
                    .write()
                    .typed()?;
                account.publish(&EACH)?;
                Ok(account.reader())
            };
            (0..count).map(open).collect()
        };
        let count = mount.subscribe(COUNT).write().typed::<u64>()?;
        count.publish(&0)?;
        let bad = match hostile {
            true => {
                let small = mount.subscribe(BAD[0]).write().typed()?;
                small.publish(&0)?;
                let page = mount.subscribe(BAD[2]).write().capacity(4096).bytes()?;
                page.publish(&[1; 100])?;
                Some((small.reader(), value(BAD[1], 1)?, page.reader()))
            }
            false => None,
        };
        let mut kept = Self {
            count: count.reader(),
            fast: value(FAST, 1)?,
            _paced: value(PACED, 1)?,
            bank: accounts(BANK, ACCOUNTS)?,
            mixed: accounts(MIXED, if hostile { 2 } else { 0 })?,
            bad,
            subscribers: BTreeMap::new(),
            mount,
        };
        drop(count);
        for name in kept.mount.names()? {
            // Of a damaged state the daemon may not be able to say anything.
            if BAD.contains(&name.as_str()) {
                continue;
            }
            let info = kept.mount.info(&name)?;
            kept.subscribers.insert(name.to_string(), info.subscribers);
        }
        Ok(kept)
    }

    /// What is still held of those who are dead.
    fn held(&self) -> Result<Vec<String>> {
        let mut held = Vec::new();
        for (name, before) in &self.subscribers {
            let info = self.mount.info(name)?;
            let counts = [
                ("groups", info.writers),
                ("wait marks", info.waiters),
                ("open files", info.subscribers.saturating_sub(*before)),
            ];
            for (what, count) in counts {
                if count > 0 {
                    held.push(format!("{count} {what} of `{name}`"));
                }
            }
        }
        let records = std::fs::read_dir(self.mount.path().join(".kstate/intents"))?.count();
        if records > 0 {
            held.push(format!("{records} files of records"));
        }
        Ok(held)
    }

    /// Deletes the damaged states, which goes only when nobody else has them open.
    fn remove_bad(&mut self) -> Vec<String> {
        let Some(readers) = self.bad.take() else {
            return Vec::new();
        };
        drop(readers);
        let removed = BAD.map(|name| self.mount.remove(name));
        let kept = removed.into_iter().filter_map(|removed| removed.err());
        // The last one who has it open deletes it.
        let gone =
            |error: &kstate::RemoveError| matches!(error, kstate::RemoveError::NotFound { .. });
        kept.filter(|error| !gone(error))
            .map(|error| error.to_string())
            .collect()
    }
}

/// What was found; nothing if there is no passthrough and it takes that.
fn soak(cli: &Cli) -> Result<Option<Findings>> {
    let interrupted = interruption()?;
    let setup = Setup::default().apart();
    let mut daemon = setup.with(passthrough(cli.passthrough)).start();
    let passthrough = is_passed_through(&daemon)?;
    if cli.hostile && !passthrough {
        return Ok(None);
    }
    let mut kept = Kept::new(&daemon, cli.hostile)?;
    let kills = cli.kills.unwrap_or(4 * cli.seconds);
    let board = daemon.home().join("board");
    let entries = Board::create(&board, usize::try_from(kills)? + 1000)?;
    let mut crew = Crew::new(daemon.mount().to_owned(), board.clone(), entries);
    for (role, count) in roles(cli.hostile) {
        (0..*count).try_for_each(|_| crew.start(*role))?;
    }
    let mut findings = Findings {
        passthrough,
        hostile: cli.hostile,
        ..Findings::default()
    };
    let start = Instant::now();
    run(cli, kills, &mut crew, &mut findings, &interrupted)?;
    crew.finish();
    findings.seconds = start.elapsed().as_secs_f64();
    findings.daemon_died = daemon.process().ended().is_some();
    judge(&mut kept, &crew, &mut findings)?;
    let errors = std::fs::read_to_string(errors_beside(&board)).unwrap_or_default();
    findings.errors.extend(errors.lines().map(str::to_owned));
    Ok(Some(findings))
}

/// Whether maps of a state's file are those of its region.
fn is_passed_through(daemon: &Daemon) -> Result<bool> {
    use kstate_sys::ioctl::{Subscribe, call, transport};
    let probe = daemon
        .library()
        .subscribe("soak.probe")
        .write()
        .typed::<u64>()?;
    let mut terms = Subscribe::default();
    call::subscribe(&*probe, &mut terms)?;
    Ok(terms.transport == transport::PASSTHROUGH)
}

fn roles(hostile: bool) -> &'static [(Role, u32)] {
    const ALL: [(Role, u32); 15] = [
        (Role::Counter, 2),
        (Role::Raw, 1),
        (Role::Publisher, 2),
        (Role::Reader, 2),
        (Role::Pacer, 1),
        (Role::Waiter, 2),
        (Role::Teller, 2),
        (Role::Auditor, 1),
        (Role::Vandal, 1),
        (Role::BadReader, 1),
        (Role::BadWaiter, 1),
        (Role::BadWriter, 1),
        (Role::BadTeller, 1),
        (Role::BadAuditor, 1),
        (Role::Asker, 1),
    ];
    match hostile {
        true => &ALL,
        false => &ALL[..8],
    }
}

fn run(
    cli: &Cli,
    kills: u64,
    crew: &mut Crew,
    findings: &mut Findings,
    interrupted: &AtomicBool,
) -> Result {
    let whole = Duration::from_secs(cli.seconds);
    // Each placement twice, so that what changes with time is in both.
    let (slice, between) = (whole / 4, whole.as_secs_f64() / kills.max(1) as f64);
    let start = Instant::now();
    let mut before = BTreeMap::new();
    let mut shown = start;
    let (mut next_stop, mut watched) = (start, start);
    let mut next_kill = 0.5 * between;
    for number in 0.. {
        let is_over = start.elapsed() >= whole && crew.work(Role::Reader).done >= cli.reads;
        if is_over || interrupted.load(Ordering::Relaxed) {
            break;
        }
        let placement = match number % 2 {
            0 => Placement::Across,
            _ => Placement::OneCore,
        };
        crew.place(placement);
        let began = Instant::now();
        while began.elapsed() < slice && !interrupted.load(Ordering::Relaxed) {
            crew.go_on(false);
            let now = Instant::now();
            if kills > 0 && start.elapsed().as_secs_f64() >= next_kill {
                crew.kill_one()?;
                // Anywhere in the next of equal parts of the time.
                let part = (next_kill / between).floor() + 1.0;
                let within = crew.random.below(1000) as f64 / 1000.0;
                next_kill = (part + within) * between;
            }
            if now >= next_stop {
                crew.stop_one();
                next_stop = now + crew.random.time(Duration::from_millis(100));
            }
            if now.duration_since(watched) > Duration::from_millis(50) {
                crew.watch()?;
                watched = now;
            }
            if now.duration_since(shown) > Duration::from_secs(5) && !(cli.json || cli.quiet) {
                eprintln!("{}", progress(crew, start.elapsed()));
                shown = now;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let all = crew.all_work();
        let share = findings.shares.entry(placement).or_default();
        add(share, began.elapsed(), &before, &all);
        before = all;
    }
    Ok(())
}

fn progress(crew: &Crew, time: Duration) -> String {
    let commits = [Role::Counter, Role::Raw, Role::Publisher, Role::Teller];
    let commits: u64 = commits.iter().map(|role| crew.work(*role).done).sum();
    let wrong = &crew.wrong;
    format!(
        "{:>4} s: {} reads, {commits} commits, {} cuts, {} kills, {} stops; {} stuck or ended",
        time.as_secs(),
        crew.work(Role::Reader).done,
        crew.work(Role::Auditor).done,
        crew.kills,
        crew.stops,
        wrong.stuck.len() + wrong.ended.len()
    )
}

/// Adds what was done since `before`.
fn add(
    share: &mut Share,
    time: Duration,
    before: &BTreeMap<Role, Work>,
    all: &BTreeMap<Role, Work>,
) {
    share.time += time;
    for (role, work) in all {
        let before = before.get(role).copied().unwrap_or_default();
        let sum = share.by_role.entry(*role).or_default();
        sum.done += work.done - before.done;
        sum.conflicts += work.conflicts - before.conflicts;
        sum.longest = sum.longest.max(work.longest);
    }
}

/// What must be right when nobody is left.
fn judge(kept: &mut Kept, crew: &Crew, findings: &mut Findings) -> Result {
    findings.kills = crew.kills;
    findings.stops = crew.stops;
    findings.processes = crew.count();
    findings.wrong = crew.wrong.clone();
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let money = [Role::Auditor, Role::BadAuditor];
    for entry in crew.entries() {
        findings.torn += load(&entry.torn);
        findings.backwards += load(&entry.backwards);
        findings.conflicts += load(&entry.conflicts);
    }
    for entry in money.iter().flat_map(|role| crew.entries_of(*role)) {
        findings.half_applied += load(&entry.torn);
    }
    findings.torn -= findings.half_applied;
    findings.outcomes = outcome::counted(crew.entries());
    findings.reads = crew.work(Role::Reader).done;
    let counters = [Role::Counter, Role::Raw];
    let confirmed: u64 = counters.iter().map(|role| crew.work(*role).done).sum();
    findings.commits = confirmed
        + crew.work(Role::Publisher).done
        + crew.work(Role::Pacer).done
        + crew.work(Role::Teller).done;
    let in_flight = counters.iter().flat_map(|role| crew.entries_of(*role));
    findings.in_flight = in_flight.map(Entry::in_flight).sum();
    let count = kept.count.snapshot()?.value;
    findings.lost_updates = confirmed.saturating_sub(count);
    findings.surplus_updates = count.saturating_sub(confirmed + findings.in_flight);
    findings.torn += u64::from(number_of(&kept.fast.snapshot()?.value).is_none());
    for accounts in [&kept.bank, &kept.mixed] {
        let cut = kstate::cut(&accounts[..])?;
        findings.half_applied += u64::from(!part::sums_up(&cut));
    }
    if findings.daemon_died {
        return Ok(());
    }
    let start = Instant::now();
    findings.leaks = kept.held()?;
    while !findings.leaks.is_empty() && start.elapsed() < PATIENCE {
        std::thread::park_timeout(Duration::from_millis(10));
        findings.leaks = kept.held()?;
    }
    findings.leaks.extend(kept.remove_bad());
    Ok(())
}
