//! A state as a JSON document: what `kstate export` writes and `kstate import` reads.

use std::time::Duration;

use kstate::{RecordedLayout, Sinks, StateName};
use kstatefs::persist::Image;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::duration::nanoseconds;
use crate::error::CommandError;
use crate::value::ValueFormat;
use crate::{instant, recorded};

/// What stands first in a document.
const FORMAT: &str = "kstate-export/1";

/// The document. What may be left out of one that is imported has a default.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exported {
    format: String,
    name: String,
    #[serde(default = "one")]
    generation: u64,
    #[serde(default)]
    layout: Option<ExportedLayout>,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    length: Option<usize>,
    /// The value by the fields of the layout, where it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    /// The value's bytes.
    #[serde(default)]
    hex: Option<String>,
    #[serde(default)]
    capacity: Option<u32>,
    #[serde(default = "mode")]
    mode: String,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    linger_ns: u64,
    #[serde(default)]
    deadline_ns: Option<u64>,
    #[serde(default = "announce")]
    announce: String,
    #[serde(default)]
    within_ns: u64,
    #[serde(default)]
    ceiling: Option<u64>,
    #[serde(default)]
    clean: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportedLayout {
    /// As text: many programs round numbers of 64 bits.
    id: String,
    text: String,
}

fn one() -> u64 {
    1
}

fn mode() -> String {
    "0644".to_owned()
}

fn announce() -> String {
    Sinks::NONE.to_string()
}

/// The layout that an image has, as the library tells of one.
pub(crate) fn layout_of(image: &Image) -> Option<RecordedLayout> {
    let (id, text) = image.layout.clone()?;
    Some(RecordedLayout { id, text })
}

impl Exported {
    /// The document of what is kept of a state.
    pub(crate) fn of(image: &Image) -> Self {
        let format = layout_of(image).and_then(|layout| recorded::format_of(&layout));
        let hex = ValueFormat::Hex.render(&image.value).unwrap_or_default();
        Self {
            format: FORMAT.to_owned(),
            name: image.name.to_string(),
            generation: image.generation,
            layout: image.layout.as_ref().map(|(id, text)| ExportedLayout {
                id: format!("{id:016x}"),
                text: text.clone(),
            }),
            time: image.time.map(instant::show),
            length: Some(image.value.len()),
            // Something else than the layout says may have been put there as bytes.
            value: format.and_then(|format| format.render_json(&image.value).ok()),
            hex: Some(String::from_utf8_lossy(&hex).into_owned()),
            capacity: Some(image.capacity),
            mode: format!("{:04o}", image.mode),
            uid: image.uid,
            gid: image.gid,
            linger_ns: nanoseconds(image.linger),
            deadline_ns: image.deadline.map(nanoseconds),
            announce: Sinks::from_bits(image.announce)
                .unwrap_or_default()
                .to_string(),
            within_ns: nanoseconds(image.within),
            ceiling: Some(image.ceiling),
            clean: image.clean,
        }
    }

    /// For `--json`, and for a file.
    pub(crate) fn to_json(&self) -> Value {
        // Text, numbers and what JSON has names for: nothing that it could not write.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Reads a document.
    ///
    /// # Errors
    ///
    /// It is none, or of another version.
    pub(crate) fn parse(input: &[u8]) -> Result<Self, CommandError> {
        let document: Value = serde_json::from_slice(input)
            .map_err(|error| refused(format_args!("it is not JSON: {error}; --raw takes bytes")))?;
        match document.get("format").and_then(Value::as_str) {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(refused(format_args!(
                    "its format is `{other}`, and this command reads `{FORMAT}`"
                )));
            }
            None => {
                return Err(refused(format_args!(
                    "it has no `format` such as `{FORMAT}`"
                )));
            }
        }
        serde_json::from_value(document).map_err(refused)
    }

    /// What a state named `name` made of it is.
    ///
    /// # Errors
    ///
    /// A field means nothing, or its value is told in two ways that differ.
    pub(crate) fn image(&self, name: StateName) -> Result<Image, CommandError> {
        let field = |field: &str, found: &str, expected: &str| {
            refused(format_args!(
                "its `{field}` is `{found}`; expected {expected}"
            ))
        };
        let layout = match &self.layout {
            None => None,
            Some(ExportedLayout { id, text }) => {
                let id = u64::from_str_radix(id, 16)
                    .map_err(|_| field("layout.id", id, "a number in hexadecimal"))?;
                Some((id, text.clone()))
            }
        };
        let time = match self.time.as_deref() {
            None => None,
            Some(text) => Some(
                instant::parse(text)
                    .ok_or_else(|| field("time", text, "one such as `2026-11-26T03:47:12.5Z`"))?,
            ),
        };
        let mode = u32::from_str_radix(&self.mode, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777);
        let sinks: Sinks = self.announce.parse().map_err(refused)?;
        let value = self.bytes(layout.as_ref())?;
        Ok(Image {
            name,
            generation: self.generation,
            ceiling: self.ceiling.unwrap_or(self.generation).max(self.generation),
            clean: self.clean,
            mode: mode.ok_or_else(|| field("mode", &self.mode, "octal digits such as 0644"))?,
            uid: self.uid,
            gid: self.gid,
            capacity: match self.capacity {
                Some(capacity) => capacity,
                None => u32::try_from(value.len()).unwrap_or(u32::MAX).max(1),
            },
            layout,
            linger: Duration::from_nanos(self.linger_ns),
            deadline: self.deadline_ns.map(Duration::from_nanos),
            announce: sinks.bits(),
            within: Duration::from_nanos(self.within_ns),
            time,
            value,
        })
    }

    /// The value's bytes: those of `hex` or, without it, what `value` means by the layout.
    fn bytes(&self, layout: Option<&(u64, String)>) -> Result<Vec<u8>, CommandError> {
        let layout = layout.map(|(id, text)| RecordedLayout {
            id: *id,
            text: text.clone(),
        });
        let format = layout.as_ref().and_then(recorded::format_of);
        let bytes = match (&self.hex, &self.value, format) {
            (Some(hex), Some(value), Some(format)) => {
                let bytes = ValueFormat::Hex.parse(hex.as_bytes())?;
                // Numbers have more than one spelling, and some bytes have none of their own.
                let is_same = format.render_json(&bytes).is_ok_and(|same| same == *value)
                    || format
                        .parse(value.to_string().as_bytes())
                        .is_ok_and(|same| same == bytes);
                if !is_same {
                    return Err(refused(format_args!(
                        "its `value` is not what its `hex` means; take out the one that does not count"
                    )));
                }
                bytes
            }
            (Some(hex), _, _) => ValueFormat::Hex.parse(hex.as_bytes())?,
            (None, Some(value), Some(format)) => format.parse(value.to_string().as_bytes())?,
            (None, Some(_), None) => {
                return Err(refused(format_args!(
                    "it has no `hex`, and no `layout` by which its `value` could be read"
                )));
            }
            (None, None, _) => {
                return Err(refused(format_args!("it has neither `hex` nor `value`")));
            }
        };
        match self.length {
            Some(length) if length != bytes.len() => Err(refused(format_args!(
                "its `length` is {length}, and its value has {} bytes",
                bytes.len()
            ))),
            _ => Ok(bytes),
        }
    }
}

/// A document that cannot be imported.
fn refused(why: impl std::fmt::Display) -> CommandError {
    CommandError::Usage(format!("the input cannot be imported: {why}"))
}

#[cfg(test)]
mod tests;
