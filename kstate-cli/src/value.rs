//! Values as a person or a machine reads them: raw bytes, text, hexadecimal, JSON, or a
//! struct-style [`Layout`].
//!
//! Each format goes both ways, and what [`ValueFormat::render`] writes, [`ValueFormat::parse`]
//! reads back to the same bytes. Two things are exempt: text that is not UTF-8 (its escapes stay
//! escapes), and the payload bits of a NaN.

mod error;
mod hex;
mod item;
mod json;
mod layout;
mod letters;
mod parse;
mod quote;
mod render;
mod scalar;

use std::fmt;
use std::str::{self, FromStr};

use serde_json::Value;

pub(crate) use self::error::{FormatError, ValueError};
pub(crate) use self::layout::Layout;

/// How the bytes of a state are written for people and programs, and read back from them.
///
/// As a string: `raw`, `text`, `hex`, `json`, or the items of a [`Layout`] such as `<u32 f64 f64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueFormat {
    /// The bytes themselves, unchanged in both directions.
    Raw,
    /// UTF-8 text. Bytes that are not UTF-8 are shown as `\xNN`, and refused as input.
    Text,
    /// Two hexadecimal digits a byte; input may have white space between bytes and `0x` before
    /// them.
    Hex,
    /// The state holds one JSON document, which input stores without the white space between its
    /// tokens.
    Json,
    /// The state holds numbers, text and bytes at fixed places.
    Struct(Layout),
}

impl ValueFormat {
    /// Writes a value for standard output, without a newline at the end.
    ///
    /// A [`Struct`](Self::Struct) becomes one line of values parted by spaces, the elements of an
    /// array parted by commas; where the layout names its items, each is `name=value`. JSON becomes
    /// one line too, each of its numbers spelt as it was.
    ///
    /// # Errors
    ///
    /// The value does not match the format: it has another length than the layout's, holds a byte
    /// that is neither true nor false where a `bool` is expected, or is not a JSON document. Raw,
    /// text and hex take any bytes.
    pub(crate) fn render(&self, bytes: &[u8]) -> Result<Vec<u8>, ValueError> {
        match self {
            Self::Raw => Ok(bytes.to_vec()),
            Self::Text => Ok(quote::escape_invalid(bytes).into_bytes()),
            Self::Hex => Ok(hex::render(bytes).into_bytes()),
            Self::Json => json::compact(bytes),
            Self::Struct(layout) => render::line(layout, bytes).map(String::into_bytes),
        }
    }

    /// Writes a value for `--json` output.
    ///
    /// Raw bytes and text become a string, or `{"hex": "…"}` when they are not UTF-8; hex becomes a
    /// string; a JSON document stays what it is; a [`Struct`](Self::Struct) becomes an object when
    /// its items are named and an array otherwise. NaN, infinities and integers beyond 64 bits,
    /// which JSON cannot write, become strings.
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render).
    pub(crate) fn render_json(&self, bytes: &[u8]) -> Result<Value, ValueError> {
        match self {
            Self::Raw | Self::Text => Ok(render::text_or_hex(bytes)),
            Self::Hex => Ok(Value::String(hex::render(bytes))),
            Self::Json => json::document(bytes),
            Self::Struct(layout) => render::json(layout, bytes),
        }
    }

    /// Reads a value from an argument or from standard input.
    ///
    /// Raw and text keep every byte of the input, a newline at its end included; the other formats
    /// ignore white space around the value. A [`Struct`](Self::Struct) is read from values in order
    /// (`1 2.5 3.5`, parted by white space or commas), from `name=value` in any order, or from what
    /// [`render_json`](Self::render_json) writes. Text with anything but letters, digits and
    /// `_-./:+@%` in it is written in double quotes.
    ///
    /// # Errors
    ///
    /// The input does not match the format. The message shows what was expected, what was found,
    /// and where.
    pub(crate) fn parse(&self, input: &[u8]) -> Result<Vec<u8>, ValueError> {
        if *self == Self::Raw {
            return Ok(input.to_vec());
        }
        let text = str::from_utf8(input).map_err(|error| ValueError::NotUtf8 {
            format: self.to_string(),
            at: error.valid_up_to(),
            byte: input.get(error.valid_up_to()).copied().unwrap_or_default(),
            length: input.len(),
        })?;
        match self {
            Self::Raw | Self::Text => Ok(input.to_vec()),
            Self::Hex => Ok(hex::parse(text)?),
            Self::Json => json::compact(input),
            Self::Struct(layout) => parse::value(layout, text),
        }
    }

    /// The length of every value of this format in bytes, or `None` where lengths differ.
    #[cfg(test)]
    pub(crate) fn length(&self) -> Option<usize> {
        match self {
            Self::Struct(layout) => Some(layout.length()),
            Self::Raw | Self::Text | Self::Hex | Self::Json => None,
        }
    }
}

impl FromStr for ValueFormat {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "raw" => Ok(Self::Raw),
            "text" => Ok(Self::Text),
            "hex" => Ok(Self::Hex),
            "json" => Ok(Self::Json),
            items => items.parse().map(Self::Struct),
        }
    }
}

impl fmt::Display for ValueFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw => f.write_str("raw"),
            Self::Text => f.write_str("text"),
            Self::Hex => f.write_str("hex"),
            Self::Json => f.write_str("json"),
            Self::Struct(layout) => layout.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
