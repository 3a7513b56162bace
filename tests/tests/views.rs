//! Views of the library: states that do not appear to change more often than so.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::{Duration, Instant};

use kstate::{
    Change, Event, Generation, Interrupt, Notifier, NotifyBy, ReadError, State, View, Wait,
    WaitError, Waitable, Waited,
};
use kstate_tests::{Checked, Daemon, PATIENCE, both_transports, eventually, number_of};

const WAYS: [NotifyBy; 3] = [NotifyBy::Uring, NotifyBy::Thread, NotifyBy::Files];
const PERIOD: Duration = Duration::from_millis(20);
const HOUR: Duration = Duration::from_secs(3600);

/// A process that publishes as fast as it can, and a view of what it does.
fn beside_a_writer(daemon: &Daemon, test: impl FnOnce(View<Checked>)) -> u64 {
    let mut writer = daemon.worker("x", &["publish"]);
    assert_eq!(writer.line(), "ready");
    let state = daemon.library().subscribe("x").typed::<Checked>().unwrap();
    test(state.view(PERIOD));
    writer.close_input();
    writer.line().parse().unwrap()
}

/// Looks until a dozen versions were seen, each shown at least a period behind the one before. That one
/// was not shown yet when the look began before the first that found it.
fn keeps_its_rate(mut look: impl FnMut() -> u64) {
    let start = Instant::now();
    let mut last = look();
    let (mut changes, mut before, mut since) = (0, start, None);
    while changes < 12 {
        let began = Instant::now();
        let shown = look();
        let ended = Instant::now();
        assert!(ended - start < PATIENCE, "{changes} in {PATIENCE:?}");
        if shown != last {
            assert!(shown > last, "it went back from {last} to {shown}");
            // The first one may have been shown before all looks.
            let apart = since.map_or(PERIOD, |since| ended - since);
            assert!(apart >= PERIOD, "{apart:?} from {last} to {shown}");
            (last, since, changes) = (shown, Some(before), changes + 1);
        }
        before = began;
    }
}

fn long() -> Wait {
    Wait::new().timeout(PATIENCE)
}

fn changed(waited: Waited) -> Generation {
    match waited {
        Waited::Changed(generation) => generation,
        other => panic!("{other:?}"),
    }
}

/// A state of a number, with a view.
fn number(daemon: &Daemon, name: &str, period: Duration) -> (State<u64>, View<u64>) {
    let mount = daemon.library();
    let state = mount.subscribe(name).write().typed::<u64>().unwrap();
    let view = mount.subscribe(name).typed::<u64>().unwrap().view(period);
    (state, view)
}

#[test]
fn every_way_to_look_at_a_view_keeps_its_rate_beside_a_writer() {
    both_transports(|daemon| {
        beside_a_writer(daemon, |view| {
            keeps_its_rate(|| {
                let now = view.snapshot().unwrap();
                assert_eq!(number_of(&now.value), Some(now.generation().0));
                now.generation().0
            });
            keeps_its_rate(|| view.generation().0);
            let mut since = Generation::NEVER;
            let mut seen = |waited| {
                since = changed(waited);
                // A period may have passed meanwhile, and it cannot show an older one.
                assert!(view.snapshot().unwrap().generation() >= since);
                since
            };
            let mut last = Generation::NEVER;
            keeps_its_rate(|| {
                last = seen(long().for_change(&view, last).unwrap());
                last.0
            });
            let calm = view.reader().view(HOUR);
            let shown = calm.generation();
            keeps_its_rate(|| {
                let of: [(&dyn Waitable, _); 2] = [(&calm, shown), (&view, last)];
                let (which, waited) = long().for_any(&of).unwrap();
                assert_eq!(which, 1);
                last = seen(waited);
                last.0
            });
            keeps_its_rate(|| {
                let next = |value: &Checked| value[0] > last.0;
                let found = long().for_value(&view, next).unwrap().unwrap();
                last = found.generation();
                last.0
            });
            let mut watch = view.watch();
            keeps_its_rate(|| {
                let next = watch.next(Some(PATIENCE)).unwrap().unwrap();
                next.generation().0
            });
        });
    });
}

#[test]
fn a_notifier_tells_of_a_view_at_its_rate_and_the_view_shows_what_it_told() {
    both_transports(|daemon| {
        beside_a_writer(daemon, |view| {
            for way in WAYS {
                let mut notifier = Notifier::by(way).unwrap();
                notifier.add(&view).unwrap();
                keeps_its_rate(|| {
                    let events = notifier.wait(Some(PATIENCE)).unwrap();
                    let [
                        Event {
                            change: Change::To(told),
                            ..
                        },
                    ] = *events
                    else {
                        panic!("{way:?}: {events:?}");
                    };
                    let shown = view.snapshot().unwrap();
                    assert!(shown.generation() >= told, "{way:?}");
                    told.0
                });
            }
        });
    });
}

