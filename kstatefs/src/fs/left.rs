//! What is left of what was open, for the fuzzer.

use super::Shared;

impl Shared {
    /// What there is that goes with the files that are open and the names that are known; nothing
    /// when there are none.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let files = self.files();
        left.extend(files.iter().map(|(file, open)| format!("{file}: {open:?}")));
        drop(files);
        left.extend(self.common.streams.left());
        left.extend(self.prefixes.left());
        let table = self.table();
        left.extend(table.gone().map(|state| format!("{state:?}")));
        left.extend(table.iter().filter_map(|state| {
            let counts = state.counts();
            let is_left = counts.subscribers + counts.writers + counts.waiters > 0;
            is_left.then(|| format!("{counts:?} of {state:?}"))
        }));
        left
    }
}
