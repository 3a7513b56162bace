//! Views of regions without a daemon: what they show, and waits that need not sleep on a state.

use std::time::Instant;

use kstate_sys::abi::Class;
use kstate_sys::clock::monotonic_ns;
use kstate_sys::region::Memory;

use super::*;
use crate::interrupt::Interrupt;
use crate::state::State;
use crate::testing::Region;

const HOUR: Duration = Duration::from_secs(3600);
/// Longer than a thread is kept from running between two lines.
const SHORT: Duration = Duration::from_millis(200);

fn region() -> (Region, State<u64>) {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    (region, state)
}

fn value(view: &View<u64>) -> u64 {
    view.snapshot().unwrap().value
}

/// Publishes so many numbers, the last of them `to`.
fn publish(state: &State<u64>, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        state.publish(&number).unwrap();
    }
}

/// When the look began and ended that found `view` to show `wanted`.
fn shows(view: &View<u64>, wanted: u64) -> (Instant, Instant) {
    let start = Instant::now();
    loop {
        let before = Instant::now();
        if value(view) == wanted {
            return (before, Instant::now());
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it stays hidden");
        std::thread::yield_now();
    }
}

#[test]
fn views_are_sent_and_shared_whatever_they_show() {
    fn both<T: Send + Sync>() {}
    both::<View<u64>>();
    both::<View<Bytes>>();
}

#[test]
fn the_first_is_shown_at_once_and_then_nothing_for_a_period() {
    let (_region, state) = region();
    let view = state.view(HOUR);
    assert_eq!(value(&view), 0);
    assert!(view.generation().is_never());
    // What nobody has written counts for nothing.
    publish(&state, 1..=1);
    assert_eq!((value(&view), view.generation()), (1, Generation(1)));
    publish(&state, 2..=500);
    for _ in 0..3 {
        assert_eq!((value(&view), view.generation()), (1, Generation(1)));
        assert!(!view.changed_since(Generation(1)));
    }
    assert_eq!(state.snapshot().unwrap().value, 500);
    assert_eq!(
        value(&state.view(HOUR)),
        500,
        "another one shows the newest"
    );
}

#[test]
fn when_its_time_has_come_the_newest_is_shown_without_another_commit() {
    let (_region, state) = region();
    let view = state.view(SHORT);
    publish(&state, 1..=1);
    let start = Instant::now();
    assert_eq!(value(&view), 1);
    publish(&state, 2..=9);
    assert!(shows(&view, 9).1 >= start + SHORT);
}

#[test]
fn a_question_for_the_generation_shows_it_and_a_snapshot_agrees() {
    let (_region, state) = region();
    publish(&state, 1..=1);
    let view = state.view(HOUR);
    assert!(view.changed_since(Generation::NEVER));
    publish(&state, 2..=3);
    assert_eq!(value(&view), 1);
}

#[test]
fn length_and_age_are_those_of_the_version_shown() {
    let region = Region::new(64);
    let state = region.state::<Bytes>(1);
    let view = state.view(HOUR);
    // The clock began with the machine.
    let ago = Duration::from_nanos(monotonic_ns()) / 2;
    let stamp = crate::Stamp::ago(ago);
    state.publish_stamped(b"old", stamp).unwrap();
    assert!(view.snapshot().unwrap().age().unwrap() >= ago);
    state.publish(b"new and longer").unwrap();
    let shown = view.snapshot().unwrap();
    assert_eq!((&*shown.value, shown.length()), (&b"old"[..], 3));
    assert_eq!(shown.generation(), Generation(1));
    assert!(shown.age().unwrap() >= ago);
    let mut room = [0; 16];
    let length = view.snapshot_into(&mut room).unwrap();
    assert_eq!((length.value, &room[..4]), (3, &b"old\0"[..]));
    let short = view.snapshot_into(&mut [0; 2]).unwrap_err();
    assert!(matches!(
        short,
        ReadError::TooLong {
            length: 3,
            room: 2,
            ..
        }
    ));
}

#[test]
fn what_is_shown_is_overdue_as_soon_as_it_is_and_until_another_has_followed() {
    let (region, state) = region();
    let view = state.view(HOUR);
    publish(&state, 1..=1);
    assert!(!view.snapshot().unwrap().is_overdue());
    region.scribble(72, &2_u64.to_ne_bytes());
    assert!(state.memory().header().is_overdue(Generation(1)));
    assert!(view.snapshot().unwrap().is_overdue());
    let waited = Wait::new().or_overdue().for_change(&view, Generation(1));
    assert_eq!(waited.unwrap(), Waited::Overdue(Generation(1)));
    publish(&state, 2..=2);
    let shown = view.snapshot().unwrap();
    assert_eq!((shown.value, shown.is_overdue()), (1, false));
}

#[test]
fn a_version_of_another_length_is_an_error_that_passes() {
    let region = Region::new(8);
    let state = region.state::<Bytes>(1);
    let view = region.reader::<u64>(Class::B64).view(SHORT);
    state.publish(b"four").unwrap();
    let error = view.snapshot().unwrap_err();
    assert!(
        matches!(error, ReadError::Length { found: 4, .. }),
        "{error}"
    );
    state.publish(&7_u64.to_ne_bytes()).unwrap();
    let mut into = 0;
    let patience = Some(Duration::from_secs(20));
    let waited = view.wait(Generation(1), patience).unwrap();
    assert_eq!(waited, Waited::Changed(Generation(2)));
    assert_eq!(view.snapshot_into(&mut into).unwrap().value, 8);
    assert_eq!(into, 7);
}

#[test]
fn a_wait_ends_when_what_was_held_back_is_shown_and_a_snapshot_shows_it() {
    let (_region, state) = region();
    let view = state.view(SHORT);
    publish(&state, 1..=1);
    let start = Instant::now();
    assert_eq!(
        view.wait(Generation::NEVER, None).unwrap(),
        Waited::Changed(Generation(1))
    );
    publish(&state, 2..=5);
    assert_eq!(
        view.wait(Generation(1), None).unwrap(),
        Waited::Changed(Generation(5))
    );
    assert!(start.elapsed() >= SHORT);
    publish(&state, 6..=6);
    assert_eq!(value(&view), 5, "what the wait has told of");
    let fourth = Wait::new().for_generation(&view, Generation(6));
    assert_eq!(fourth.unwrap(), Waited::Changed(Generation(6)));
    assert!(start.elapsed() >= 2 * SHORT);
}

#[test]
fn a_wait_ends_in_the_pause_by_its_time_and_by_an_interrupt() {
    let (_region, state) = region();
    let view = state.view(HOUR);
    publish(&state, 1..=2);
    assert_eq!(value(&view), 2);
    publish(&state, 3..=3);
    let since = Generation(2);
    let waited = view.wait(since, Some(Duration::from_millis(5)));
    assert_eq!(waited.unwrap(), Waited::TimedOut);
    let interrupt = Interrupt::new();
    let wait = Wait::new().interrupted_by(&interrupt);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| wait.for_change(&view, since).unwrap());
        let any = scope.spawn(|| wait.for_any(&[(&view, since)]).unwrap());
        let value = scope.spawn(|| wait.for_value(&view, |value| *value > 2));
        interrupt.raise();
        assert_eq!(one.join().unwrap(), Waited::Interrupted);
        assert_eq!(any.join().unwrap(), (0, Waited::Interrupted));
        let interrupted = value.join().unwrap().unwrap_err();
        assert!(matches!(interrupted, crate::WatchError::Interrupted));
    });
}

