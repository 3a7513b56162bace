//! What became of the messages to a sink.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Why a message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The device cannot be opened, or nobody serves the bus.
    Absent,
    /// It has no room for more now, or does not answer.
    Full,
    /// It took less than the message, or failed.
    Failed,
}

/// Each with its name.
const CAUSES: [(Cause, &str); 3] = [
    (Cause::Absent, "absent"),
    (Cause::Full, "full"),
    (Cause::Failed, "failed"),
];

/// A message that was not taken.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(super) cause: Cause,
    /// What the kernel or the bus said.
    pub(super) error: Box<dyn std::error::Error + Send + Sync>,
}

/// How many messages a sink took, and how many were dropped.
#[derive(Debug)]
pub(crate) struct Counter {
    pub(crate) sink: &'static str,
    sent: AtomicU64,
    dropped: [AtomicU64; CAUSES.len()],
    /// Whether that cause was logged.
    told: [AtomicBool; CAUSES.len()],
}

impl Counter {
    pub(super) fn new(sink: &'static str) -> Self {
        Self {
            sink,
            sent: AtomicU64::new(0),
            dropped: Default::default(),
            told: Default::default(),
        }
    }

    /// Counts a message, and logs the first one that was dropped for its cause.
    pub(super) fn count(&self, sent: Result<(), Refused>) {
        let Err(Refused { cause, error }) = sent else {
            self.sent.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.dropped[cause as usize].fetch_add(1, Ordering::Relaxed);
        let (_, name) = CAUSES[cause as usize];
        match self.told[cause as usize].swap(true, Ordering::Relaxed) {
            false => tracing::info!(
                sink = self.sink,
                cause = name,
                %error,
                "an announcement is dropped; more for this cause are only counted"
            ),
            true => tracing::debug!(sink = self.sink, cause = name, %error, "dropped"),
        }
    }

    /// Counts what a sink does not get because it has not answered for long.
    pub(super) fn drop_stuck(&self, count: u64) {
        if count == 0 {
            return;
        }
        let cause = Cause::Full as usize;
        let add = |dropped: u64| Some(dropped.saturating_add(count));
        // It always adds.
        let _ = self.dropped[cause].fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        if !self.told[cause].swap(true, Ordering::Relaxed) {
            tracing::info!(
                sink = self.sink,
                cause = "full",
                "a sink does not answer: announcements are dropped; more for this cause are only counted"
            );
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many were dropped, by the cause's name.
    pub(crate) fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CAUSES.iter().map(|(cause, name)| {
            let count = self.dropped[*cause as usize].load(Ordering::Relaxed);
            (*name, count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_by_what_became_of_them() {
        let counter = Counter::new("kbus");
        let refused = |cause| Refused {
            cause,
            error: "no".into(),
        };
        counter.count(Ok(()));
        for (index, (cause, _)) in CAUSES.iter().enumerate() {
            assert_eq!(*cause as usize, index);
            for _ in 0..=index {
                counter.count(Err(refused(*cause)));
            }
        }
        assert_eq!(counter.sent(), 1);
        let dropped: Vec<_> = counter.dropped().collect();
        assert_eq!(dropped, [("absent", 1), ("full", 2), ("failed", 3)]);
    }
}
