//! The letters of Python's struct module.

use super::error::FormatError;
use super::item::Kind;
use super::layout::MAX_LAYOUT_BYTES;

/// One letter of a format.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) letter: char,
    pub(super) kind: Kind,
    /// The count before it, unless that is a width.
    pub(super) count: Option<usize>,
}

/// Reads one letter or several in one word.
pub(super) fn parse_letters(word: &str, body: &str) -> Result<Vec<Letter>, FormatError> {
    let mut letters = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.find(|c: char| !c.is_ascii_digit()) {
        let unknown = || FormatError::UnknownItem {
            word: word.to_owned(),
        };
        let count = match &rest[..at] {
            "" => None,
            digits => match digits.parse() {
                Ok(count) if (1..=MAX_LAYOUT_BYTES).contains(&count) => Some(count),
                Ok(0) => {
                    return Err(FormatError::BadCount {
                        word: word.to_owned(),
                    });
                }
                _ => return Err(FormatError::TooLarge),
            },
        };
        let letter = rest[at..].chars().next().ok_or_else(unknown)?;
        let (count, kind) = match letter {
            'b' => (count, Kind::Signed(1)),
            'B' => (count, Kind::Unsigned(1)),
            'h' => (count, Kind::Signed(2)),
            'H' => (count, Kind::Unsigned(2)),
            'i' | 'l' => (count, Kind::Signed(4)),
            'I' | 'L' => (count, Kind::Unsigned(4)),
            'q' => (count, Kind::Signed(8)),
            'Q' => (count, Kind::Unsigned(8)),
            'f' => (count, Kind::Float32),
            'd' => (count, Kind::Float64),
            '?' => (count, Kind::Bool),
            'c' => (count, Kind::Char(1)),
            's' => (None, Kind::Char(count.unwrap_or(1))),
            'x' => (None, Kind::Pad(count.unwrap_or(1))),
            _ => return Err(unknown()),
        };
        letters.push(Letter {
            letter,
            kind,
            count,
        });
        rest = &rest[at + letter.len_utf8()..];
    }
    if letters.is_empty() || !rest.is_empty() {
        return Err(FormatError::UnknownItem {
            word: word.to_owned(),
        });
    }
    Ok(letters)
}
