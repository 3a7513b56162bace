//! The arguments that choose how a value is written: `--as` and `--format`.

use std::borrow::Cow;

use clap::ValueEnum;
use kstate::RecordedLayout;
use serde_json::Value;

use crate::recorded;
use crate::value::{ValueError, ValueFormat};

/// How a value is written; the same for input and output.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct EncodingArguments {
    /// How values are written
    ///
    /// Without this and --format: the fields of the type, where a program has recorded one with
    /// the state. Otherwise input is taken as it is, and output is text where it can be shown as
    /// text and hexadecimal where not.
    #[arg(
        long = "as",
        value_enum,
        value_name = "ENCODING",
        conflicts_with = "format",
        help_heading = "Value format"
    )]
    encoding: Option<Encoding>,

    /// Numbers and text at fixed places, as in '<u32 f64 f64'
    ///
    /// A byte order (< little, > big, = this machine's) and items: u8 to u128, i8 to i128, f32,
    /// f64, bool, char[N], bytes[N], pad[N], repeated as in f32[4], named as in lat:f64; or the
    /// letters of Python's struct module, as in '<Idd'.
    #[arg(
        long,
        value_name = "ITEMS",
        allow_hyphen_values = true,
        help_heading = "Value format"
    )]
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
        self.format
            .clone()
            .or_else(|| self.encoding.map(ValueFormat::from))
    }

    /// What was asked for, or else what suits a state with that layout recorded.
    pub(crate) fn codec(&self, layout: Option<&RecordedLayout>) -> Codec {
        let chosen = self.chosen();
        let is_chosen = chosen.is_some();
        Codec {
            format: chosen.or_else(|| layout.and_then(recorded::format_of)),
            is_chosen,
        }
    }
}

/// How the values of one state are written.
#[derive(Debug, Clone)]
pub(crate) struct Codec {
    format: Option<ValueFormat>,
    /// Whether somebody asked for this format.
    is_chosen: bool,
}

impl Codec {
    /// From what was given to the bytes of a value.
    ///
    /// # Errors
    ///
    /// The input does not match the format; the message shows what was expected.
    pub(crate) fn parse<'i>(&self, input: &'i [u8]) -> Result<Cow<'i, [u8]>, ValueError> {
        match &self.format {
            Some(format) => format.parse(input).map(Cow::Owned),
            None => Ok(Cow::Borrowed(input)),
        }
    }

    /// A value for `--json` output.
    ///
    /// # Errors
    ///
    /// The value does not match the format that was asked for.
    pub(crate) fn to_json(&self, bytes: &[u8]) -> Result<Value, ValueError> {
        match self.format.as_ref().map(|format| format.render_json(bytes)) {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) if self.is_chosen => Err(error),
            // Something else than the layout says was put there as bytes.
            _ => ValueFormat::Text.render_json(bytes),
        }
    }

    /// A value for a line of its own, or for the end of a line: with a newline behind it unless it
    /// ends with one or is wanted raw.
    ///
    /// # Errors
    ///
    /// The value does not match the format that was asked for.
    pub(crate) fn to_line(&self, bytes: &[u8]) -> Result<Vec<u8>, ValueError> {
        let mut line = match self.format.as_ref().map(|format| format.render(bytes)) {
            Some(Ok(line)) => line,
            Some(Err(error)) if self.is_chosen => return Err(error),
            _ if is_printable(bytes) => ValueFormat::Text.render(bytes)?,
            _ => ValueFormat::Hex.render(bytes)?,
        };
        if !self.is_raw() && line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        Ok(line)
    }

    /// Whether the bytes themselves are wanted, and nothing else.
    pub(crate) fn is_raw(&self) -> bool {
        self.format == Some(ValueFormat::Raw)
    }

    /// The longest text of a value of at most `bytes`, as far as it is worth reading.
    pub(crate) fn longest_text(&self, bytes: usize) -> usize {
        match &self.format {
            None | Some(ValueFormat::Raw | ValueFormat::Text) => bytes,
            Some(_) => longest_text(bytes),
        }
    }
}

/// The longest text of a value of at most `bytes` in any format, as far as it is worth reading: a
/// byte may take three digits, a sign and white space; JSON may be indented.
pub(crate) const fn longest_text(bytes: usize) -> usize {
    bytes.saturating_mul(16)
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
        EncodingArguments {
            encoding,
            format: None,
        }
        .codec(None)
        .to_line(bytes)
        .unwrap()
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
    fn a_recorded_layout_shows_its_fields_where_they_fit() {
        let layout = RecordedLayout {
            id: 1,
            text: "A{a:u16@0,b:i8@2,c:u8@3}#4".into(),
        };
        let codec = EncodingArguments::default().codec(Some(&layout));
        assert_eq!(
            codec.to_line(&[1, 1, 0xff, 7]).unwrap(),
            b"a=257 b=-1 c=7\n"
        );
        assert_eq!(codec.to_line(b"hello").unwrap(), b"hello\n");
        assert_eq!(&*codec.parse(b"257 -1 7").unwrap(), [1, 1, 0xff, 7]);
        assert!(codec.parse(b"hello").is_err());
        let arguments = EncodingArguments {
            encoding: Some(Encoding::Hex),
            format: None,
        };
        assert_eq!(
            arguments.codec(Some(&layout)).to_line(b"az").unwrap(),
            b"617a\n"
        );
    }

    #[test]
    fn raw_bytes_get_no_newline() {
        assert_eq!(line(Some(Encoding::Raw), b"41"), b"41");
        assert_eq!(line(Some(Encoding::Text), b"41"), b"41\n");
    }
}
