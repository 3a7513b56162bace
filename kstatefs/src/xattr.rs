//! `user.kstate.*`: what is known of a state, for any program that can read an attribute.

use std::time::Duration;

use kstate_sys::duration;

use crate::errno::Errno;
use crate::state::State;

/// Every attribute there is.
const NAMES: [&str; 9] = [
    "user.kstate.age_ns",
    "user.kstate.capacity",
    "user.kstate.generation",
    "user.kstate.layout",
    "user.kstate.length",
    "user.kstate.linger",
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
    let text = match key {
        "capacity" => state.capacity().to_string(),
        "generation" => state.describe()?.generation().to_string(),
        "length" => state.describe()?.length.to_string(),
        "age_ns" => {
            let age = state.age(&state.describe()?).ok_or(Errno::ENODATA)?;
            age.as_nanos().to_string()
        }
        "layout" => {
            let layout = state.layout().ok_or(Errno::ENODATA)?;
            format!("{:016x} {}", layout.id, layout.text)
        }
        "linger" => format!("{}ms", state.attributes().linger.as_millis()),
        "subscribers" => state.counts().subscribers.to_string(),
        "waiters" => state.counts().waiters.to_string(),
        "writers" => state.counts().writers.to_string(),
        _ => return Err(Errno::ENODATA),
    };
    Ok(text.into_bytes())
}

/// Sets one of those that can be set.
///
/// # Errors
///
/// `EINVAL` for a value that is none, `EPERM` for an attribute that only tells, `EOPNOTSUPP` for
/// names that are not ours.
pub(crate) fn set(state: &State, name: &str, value: &[u8]) -> Result<(), Errno> {
    match name.strip_prefix("user.kstate.") {
        Some("linger") => {
            let linger = parse_duration(value).ok_or(Errno::EINVAL)?;
            state.set_attributes(|attributes| attributes.linger = linger);
            Ok(())
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
