//! From bytes to what is read.

use serde_json::{Map, Value};

use super::error::ValueError;
use super::hex;
use super::item::Item;
use super::layout::Layout;
use super::scalar::Scalar;

/// A value of a layout on one line.
pub(super) fn line(layout: &Layout, bytes: &[u8]) -> Result<String, ValueError> {
    let mut words = Vec::new();
    for (item, elements) in decode(layout, bytes)? {
        let elements: Vec<String> = elements.iter().map(Scalar::to_text).collect();
        let elements = elements.join(",");
        words.push(match item.name() {
            Some(name) => format!("{name}={elements}"),
            None => elements,
        });
    }
    Ok(words.join(" "))
}

/// A value of a layout as an object, or as an array where the items have no names.
pub(super) fn json(layout: &Layout, bytes: &[u8]) -> Result<Value, ValueError> {
    let values = decode(layout, bytes)?.into_iter().map(|(item, elements)| {
        let mut elements = elements.iter().map(Scalar::to_json);
        let value = if item.is_array() {
            Value::Array(elements.collect())
        } else {
            elements.next().unwrap_or_default()
        };
        (item.name(), value)
    });
    Ok(if layout.is_named() {
        let name = |name: Option<&str>| name.unwrap_or_default().to_owned();
        Value::Object(
            values
                .map(|(key, value)| (name(key), value))
                .collect::<Map<_, _>>(),
        )
    } else {
        Value::Array(values.map(|(_, value)| value).collect())
    })
}

/// Bytes as a string where they are one, else as `{"hex": "…"}`.
pub(super) fn text_or_hex(bytes: &[u8]) -> Value {
    match str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => serde_json::json!({ "hex": hex::render(bytes) }),
    }
}

/// The elements of each item that is not padding.
fn decode<'l>(
    layout: &'l Layout,
    bytes: &[u8],
) -> Result<Vec<(&'l Item, Vec<Scalar>)>, ValueError> {
    if bytes.len() != layout.length() {
        return Err(ValueError::Length {
            found: bytes.len(),
            expected: layout.expected(),
        });
    }
    let mut rest = bytes;
    let mut items = Vec::with_capacity(layout.items().len());
    for (index, item) in layout.items().iter().enumerate() {
        let (places, behind) = rest.split_at(item.kind().width() * item.elements());
        rest = behind;
        if item.is_padding() {
            continue;
        }
        let elements = places
            .chunks_exact(item.kind().width())
            .map(|place| Scalar::decode(item.kind(), layout.order(), place))
            .collect::<Result<_, _>>()
            .map_err(|problem| ValueError::Item {
                position: index + 1,
                item: item.to_string(),
                problem,
                expected: layout.expected(),
            })?;
        items.push((item, elements));
    }
    Ok(items)
}
