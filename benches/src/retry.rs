//! How often a transaction is tried before it commits, and how long that takes.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kstate::{Retry, State, TransactError, TransactManyError};
use serde::Serialize;

use crate::place::{pin, processors};
use crate::setup::{Result, Setup};

/// How long each contest lasts.
const CONTEST: Duration = Duration::from_millis(1500);
/// Attempts after which a transaction counts as given up.
const MOST: u32 = 2000;

/// What came of a contest.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    case: String,
    commits: u64,
    given_up: u64,
    attempts_p50: u64,
    attempts_p99: u64,
    attempts_max: u64,
    took_us_p50: f64,
    took_us_p99: f64,
    took_us_max: f64,
}

/// Attempts and times of one contestant.
struct Score {
    attempts: Histogram<u64>,
    took_ns: Histogram<u64>,
    given_up: u64,
}

impl Score {
    fn new() -> Result<Self> {
        // Up to a minute.
        let up_to = |most| Histogram::new_with_bounds(1, most, 3);
        Ok(Self {
            attempts: up_to(MOST.into())?,
            took_ns: up_to(60_000_000_000)?,
            given_up: 0,
        })
    }

    fn add(&mut self, attempts: Option<u32>, took: Duration) {
        match attempts {
            Some(attempts) => {
                self.attempts.saturating_record(attempts.into());
                let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                self.took_ns.saturating_record(ns);
            }
            None => self.given_up += 1,
        }
    }

    fn row(&self, case: String) -> Row {
        let us = |ns: u64| ns as f64 / 1e3;
        Row {
            case,
            commits: self.attempts.len(),
            given_up: self.given_up,
            attempts_p50: self.attempts.value_at_quantile(0.5),
            attempts_p99: self.attempts.value_at_quantile(0.99),
            attempts_max: self.attempts.max(),
            took_us_p50: us(self.took_ns.value_at_quantile(0.5)),
            took_us_p99: us(self.took_ns.value_at_quantile(0.99)),
            took_us_max: us(self.took_ns.max()),
        }
    }
}

/// All contests.
pub(crate) fn run() -> Result<Vec<Row>> {
    let processors = processors();
    let setup = Setup::start()?;
    let mut rows = Vec::new();
    for contenders in [2, 4, 8] {
        for work in [Duration::ZERO, Duration::from_micros(10)] {
            let retry = Retry::new().attempts(MOST);
            let name = format!("retry.{contenders}.{}", work.as_micros());
            let score = contest(&setup, processors, &name, contenders, work, &retry)?;
            let work = match work {
                Duration::ZERO => "an increment".to_owned(),
                work => format!("a closure of {work:?}"),
            };
            rows.push(score.row(format!("{contenders} contenders, {work}")));
        }
    }
    for contenders in [2, 4] {
        let score = several(&setup, processors, contenders)?;
        rows.push(score.row(format!("{contenders} contenders, two of four states each")));
    }
    for (turn_after, how) in [(u32::MAX, "no turn asked for"), (16, "with turns")] {
        for work in [Duration::from_micros(100), Duration::from_millis(1)] {
            let retry = Retry::new().attempts(MOST).turn_after(turn_after);
            let score = beside_flat_out(&setup, processors, work, &retry)?;
            rows.push(score.row(format!("{work:?} beside a flat-out writer, {how}")));
        }
    }
    Ok(rows)
}

