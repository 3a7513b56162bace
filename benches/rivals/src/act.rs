//! What the threads of a scene do.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::Result;
use crate::board::Board;
use crate::capability::{Can, Follows, Publishes, Reads, Several, Updates};
use crate::peers::Peer;
use crate::place::now_ns;
use crate::site::Site;
use crate::task::{Outcome, Task, Window};

/// How long a block is to last: a thousand times what reading the clock takes.
const BLOCK: Duration = Duration::from_micros(20);
/// More operations would make a block of nothing but its loop.
const MOST_OPERATIONS: u32 = 20_000;
/// Blocks until their size is known, unless they last.
const TRIALS: u32 = 16;
const LONGEST_TRIALS: Duration = Duration::from_millis(2);
/// Before each publication that is waited for: the follower gets to sleep, and idle processors
/// are as idle as between the commits of a sensor.
const REST: Duration = Duration::from_micros(150);
/// How often the teller looks whether the value is held.
const LOOK: Duration = Duration::from_micros(50);
/// A value that nobody holds by then was missed.
const MISSED: Duration = Duration::from_millis(300);
/// So many one after another, and nobody listens.
const MOST_MISSED: u32 = 5;
/// Waits at the start of a scene that do not count.
const WARM_UP_TURNS: usize = 10;

/// So many publications beside a reader, and that is noted.
const NOTED: u32 = 16;

/// A thread that is ready to do its part.
pub(crate) enum Part {
    Read(Box<dyn Reads>),
    ReadBeside(Box<dyn Reads>, Board),
    Check(Box<dyn Reads>),
    Publish(Box<dyn Publishes>),
    PublishBeside(Box<dyn Publishes>, Board),
    Pace(Box<dyn Publishes>, Board, u32),
    Follow(Box<dyn Follows>, Board, usize),
    Tell(Box<dyn Publishes>, Board, usize),
    Update(Box<dyn Updates>),
    Commit(Box<dyn Several>),
    ReadSeveral(Box<dyn Several>),
    Subscribe(&'static dyn Peer, Site),
}

/// Opens what the task takes.
pub(crate) fn prepare(peer: &'static dyn Peer, site: &Site, task: Task) -> Can<Part> {
    let board = || Board::open(&site.directory);
    Ok(match task {
        Task::Read { aged: false } => Part::Read(peer.reads(site)?),
        Task::Read { aged: true } => Part::Read(peer.reads_aged(site)?),
        Task::ReadBeside => Part::ReadBeside(peer.reads(site)?, board()?),
        Task::Check => Part::Check(peer.reads(site)?),
        Task::Publish { stamped: false } => Part::Publish(peer.publishes(site)?),
        Task::Publish { stamped: true } => Part::Publish(peer.publishes_stamped(site)?),
        Task::PublishBeside => Part::PublishBeside(anyhow(peer, site)?, board()?),
        Task::Pace { hz } => Part::Pace(anyhow(peer, site)?, board()?, hz),
        Task::Follow { turns } => Part::Follow(peer.follows(site)?, board()?, turns),
        Task::Tell { turns } => Part::Tell(peer.tells(site)?, Board::open(&site.directory)?, turns),
        Task::Update => Part::Update(peer.updates(site)?),
        Task::CommitSeveral => Part::Commit(peer.several(site)?),
        Task::ReadSeveral => Part::ReadSeveral(peer.several(site)?),
        Task::Subscribe => {
            // Whether it can be read at all.
            peer.reads(site)?.word()?;
            Part::Subscribe(peer, site.clone())
        }
    })
}

/// Without time stamps, or with them where there is no other way.
fn anyhow(peer: &'static dyn Peer, site: &Site) -> Can<Box<dyn Publishes>> {
    peer.publishes(site)
        .or_else(|_| peer.publishes_stamped(site))
}

/// Does it, within the window.
pub(crate) fn perform(part: Part, window: Window) -> Result<Outcome> {
    match part {
        Part::Read(mut handle) => blocks(window, |count, sum| {
            sum.torn += handle.read(count)?;
            Ok(())
        }),
        Part::Check(mut handle) => blocks(window, |count, sum| {
            sum.torn += handle.check(count)?;
            Ok(())
        }),
        Part::ReadBeside(mut handle, board) => {
            let seen = std::cell::Cell::new(0);
            // ORDERING: Relaxed: a count, and nothing that hangs on it.
            let published = || board.published().load(Ordering::Relaxed);
            blocks_that_count(
                window,
                |count, sum| {
                    seen.set(published());
                    sum.torn += handle.read(count)?;
                    Ok(())
                },
                || published() != seen.get(),
            )
        }
        Part::Publish(mut handle) => blocks(window, |count, _| handle.publish(count)),
        Part::PublishBeside(mut handle, board) => blocks(window, |count, _| {
            let mut left = count;
            while left > 0 {
                let some = left.min(NOTED);
                handle.publish(some)?;
                board.published().fetch_add(1, Ordering::Relaxed);
                left -= some;
            }
            Ok(())
        }),
        Part::Update(mut handle) => blocks(window, |count, sum| {
            sum.attempts += handle.update(count)?;
            sum.changes += u64::from(count);
            Ok(())
        }),
        Part::Commit(mut handle) => blocks(window, |count, _| handle.commit(count)),
        Part::ReadSeveral(mut handle) => blocks(window, |count, sum| {
            sum.torn += handle.read(count)?;
            Ok(())
        }),
        Part::Subscribe(peer, site) => blocks(window, |count, _| {
            for _ in 0..count {
                peer.reads(&site).map_err(|cannot| cannot.0)?.word()?;
            }
            Ok(())
        }),
        Part::Pace(handle, board, hz) => pace(handle, &board, hz, window),
        Part::Follow(handle, board, turns) => follow(handle, &board, turns),
        Part::Tell(handle, board, turns) => tell(handle, &board, turns),
    }
}

/// Blocks of operations back to back: until the window begins to warm up and to find how many
/// make a block, in it to be timed. The clock is read once a block.
fn blocks(window: Window, work: impl FnMut(u32, &mut Outcome) -> Result<()>) -> Result<Outcome> {
    blocks_that_count(window, work, || true)
}

/// As [`blocks`]; after each is asked whether it counts. All actors of a scene stop at one moment: what one would do
/// after the others have ended is not done beside them.
fn blocks_that_count(
    window: Window,
    mut work: impl FnMut(u32, &mut Outcome) -> Result<()>,
    counts: impl Fn() -> bool,
) -> Result<Outcome> {
    let mut sum = Outcome::default();
    let mut size = BlockSize(1);
    let mut trials = 0;
    let mut before = Instant::now();
    let first = before;
    // Who gets no processor meanwhile makes up for it: a block of one operation would be timed
    // with the clock in it.
    while now_ns() < window.start_ns || (trials < TRIALS && before - first < LONGEST_TRIALS) {
        work(size.0, &mut sum)?;
        let after = Instant::now();
        size.adapt(after - before);
        before = after;
        trials += 1;
    }
    let warm = sum;
    let mut sum = Outcome::default();
    let begin = Instant::now();
    let mut before = begin;
    let left = Duration::from_nanos(window.end_ns.saturating_sub(now_ns()));
    while before - begin < left {
        let count = size.0;
        work(count, &mut sum)?;
        let after = Instant::now();
        let took = after - before;
        let seconds = took.as_secs_f64();
        sum.longest_ns = sum.longest_ns.max(u64::try_from(took.as_nanos())?);
        if counts() {
            sum.samples.push(single(seconds * 1e9 / f64::from(count)));
        }
        sum.operations += u64::from(count);
        size.adapt(after - before);
        before = after;
    }
    sum.seconds = window.seconds();
    // A mixture is one whenever it was seen.
    sum.torn += warm.torn;
    // And a change is one.
    sum.changes += warm.changes;
    Ok(sum)
}

/// How many operations make a block: where a writer comes and goes, that changes, and blocks that
/// were as many operations would be few while it is there.
struct BlockSize(u32);

impl BlockSize {
    fn adapt(&mut self, took: Duration) {
        if took > BLOCK * 3 {
            self.0 = (self.0 / 2).max(1);
        } else if took * 3 < BLOCK {
            self.0 = self.0.saturating_mul(2).min(MOST_OPERATIONS);
        }
    }
}

/// What is kept of a sample: seven digits are more than the clock has.
fn single(ns: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "seven digits are wanted")]
    let ns = ns as f32;
    ns
}

