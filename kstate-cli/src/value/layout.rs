//! The struct-style format: which kind of value lies where.

use std::fmt;
use std::str::FromStr;

use super::error::FormatError;
use super::scalar;

/// The longest layout, in bytes: the largest page Linux uses, and a state is at most a page.
pub const MAX_LAYOUT_BYTES: usize = 65_536;

/// An example with more values than this would hide the message it stands in.
const MAX_EXAMPLE_VALUES: usize = 12;

/// The order in which the bytes of a number lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// The lowest byte first (`<`).
    Little,
    /// The highest byte first (`>`).
    Big,
}

impl ByteOrder {
    /// This machine's order (`=`, or nothing).
    pub const NATIVE: Self = if cfg!(target_endian = "big") { Self::Big } else { Self::Little };
}

/// What one element of an item is. Widths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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
    pub fn width(self) -> usize {
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
pub struct Item {
    name: Option<String>,
    kind: Kind,
    count: Option<usize>,
}

impl Item {
    /// The name of the field, where the layout names them.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What each element is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether this is an array, be it of one element.
    #[must_use]
    pub fn is_array(&self) -> bool {
        self.count.is_some()
    }

    /// How many elements there are.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.count.unwrap_or(1)
    }

    /// Whether the item holds no value.
    #[must_use]
    pub fn is_padding(&self) -> bool {
        matches!(self.kind, Kind::Pad(_))
    }

    fn length(&self) -> Option<usize> {
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

/// Items in the order in which they lie, without any padding that is not written out.
///
/// As a string: an optional byte order (`<` little, `>` or `!` big, `=` or nothing this machine's), then items
/// parted by white space. An item is `u8`…`u128`, `i8`…`i128`, `f32`, `f64`, `bool`, `char[N]`, `bytes[N]` or
/// `pad[N]`; `4*f32` and `f32[4]` are both an array of four; `lat:f64` has a name. The letters of Python's struct
/// module are taken too (`<IddH`), unless Python would align them or size them otherwise than kstate does.
///
/// # Invariants
///
/// 1. `length` is the sum of the items' lengths, and at most [`MAX_LAYOUT_BYTES`].
/// 2. Either every item but padding has a name, or none has; no name occurs twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    text: String,
    order: ByteOrder,
    items: Vec<Item>,
    length: usize,
}

impl Layout {
    /// The length of every value, in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// The byte order of its numbers.
    #[must_use]
    pub fn order(&self) -> ByteOrder {
        self.order
    }

    /// The items, padding included.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Whether the items have names.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.items.iter().any(|item| item.name.is_some())
    }

    /// How many values a line of this layout has, the elements of arrays counted one by one.
    pub(super) fn values(&self) -> usize {
        self.items.iter().filter(|item| !item.is_padding()).map(Item::elements).sum()
    }

    /// The end of an error message: the layout, its length and an example.
    pub(super) fn expected(&self) -> String {
        let bytes = if self.length == 1 { "byte" } else { "bytes" };
        let mut expected = format!("`{}` ({} {bytes})", self.text, self.length);
        if (1..=MAX_EXAMPLE_VALUES).contains(&self.values()) {
            let mut number = 0;
            let mut words = Vec::new();
            for item in self.items.iter().filter(|item| !item.is_padding()) {
                let mut word = item.name().map_or_else(String::new, |name| format!("{name}="));
                for element in 0..item.elements() {
                    number += 1;
                    word.push_str(if element == 0 { "" } else { "," });
                    word.push_str(&scalar::example(item.kind, number));
                }
                words.push(word);
            }
            expected.push_str(&format!(", e.g. `{}`", words.join(" ")));
        }
        expected
    }

    fn push(&mut self, item: Item) -> Result<(), FormatError> {
        // INVARIANT: 1.
        self.length = item
            .length()
            .and_then(|length| self.length.checked_add(length))
            .filter(|length| *length <= MAX_LAYOUT_BYTES)
            .ok_or(FormatError::TooLarge)?;
        self.items.push(item);
        Ok(())
    }

    fn push_word(&mut self, word: &str, native_sizes: bool) -> Result<(), FormatError> {
        let (name, body) = match word.split_once(':') {
            Some((name, body)) => (Some(field_name(name)?), body),
            None => (None, word),
        };
        if let Some((kind, count)) = parse_item(word, body)? {
            if name.is_some() && matches!(kind, Kind::Pad(_)) {
                return Err(FormatError::UnknownItem { word: word.to_owned() });
            }
            return self.push(Item { name, kind, count });
        }
        let letters = parse_letters(word, body)?;
        match (name, &letters[..]) {
            (None, _) => {}
            (name @ Some(_), &[(letter, count, kind)]) if kind != Kind::Pad(1) => {
                self.refuse_native_difference(letter, kind, native_sizes)?;
                return self.push(Item { name, kind, count });
            }
            (Some(_), _) => return Err(FormatError::UnknownItem { word: word.to_owned() }),
        }
        for (letter, count, kind) in letters {
            self.refuse_native_difference(letter, kind, native_sizes)?;
            // As Python's `unpack` has it, `4f` is four values, not an array.
            for _ in 0..count.unwrap_or(1) {
                self.push(Item { name: None, kind, count: None })?;
            }
        }
        Ok(())
    }

    fn refuse_native_difference(&self, letter: char, kind: Kind, native_sizes: bool) -> Result<(), FormatError> {
        if !native_sizes {
            return Ok(());
        }
        if matches!(letter, 'l' | 'L') {
            return Err(FormatError::AmbiguousLetter { letter });
        }
        let aligned = !matches!(kind, Kind::Char(_) | Kind::Pad(_));
        if aligned && !self.length.is_multiple_of(kind.width()) {
            return Err(FormatError::NativeAlignment { letter });
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), FormatError> {
        // INVARIANT: 2.
        for (position, item) in self.items.iter().enumerate() {
            match item.name() {
                Some(name) if self.items[..position].iter().any(|earlier| earlier.name() == Some(name)) => {
                    return Err(FormatError::NameTwice { name: name.to_owned() });
                }
                None if !item.is_padding() && self.is_named() => {
                    return Err(FormatError::PartlyNamed { word: item.to_string() });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl FromStr for Layout {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (order, words) = match text.chars().next().ok_or(FormatError::Empty)? {
            '<' => (Some(ByteOrder::Little), &text[1..]),
            '>' | '!' => (Some(ByteOrder::Big), &text[1..]),
            '=' => (Some(ByteOrder::NATIVE), &text[1..]),
            '@' => return Err(FormatError::NativeAlignment { letter: '@' }),
            _ => (None, text),
        };
        let mut layout = Self {
            text: text.to_owned(),
            order: order.unwrap_or(ByteOrder::NATIVE),
            items: Vec::new(),
            length: 0,
        };
        for word in words.split_whitespace() {
            layout.push_word(word, order.is_none())?;
        }
        if layout.items.is_empty() {
            return Err(FormatError::Empty);
        }
        layout.check_names()?;
        Ok(layout)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn field_name(name: &str) -> Result<String, FormatError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(legal) {
        return Err(FormatError::BadName { name: name.to_owned() });
    }
    Ok(name.to_owned())
}

/// Reads one item without its name; `None` when no kind is called so.
fn parse_item(word: &str, body: &str) -> Result<Option<(Kind, Option<usize>)>, FormatError> {
    let bad_count = || FormatError::BadCount { word: word.to_owned() };
    let number = |digits: &str| digits.parse().ok().filter(|count| *count > 0).ok_or_else(bad_count);

    let (times, body) = match body.split_once('*') {
        Some((times, body)) => (Some(number(times)?), body),
        None => (None, body),
    };
    let (base, brackets) = body.split_at(body.find('[').unwrap_or(body.len()));
    let mut widths = Vec::new();
    for bracket in brackets.split_inclusive(']') {
        let digits = bracket.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        widths.push(number(digits.ok_or_else(bad_count)?)?);
    }
    let mut widths = widths.into_iter();
    let mut width = || widths.next().ok_or_else(|| FormatError::NoLength { word: base.to_owned() });
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
        _ => return Err(FormatError::UnknownItem { word: word.to_owned() }),
    };
    match (times, widths.next(), widths.next()) {
        (times, None, None) => Ok(Some((kind, times))),
        (None, count, None) => Ok(Some((kind, count))),
        _ => Err(bad_count()),
    }
}

/// Reads letters of Python's struct module: each with its count where it has one, and its kind.
fn parse_letters(word: &str, body: &str) -> Result<Vec<(char, Option<usize>, Kind)>, FormatError> {
    let mut letters = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.find(|c: char| !c.is_ascii_digit()) {
        let unknown = || FormatError::UnknownItem { word: word.to_owned() };
        let count = match &rest[..at] {
            "" => None,
            digits => match digits.parse() {
                Ok(count) if (1..=MAX_LAYOUT_BYTES).contains(&count) => Some(count),
                Ok(0) => return Err(FormatError::BadCount { word: word.to_owned() }),
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
        letters.push((letter, count, kind));
        rest = &rest[at + letter.len_utf8()..];
    }
    if letters.is_empty() || !rest.is_empty() {
        return Err(FormatError::UnknownItem { word: word.to_owned() });
    }
    Ok(letters)
}
