//! One value of a layout: its bytes, its spelling on a line, and its place in a JSON document.

use std::num::IntErrorKind;
use std::str::FromStr;

use serde_json::{Number, Value};

use super::error::excerpt;
use super::hex::{self, HexError};
use super::item::Kind;
use super::layout::ByteOrder;
use super::quote;
use super::render::text_or_hex;

/// The bytes of the widest number.
const WIDEST_BYTES: usize = 16;

/// What is wrong with one value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ScalarError {
    /// Not a number at all.
    #[error("`{found}` is not a number")]
    NotANumber {
        /// What was found.
        found: String,
    },
    /// A number, but not a whole one.
    #[error("`{found}` is not a whole number")]
    NotAnInteger {
        /// What was found.
        found: String,
    },
    /// A number that the kind cannot hold.
    #[error("`{found}` is out of range; {kind} holds {range}")]
    OutOfRange {
        /// What was found.
        found: String,
        /// The kind.
        kind: Kind,
        /// The least and the most it holds.
        range: String,
    },
    /// Neither true nor false.
    #[error("`{found}` is neither `true` nor `false`")]
    NotABool {
        /// What was found.
        found: String,
    },
    /// A byte that is neither 0 nor 1 where a `bool` lies.
    #[error("the byte 0x{byte:02x} is neither 0 (false) nor 1 (true)")]
    NotABoolByte {
        /// The byte.
        byte: u8,
    },
    /// Text longer than its place.
    #[error("`{found}` has {length} bytes, which is more than {bound}")]
    TextTooLong {
        /// What was found.
        found: String,
        /// Its length in bytes.
        length: usize,
        /// The longest that fits, in bytes.
        bound: usize,
    },
    /// Something in a JSON document that no value of the kind is written as.
    #[error("`{found}` is not {wanted}")]
    WrongJson {
        /// What was found.
        found: String,
        /// What would have done.
        wanted: &'static str,
    },
    /// Not hexadecimal.
    #[error(transparent)]
    NotHex(#[from] HexError),
    /// Hexadecimal of another length.
    #[error("`{found}` has {length} bytes, not {wanted}")]
    WrongLength {
        /// What was found.
        found: String,
        /// Its length in bytes.
        length: usize,
        /// The length wanted, in bytes.
        wanted: usize,
    },
}

/// One value.
#[derive(Debug)]
pub(super) enum Scalar {
    Unsigned(u128),
    Signed(i128),
    Float32(f32),
    Float64(f64),
    Bool(bool),
    /// Without the padding.
    Char(Vec<u8>),
    Bytes(Vec<u8>),
}

impl Scalar {
    /// Reads an element from its place, which is as wide as its kind. Padding is read as bytes.
    pub(super) fn decode(kind: Kind, order: ByteOrder, place: &[u8]) -> Result<Self, ScalarError> {
        match kind {
            Kind::Unsigned(_) => Ok(Self::Unsigned(u128::from_le_bytes(widen(order, place)))),
            Kind::Signed(width) => {
                let above = u128::BITS as usize - width * 8;
                let bits = u128::from_le_bytes(widen(order, place)) << above;
                Ok(Self::Signed(bits.cast_signed() >> above))
            }
            Kind::Float32 => {
                let [a, b, c, d, ..] = widen(order, place);
                Ok(Self::Float32(f32::from_le_bytes([a, b, c, d])))
            }
            Kind::Float64 => {
                let [a, b, c, d, e, f, g, h, ..] = widen(order, place);
                Ok(Self::Float64(f64::from_le_bytes([a, b, c, d, e, f, g, h])))
            }
            Kind::Bool => match place {
                [0] => Ok(Self::Bool(false)),
                [1] => Ok(Self::Bool(true)),
                _ => Err(ScalarError::NotABoolByte {
                    byte: place.first().copied().unwrap_or(0),
                }),
            },
            Kind::Char(_) => {
                let length = place
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .map_or(0, |last| last + 1);
                Ok(Self::Char(place[..length].to_vec()))
            }
            Kind::Bytes(_) | Kind::Pad(_) => Ok(Self::Bytes(place.to_vec())),
        }
    }