/// Does nothing for a while that a compiler could leave out.
fn work_for(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn attempts_of<R>(done: std::result::Result<kstate::Retried<R>, TransactError>) -> Option<u32> {
    match done {
        Ok(done) => Some(done.attempts),
        Err(TransactError::Exhausted { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn increment(state: &State<[u64; 8]>, work: Duration, retry: &Retry) -> Option<u32> {
    attempts_of(state.transact_with(retry, |tx| {
        let value = tx.get_mut()?;
        value[0] = value[0].wrapping_add(1);
        if !work.is_zero() {
            work_for(work);
        }
        Ok(())
    }))
}

/// Threads that all change one state.
fn contest(
    setup: &Setup,
    processors: usize,
    name: &str,
    contenders: usize,
    work: Duration,
    retry: &Retry,
) -> Result<Score> {
    let states = (0..contenders).map(|_| setup.state::<8>(name));
    let states: Vec<_> = states.collect::<Result<_>>()?;
    together(states, processors, |state| increment(state, work, retry))
}

/// Threads that each change two of four states.
fn several(setup: &Setup, processors: usize, contenders: usize) -> Result<Score> {
    let handles = (0..contenders).map(|contender| {
        let of = |n: usize| setup.state::<8>(&format!("retry.several.{}", (contender + n) % 4));
        Ok((of(0)?, of(1)?))
    });
    let handles: Vec<_> = handles.collect::<Result<_>>()?;
    let retry = Retry::new().attempts(MOST);
    together(handles, processors, |(first, second)| {
        let done = kstate::transact_many_with(&retry, |tx| {
            tx.add(first)?;
            tx.add(second)?;
            tx.get_mut(first)?[0] += 1;
            tx.get_mut(second)?[0] += 1;
            Ok::<_, TransactManyError>(())
        });
        match done {
            Ok(done) => Some(done.attempts),
            Err(TransactManyError::Exhausted { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    })
}

/// One that takes its time, beside a publisher that leaves it none, on another processor.
fn beside_flat_out(
    setup: &Setup,
    processors: usize,
    work: Duration,
    retry: &Retry,
) -> Result<Score> {
    let name = format!("retry.flat.{}.{retry:?}", work.as_micros())
        .replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "");
    let (ours, theirs) = (setup.state::<8>(&name)?, setup.state::<8>(&name)?);
    let (stop, mut score) = (AtomicBool::new(false), Score::new()?);
    std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            pin(1 % processors);
            let mut value = [0; 8];
            while !stop.load(Ordering::Relaxed) {
                value[0] += 1;
                match theirs.publish(&value) {
                    Ok(generation) => drop(black_box(generation)),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        pin(0);
        let start = Instant::now();
        while start.elapsed() < CONTEST * 2 {
            let began = Instant::now();
            let attempts = increment(&ours, work, retry);
            score.add(attempts, began.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
    });
    Ok(score)
}

/// Runs `attempt` on each of `handles` in a thread of its own, all at once, again and again.
fn together<H: Send>(
    handles: Vec<H>,
    processors: usize,
    attempt: impl Fn(&H) -> Option<u32> + Sync,
) -> Result<Score> {
    let (start, stop) = (Barrier::new(handles.len() + 1), AtomicBool::new(false));
    let mut all = Score::new()?;
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::new();
        for (contender, handle) in handles.into_iter().enumerate() {
            let (start, stop, attempt) = (&start, &stop, &attempt);
            let mut score = Score::new()?;
            threads.push(scope.spawn(move || {
                pin(contender % processors);
                start.wait();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let attempts = attempt(&handle);
                    score.add(attempts, began.elapsed());
                }
                score
            }));
        }
        start.wait();
        std::thread::sleep(CONTEST);
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            if let Ok(score) = thread.join() {
                all.attempts.add(&score.attempts)?;
                all.took_ns.add(&score.took_ns)?;
                all.given_up += score.given_up;
            }
        }
        Ok(())
    })?;
    Ok(all)
}

pub(crate) fn print_table(rows: &[Row]) {
    println!(
        "{:<52} {:>9} {:>8}   {:>16}   {:>28}",
        "", "commits", "given up", "tries 50/99/max", "took 50/99/max, us"
    );
    for row in rows {
        println!(
            "{:<52} {:>9} {:>8}   {:>16}   {:>28}",
            row.case,
            row.commits,
            row.given_up,
            format!(
                "{}/{}/{}",
                row.attempts_p50, row.attempts_p99, row.attempts_max
            ),
            format!(
                "{:.1}/{:.1}/{:.1}",
                row.took_us_p50, row.took_us_p99, row.took_us_max
            ),
        );
    }
}
