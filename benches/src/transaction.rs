//! What transactions cost: in software, by a trapped page, and against each other.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kstate::{Bytes, State, Trapping};

use crate::alternate::{Percentiles, alternate};
use crate::bare::Ring;
use crate::bare_trap::{Answering, BareTrap};
use crate::case::Case;
use crate::place::{pin, processors};
use crate::setup::{Result, Setup};
use crate::value::{SIZES, for_size};

/// How long each number of writers goes at it.
const CONTEST: Duration = Duration::from_millis(300);

/// All cases.
pub(crate) fn run(blocks: usize) -> Result<Vec<Case>> {
    // Before this thread is bound to one of them.
    let processors = processors();
    pin(0);
    let setup = Setup::start()?;
    let mut cases = Vec::new();
    for size in SIZES {
        cases.push(for_size!(size, in_software, &setup, blocks)?);
    }
    for (trapping, answering) in [
        (Trapping::Thread, Answering::Thread),
        (Trapping::Signal, Answering::Signal),
    ] {
        cases.push(first_touch(&setup, blocks, trapping, answering)?);
    }
    cases.push(protected_again(&setup, blocks, Written::Another)?);
    cases.push(protected_again(&setup, blocks, Written::Same)?);
    cases.extend(contests(&setup, processors)?);
    Ok(cases)
}