#[test]
fn of_several_the_first_that_shows_something_ends_the_wait() {
    let (_region, state) = region();
    let (calm, brisk) = (state.view(HOUR), state.view(SHORT));
    publish(&state, 1..=1);
    assert_eq!((value(&calm), value(&brisk)), (1, 1));
    let first = Generation(1);
    publish(&state, 2..=2);
    let waited = Wait::new().for_any(&[(&calm, first), (&brisk, first)]);
    assert_eq!(waited.unwrap(), (1, Waited::Changed(Generation(2))));
    publish(&state, 3..=3);
    let second = Generation(2);
    let states: [(&dyn crate::Waitable, _); 3] =
        [(&calm, first), (&state, second), (&brisk, second)];
    let waited = Wait::new().for_any(&states);
    assert_eq!(waited.unwrap(), (1, Waited::Changed(Generation(3))));
    let soon = Wait::new().timeout(Duration::from_millis(5));
    let waited = soon.for_any(&[(&calm, first)]);
    assert_eq!(waited.unwrap(), (0, Waited::TimedOut));
}

#[test]
fn a_clone_shows_the_same_and_then_goes_its_own_pace() {
    let (_region, state) = region();
    let view = state.view(SHORT);
    publish(&state, 1..=1);
    assert_eq!(value(&view), 1);
    let clone = view.clone();
    publish(&state, 2..=2);
    assert_eq!(value(&clone), 1);
    let (start, _) = shows(&clone, 2);
    publish(&state, 3..=3);
    assert_eq!(value(&view), 3, "it had shown nothing since");
    assert!(shows(&clone, 3).1 >= start + SHORT);
}