#[test]
fn what_is_told_is_a_period_apart_also_where_one_was_taken_late() {
    both_transports(|daemon| {
        for way in WAYS {
            let period = Duration::from_millis(200);
            let (state, view) = number(daemon, &format!("{way:?}"), period);
            let mut notifier = Notifier::by(way).unwrap();
            let key = notifier.add(&view).unwrap();
            let told = |generation| Event {
                key,
                change: Change::To(Generation(generation)),
            };
            state.publish(&1).unwrap();
            assert_eq!(view.generation(), Generation(1));
            let late = Some(period * 3 / 4);
            assert_eq!(view.wait(Generation(1), late).unwrap(), Waited::TimedOut);
            let before = Instant::now();
            assert_eq!(notifier.wait(Some(PATIENCE)).unwrap(), [told(1)]);
            state.publish(&2).unwrap();
            assert_eq!(notifier.wait(Some(PATIENCE)).unwrap(), [told(2)], "{way:?}");
            assert!(before.elapsed() >= period, "{way:?}");
        }
    });
}

#[test]
fn the_first_change_comes_at_once_and_the_last_before_quiet_always() {
    both_transports(|daemon| {
        for way in WAYS {
            let period = Duration::from_millis(300);
            let (state, view) = number(daemon, &format!("{way:?}"), period);
            let mut notifier = Notifier::by(way).unwrap();
            notifier.add(&view).unwrap();
            let told = |notifier: &mut Notifier| match *notifier.wait(Some(PATIENCE)).unwrap() {
                [
                    Event {
                        change: Change::To(told),
                        ..
                    },
                ] => told.0,
                ref other => panic!("{way:?}: {other:?}"),
            };
            let start = Instant::now();
            state.publish(&1).unwrap();
            assert_eq!(told(&mut notifier), 1);
            assert_eq!(view.snapshot().unwrap().value, 1);
            for value in 2..=1000 {
                state.publish(&value).unwrap();
            }
            // Only if all that took a period there was one in between.
            let mut newest = told(&mut notifier);
            assert!(start.elapsed() >= period);
            while newest < 1000 {
                newest = told(&mut notifier);
            }
            assert_eq!(view.snapshot().unwrap().value, 1000);
            let quiet = Some(Duration::from_millis(5));
            assert_eq!(notifier.wait(quiet).unwrap(), []);
            // After a quiet time it is the first again, and wakes who sleeps.
            let since = Generation(1000);
            assert_eq!(view.wait(since, Some(period)).unwrap(), Waited::TimedOut);
            let waiter = std::thread::spawn(move || view.wait(since, Some(PATIENCE)).unwrap());
            state.publish(&1001).unwrap();
            let waited = waiter.join().unwrap();
            assert_eq!(waited, Waited::Changed(Generation(1001)));
        }
    });
}

#[test]
fn a_sleeping_wait_wakes_for_the_first_change_and_not_in_the_pause_behind_it() {
    both_transports(|daemon| {
        let (state, view) = number(daemon, "n", HOUR);
        let interrupt = Interrupt::new();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let wait = long().interrupted_by(&interrupt);
                let first = changed(wait.for_change(&view, Generation::NEVER).unwrap());
                (first, wait.for_change(&view, first).unwrap())
            });
            state.publish(&1).unwrap();
            // Shown at once, although the period is an hour.
            eventually("the first is shown", || {
                (view.generation() == Generation(1)).then_some(())
            });
            for value in 2..=50 {
                state.publish(&value).unwrap();
            }
            interrupt.raise();
            let expected = (Generation(1), Waited::Interrupted);
            assert_eq!(waiter.join().unwrap(), expected);
        });
    });
}

#[test]
fn a_view_of_a_deleted_state_says_so() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = mount.subscribe("n").write().typed::<u64>().unwrap();
        let view = state.view(Duration::from_millis(100));
        state.publish(&1).unwrap();
        assert_eq!(view.generation(), Generation(1));
        state.publish(&2).unwrap();
        mount.remove("n").unwrap();
        for seen in [0, 1, 2] {
            let gone = view.wait(Generation(seen), Some(PATIENCE)).unwrap_err();
            assert!(matches!(gone, WaitError::Deleted { .. }), "{gone}");
            let gone = view.snapshot().unwrap_err();
            assert!(matches!(gone, ReadError::Deleted { .. }), "{gone}");
        }
    });
}

