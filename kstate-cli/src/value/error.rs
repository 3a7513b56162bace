//! What can be wrong with a format, and with a value of it.

use super::hex::HexError;
use super::layout::MAX_LAYOUT_BYTES;
use super::scalar::ScalarError;

/// A text that is not a [`ValueFormat`](super::ValueFormat).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FormatError {
    /// There is nothing in it.
    #[error(
        "the format is empty; expected `raw`, `text`, `hex`, `json`, or items such as \
         `<u32 f64 f64`"
    )]
    Empty,
    /// A word is neither a format nor an item.
    #[error(
        "`{word}` is not a format; expected `raw`, `text`, `hex`, `json`, or items: u8 to u128, \
         i8 to i128, f32, f64, bool, char[N], bytes[N], pad[N], repeated as in `f32[4]` and named \
         as in `lat:f64`, or the letters of Python's struct module"
    )]
    UnknownItem {
        /// The word as written.
        word: String,
    },
    /// `char`, `bytes` or `pad` without the number of bytes.
    #[error("`{word}` needs a number of bytes, as in `{word}[8]`")]
    NoLength {
        /// The word as written.
        word: String,
    },
    /// A count that is zero, not a number, or given twice.
    #[error(
        "`{word}` has no legible count; expected one number above 0, as in `4*f32` or `f32[4]`"
    )]
    BadCount {
        /// The word as written.
        word: String,
    },
    /// A name that is not an identifier.
    #[error(
        "`{name}` is not a field name; expected letters, digits and `_`, not beginning with a digit"
    )]
    BadName {
        /// The name as written.
        name: String,
    },
    /// Padding with a name.
    #[error("`{word}` is padding, which holds no value; leave its name out")]
    NamedPadding {
        /// The item as written.
        word: String,
    },
    /// Two fields of one name.
    #[error("two fields are named `{name}`; each name may be used once")]
    NameTwice {
        /// The name.
        name: String,
    },
    /// Some fields have names and others have none.
    #[error(
        "`{word}` has no name, but other fields have; name every field or none (padding never \
         has a name)"
    )]
    PartlyNamed {
        /// The first field without a name.
        word: String,
    },
    /// Python would insert padding that kstate does not.
    #[error(
        "Python's struct module aligns this format natively, and `{letter}` would not be where \
         kstate puts it; begin the format with `=` for no padding, or write the padding out as `x`"
    )]
    NativeAlignment {
        /// The letter, or `@`.
        letter: char,
    },
    /// Python gives the letter another size with and without a byte order.
    #[error(
        "`{letter}` has 4 bytes after `<`, `>` or `=` and 8 without; write i32, u32, i64 or u64 \
         to say which"
    )]
    AmbiguousLetter {
        /// The letter.
        letter: char,
    },
    /// More bytes than any state can hold.
    #[error("the format has more than {MAX_LAYOUT_BYTES} bytes, which no state can hold")]
    TooLarge,
}

/// A value that does not match its format, in either direction. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ValueError {
    /// Input that must be text is not.
    #[error(
        "byte {at} of {length} is 0x{byte:02x}, which is not UTF-8; `{format}` takes text, \
         `raw` takes any bytes"
    )]
    NotUtf8 {
        /// The format that was asked for.
        format: String,
        /// The place of the first offending byte, counted from 0.
        at: usize,
        /// That byte.
        byte: u8,
        /// The length of the input in bytes.
        length: usize,
    },
    /// Input that must be hexadecimal is not.
    #[error(transparent)]
    NotHex(#[from] HexError),
    /// The bytes are not one JSON document.
    #[error(
        "{length} bytes are not a JSON document: {problem}; expected for example \
         `{{\"lat\": 48.1}}`"
    )]
    NotJson {
        /// The length of what was found, in bytes.
        length: usize,
        /// What serde_json says of it.
        problem: String,
    },
    /// The value has another length than the layout.
    #[error("the value has {found} bytes; expected {expected}")]
    Length {
        /// The length found, in bytes.
        found: usize,
        /// The layout, its length and an example.
        expected: String,
    },
    /// The input has too few or too many values.
    #[error(
        "found {found} {}, wanted {wanted}; expected {expected}",
        plural(*found, "value", "values")
    )]
    Count {
        /// How many values were found.
        found: usize,
        /// How many the layout has.
        wanted: usize,
        /// The layout, its length and an example.
        expected: String,
    },
    /// One item does not match.
    #[error("item {position} `{item}`: {problem}; expected {expected}")]
    Item {
        /// The place of the item in the format, counted from 1.
        position: usize,
        /// The item as the format has it.
        item: String,
        /// What is wrong with it.
        problem: ScalarError,
        /// The layout, its length and an example.
        expected: String,
    },
    /// An array has too few or too many elements.
    #[error(
        "item {position} `{item}`: found {found} {}; expected {expected}",
        plural(*found, "element", "elements")
    )]
    Elements {
        /// The place of the item in the format, counted from 1.
        position: usize,
        /// The item as the format has it.
        item: String,
        /// How many elements were found.
        found: usize,
        /// The layout, its length and an example.
        expected: String,
    },
    /// The input names a field that the format has not.
    #[error("the format has no field `{name}`; expected {expected}")]
    NoSuchField {
        /// The name found.
        name: String,
        /// The layout, its length and an example.
        expected: String,
    },
    /// The input names a field twice.
    #[error("the field `{name}` is given twice; expected {expected}")]
    FieldTwice {
        /// The name found.
        name: String,
        /// The layout, its length and an example.
        expected: String,
    },
    /// The input lacks a field.
    #[error("the field `{name}` is missing; expected {expected}")]
    FieldMissing {
        /// The name wanted.
        name: String,
        /// The layout, its length and an example.
        expected: String,
    },
    /// A value stands before the first name.
    #[error("`{found}` has no name, but a later value has; expected {expected}")]
    Unnamed {
        /// The value found.
        found: String,
        /// The layout, its length and an example.
        expected: String,
    },
    /// The input is an object, but the layout does not name its items.
    #[error("`{found}` is an object, but the items have no names; expected {expected}")]
    NoNames {
        /// The object found.
        found: String,
        /// The layout, its length and an example.
        expected: String,
    },
    /// A quoted text does not end, or holds an escape that means nothing.
    #[error("the quoted text {found} {problem}; expected {expected}")]
    BadQuote {
        /// The text, from its opening quote.
        found: String,
        /// What is wrong with it.
        problem: &'static str,
        /// The layout, its length and an example.
        expected: String,
    },
}

fn plural(count: usize, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

/// The beginning of something found, short enough for a message.
pub(super) fn excerpt(found: &str) -> String {
    const LONGEST_CHARS: usize = 40;
    match found.char_indices().nth(LONGEST_CHARS) {
        Some((end, _)) => format!("{}…", &found[..end]),
        None => found.to_owned(),
    }
}