#[test]
fn without_a_period_it_shows_every_change() {
    let (_region, state) = region();
    let view = state.view(Duration::ZERO);
    for number in 1..100 {
        state.publish(&number).unwrap();
        assert_eq!(value(&view), number);
    }
}

#[test]
fn the_longest_period_is_no_overflow() {
    let (_region, state) = region();
    let view = state.view(Duration::MAX);
    publish(&state, 1..=1);
    assert_eq!(value(&view), 1);
    publish(&state, 2..=2);
    assert_eq!(value(&view), 1);
}

#[test]
fn transactions_work_on_the_newest_whatever_a_view_shows() {
    let (_region, state) = region();
    let view = state.view(HOUR);
    publish(&state, 1..=1);
    assert_eq!(value(&view), 1);
    publish(&state, 2..=40);
    state.transact(|value| *value += 2).unwrap();
    assert_eq!(state.snapshot().unwrap().value, 42);
    let begun = state.begin().unwrap();
    assert_eq!(begun.base(), Generation(41));
    assert_eq!(value(&view), 1);
}

#[test]
fn threads_that_share_a_view_see_one_pace() {
    let (region, state) = region();
    let view = region.reader::<u64>(Class::B64).view(SHORT);
    let start = Instant::now();
    let shown = std::thread::scope(|scope| {
        let lookers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = vec![0];
                    while start.elapsed() < 5 * SHORT {
                        let now = view.snapshot().unwrap();
                        assert_eq!(now.generation().0, now.value);
                        assert!(now.value >= seen[seen.len() - 1], "it goes back");
                        if now.value != seen[seen.len() - 1] {
                            seen.push(now.value);
                        }
                    }
                    seen
                })
            })
            .collect();
        let mut number = 0;
        while lookers.iter().any(|looker| !looker.is_finished()) {
            number += 1;
            state.publish(&number).unwrap();
        }
        let seen = lookers
            .into_iter()
            .flat_map(|looker| looker.join().unwrap());
        seen.collect::<std::collections::BTreeSet<_>>()
    });
    // Zero is what nobody has written.
    let allowed = start.elapsed().as_micros() / SHORT.as_micros() + 1;
    assert!(
        shown.len() as u128 <= allowed + 1,
        "{} in {allowed}",
        shown.len()
    );
    assert!(shown.len() > 2, "nothing was shown");
}

#[test]
fn a_forked_child_goes_on_also_where_a_thread_of_its_parent_was_looking() {
    let (region, state) = region();
    let view = region.reader::<u64>(Class::B64).view(HOUR);
    publish(&state, 1..=1);
    assert_eq!(value(&view), 1);
    publish(&state, 2..=2);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(value(&view), 1);
            }
        });
        for _ in 0..50 {
            #[expect(unsafe_code, reason = "forks, which has no safe wrapper here")]
            // SAFETY: the child touches memory, allocates, which glibc lets a forked child do, and leaves by
            // `_exit`.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // What its parent showed, or afresh.
                let right = matches!(view.snapshot().map(|now| now.value), Ok(1 | 2));
                #[expect(unsafe_code, reason = "ends the child without unwinding")]
                // SAFETY: ends the process at once.
                unsafe {
                    libc::_exit(i32::from(!right))
                }
            }
            let mut status = 0;
            #[expect(unsafe_code, reason = "waits for the child")]
            // SAFETY: `status` is a valid place; the child is ours.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert_eq!((waited, status), (child, 0));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