    /// Appends the element's bytes, as many as its kind is wide.
    pub(super) fn encode(&self, kind: Kind, order: ByteOrder, bytes: &mut Vec<u8>) {
        let mut number = [0; WIDEST_BYTES];
        match self {
            Self::Unsigned(value) => number = value.to_le_bytes(),
            Self::Signed(value) => number = value.to_le_bytes(),
            Self::Float32(value) => number[..4].copy_from_slice(&value.to_le_bytes()),
            Self::Float64(value) => number[..8].copy_from_slice(&value.to_le_bytes()),
            Self::Bool(value) => number[0] = u8::from(*value),
            Self::Char(text) | Self::Bytes(text) => {
                let end = bytes.len() + kind.width();
                bytes.extend_from_slice(text);
                bytes.resize(end, 0);
                return;
            }
        }
        let number = &mut number[..kind.width()];
        if order == ByteOrder::Big {
            number.reverse();
        }
        bytes.extend_from_slice(number);
    }

    /// The spelling on a line.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            // `Debug` keeps the point of a whole number and spells great ones with an exponent.
            Self::Float32(value) => format!("{value:?}"),
            Self::Float64(value) => format!("{value:?}"),
            Self::Bool(value) => value.to_string(),
            Self::Char(text) => quote::quote(text),
            Self::Bytes(bytes) => hex::render(bytes),
        }
    }

    /// The place in a JSON document.
    pub(super) fn to_json(&self) -> Value {
        let number = match self {
            Self::Unsigned(value) => Number::from_u128(*value),
            Self::Signed(value) => Number::from_i128(*value),
            // By way of its decimals: the nearest f64 of 0.1f32 would be spelt 0.10000000149011612.
            Self::Float32(value) => value.to_string().parse().ok().and_then(Number::from_f64),
            Self::Float64(value) => Number::from_f64(*value),
            Self::Bool(value) => return Value::Bool(*value),
            Self::Char(text) => return text_or_hex(text),
            Self::Bytes(bytes) => return Value::String(hex::render(bytes)),
        };
        number.map_or_else(|| Value::String(self.to_text()), Value::Number)
    }

    /// Reads the spelling on a line, which a text of `char` is already unquoted from.
    pub(super) fn from_text(kind: Kind, text: &[u8]) -> Result<Self, ScalarError> {
        let found = || excerpt(&quote::escape_invalid(text));
        if let Kind::Char(bound) = kind {
            return if text.len() > bound {
                Err(ScalarError::TextTooLong {
                    found: found(),
                    length: text.len(),
                    bound,
                })
            } else {
                Ok(Self::Char(text.to_vec()))
            };
        }
        let word = str::from_utf8(text).map_err(|_| ScalarError::NotANumber { found: found() })?;
        match kind {
            Kind::Unsigned(width) => integer(kind, width, word),
            Kind::Signed(width) => integer(kind, width, word),
            Kind::Float32 => float(kind, word, f32::is_infinite, f32::MAX).map(Self::Float32),
            Kind::Float64 => float(kind, word, f64::is_infinite, f64::MAX).map(Self::Float64),
            Kind::Bool => match word {
                "false" | "0" => Ok(Self::Bool(false)),
                "true" | "1" => Ok(Self::Bool(true)),
                _ => Err(ScalarError::NotABool { found: found() }),
            },
            Kind::Char(wanted) | Kind::Bytes(wanted) | Kind::Pad(wanted) => {
                let bytes = hex::parse(word)?;
                if bytes.len() == wanted {
                    Ok(Self::Bytes(bytes))
                } else {
                    Err(ScalarError::WrongLength {
                        found: found(),
                        length: bytes.len(),
                        wanted,
                    })
                }
            }
        }
    }

    /// Reads the place in a JSON document.
    pub(super) fn from_json(kind: Kind, value: &Value) -> Result<Self, ScalarError> {
        let wanted = match kind {
            Kind::Unsigned(_) | Kind::Signed(_) | Kind::Float32 | Kind::Float64 => "a number",
            Kind::Bool => "`true` or `false`",
            Kind::Char(_) | Kind::Bytes(_) | Kind::Pad(_) => "text",
        };
        match (kind, value) {
            (Kind::Char(_), Value::Object(fields)) if fields.len() == 1 => {
                if let Some(Value::String(digits)) = fields.get("hex") {
                    return Self::from_text(kind, &hex::parse(digits)?);
                }
            }
            (Kind::Bool, Value::Bool(value)) => return Ok(Self::Bool(*value)),
            (Kind::Bool, _) => {}
            (_, Value::String(text)) => return Self::from_text(kind, text.as_bytes()),
            (Kind::Char(_) | Kind::Bytes(_), _) => {}
            (_, Value::Number(number)) => {
                return Self::from_text(kind, number.to_string().as_bytes());
            }
            _ => {}
        }
        Err(ScalarError::WrongJson {
            found: excerpt(&value.to_string()),
            wanted,
        })
    }
}

