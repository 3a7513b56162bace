//! What is done, and what it owes.

/// An operation of `kstate-stepped`.
#[derive(Debug)]
pub(crate) struct Operation {
    /// What a failure calls it; also the beginning of its states' names.
    pub(crate) name: &'static str,
    /// What `kstate-stepped` calls it.
    pub(crate) kind: &'static str,
    /// Bytes of a value, whole words.
    pub(crate) length: usize,
    /// What it does to the number that a value carries.
    pub(crate) effect: Effect,
    /// Whether it is on several states.
    pub(crate) several: bool,
    /// Whether the live page of the first state is armed, and somebody waits for the last.
    pub(crate) armed: bool,
    /// Whether somebody waits for the newest version.
    pub(crate) awaited: bool,
}

/// What an operation does to the number that a value carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Replaces it by what it is told.
    Replaces,
    /// Adds one.
    Adds,
    /// None.
    Reads,
}

const fn operation(
    name: &'static str,
    kind: &'static str,
    words: usize,
    effect: Effect,
) -> Operation {
    Operation {
        name,
        kind,
        length: words * size_of::<u64>(),
        effect,
        several: false,
        armed: false,
        awaited: false,
    }
}

impl Operation {
    /// Whether there is something for the daemon to do when it is not finished.
    pub(crate) const fn owes(&self) -> bool {
        self.several || self.armed || self.awaited
    }

    const fn several(mut self) -> Self {
        self.several = true;
        self
    }

    const fn armed(mut self) -> Self {
        self.armed = true;
        self
    }

    const fn awaited(mut self) -> Self {
        self.awaited = true;
        self
    }
}

/// Replacing the value.
pub(crate) const PUBLISHING: [Operation; 4] = [
    operation("publish-small", "publish-small", 8, Effect::Replaces),
    operation("publish-page", "publish-page", 512, Effect::Replaces),
    operation("publish-armed", "publish", 64, Effect::Replaces).armed(),
    operation("publish-awaited", "publish-small", 8, Effect::Replaces).awaited(),
];

/// Transactions on one state.
pub(crate) const TRANSACTIONS: [Operation; 4] = [
    operation("transact", "transact", 64, Effect::Adds),
    operation("transact-bytes", "transact-bytes", 24, Effect::Adds),
    operation("transact-raw", "transact-raw", 512, Effect::Adds),
    operation("transact-owing", "transact", 64, Effect::Adds)
        .armed()
        .awaited(),
];

/// Transactions on several states.
pub(crate) const SEVERAL: [Operation; 2] = [
    operation("several", "transact-many", 8, Effect::Adds).several(),
    operation("several-owing", "transact-many", 8, Effect::Adds)
        .several()
        .armed()
        .awaited(),
];

/// Reading.
pub(crate) const READING: [Operation; 2] = [
    operation("snapshot", "snapshot", 512, Effect::Reads),
    operation("cut", "cut", 8, Effect::Reads).several(),
];