/// Publishes at a rate, spinning between.
fn pace(mut handle: Box<dyn Publishes>, board: &Board, hz: u32, window: Window) -> Result<Outcome> {
    let mut sum = Outcome::default();
    let interval = 1_000_000_000 / u64::from(hz);
    let mut next = now_ns();
    loop {
        let now = now_ns();
        if now >= window.end_ns {
            break;
        }
        if now < next {
            std::hint::spin_loop();
            continue;
        }
        handle.publish(1)?;
        board.published().fetch_add(1, Ordering::Relaxed);
        sum.operations += u64::from(now >= window.start_ns);
        // Who cannot keep up does not owe what is past.
        next = (next + interval).max(now);
    }
    sum.seconds = window.seconds();
    Ok(sum)
}

/// Holds one value after another, and says so.
fn follow(mut handle: Box<dyn Follows>, board: &Board, turns: usize) -> Result<Outcome> {
    let mut sum = Outcome::default();
    let ended = board.ended().load(Ordering::Acquire);
    // What is there from before was not waited for.
    let mut seen = now_ns();
    handle.follow(&mut |word| {
        let now = now_ns();
        if let Some(word) = word
            && word > seen
            && word <= now
        {
            seen = word;
            sum.samples.push(single((now - word) as f64));
            board.held().store(word, Ordering::Release);
        }
        board.ended().load(Ordering::Acquire) == ended
    })?;
    // The last publication of the teller is for who sleeps on.
    sum.samples.truncate(turns + WARM_UP_TURNS);
    sum.samples.drain(..WARM_UP_TURNS.min(sum.samples.len()));
    sum.operations = sum.samples.len() as u64;
    Ok(sum)
}

/// Publishes the time, again and again.
fn tell(mut handle: Box<dyn Publishes>, board: &Board, turns: usize) -> Result<Outcome> {
    let mut sum = Outcome::default();
    let told = (|| {
        let mut missed = 0;
        for _ in 0..turns + WARM_UP_TURNS {
            std::thread::sleep(REST);
            let word = now_ns();
            handle.publish_word(word)?;
            let before = missed;
            while board.held().load(Ordering::Acquire) != word {
                if Duration::from_nanos(now_ns() - word) > MISSED {
                    sum.attempts += 1;
                    missed += 1;
                    break;
                }
                std::thread::sleep(LOOK);
            }
            sum.operations += 1;
            if missed == before {
                missed = 0;
            } else if missed >= MOST_MISSED {
                // Nobody is there any more, and will say why.
                break;
            }
        }
        // Whoever sleeps on.
        handle.publish_word(now_ns())
    })();
    board.ended().fetch_add(1, Ordering::AcqRel);
    told.map(|()| sum)
}
