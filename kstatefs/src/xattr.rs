//! `user.kstate.*`: what is known of a state, for any program that can read an attribute.

use std::sync::Arc;
use std::time::Duration;

use kstate_sys::announce::Sinks;
use kstate_sys::duration;

use crate::errno::Errno;
use crate::fs::Shared;
use crate::state::State;

/// The file of a persistent state. Set by [`Shared::persist_by_path`].
pub(crate) const PERSISTENT: &str = "user.kstate.persistent";

/// Every attribute there is.
const NAMES: [&str; 17] = [
    "user.kstate.age_ns",
    "user.kstate.announce",
    "user.kstate.capacity",
    "user.kstate.deadline",
    "user.kstate.durability",
    "user.kstate.durable_generation",
    "user.kstate.flush_errors",
    "user.kstate.flushed_bytes",
    "user.kstate.generation",
    "user.kstate.layout",
    "user.kstate.length",
    "user.kstate.linger",
    "user.kstate.overdue",
    PERSISTENT,
    "user.kstate.subscribers",
    "user.kstate.waiters",
    "user.kstate.writers",
];

/// The names that have a value now, each ended by NUL, as `listxattr(2)` has them.
pub(crate) fn list(state: &State) -> Vec<u8> {
    let present = |name: &&&str| get(state, name).is_ok();
    NAMES
        .iter()
        .filter(present)
        .flat_map(|name| name.bytes().chain([0]))
        .collect()
}

/// The value of one, as text without an end of line.
///
/// # Errors
///
/// `ENODATA` for a name that is not listed, and where there is no value.
pub(crate) fn get(state: &State, name: &str) -> Result<Vec<u8>, Errno> {
    let key = name.strip_prefix("user.kstate.").ok_or(Errno::ENODATA)?;
    let store = || state.store().ok_or(Errno::ENODATA);
    let text = match key {
        "capacity" => state.capacity().to_string(),
        "generation" => state.describe()?.generation().to_string(),
        "length" => state.describe()?.length.to_string(),
        "age_ns" => {
            let age = state.age(&state.describe()?).ok_or(Errno::ENODATA)?;
            age.as_nanos().to_string()
        }
        "announce" => {
            let sinks = Some(state.sinks()).filter(|sinks| !sinks.is_empty());
            sinks.ok_or(Errno::ENODATA)?.to_string()
        }
        "layout" => {
            let layout = state.layout().ok_or(Errno::ENODATA)?;
            format!("{:016x} {}", layout.id, layout.text)
        }
        "durability" => match store()?.within() {
            Duration::ZERO => EACH_COMMIT.to_owned(),
            within => millis(within),
        },
        "durable_generation" => store()?.durable().to_string(),
        "flush_errors" => store()?.figures().errors.to_string(),
        "flushed_bytes" => store()?.figures().bytes.to_string(),
        "persistent" => store()?.path().to_string_lossy().into_owned(),
        "deadline" => millis(state.deadline().ok_or(Errno::ENODATA)?),
        "linger" => millis(state.attributes().linger),
        "overdue" => u8::from(state.overdue().is_some()).to_string(),
        "subscribers" => state.counts().subscribers.to_string(),
        "waiters" => state.counts().waiters.to_string(),
        "writers" => state.counts().writers.to_string(),
        _ => return Err(Errno::ENODATA),
    };
    Ok(text.into_bytes())
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_secs_f64() * 1e3)
}

/// How each commit is asked for, to be in the file as soon as can be.
const EACH_COMMIT: &str = "each";

/// What the flags of `setxattr(2)` ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Any,
    /// `XATTR_CREATE`.
    Create,
    /// `XATTR_REPLACE`.
    Replace,
}

impl Mode {
    pub(crate) fn from_flags(flags: i32) -> Self {
        match flags {
            libc::XATTR_CREATE => Self::Create,
            libc::XATTR_REPLACE => Self::Replace,
            _ => Self::Any,
        }
    }

    fn check(self, exists: bool) -> Result<(), Errno> {
        match self {
            Self::Create if exists => Err(Errno::EEXIST),
            Self::Replace if !exists => Err(Errno::ENODATA),
            _ => Ok(()),
        }
    }
}

/// Sets one of those that can be set.
///
/// # Errors
///
/// `EINVAL` for a value that is none, `EPERM` for an attribute that only tells, `EOPNOTSUPP` for
/// names that are not ours and sinks that the mount does not have, `EEXIST` and `ENODATA` as `mode` says.
pub(crate) fn set(
    shared: &Shared,
    state: &Arc<State>,
    name: &str,
    value: &[u8],
    mode: Mode,
) -> Result<(), Errno> {
    if NAMES.contains(&name) {
        mode.check(get(state, name).is_ok())?;
    }
    match name.strip_prefix("user.kstate.") {
        Some("linger") => {
            let linger = parse_duration(value).ok_or(Errno::EINVAL)?;
            state.set_attributes(|attributes| attributes.linger = linger)?;
            Ok(())
        }
        Some("deadline") => {
            let after = parse_duration(value).ok_or(Errno::EINVAL)?;
            set_deadline(shared, state, Some(after))
        }
        Some("durability") => {
            let text = std::str::from_utf8(value).unwrap_or_default().trim();
            let within = match text {
                EACH_COMMIT => Duration::ZERO,
                text => parse_duration(text.as_bytes()).ok_or(Errno::EINVAL)?,
            };
            shared.set_durability(state, within)
        }
        Some("announce") => {
            let text = std::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
            let sinks: Sinks = text.trim().parse().map_err(|_| Errno::EINVAL)?;
            shared.announce(state, sinks)
        }
        Some("capacity") => {
            let wanted = std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            state.set_capacity(wanted.ok_or(Errno::EINVAL)?).map(|_| ())
        }
        Some(_) if NAMES.contains(&name) => Err(Errno::EPERM),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Removes one of those that a state can be without.
///
/// # Errors
///
/// `EPERM` for the others, `ENODATA` for one that is not there.
pub(crate) fn remove(shared: &Shared, state: &Arc<State>, name: &str) -> Result<(), Errno> {
    get(state, name)?;
    match name {
        "user.kstate.deadline" => set_deadline(shared, state, None),
        "user.kstate.announce" => shared.announce(state, Sinks::NONE),
        _ => Err(Errno::EPERM),
    }
}

/// The shortest deadline there can be: each passes by a look of the daemon's.
const SHORTEST_DEADLINE: Duration = Duration::from_millis(1);

/// Sets the deadline; none, or one of no length, for none.
///
/// # Errors
///
/// `EINVAL` for less than a millisecond, `ENOSPC`.
pub(crate) fn set_deadline(
    shared: &Shared,
    state: &Arc<State>,
    after: Option<Duration>,
) -> Result<(), Errno> {
    let after = after.filter(|after| !after.is_zero());
    if after.is_some_and(|after| after < SHORTEST_DEADLINE) {
        return Err(Errno::EINVAL);
    }
    shared.set_deadline(state, after)
}

/// A duration as everywhere, or bare milliseconds.
pub(crate) fn parse_duration(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    match text.parse() {
        Ok(millis) => Some(Duration::from_millis(millis)),
        Err(_) => duration::parse(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_or_are_milliseconds() {
        assert_eq!(parse_duration(b"250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration(b" 2s\n"), Some(Duration::from_secs(2)));
        assert_eq!(parse_duration(b"7"), Some(Duration::from_millis(7)));
        for bad in [&b""[..], b"s", b"-1", b"1.5", b"\xff"] {
            assert_eq!(parse_duration(bad), None);
        }
    }
}
