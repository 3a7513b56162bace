//! How long a state lives, and its room and rights: the arguments of those who publish.

use std::time::Duration;

use clap::builder::TypedValueParser;
use kstate::{Bytes, Info, Mount, Reader, Subscribe};

use crate::daemon;
use crate::duration;
use crate::error::CommandError;
use crate::output;

/// What a publisher may ask of a state.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KeepingArguments {
    /// Keep the state until the file system is unmounted or the state is deleted
    ///
    /// Otherwise it evaporates with its last subscriber. Sets the file's sticky bit, once there is a
    /// value.
    #[arg(long, help_heading = "State")]
    keep: bool,

    /// Keep the state for a while behind its last subscriber, such as 500ms or 10s
    #[arg(long, help_heading = "State", value_name = "TIME", value_parser = duration::parse)]
    linger: Option<Duration>,

    /// How often a value is expected at least, such as 500ms; who waits is told when none comes in time
    #[arg(long, help_heading = "State", value_name = "TIME", value_parser = duration::parse)]
    deadline: Option<Duration>,

    /// Room for values, up to a page; free to choose before the first value, growing only behind it
    #[arg(long, help_heading = "State", value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    capacity: Option<u32>,

    /// The file's permissions if this makes the state, in octal
    #[arg(long, help_heading = "State", value_name = "MODE", value_parser = mode())]
    mode: Option<u32>,
}

impl KeepingArguments {
    /// Asks for room and rights. How long the state lives is decided when it has a value, by
    /// [`settle`](Self::settle): one whose first value is refused shall not stay.
    pub(crate) fn apply(&self, mut subscribe: Subscribe) -> Subscribe {
        if let Some(capacity) = self.capacity {
            subscribe = subscribe.capacity(capacity);
        }
        if let Some(mode) = self.mode {
            subscribe = subscribe.mode(mode);
        }
        subscribe
    }

    /// Makes sure, before anything is published, that this user may decide how long the state
    /// lives, if that is to change from what was `found`.
    ///
    /// # Errors
    ///
    /// It is another user's; nothing has changed.
    pub(crate) fn check(
        &self,
        mount: &Mount,
        name: &str,
        found: &Info,
    ) -> Result<(), CommandError> {
        let is_kept = !self.keep || found.kept;
        let lingers = self.linger.is_none_or(|linger| linger == found.linger);
        let is_due = self
            .deadline
            .is_none_or(|after| Some(after) == found.deadline);
        if !is_kept || !lingers || !is_due {
            // Nobody but its owner may ask even for what it is already.
            mount
                .subscribe(name)
                .existing()
                .linger(found.linger)
                .bytes()?;
        }
        Ok(())
    }

    /// Has the state live for as long as was asked.
    ///
    /// # Errors
    ///
    /// It is another user's, or has gone.
    pub(crate) fn settle(&self, mount: &Mount, name: &str) -> Result<(), CommandError> {
        if !self.keep && self.linger.is_none() && self.deadline.is_none() {
            return Ok(());
        }
        let mut subscribe = mount.subscribe(name).existing();
        if self.keep {
            subscribe = subscribe.keep();
        }
        if let Some(linger) = self.linger {
            subscribe = subscribe.linger(linger);
        }
        if let Some(deadline) = self.deadline {
            subscribe = subscribe.deadline(deadline);
        }
        subscribe.bytes()?;
        Ok(())
    }

    /// The room asked for, in bytes.
    pub(crate) fn capacity(&self) -> Option<u32> {
        self.capacity
    }
}

/// What its publisher sees of a state last.
///
/// # Errors
///
/// What the daemon says.
pub(crate) fn last_look(mount: &Mount, state: &Reader<Bytes>) -> Result<Info, CommandError> {
    state.info().map_err(|source| {
        if daemon::has_died(&source) {
            return daemon::death(mount).into();
        }
        let path = mount.path().join(state.name().as_str());
        CommandError::File { path, source }
    })
}

/// Whether a state of which `info` is the last that its publisher saw goes with this publisher.
pub(crate) fn goes_with_its_publisher(info: &Info) -> bool {
    let is_kept = info.kept || info.persistent.is_some();
    info.subscribers <= 1 && info.linger.is_zero() && !is_kept
}

/// Says that a state has gone, and how to keep it.
pub(crate) fn tell_that_it_has_gone(name: &str) {
    output::note(format_args!(
        "`{name}` has gone again with its only subscriber; --keep keeps it, --linger 10s keeps it \
         for a while, and so does anyone who watches it (`kstate watch {name}`)"
    ));
}

fn mode() -> impl TypedValueParser<Value = u32> {
    clap::builder::StringValueParser::new().try_map(|text| {
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .ok_or_else(|| {
                format!("`{text}` is not a file mode; expected three octal digits such as 640")
            })
    })
}
