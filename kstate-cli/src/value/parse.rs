//! From what was written to bytes.

use serde_json::{Map, Value};

use super::error::{ValueError, excerpt};
use super::item::Item;
use super::layout::Layout;
use super::scalar::{Scalar, ScalarError};
use super::{json, quote};

/// A value of a layout, from a line of values or from a JSON document.
pub(super) fn value(layout: &Layout, text: &str) -> Result<Vec<u8>, ValueError> {
    let text = text.trim();
    if text.starts_with(['{', '[']) {
        return from_json(layout, &json::document(text.as_bytes())?);
    }
    let tokens = tokens(layout, text)?;
    let values = if tokens.iter().any(|token| matches!(token, Token::Name(_))) {
        by_name(layout, tokens)?
    } else {
        in_order(layout, tokens)?
    };
    encode(layout, &values, |item, value| {
        Scalar::from_text(item.kind(), value)
    })
}

/// One piece of a line.
enum Token {
    /// The name of a field, behind which its values follow.
    Name(String),
    /// A value; one that was quoted is unquoted.
    Value(Vec<u8>),
}

fn tokens(layout: &Layout, text: &str) -> Result<Vec<Token>, ValueError> {
    let mut tokens = Vec::new();
    let separates = |c: char| c.is_whitespace() || c == ',';
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(separates);
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut chars = quoted.chars();
            let value = quote::unquote(&mut chars).map_err(|problem| ValueError::BadQuote {
                found: excerpt(rest),
                problem,
                expected: layout.expected(),
            })?;
            tokens.push(Token::Value(value));
            rest = chars.as_str();
            continue;
        }
        let word = rest.split(separates).next().unwrap_or_default();
        if word.is_empty() {
            return Ok(tokens);
        }
        match word.split_once('=') {
            Some((name, _)) if layout.is_named() => {
                tokens.push(Token::Name(name.to_owned()));
                rest = &rest[name.len() + 1..];
            }
            _ => {
                tokens.push(Token::Value(word.as_bytes().to_vec()));
                rest = &rest[word.len()..];
            }
        }
    }
}

/// Deals values out to the items in their order.
fn in_order(layout: &Layout, tokens: Vec<Token>) -> Result<Vec<Vec<Vec<u8>>>, ValueError> {
    let (found, wanted) = (tokens.len(), layout.values());
    if found != wanted {
        return Err(ValueError::Count {
            found,
            wanted,
            expected: layout.expected(),
        });
    }
    let mut values = tokens.into_iter().map(|token| match token {
        Token::Name(text) => text.into_bytes(),
        Token::Value(value) => value,
    });
    Ok(valued_items(layout)
        .map(|(_, item)| values.by_ref().take(item.elements()).collect())
        .collect())
}

/// Gives each item the values behind its name.
fn by_name(layout: &Layout, tokens: Vec<Token>) -> Result<Vec<Vec<Vec<u8>>>, ValueError> {
    let expected = || layout.expected();
    let mut fields: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    for token in tokens {
        match token {
            Token::Name(name) if !has_field(layout, &name) => {
                return Err(ValueError::NoSuchField {
                    name: excerpt(&name),
                    expected: expected(),
                });
            }
            Token::Name(name) if fields.iter().any(|(earlier, _)| *earlier == name) => {
                return Err(ValueError::FieldTwice {
                    name,
                    expected: expected(),
                });
            }
            Token::Name(name) => fields.push((name, Vec::new())),
            Token::Value(value) => match fields.last_mut() {
                Some((_, values)) => values.push(value),
                None => {
                    let found = excerpt(&quote::escape_invalid(&value));
                    return Err(ValueError::Unnamed {
                        found,
                        expected: expected(),
                    });
                }
            },
        }
    }
    valued_items(layout)
        .map(|(_, item)| {
            let field = fields
                .iter_mut()
                .find(|(name, _)| item.name() == Some(name));
            field
                .map(|(_, values)| std::mem::take(values))
                .ok_or_else(|| missing(layout, item))
        })
        .collect()
}

fn from_json(layout: &Layout, document: &Value) -> Result<Vec<u8>, ValueError> {
    let values = match document {
        Value::Object(fields) if layout.is_named() => fields_in_order(layout, fields)?,
        Value::Array(values) => {
            let (found, wanted) = (values.len(), valued_items(layout).count());
            if found != wanted {
                return Err(ValueError::Count {
                    found,
                    wanted,
                    expected: layout.expected(),
                });
            }
            values.iter().collect()
        }
        _ => {
            let found = excerpt(&document.to_string());
            return Err(ValueError::NoNames {
                found,
                expected: layout.expected(),
            });
        }
    };
    let mut elements = Vec::with_capacity(values.len());
    for ((index, item), value) in valued_items(layout).zip(values) {
        elements.push(match value {
            Value::Array(elements) if item.is_array() => elements.iter().collect(),
            _ if item.is_array() => {
                let found = excerpt(&value.to_string());
                let problem = ScalarError::WrongJson {
                    found,
                    wanted: "an array",
                };
                return Err(item_error(layout, index, item, problem));
            }
            _ => vec![value],
        });
    }
    encode(layout, &elements, |item, value| {
        Scalar::from_json(item.kind(), value)
    })
}

fn fields_in_order<'d>(
    layout: &Layout,
    fields: &'d Map<String, Value>,
) -> Result<Vec<&'d Value>, ValueError> {
    if let Some(name) = fields.keys().find(|name| !has_field(layout, name)) {
        return Err(ValueError::NoSuchField {
            name: excerpt(name),
            expected: layout.expected(),
        });
    }
    valued_items(layout)
        .map(|(_, item)| {
            item.name()
                .and_then(|name| fields.get(name))
                .ok_or_else(|| missing(layout, item))
        })
        .collect()
}

/// Writes the elements of each item that is not padding, and zeros for those that are.
fn encode<V>(
    layout: &Layout,
    values: &[Vec<V>],
    read: impl Fn(&Item, &V) -> Result<Scalar, ScalarError>,
) -> Result<Vec<u8>, ValueError> {
    let mut bytes = Vec::with_capacity(layout.length());
    let mut values = values.iter();
    for (index, item) in layout.items().iter().enumerate() {
        if item.is_padding() {
            bytes.resize(bytes.len() + item.kind().width() * item.elements(), 0);
            continue;
        }
        let elements = values.next().map_or(&[][..], Vec::as_slice);
        if elements.len() != item.elements() {
            return Err(ValueError::Elements {
                position: index + 1,
                item: item.to_string(),
                found: elements.len(),
                expected: layout.expected(),
            });
        }
        for element in elements {
            read(item, element)
                .map_err(|problem| item_error(layout, index, item, problem))?
                .encode(item.kind(), layout.order(), &mut bytes);
        }
    }
    Ok(bytes)
}

fn valued_items(layout: &Layout) -> impl Iterator<Item = (usize, &Item)> {
    layout
        .items()
        .iter()
        .enumerate()
        .filter(|(_, item)| !item.is_padding())
}

fn has_field(layout: &Layout, name: &str) -> bool {
    layout.items().iter().any(|item| item.name() == Some(name))
}

fn missing(layout: &Layout, item: &Item) -> ValueError {
    let name = item.name().unwrap_or_default().to_owned();
    ValueError::FieldMissing {
        name,
        expected: layout.expected(),
    }
}

fn item_error(layout: &Layout, index: usize, item: &Item, problem: ScalarError) -> ValueError {
    ValueError::Item {
        position: index + 1,
        item: item.to_string(),
        problem,
        expected: layout.expected(),
    }
}
