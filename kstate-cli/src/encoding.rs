//! The arguments that choose how a value is written: `--as` and `--format`.

use clap::ValueEnum;
use serde_json::Value;

use crate::value::{ValueError, ValueFormat};

/// How a value is written; the same for input and output.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Value format")]
pub(crate) struct EncodingArguments {
    /// How values are written
    ///
    /// Without this and --format, input is taken as it is, and output is text where it can be
    /// shown as text and hexadecimal otherwise.
    #[arg(long = "as", value_enum, value_name = "ENCODING", conflicts_with = "format")]
    encoding: Option<Encoding>,

    /// Numbers and text at fixed places, as in '<u32 f64 f64'
    ///
    /// A byte order (< little, > big, = this machine's) and items: u8 to u128, i8 to i128, f32,
    /// f64, bool, char[N], bytes[N], pad[N], repeated as in f32[4], named as in lat:f64; or the
    /// letters of Python's struct module, as in '<Idd'.
    #[arg(long, value_name = "ITEMS", allow_hyphen_values = true)]
    format: Option<ValueFormat>,
}

/// The encodings that `--as` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encoding {
    /// The bytes themselves
    Raw,
    /// UTF-8 text
    Text,
    /// Two hexadecimal digits a byte
    Hex,
    /// One JSON document
    Json,
}

impl From<Encoding> for ValueFormat {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Raw => Self::Raw,
            Encoding::Text => Self::Text,
            Encoding::Hex => Self::Hex,
            Encoding::Json => Self::Json,
        }
    }
}

impl EncodingArguments {
    /// What was asked for.
    pub(crate) fn chosen(&self) -> Option<ValueFormat> {
        self.format.clone().or_else(|| self.encoding.map(ValueFormat::from))
    }

    /// From what was given to the bytes of a value.
    ///
    /// # Errors
    ///
    /// The input does not match the format; the message shows what was expected.
    pub(crate) fn parse(&self, input: &[u8]) -> Result<Vec<u8>, ValueError> {
        match self.chosen() {
            Some(format) => format.parse(input),
            None => Ok(input.to_vec()),
        }
    }

    /// A value for `--json` output.
    ///
    /// # Errors
    ///
    /// The value does not match the format.
    pub(crate) fn render_json(&self, bytes: &[u8]) -> Result<Value, ValueError> {
        self.chosen().unwrap_or(ValueFormat::Text).render_json(bytes)
    }

    /// A value for a line of its own, or for the end of a line: with a newline behind it unless it
    /// ends with one or is wanted raw.
    ///
    /// # Errors
    ///
    /// The value does not match the format.
    pub(crate) fn line(&self, bytes: &[u8]) -> Result<Vec<u8>, ValueError> {
        let fitting = || if is_printable(bytes) { ValueFormat::Text } else { ValueFormat::Hex };
        let mut line = self.chosen().unwrap_or_else(fitting).render(bytes)?;
        if !self.is_raw() && line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        Ok(line)
    }

    /// Whether the bytes themselves are wanted, and nothing else.
    pub(crate) fn is_raw(&self) -> bool {
        self.chosen() == Some(ValueFormat::Raw)
    }
}

/// Whether a terminal shows the bytes as they are meant.
fn is_printable(bytes: &[u8]) -> bool {
    let is_shown = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    str::from_utf8(bytes).is_ok_and(|text| text.chars().all(is_shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(encoding: Option<Encoding>, bytes: &[u8]) -> Vec<u8> {
        let arguments = EncodingArguments { encoding, format: None };
        arguments.line(bytes).unwrap()
    }

    #[test]
    fn a_value_is_shown_as_text_where_it_is_text() {
        assert_eq!(line(None, b"41"), b"41\n");
        assert_eq!(line(None, "grüß\n".as_bytes()), "grüß\n".as_bytes());
        assert_eq!(line(None, b"\x29\0\0\0"), b"29000000\n");
        assert_eq!(line(None, b"\x1b[2J"), b"1b5b324a\n");
        assert_eq!(line(None, b""), b"\n");
    }

    #[test]
    fn raw_bytes_get_no_newline() {
        assert_eq!(line(Some(Encoding::Raw), b"41"), b"41");
        assert_eq!(line(Some(Encoding::Text), b"41"), b"41\n");
    }
}
