//! Bytes as hexadecimal digits.

use super::error::excerpt;

/// A text that is not bytes in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum HexError {
    /// A character is no hexadecimal digit.
    #[error(
        "`{word}` is not hexadecimal (found `{found}`); expected two digits a byte, as in \
         `00ff 0x2a`"
    )]
    NotADigit {
        /// The word it is in.
        word: String,
        /// The character.
        found: char,
    },
    /// A word ends in the middle of a byte.
    #[error("`{word}` has {digits} hexadecimal digits; expected two a byte, as in `00ff 0x2a`")]
    HalfAByte {
        /// The word.
        word: String,
        /// How many digits it has.
        digits: usize,
    },
}

/// Writes two lower-case digits a byte.
pub(super) fn render(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    bytes
        .iter()
        .flat_map(|byte| {
            [
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 0xf)],
            ]
        })
        .collect()
}

/// Reads words of whole bytes, each of which may begin with `0x`.
pub(super) fn parse(text: &str) -> Result<Vec<u8>, HexError> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    for word in text.split_whitespace() {
        let digits = word
            .strip_prefix("0x")
            .or_else(|| word.strip_prefix("0X"))
            .unwrap_or(word);
        let mut high = None;
        for found in digits.chars() {
            let digit = digit(found).ok_or_else(|| HexError::NotADigit {
                word: excerpt(word),
                found,
            })?;
            match high.take() {
                None => high = Some(digit),
                Some(high) => bytes.push(high << 4 | digit),
            }
        }
        if high.is_some() {
            return Err(HexError::HalfAByte {
                word: excerpt(word),
                digits: digits.len(),
            });
        }
    }
    Ok(bytes)
}

fn digit(found: char) -> Option<u8> {
    found
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}
