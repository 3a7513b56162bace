//! Which names a state may have.

use core::fmt;

/// Longest name of a state, in bytes: what a file name allows less the longest view suffix.
pub const MAX_NAME_BYTES: usize = 247;

/// The character that begins a view's suffix, as in `gps@4hz`; never part of a name.
pub const VIEW_SEPARATOR: char = '@';

/// A legal name: words of `[A-Za-z0-9_-]` joined by single dots, 1 to [`MAX_NAME_BYTES`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateName(Box<str>);

/// Why a name is not legal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name has no byte at all.
    #[error("a state's name is empty; give 1 to {MAX_NAME_BYTES} bytes such as `robot.gps`")]
    Empty,
    /// The name is longer than a file name can be with a view suffix.
    #[error("a state's name has {found} bytes; at most {MAX_NAME_BYTES} are possible")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// A byte outside the alphabet.
    #[error(
        "the name `{name}` has {found} at byte {at}; names are words of A-Z a-z 0-9 _ - joined \
         by single dots, such as `robot.gps`"
    )]
    BadCharacter {
        /// The name as far as it can be shown.
        name: String,
        /// The offending character, quoted.
        found: String,
        /// Its byte offset.
        at: usize,
    },
    /// A dot at the start or the end, or two in a row.
    #[error(
        "the name `{name}` has an empty word at byte {at}; words are joined by single dots, \
         such as `robot.gps`"
    )]
    EmptyWord {
        /// The name.
        name: String,
        /// Byte offset of the missing word.
        at: usize,
    },
}

impl NameError {
    /// The errno a system call reports for it: `ENAMETOOLONG` or `EINVAL`.
    pub const fn errno(&self) -> i32 {
        match self {
            Self::TooLong { .. } => libc::ENAMETOOLONG,
            _ => libc::EINVAL,
        }
    }
}

impl StateName {
    /// Checks `name`.
    ///
    /// # Errors
    ///
    /// [`NameError`] with the offset of the first offence.
    ///
    /// # Cost
    ///
    /// One pass and one allocation; no system call.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self, NameError> {
        let bytes = name.as_ref();
        if bytes.is_empty() {
            return Err(NameError::Empty);
        }
        if bytes.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong { found: bytes.len() });
        }
        let shown = || String::from_utf8_lossy(bytes).escape_debug().to_string();
        let mut word_is_empty = true;
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => word_is_empty = false,
                b'.' if word_is_empty => return Err(NameError::EmptyWord { name: shown(), at }),
                b'.' => word_is_empty = true,
                _ => {
                    let found = match String::from_utf8_lossy(&bytes[at..]).chars().next() {
                        Some(found) if found != char::REPLACEMENT_CHARACTER => format!("{found:?}"),
                        _ => format!("byte 0x{byte:02x}"),
                    };
                    return Err(NameError::BadCharacter {
                        name: shown(),
                        found,
                        at,
                    });
                }
            }
        }
        if word_is_empty {
            return Err(NameError::EmptyWord {
                name: shown(),
                at: bytes.len(),
            });
        }
        // Every byte was found to be ASCII, so the lossy conversion loses nothing.
        Ok(Self(String::from_utf8_lossy(bytes).into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for StateName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for StateName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for StateName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn legal_names_are_taken_as_they_are() {
        let longest = "x".repeat(MAX_NAME_BYTES);
        for name in ["a", "robot.gps", "A-b_c.0.9-", &longest] {
            assert_eq!(StateName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn each_offence_is_named_with_its_place() {
        assert_eq!(StateName::new("").unwrap_err(), NameError::Empty);
        assert_eq!(
            StateName::new("x".repeat(248)).unwrap_err(),
            NameError::TooLong { found: 248 }
        );
        for (name, at) in [(".a", 0), ("a..b", 2), ("a.", 2), (".", 0)] {
            let error = StateName::new(name).unwrap_err();
            assert!(
                matches!(error, NameError::EmptyWord { at: found, .. } if found == at),
                "{name}"
            );
        }
        for (name, at) in [("a b", 1), ("a/b", 1), ("gps@4hz", 3), ("é", 0), ("a\0", 1)] {
            let error = StateName::new(name).unwrap_err();
            let placed = matches!(error, NameError::BadCharacter { at: found, .. } if found == at);
            assert!(placed, "{name}: {error}");
        }
        assert!(
            StateName::new(b"\xff")
                .unwrap_err()
                .to_string()
                .contains("0xff")
        );
    }

    #[test]
    fn too_long_and_illegal_have_their_own_errno() {
        assert_eq!(
            StateName::new("x".repeat(248)).unwrap_err().errno(),
            libc::ENAMETOOLONG
        );
        assert_eq!(StateName::new("a b").unwrap_err().errno(), libc::EINVAL);
    }

    proptest! {
        #[test]
        fn accepts_exactly_the_rule(name in "[A-Za-z0-9_.@ é-]{0,12}") {
            let legal = !name.is_empty() && name.split('.').all(|word| {
                !word.is_empty()
                    && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            });
            prop_assert_eq!(StateName::new(&name).is_ok(), legal);
        }
    }
}
