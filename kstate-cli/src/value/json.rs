//! A state that holds a JSON document.

use serde_json::Value;

use super::error::ValueError;

/// The document, as a tree.
pub(super) fn document(bytes: &[u8]) -> Result<Value, ValueError> {
    serde_json::from_slice(bytes).map_err(|error| ValueError::NotJson {
        length: bytes.len(),
        problem: if bytes.trim_ascii().is_empty() {
            "there is nothing in them".to_owned()
        } else {
            error.to_string()
        },
    })
}

/// The document without the white space between its tokens.
///
/// Done on the text, since a tree would respell numbers of many digits and drop all but one of
/// equal keys.
pub(super) fn compact(bytes: &[u8]) -> Result<Vec<u8>, ValueError> {
    document(bytes)?;
    let mut compact = Vec::with_capacity(bytes.len());
    let mut quoted = false;
    let mut escaped = false;
    for &byte in bytes {
        if quoted {
            quoted = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            quoted = byte == b'"';
        }
        compact.push(byte);
    }
    Ok(compact)
}
