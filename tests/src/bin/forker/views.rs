//! Views and their live pages, in a process with no other, and in its children.

use std::time::Duration;

use kstate::{Generation, Live, Mount, View, Waited};
use kstate_tests::eventually;

use super::{Result, Way, ensure, fork, join, say};

const SHORT: Duration = Duration::from_millis(5);
const HOUR: Duration = Duration::from_secs(3600);

/// Until the page shows `wanted`.
fn shows(live: &Live<u64>, wanted: u64) {
    eventually("the page is refreshed", || {
        (live.load()?.1 == wanted).then_some(())
    });
}

/// The threads that refresh live pages.
fn refreshers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let names = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "kstate-live").count()
}

/// Until so many threads refresh pages.
fn refreshed_by(threads: usize) {
    eventually("the thread comes and goes", || {
        (refreshers() == threads).then_some(())
    });
}

pub(super) fn pages(mount: &Mount, pages: u64) -> Result {
    ensure(refreshers() == 0, "a thread that nobody needs")?;
    // The thread goes with the last one, and comes again.
    for round in 1..=2 {
        let states: Vec<_> = (0..pages)
            .map(|at| mount.subscribe(format!("s{at}")).write().typed::<u64>())
            .collect::<std::result::Result<_, _>>()?;
        let lives: Vec<_> = states
            .iter()
            .map(|state| state.view(SHORT).live())
            .collect::<std::result::Result<_, _>>()?;
        refreshed_by(1);
        for (at, state) in (0..).zip(&states) {
            state.publish(&(at + round))?;
        }
        for (at, live) in (0..).zip(&lives) {
            shows(live, at + round);
        }
        drop(lives);
        refreshed_by(0);
    }
    say("right")
}

pub(super) fn views(mount: &Mount, by: Way) -> Result {
    let state = mount.subscribe("x").write().typed::<u64>()?;
    let (calm, brisk): (View<u64>, View<u64>) = (state.view(HOUR), state.view(SHORT));
    let live = brisk.live()?;
    state.publish(&1)?;
    ensure(calm.snapshot()?.value == 1, "the first one")?;
    shows(&live, 1);
    let address = live.as_ptr();
    state.publish(&2)?;
    shows(&live, 2);
    let mut lent = Some((live, calm, brisk));
    let child = fork(by, || {
        let Some((live, calm, brisk)) = lent.take() else {
            return Ok(());
        };
        ensure(
            calm.snapshot()?.value == 1,
            "the child's view shows what its parent's did",
        )?;
        ensure(live.as_ptr() == address, "the page has moved")?;
        shows(&live, 2);
        refreshed_by(1);
        // By slots of the child's own.
        state.publish(&3)?;
        shows(&live, 3);
        let waited = brisk.wait(Generation(2), None)?;
        ensure(waited == Waited::Changed(Generation(3)), "the child's wait")?;
        let other = calm.reader().view(SHORT).live()?;
        shows(&other, 3);
        refreshed_by(1);
        drop((live, other));
        refreshed_by(0);
        Ok(())
    })?;
    join(child)?;
    let Some((live, calm, brisk)) = lent else {
        return Ok(());
    };
    shows(&live, 3);
    state.publish(&4)?;
    shows(&live, 4);
    ensure(calm.snapshot()?.value == 1, "the parent's view")?;
    let waited = brisk.wait(Generation(3), None)?;
    ensure(
        waited == Waited::Changed(Generation(4)),
        "the parent's wait",
    )?;
    refreshed_by(1);
    drop(live);
    refreshed_by(0);
    say("right")
}
