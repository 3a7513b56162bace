//! Waiting for what must come, but not for ever.

use std::time::{Duration, Instant};

/// How long anything may take that ought to take no time, on a machine busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks `condition` again and again, with pauses that grow from 50 µs to 10 ms, until it answers.
///
/// # Panics
///
/// After [`PATIENCE`], naming `what` did not happen.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_micros(50);
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "after {PATIENCE:?} still not: {what}"
        );
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}
