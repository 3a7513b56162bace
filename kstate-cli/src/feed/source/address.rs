//! Where records come from.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where records come from; as a string `-`, `unix:PATH`, `unix-datagram:PATH` or
/// `udp:127.0.0.1:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Standard input.
    Stdin,
    /// A Unix stream socket that is made at a path, and any number of clients of it.
    UnixStream(PathBuf),
    /// A Unix datagram socket that is made at a path.
    UnixDatagram(PathBuf),
    /// A UDP port on the loopback interface. Port 0 is one that the kernel chooses.
    Udp(SocketAddr),
}

/// A text that is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AddressError {
    /// It begins like none.
    #[error(
        "`{found}` is not a source; expected `-` (standard input), `unix:PATH`, \
         `unix-datagram:PATH` or `udp:127.0.0.1:PORT`"
    )]
    Unknown {
        /// What was found.
        found: String,
    },
    /// It has no path.
    #[error("`{found}` has no path; expected for example `{found}/run/user/1000/feed`")]
    NoPath {
        /// What was found.
        found: String,
    },
    /// It has no address and port.
    #[error("`{found}` has no legible address and port; expected `udp:127.0.0.1:PORT`")]
    BadPort {
        /// What was found.
        found: String,
    },
    /// It can be reached from other machines.
    #[error(
        "`{address}` can be reached from other machines, and UDP does not say who sent a value; \
         use 127.0.0.1 or [::1]"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = || text.to_owned();
        if text == "-" {
            return Ok(Self::Stdin);
        }
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| AddressError::Unknown { found: found() })?;
        match scheme {
            "unix" | "unix-datagram" if rest.is_empty() => {
                Err(AddressError::NoPath { found: found() })
            }
            "unix" => Ok(Self::UnixStream(rest.into())),
            "unix-datagram" => Ok(Self::UnixDatagram(rest.into())),
            "udp" => {
                let address = match rest.strip_prefix("localhost:") {
                    Some(port) => port
                        .parse()
                        .map(|port| (Ipv4Addr::LOCALHOST, port).into())
                        .ok(),
                    None => rest.parse::<SocketAddr>().ok(),
                };
                match address.ok_or_else(|| AddressError::BadPort { found: found() })? {
                    address if address.ip().to_canonical().is_loopback() => Ok(Self::Udp(address)),
                    address => Err(AddressError::NotLoopback { address }),
                }
            }
            _ => Err(AddressError::Unknown { found: found() }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("-"),
            Self::UnixStream(path) => write!(f, "unix:{}", path.display()),
            Self::UnixDatagram(path) => write!(f, "unix-datagram:{}", path.display()),
            Self::Udp(address) => write!(f, "udp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_are_written() {
        for text in [
            "-",
            "unix:/a b",
            "unix-datagram:c",
            "udp:127.0.0.1:90",
            "udp:[::1]:0",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let localhost = "udp:localhost:90".parse::<Address>().unwrap();
        assert_eq!(localhost, "udp:127.0.0.1:90".parse().unwrap());
    }

    #[test]
    fn addresses_of_other_machines_are_refused_with_a_sentence() {
        for address in [
            "0.0.0.0:90",
            "192.168.0.1:90",
            "[::]:90",
            "[2001:db8::1]:90",
        ] {
            let error = format!("udp:{address}").parse::<Address>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "`{address}` can be reached from other machines, and UDP does not say who \
                     sent a value; use 127.0.0.1 or [::1]"
                )
            );
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "stdin",
            "tcp:127.0.0.1:1",
            "unix:",
            "udp:",
            "udp:90",
            "udp:localhost",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
