//! Changes for programs that run on tokio.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use futures_core::Stream;
use kstate::{
    Change, Changes, Generation, Notifier, Readable, Snapshot, State, WaitError, WatchError,
};
use kstate_tests::{Daemon, both_transports};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// Nothing here takes so long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// One test counts what the process has, so that no other may run beside it.
static ALONE: RwLock<()> = RwLock::new(());

fn beside_others() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(PoisonError::into_inner)
}

fn here() -> Runtime {
    let built = Builder::new_current_thread().enable_all().build();
    built.expect("a runtime on this thread")
}

fn on_threads() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let built = builder.worker_threads(3).enable_all().build();
    built.expect("a runtime on three threads")
}

fn writer(daemon: &Daemon, name: &str) -> State<u64> {
    let mount = daemon.library();
    mount.subscribe(name).write().typed().expect("a writer")
}

async fn next<R: Readable<Content = u64>>(
    changes: &mut Changes<R>,
) -> Option<Result<Snapshot<u64>, WatchError>> {
    let next = poll_fn(|context| Pin::new(&mut *changes).poll_next(context));
    timeout(PATIENCE, next).await.expect("something comes")
}

async fn value<R: Readable<Content = u64>>(changes: &mut Changes<R>) -> u64 {
    let next = next(changes).await.expect("it goes on");
    next.expect("a version").value
}

#[test]
fn a_stream_gives_what_is_there_then_changes_and_the_last_of_a_burst() {
    let _beside = beside_others();
    both_transports(|daemon| {
        let state = writer(daemon, "x");
        state.publish(&1).unwrap();
        here().block_on(async {
            let mut changes = state.changes().unwrap();
            assert_eq!(value(&mut changes).await, 1);
            for number in 2..100 {
                state.publish(&number).unwrap();
                assert_eq!(value(&mut changes).await, number);
            }
            let quiet = timeout(Duration::from_millis(20), next(&mut changes));
            assert!(quiet.await.is_err());
            let reader = daemon.library().subscribe("x").typed::<u64>().unwrap();
            let burst = std::thread::spawn(move || {
                for number in 100..=20_000 {
                    state.publish(&number).unwrap();
                }
            });
            let mut seen = 99;
            while seen < 20_000 {
                let now = value(&mut changes).await;
                assert!(now > seen, "{now} behind {seen}");
                seen = now;
            }
            burst.join().unwrap();
            assert_eq!(reader.snapshot().unwrap().value, 20_000);
        });
    });
}

#[test]
fn a_stream_ends_with_its_state() {
    let _beside = beside_others();
    both_transports(|daemon| {
        let state = writer(daemon, "x");
        state.publish(&1).unwrap();
        here().block_on(async {
            let mut changes = state.changes().unwrap();
            assert_eq!(value(&mut changes).await, 1);
            daemon.library().remove("x").unwrap();
            let end = next(&mut changes).await.unwrap();
            let deleted = matches!(end, Err(WatchError::Wait(WaitError::Deleted { .. })));
            assert!(deleted, "{end:?}");
            assert!(next(&mut changes).await.is_none());
            assert!(next(&mut changes).await.is_none());
        });
    });
}

fn entries(of: &str) -> usize {
    std::fs::read_dir(of).expect("of this process").count()
}

#[test]
fn hundreds_of_streams_make_no_thread_and_leave_no_descriptor() {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    const MANY: usize = 200;
    let daemon = Daemon::start();
    let state = writer(&daemon, "x");
    state.publish(&1).unwrap();
    here().block_on(async {
        // The test harness may begin or end a thread of its own meanwhile.
        let threads = entries("/proc/self/task");
        let descriptors = entries("/proc/self/fd");
        let mut streams: Vec<_> = (0..MANY).map(|_| state.changes().unwrap()).collect();
        for stream in &mut streams {
            assert_eq!(value(stream).await, 1);
        }
        state.publish(&2).unwrap();
        for stream in &mut streams {
            assert_eq!(value(stream).await, 2);
        }
        assert!(entries("/proc/self/task") <= threads + 2);
        drop(streams);
        assert!(entries("/proc/self/fd") <= descriptors + 2);
    });
}

#[test]
fn a_stream_moves_between_threads() {
    let _beside = beside_others();
    both_transports(|daemon| {
        let state = writer(daemon, "x");
        let runtime = on_threads();
        let mut changes = {
            let _inside = runtime.enter();
            state.changes().unwrap()
        };
        // Each time polled first by another thread, of which some end while a wait is in flight.
        for number in 1..=30 {
            let waiting = runtime.handle().clone();
            let polled = std::thread::spawn(move || {
                waiting.block_on(async {
                    let quiet = timeout(Duration::from_millis(2), next(&mut changes)).await;
                    assert!(quiet.is_err(), "{quiet:?}");
                    changes
                })
            });
            changes = polled.join().unwrap();
            state.publish(&number).unwrap();
            let task = runtime.spawn(async move {
                assert_eq!(value(&mut changes).await, number);
                changes
            });
            changes = runtime.block_on(task).unwrap();
        }
    });
}

#[test]
fn a_stream_of_a_view_keeps_its_rate() {
    let _beside = beside_others();
    let daemon = Daemon::start();
    let state = writer(&daemon, "x");
    let period = Duration::from_millis(50);
    here().block_on(async {
        let view = state.view(period);
        let mut changes = view.changes().unwrap();
        state.publish(&1).unwrap();
        assert_eq!(value(&mut changes).await, 1);
        for number in 2..=6 {
            let before = Instant::now();
            state.publish(&(number * 10)).unwrap();
            state.publish(&number).unwrap();
            assert_eq!(value(&mut changes).await, number);
            // Counted from when it was shown last, which was before the value was held.
            assert!(before.elapsed() + Duration::from_millis(10) >= period);
            assert_eq!(view.snapshot().unwrap().value, number);
        }
    });
}

#[test]
fn a_task_awaits_many_states_at_one_notifier() {
    let _beside = beside_others();
    both_transports(|daemon| {
        let states: Vec<_> = (0..300).map(|n| writer(daemon, &format!("s{n}"))).collect();
        on_threads().block_on(async {
            let mut notifier = Notifier::new().unwrap().into_async().unwrap();
            let mut keys = Vec::new();
            for state in &states {
                keys.push(notifier.add(state).unwrap());
            }
            for (state, key) in states.iter().zip(&keys).rev() {
                state.publish(&7).unwrap();
                let events = timeout(PATIENCE, notifier.changed())
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(events.len(), 1);
                assert_eq!(events[0].key, *key);
                assert_eq!(events[0].change, Change::To(Generation(1)));
            }
            assert!(notifier.remove(keys[0]));
            states[0].publish(&8).unwrap();
            let quiet = timeout(Duration::from_millis(20), notifier.changed());
            assert!(quiet.await.is_err());
        });
    });
}

#[test]
fn what_a_task_that_is_cancelled_did_not_take_is_told_later() {
    let _beside = beside_others();
    both_transports(|daemon| {
        let state = writer(daemon, "x");
        here().block_on(async {
            let mut changes = state.changes().unwrap();
            for number in 1..200 {
                // Polled once, and dropped with a wait in flight.
                let mut waiting = Box::pin(next(&mut changes));
                let polled = poll_fn(|context| {
                    std::task::Poll::Ready(waiting.as_mut().poll(context).is_pending())
                });
                assert!(polled.await);
                drop(waiting);
                state.publish(&number).unwrap();
                assert_eq!(value(&mut changes).await, number);
            }
        });
    });
}