/// A value for the example in a message: the `number`th of its line.
pub(super) fn example(kind: Kind, number: usize) -> String {
    match kind {
        Kind::Unsigned(_) | Kind::Signed(_) => number.to_string(),
        Kind::Float32 | Kind::Float64 => format!("{number}.5"),
        Kind::Bool => "true".to_owned(),
        Kind::Char(width) => "text".chars().take(width).collect(),
        Kind::Bytes(width) | Kind::Pad(width) if width <= 8 => "0f".repeat(width),
        Kind::Bytes(width) | Kind::Pad(width) => format!("{width}_bytes_in_hexadecimal"),
    }
}

/// The bytes of a number, lowest first, followed by zeros.
fn widen(order: ByteOrder, place: &[u8]) -> [u8; WIDEST_BYTES] {
    let mut number = [0; WIDEST_BYTES];
    let number_place = &mut number[..place.len()];
    number_place.copy_from_slice(place);
    if order == ByteOrder::Big {
        number_place.reverse();
    }
    number
}

fn integer(kind: Kind, width: usize, word: &str) -> Result<Scalar, ScalarError> {
    let signed = matches!(kind, Kind::Signed(_));
    let most = if signed {
        i128::MAX.unsigned_abs()
    } else {
        u128::MAX
    } >> (128 - width * 8);
    let least = if signed { most + 1 } else { 0 };
    let out_of_range = || {
        let least = if signed {
            format!("-{least}")
        } else {
            "0".to_owned()
        };
        ScalarError::OutOfRange {
            found: excerpt(word),
            kind,
            range: format!("{least} to {most}"),
        }
    };

    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        _ => (10, digits),
    };
    // A second sign, which `from_str_radix` would take.
    if digits.starts_with(['+', '-', '_']) {
        return Err(ScalarError::NotANumber {
            found: excerpt(word),
        });
    }
    match u128::from_str_radix(&digits.replace('_', ""), radix) {
        Ok(magnitude) if negative && magnitude <= least => {
            let value = 0i128
                .checked_sub_unsigned(magnitude)
                .ok_or_else(out_of_range)?;
            Ok(if signed {
                Scalar::Signed(value)
            } else {
                Scalar::Unsigned(0)
            })
        }
        Ok(magnitude) if !negative && magnitude <= most => Ok(if signed {
            Scalar::Signed(i128::try_from(magnitude).map_err(|_| out_of_range())?)
        } else {
            Scalar::Unsigned(magnitude)
        }),
        Ok(_) => Err(out_of_range()),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => Err(out_of_range()),
        Err(_) if word.parse::<f64>().is_ok() => Err(ScalarError::NotAnInteger {
            found: excerpt(word),
        }),
        Err(_) => Err(ScalarError::NotANumber {
            found: excerpt(word),
        }),
    }
}

fn float<F: FromStr + Copy + std::fmt::LowerExp>(
    kind: Kind,
    word: &str,
    is_infinite: fn(F) -> bool,
    most: F,
) -> Result<F, ScalarError> {
    let digits = word.replace('_', "");
    let value = digits.parse().map_err(|_| ScalarError::NotANumber {
        found: excerpt(word),
    })?;
    // The standard library reads a number beyond the greatest as infinity.
    if is_infinite(value) && digits.contains(|c: char| c.is_ascii_digit()) {
        let range = format!("-{most:e} to {most:e}");
        return Err(ScalarError::OutOfRange {
            found: excerpt(word),
            kind,
            range,
        });
    }
    Ok(value)
}
