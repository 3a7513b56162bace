//! The buses that states can be announced on, as whoever mounts names them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use kstate_sys::name::{MAX_NAME_BYTES, StateName};

use crate::announce::LONGEST_KBUS_NAME;

/// The device of KBUS that `text` names, wherever the daemon goes to.
///
/// # Errors
///
/// A sentence, where it names none.
pub(super) fn device(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text)
        .map_err(|_| format!("`{text}` is no device of KBUS such as /dev/kbus0"))
}

/// What names of messages on KBUS begin with, such as `$.KState.Committed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KbusPrefix(String);

impl Default for KbusPrefix {
    fn default() -> Self {
        Self("$.KState.Committed".into())
    }
}

impl KbusPrefix {
    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KbusPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for KbusPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // As a state's: words joined by single dots. A name of KBUS has no others than these.
        let words = text.strip_prefix("$.").map(StateName::new);
        let is_possible = matches!(words, Some(Ok(_)))
            && !text.contains(['_', '-'])
            && text.len() + 1 + MAX_NAME_BYTES <= LONGEST_KBUS_NAME;
        match is_possible {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "`{text}` begins no names of messages on KBUS; expected words of letters and digits \
                 behind dots, such as $.KState.Committed"
            )),
        }
    }
}

/// A bus of D-Bus. Built without the feature `dbus` there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus(BusKind);

#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "dbus"),
    expect(dead_code, reason = "named by the command line alone")
)]
pub(crate) enum BusKind {
    Session,
    System,
    Address(String),
}

impl Bus {
    #[cfg(feature = "dbus")]
    pub(crate) fn kind(&self) -> &BusKind {
        &self.0
    }
}

impl FromStr for Bus {
    type Err = String;

    #[cfg(feature = "dbus")]
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text {
            "session" => BusKind::Session,
            "system" => BusKind::System,
            address => match zbus::Address::from_str(address) {
                Ok(_) => BusKind::Address(address.to_owned()),
                Err(error) => {
                    return Err(format!(
                        "`{address}` is no bus of D-Bus ({error}); expected session, system or an \
                         address such as unix:path=/run/dbus/system_bus_socket"
                    ));
                }
            },
        }))
    }

    #[cfg(not(feature = "dbus"))]
    fn from_str(text: &str) -> Result<Self, String> {
        Err(format!(
            "D-Bus (`{text}`) needs a daemon built with the feature dbus: cargo build --release \
             --features dbus"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_begins_names_of_kbus() {
        for good in ["$.KState.Committed", "$.a", "$.7.b"] {
            assert_eq!(good.parse::<KbusPrefix>().unwrap().as_str(), good);
        }
        let long = format!("$.{}", "a.".repeat(500));
        for bad in [
            "", "$.", "$", "a.b", "$.a.", "$.a..b", "$.a-b", "$.a_b", "$.*", &long,
        ] {
            let error = bad.parse::<KbusPrefix>().unwrap_err();
            assert!(error.contains(bad), "{error}");
        }
    }

    #[cfg(not(feature = "dbus"))]
    #[test]
    fn without_the_feature_no_bus_can_be_named() {
        let error = "session".parse::<Bus>().unwrap_err();
        assert!(error.contains("--features dbus"), "{error}");
    }

    #[cfg(feature = "dbus")]
    #[test]
    fn a_bus_is_named_or_has_an_address() {
        for good in ["session", "system", "unix:path=/run/bus", "unix:abstract=x"] {
            assert!(good.parse::<Bus>().is_ok(), "{good}");
        }
        for bad in ["", "sessions", "/run/bus"] {
            let error = bad.parse::<Bus>().unwrap_err();
            assert!(error.contains("session, system"), "{error}");
        }
    }
}