/// Begin, read, change, commit; beside two copies and a compare-and-swap.
fn in_software<const WORDS: usize>(setup: &Setup, blocks: usize) -> Result<Case> {
    let size = WORDS * 8;
    let name = format!("transaction.{size}");
    let state = setup.state::<WORDS>(&name)?;
    let bare = Ring::<[u64; WORDS]>::open(&setup.bare_file(&name)?)?;
    state.publish(&[7; WORDS])?;
    let (ours, limit) = alternate(
        blocks,
        |count| {
            for _ in 0..count {
                if let Ok(mut transaction) = state.begin() {
                    if let Ok(value) = transaction.get_mut() {
                        value[0] = value[0].wrapping_add(1);
                    }
                    match transaction.commit() {
                        Ok(outcome) => {
                            let _ = black_box(outcome);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        },
        |count| {
            for _ in 0..count {
                let mut value = bare.read();
                value[0] = value[0].wrapping_add(1);
                bare.publish(black_box(&value));
            }
        },
    );
    Ok(Case::new(
        format!("begin, change, commit {size} B"),
        ours,
        limit,
    ))
}

fn raw_state(setup: &Setup, name: &str, trapping: Trapping) -> Result<State<Bytes>> {
    let state = setup.bytes(name)?;
    state.set_trapping(trapping);
    state.publish(&[7; 4096])?;
    Ok(state)
}

/// Begin, touch, abort, where somebody has committed meanwhile; beside a page that is emptied and
/// filled by the barest of handlers. All on one processor.
fn first_touch(
    setup: &Setup,
    blocks: usize,
    trapping: Trapping,
    answering: Answering,
) -> Result<Case> {
    let state = raw_state(setup, &format!("touch.{trapping:?}"), trapping)?;
    let bare = BareTrap::new(answering)?;
    let (ours, limit) = alternate(
        blocks,
        |count| {
            for _ in 0..count {
                // So that the page of the last one does not hold the version.
                match (state.publish(&[8; 4096]), state.begin_raw()) {
                    (Ok(_), Ok(mut transaction)) => {
                        black_box(bare.read(transaction.as_ptr()));
                    }
                    (done, begun) => panic!("{:?} {:?}", done.err(), begun.err()),
                }
            }
        },
        |count| {
            for _ in 0..count {
                black_box(bare.first_touch());
            }
        },
    );
    let title = format!("first touch of a page, trapped by {answering}");
    Ok(Case::new(title, ours, limit))
}

/// What is written to a page that holds the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Another value each time.
    Another,
    /// The bytes that are there, which counts as a write all the same.
    Same,
}

/// Begin on a page that holds the base, write, commit; beside protecting, writing and asking.
fn protected_again(setup: &Setup, blocks: usize, written: Written) -> Result<Case> {
    let state = raw_state(setup, &format!("protected.{written:?}"), Trapping::Thread)?;
    let bare = BareTrap::new(Answering::Thread)?;
    bare.first_touch();
    let step = u64::from(written == Written::Another);
    let (mut value, mut bare_value) = (7_u64, 7_u64);
    let (ours, limit) = alternate(
        blocks,
        |count| {
            for _ in 0..count {
                value = value.wrapping_add(step);
                match state.begin_raw() {
                    Ok(mut transaction) => {
                        bare.write(transaction.as_mut_ptr(), value);
                        match transaction.commit() {
                            Ok(outcome) => assert!(outcome.is_committed(), "{outcome:?}"),
                            Err(error) => panic!("{error}"),
                        }
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        },
        |count| {
            for _ in 0..count {
                bare_value = bare_value.wrapping_add(step);
                black_box(bare.protected_again(bare_value));
            }
        },
    );
    let title = match written {
        Written::Another => "a page that holds the base: begin, write, commit",
        Written::Same => "the same, of the bytes that are there",
    };
    Ok(Case::new(title, ours, limit))
}

/// What came of some writers going at it.
struct Contest {
    commits: u64,
    attempts: u64,
    elapsed: Duration,
}

impl Contest {
    fn ns_a_commit(&self) -> f64 {
        self.elapsed.as_secs_f64() * 1e9 / self.commits as f64
    }
}

/// Writers on one state and on one each; the limit is a single writer, shared out.
fn contests(setup: &Setup, processors: usize) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let alone = contest(setup, processors, "alone", 1, false)?.ns_a_commit();
    for apart in [false, true] {
        for writers in [1, 2, 4, 8] {
            let name = format!("contest.{apart}");
            let found = contest(setup, processors, &name, writers, apart)?;
            let together = if apart {
                format!("{writers} writers, a state each")
            } else {
                let failed = found.attempts - found.commits;
                let failed = 100.0 * failed as f64 / found.attempts as f64;
                format!("{writers} writers on one state, {failed:.1} % conflicts")
            };
            // Writers on states of their own share nothing but the processors.
            let shared = writers.min(processors);
            let limit = if apart { alone / shared as f64 } else { alone };
            let ours = found.ns_a_commit();
            let flat = |ns| Percentiles::flat(ns);
            cases.push(Case::with_costs(
                together,
                (ours, flat(ours)),
                (limit, flat(limit)),
            ));
        }
    }
    Ok(cases)
}

fn contest(
    setup: &Setup,
    processors: usize,
    name: &str,
    writers: usize,
    apart: bool,
) -> Result<Contest> {
    let states: Vec<State<[u64; 8]>> = (0..writers)
        .map(|writer| match apart {
            true => setup.state::<8>(&format!("{name}.{writer}")),
            false => setup.state::<8>(name),
        })
        .collect::<Result<_>>()?;
    let (start, stop) = (Barrier::new(writers + 1), AtomicBool::new(false));
    let mut found = Contest {
        commits: 0,
        attempts: 0,
        elapsed: Duration::ZERO,
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = states
            .into_iter()
            .enumerate()
            .map(|(writer, state)| {
                let (start, stop) = (&start, &stop);
                scope.spawn(move || {
                    pin(writer % processors);
                    let (mut commits, mut attempts) = (0_u64, 0_u64);
                    start.wait();
                    while !stop.load(Ordering::Relaxed) {
                        match state.transact(|value| value[0] = value[0].wrapping_add(1)) {
                            Ok(done) => {
                                commits += 1;
                                attempts += u64::from(done.attempts);
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                    (commits, attempts)
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        std::thread::sleep(CONTEST);
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            if let Ok((commits, attempts)) = thread.join() {
                found.commits += commits;
                found.attempts += attempts;
            }
        }
        found.elapsed = began.elapsed();
    });
    Ok(found)
}
