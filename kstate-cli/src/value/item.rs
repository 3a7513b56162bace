//! One item of a struct-style format, in the words of Rust's types.

use std::fmt;

use super::error::FormatError;

/// What one element of an item is. Widths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An integer from 0, `u8` to `u128`.
    Unsigned(usize),
    /// An integer in two's complement, `i8` to `i128`.
    Signed(usize),
    /// `f32`.
    Float32,
    /// `f64`.
    Float64,
    /// One byte, 0 or 1.
    Bool,
    /// Text, padded with NUL bytes.
    Char(usize),
    /// Bytes, written in hexadecimal.
    Bytes(usize),
    /// Bytes that mean nothing: skipped when read, zero when written.
    Pad(usize),
}

impl Kind {
    /// The width of one element in bytes.
    #[must_use]
    pub(crate) fn width(self) -> usize {
        match self {
            Self::Bool => 1,
            Self::Float32 => 4,
            Self::Float64 => 8,
            Self::Unsigned(width)
            | Self::Signed(width)
            | Self::Char(width)
            | Self::Bytes(width)
            | Self::Pad(width) => width,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(width) => write!(f, "u{}", width * 8),
            Self::Signed(width) => write!(f, "i{}", width * 8),
            Self::Float32 => f.write_str("f32"),
            Self::Float64 => f.write_str("f64"),
            Self::Bool => f.write_str("bool"),
            Self::Char(width) => write!(f, "char[{width}]"),
            Self::Bytes(width) => write!(f, "bytes[{width}]"),
            Self::Pad(width) => write!(f, "pad[{width}]"),
        }
    }
}

/// One item of a [`Layout`]: a value, or an array of values of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    name: Option<String>,
    kind: Kind,
    count: Option<usize>,
}

impl Item {
    pub(super) fn new(
        name: Option<&str>,
        kind: Kind,
        count: Option<usize>,
    ) -> Result<Self, FormatError> {
        let item = Self {
            name: name.map(field_name).transpose()?,
            kind,
            count,
        };
        if item.name.is_some() && item.is_padding() {
            return Err(FormatError::NamedPadding {
                word: item.to_string(),
            });
        }
        Ok(item)
    }

    /// The name of the field, where the layout names them.
    #[must_use]
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What each element is.
    #[must_use]
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether this is an array, be it of one element.
    #[must_use]
    pub(crate) fn is_array(&self) -> bool {
        self.count.is_some()
    }

    /// How many elements there are.
    #[must_use]
    pub(crate) fn elements(&self) -> usize {
        self.count.unwrap_or(1)
    }

    /// Whether the item holds no value.
    #[must_use]
    pub(crate) fn is_padding(&self) -> bool {
        matches!(self.kind, Kind::Pad(_))
    }

    /// The length in bytes, unless it is beyond all bounds.
    pub(super) fn length(&self) -> Option<usize> {
        self.kind.width().checked_mul(self.elements())
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}:")?;
        }
        self.kind.fmt(f)?;
        self.count.map_or(Ok(()), |count| write!(f, "[{count}]"))
    }
}

fn field_name(name: &str) -> Result<String, FormatError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(legal)
    {
        return Err(FormatError::BadName {
            name: name.to_owned(),
        });
    }
    Ok(name.to_owned())
}

/// Reads one item without its name; `None` when no kind is called so.
pub(super) fn parse_item(
    word: &str,
    body: &str,
) -> Result<Option<(Kind, Option<usize>)>, FormatError> {
    let bad_count = || FormatError::BadCount {
        word: word.to_owned(),
    };
    let number = |digits: &str| {
        digits
            .parse()
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(bad_count)
    };

    let (times, body) = match body.split_once('*') {
        Some((times, body)) => (Some(number(times)?), body),
        None => (None, body),
    };
    let (base, brackets) = body.split_at(body.find('[').unwrap_or(body.len()));
    let mut widths = Vec::new();
    for bracket in brackets.split_inclusive(']') {
        let digits = bracket
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        widths.push(number(digits.ok_or_else(bad_count)?)?);
    }
    let mut widths = widths.into_iter();
    let mut width = || {
        widths.next().ok_or_else(|| FormatError::NoLength {
            word: base.to_owned(),
        })
    };
    let kind = match base {
        "u8" => Kind::Unsigned(1),
        "u16" => Kind::Unsigned(2),
        "u32" => Kind::Unsigned(4),
        "u64" => Kind::Unsigned(8),
        "u128" => Kind::Unsigned(16),
        "i8" => Kind::Signed(1),
        "i16" => Kind::Signed(2),
        "i32" => Kind::Signed(4),
        "i64" => Kind::Signed(8),
        "i128" => Kind::Signed(16),
        "f32" => Kind::Float32,
        "f64" => Kind::Float64,
        "bool" => Kind::Bool,
        "char" => Kind::Char(width()?),
        "bytes" => Kind::Bytes(width()?),
        "pad" => Kind::Pad(width()?),
        _ if times.is_none() && brackets.is_empty() => return Ok(None),
        _ => {
            return Err(FormatError::UnknownItem {
                word: word.to_owned(),
            });
        }
    };
    match (times, widths.next(), widths.next()) {
        (times, None, None) => Ok(Some((kind, times))),
        (None, count, None) => Ok(Some((kind, count))),
        _ => Err(bad_count()),
    }
}