#[test]
fn a_transaction_commits_on_the_newest_whatever_a_view_shows() {
    both_transports(|daemon| {
        let (state, view) = number(daemon, "n", HOUR);
        state.publish(&1).unwrap();
        assert_eq!(view.snapshot().unwrap().value, 1);
        state.publish(&40).unwrap();
        let retried = state.transact(|value| *value += 2).unwrap();
        assert_eq!(retried.attempts, 1);
        assert_eq!(state.snapshot().unwrap().value, 42);
        assert_eq!(view.snapshot().unwrap().value, 1);
    });
}

#[test]
fn the_live_page_of_a_view_keeps_its_rate_and_is_never_torn_beside_a_writer() {
    both_transports(|daemon| {
        let mut kept = None;
        let last = beside_a_writer(daemon, |view| {
            let live = view.live().unwrap();
            let address = live.as_ptr();
            keeps_its_rate(|| {
                let (generation, value) = live.load().expect("a thread of ours writes it");
                assert_eq!(number_of(&value), Some(generation.0));
                assert_eq!(live.len(), size_of::<Checked>());
                generation.0
            });
            assert_eq!(live.as_ptr(), address);
            kept = Some(live);
        });
        let live = kept.unwrap();
        eventually("the last one is shown", || {
            let (generation, value) = live.load()?;
            (generation.0 == last).then(|| assert_eq!(number_of(&value), Some(last)))
        });
        assert_eq!(live.generation(), Some(Generation(last)));
    });
}

#[test]
fn a_live_page_without_a_limit_is_never_torn_either() {
    both_transports(|daemon| {
        beside_a_writer(daemon, |view| {
            let live = view.reader().view(Duration::ZERO).live().unwrap();
            let (mut versions, mut last) = (0, 0);
            let start = Instant::now();
            while versions < 1000 {
                assert!(start.elapsed() < PATIENCE, "{versions} in {PATIENCE:?}");
                // It may be stopped in the middle of a refresh.
                let Some((generation, value)) = live.load() else {
                    continue;
                };
                assert_eq!(number_of(&value), Some(generation.0));
                match generation.0 == last {
                    // Three run here, and there may be two processors.
                    true => std::thread::yield_now(),
                    false => versions += 1,
                }
                last = generation.0;
            }
        });
    });
}

#[test]
fn the_live_page_of_a_view_has_zeros_behind_its_version_and_grows_with_the_state() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = mount.subscribe("b").write().capacity(8).bytes().unwrap();
        let view = mount.subscribe("b").bytes().unwrap().view(Duration::ZERO);
        let live = view.live().unwrap();
        assert!(live.is_empty());
        assert_eq!(live.generation(), Some(Generation::NEVER));
        let mut page = vec![1; live.page_len()];
        let capacity = u32::try_from(page.len()).unwrap();
        state.publish(b"12345678").unwrap();
        state.set_capacity(capacity).unwrap();
        for value in [vec![7; page.len()], b"short".to_vec(), Vec::new()] {
            let generation = state.publish(&value).unwrap();
            eventually("it is shown", || {
                (live.load_into(&mut page) == Some(generation)).then_some(())
            });
            assert_eq!(live.len(), value.len());
            assert_eq!(page[..value.len()], value);
            assert!(page[value.len()..].iter().all(|byte| *byte == 0));
        }
    });
}

#[test]
fn a_state_goes_when_the_live_page_of_its_view_is_dropped() {
    both_transports(|daemon| {
        let (state, view) = number(daemon, "n", PERIOD);
        let live = view.live().unwrap();
        state.publish(&1).unwrap();
        eventually("it is shown", || (live.load()?.1 == 1).then_some(()));
        drop((state, view));
        let mount = daemon.library();
        assert_eq!(mount.names().unwrap().len(), 1, "the page keeps it");
        drop(live);
        eventually("it is gone", || {
            mount.names().unwrap().is_empty().then_some(())
        });
    });
}

#[test]
fn one_thread_refreshes_all_live_pages_and_is_there_as_long_as_there_are_any() {
    both_transports(|daemon| {
        let mut process = daemon.forker(&["pages", "200"]);
        assert_eq!(process.line(), "right");
        assert!(process.finish().success());
    });
}

#[test]
fn a_forked_child_has_views_and_live_pages_of_its_own() {
    both_transports(|daemon| {
        for by in ["fork", "clone"] {
            let mut process = daemon.forker(&["views", "--by", by]);
            assert_eq!(process.line(), "right", "{by}");
            assert!(process.finish().success());
        }
    });
}
