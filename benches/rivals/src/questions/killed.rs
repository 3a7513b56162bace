//! A reader or a writer is killed in the middle of it: what the others then see.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{Asking, readers};
use crate::Result;
use crate::peers::{Peer, Reach};
use crate::place::{WRITER, now_ns, reader};
use crate::record::{Cell, Figures};
use crate::site::Site;
use crate::stage::{Length, Stage};
use crate::task::{Actor, Job, Outcome, Task, Window};
use crate::worker::Ready;

/// Bytes of the value: long enough to be killed in the middle of.
const SIZE: usize = 4096;
/// How long the one is at it before it is killed.
const BEFORE: Duration = Duration::from_millis(20);
/// How long another is at it, which goes on when that is killed.
const BESIDE: Duration = Duration::from_millis(60);

/// Who is killed.
#[derive(Clone, Copy)]
enum Victim {
    Reader,
    Writer,
}

pub(super) fn ask(asking: &mut Asking<'_>) -> Result<Vec<Cell>> {
    let times = if asking.short { 2 } else { 10 };
    let mut cells = Vec::new();
    for (victim, case) in [
        (
            Victim::Reader,
            "A reader is killed while it reads 4 KiB flat out",
        ),
        (
            Victim::Writer,
            "A writer is killed while it publishes 4 KiB flat out",
        ),
    ] {
        eprintln!("killed: {case}");
        for peer in readers(asking) {
            let (seen, cannot) = match peer.reach() {
                Reach::OneProcess => (None, Some("shares one process, and its fate".to_owned())),
                Reach::Processes => match story(asking.stage, peer, victim, times)? {
                    Ok(seen) => (Some(seen), None),
                    Err(why) => (None, Some(why)),
                },
            };
            cells.push(Cell {
                question: "killed".to_owned(),
                case: case.to_owned(),
                peer: peer.id().to_owned(),
                figures: None,
                cannot,
                seen,
            });
        }
    }
    Ok(cells)
}

/// What was seen, all times together; or why it could not be tried.
fn story(
    stage: &mut Stage,
    peer: &'static dyn Peer,
    victim: Victim,
    times: usize,
) -> Result<std::result::Result<String, String>> {
    let site = stage.site(SIZE, 0);
    let home = match Stage::home(peer, &site) {
        Ok(home) => home,
        Err(why) => return Ok(Err(why)),
    };
    let publishing = match peer.publishes(&site) {
        Ok(_) => Task::Publish { stamped: false },
        Err(_) => Task::Publish { stamped: true },
    };
    let (victims, others) = match victim {
        Victim::Reader => (Task::Read { aged: false }, [publishing, Task::Check]),
        Victim::Writer => (publishing, [Task::Check, publishing]),
    };
    // Who goes on beside it, and who come afterwards.
    let beside = others[0];
    let mut standstill = Duration::ZERO;
    let mut refused = Vec::new();
    let mut publications = Vec::new();
    let mut torn = 0;
    let mut slowest = Duration::ZERO;
    for time in 0..times {
        match kill(stage, peer, &site, victims, beside)? {
            Ok(outcome) => {
                torn += outcome.torn;
                standstill = standstill.max(Duration::from_nanos(outcome.longest_ns));
            }
            Err(why) if time == 0 => return Ok(Err(why)),
            // The next victim is one who comes after.
            Err(why) => refused.push(why),
        }
        for task in others {
            let begin = Instant::now();
            match after(stage, peer, &site, task)? {
                Ok(outcome) => {
                    torn += outcome.torn;
                    publications.push(outcome.samples);
                }
                Err(why) => refused.push(why),
            }
            slowest = slowest.max(begin.elapsed());
        }
    }
    drop(home);
    let figures = Figures::of(&publications);
    let mut seen = format!(
        "{times} times: who went on beside it stood still for {:.1} ms at the longest; {torn} mixtures read; who came \
         then took {} ms at the longest to open, warm up and do 18 ms of it",
        standstill.as_secs_f64() * 1e3,
        slowest.as_millis()
    );
    if figures.samples > 0 {
        write!(
            seen,
            ", publishing in {} ns (99.9th {})",
            figures.p50.round(),
            figures.p999.round()
        )?;
    }
    if let Some(why) = refused.first() {
        write!(
            seen,
            "; of {} that came after one that was killed {} were refused: {why}",
            3 * times - 1,
            refused.len()
        )?;
    }
    Ok(Ok(seen))
}

/// Has a process do the task, another one go on beside it, and kills the first. What the other saw, or why it cannot be done.
fn kill(
    stage: &Stage,
    peer: &'static dyn Peer,
    site: &Site,
    task: Task,
    beside: Task,
) -> Result<std::result::Result<Outcome, String>> {
    let mut opened = Vec::new();
    for task in [task, beside] {
        let mut process = stage.worker()?;
        let processor = match task {
            Task::Publish { .. } => WRITER,
            _ => reader(0),
        };
        let job = Job {
            peer: peer.id().to_owned(),
            site: site.clone(),
            actors: vec![Actor { task, processor }],
        };
        process.tell(&serde_json::to_string(&job)?)?;
        let ready: Ready = serde_json::from_str(&process.hear()?)?;
        if let Some(why) = ready.cannot {
            return Ok(Err(why));
        }
        opened.push(process);
    }
    let start_ns = now_ns();
    for (process, length) in opened.iter_mut().zip([Duration::from_secs(60), BESIDE]) {
        let end_ns = start_ns + u64::try_from(length.as_nanos())?;
        process.tell(&serde_json::to_string(&Window { start_ns, end_ns })?)?;
    }
    std::thread::sleep(BEFORE);
    opened[0].kill()?;
    let mut outcomes: Vec<Outcome> = serde_json::from_str(&opened[1].hear()?)?;
    let outcome = outcomes.pop().ok_or("nothing came of it")?;
    Ok(match outcome.cannot {
        None => Ok(outcome),
        Some(why) => Err(why),
    })
}

/// What another process can do then.
fn after(
    stage: &mut Stage,
    peer: &'static dyn Peer,
    site: &Site,
    task: Task,
) -> Result<std::result::Result<Outcome, String>> {
    let length = Length {
        warm: Duration::from_millis(2),
        measured: Duration::from_millis(18),
    };
    let actor = Actor {
        task,
        processor: WRITER,
    };
    let mut played = stage.play(peer, site, &[actor], length)?;
    if let Ok(outcomes) = &mut played
        && task == Task::Check
    {
        // Comparing all words takes longer than what is timed.
        outcomes
            .iter_mut()
            .for_each(|outcome| outcome.samples.clear());
    }
    Ok(played.and_then(|mut outcomes| {
        outcomes
            .pop()
            .ok_or_else(|| "nothing came of it".to_owned())
    }))
}
