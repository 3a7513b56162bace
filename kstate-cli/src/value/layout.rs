//! The struct-style format: which items lie where.

use std::fmt;
use std::str::FromStr;

use super::error::FormatError;
use super::item::{Item, Kind, parse_item};
use super::letters::{Letter, parse_letters};
use super::scalar;

/// The longest layout, in bytes: the largest page Linux uses, and a state is at most a page.
pub(crate) const MAX_LAYOUT_BYTES: usize = 65_536;

/// An example with more values than this would hide the message it stands in.
const MAX_EXAMPLE_VALUES: usize = 12;

/// The order in which the bytes of a number lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    /// The lowest byte first (`<`).
    Little,
    /// The highest byte first (`>`).
    Big,
}

impl ByteOrder {
    /// This machine's order (`=`, or nothing).
    pub(crate) const NATIVE: Self = if cfg!(target_endian = "big") {
        Self::Big
    } else {
        Self::Little
    };
}

/// Items in the order in which they lie, without any padding that is not written out.
///
/// As a string: an optional byte order (`<` little, `>` or `!` big, `=` or nothing this machine's),
/// then items parted by white space. An item is `u8`…`u128`, `i8`…`i128`, `f32`, `f64`, `bool`,
/// `char[N]`, `bytes[N]` or `pad[N]`; `4*f32` and `f32[4]` are both an array of four; `lat:f64` has
/// a name. The letters of Python's struct module are taken too (`<IddH`), unless Python would align
/// them or size them otherwise than kstate does.
///
/// # Invariants
///
/// 1. `length` is the sum of the items' lengths, and at most [`MAX_LAYOUT_BYTES`].
/// 2. Either every item but padding has a name, or none has; no name occurs twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    text: String,
    order: ByteOrder,
    items: Vec<Item>,
    length: usize,
}

impl Layout {
    /// The length of every value, in bytes.
    #[must_use]
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The byte order of its numbers.
    #[must_use]
    pub(crate) fn order(&self) -> ByteOrder {
        self.order
    }

    /// The items, padding included.
    #[must_use]
    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// Whether the items have names.
    #[must_use]
    pub(crate) fn is_named(&self) -> bool {
        self.items.iter().any(|item| item.name().is_some())
    }

    /// How many values a line of this layout has, the elements of arrays counted one by one.
    pub(super) fn values(&self) -> usize {
        self.items
            .iter()
            .filter(|item| !item.is_padding())
            .map(Item::elements)
            .sum()
    }

    /// The end of an error message: the layout, its length and an example.
    pub(super) fn expected(&self) -> String {
        let bytes = if self.length == 1 { "byte" } else { "bytes" };
        let mut expected = format!("`{}` ({} {bytes})", self.text, self.length);
        if (1..=MAX_EXAMPLE_VALUES).contains(&self.values()) {
            let mut number = 0;
            let mut words = Vec::new();
            for item in self.items.iter().filter(|item| !item.is_padding()) {
                let mut word = item
                    .name()
                    .map_or_else(String::new, |name| format!("{name}="));
                for element in 0..item.elements() {
                    number += 1;
                    word.push_str(if element == 0 { "" } else { "," });
                    word.push_str(&scalar::example(item.kind(), number));
                }
                words.push(word);
            }
            expected.push_str(&format!(", e.g. `{}`", words.join(" ")));
        }
        expected
    }

    fn push(
        &mut self,
        name: Option<&str>,
        kind: Kind,
        count: Option<usize>,
    ) -> Result<(), FormatError> {
        let item = Item::new(name, kind, count)?;
        // INVARIANT: 1.
        self.length = item
            .length()
            .and_then(|length| self.length.checked_add(length))
            .filter(|length| *length <= MAX_LAYOUT_BYTES)
            .ok_or(FormatError::TooLarge)?;
        self.items.push(item);
        Ok(())
    }

    fn push_word(&mut self, word: &str, is_native: bool) -> Result<(), FormatError> {
        let (name, body) = match word.split_once(':') {
            Some((name, body)) => (Some(name), body),
            None => (None, word),
        };
        if let Some((kind, count)) = parse_item(word, body)? {
            return self.push(name, kind, count);
        }
        let letters = parse_letters(word, body)?;
        if name.is_some() && letters.len() > 1 {
            return Err(FormatError::UnknownItem {
                word: word.to_owned(),
            });
        }
        for Letter {
            letter,
            kind,
            count,
        } in letters
        {
            if is_native {
                self.refuse_native_difference(letter, kind)?;
            }
            match name {
                Some(_) => self.push(name, kind, count)?,
                // As Python's `unpack` has it, `4f` is four values, not an array.
                None => {
                    for _ in 0..count.unwrap_or(1) {
                        self.push(None, kind, None)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Python sizes and aligns numbers as C does where the format has no byte order.
    fn refuse_native_difference(&self, letter: char, kind: Kind) -> Result<(), FormatError> {
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
                Some(name)
                    if self.items[..position]
                        .iter()
                        .any(|earlier| earlier.name() == Some(name)) =>
                {
                    return Err(FormatError::NameTwice {
                        name: name.to_owned(),
                    });
                }
                None if !item.is_padding() && self.is_named() => {
                    return Err(FormatError::PartlyNamed {
                        word: item.to_string(),
                    });
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
