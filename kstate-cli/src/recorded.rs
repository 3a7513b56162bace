//! The layout that a typed program has recorded with its state, as a format: `kstate get` then
//! shows the fields of a Rust struct without being told of them.
//!
//! The library describes a layout as `Gps{lat:f64@0,fix:[u8;3]@8,pad:[u8;5]@11}#16`: names, types,
//! offsets and the size in bytes.

use kstate::RecordedLayout;

use crate::value::ValueFormat;

/// How deep types may be nested. Each level doubles the work, and the text is another process's.
const MAX_DEPTH: usize = 8;

/// More items than this are not shown as such.
const MAX_ITEMS: usize = 1024;

/// The format of a recorded layout; `None` where the description is of a kind that formats have no
/// words for, or was cut because it is long.
pub(crate) fn format_of(layout: &RecordedLayout) -> Option<ValueFormat> {
    let mut items = Items::default();
    let mut text = Text(&layout.text);
    let size = items.read_type(&mut text, &Place::default(), MAX_DEPTH)?;
    text.0.is_empty().then_some(())?;
    match size.checked_sub(items.end)? {
        0 => {}
        gap => items.list.push(format!("pad[{gap}]")),
    }
    // A region is little-endian.
    format!("<{}", items.list.join(" ")).parse().ok()
}

/// Where an item lies.
#[derive(Debug, Clone, Default)]
struct Place {
    /// The names of the fields that lead to it, joined.
    name: String,
    /// Its offset in bytes.
    offset: usize,
}

#[derive(Debug, Default)]
struct Items {
    list: Vec<String>,
    /// The first byte behind the last item.
    end: usize,
}

impl Items {
    /// Reads one type and appends its items. Returns its size in bytes.
    fn read_type(&mut self, text: &mut Text<'_>, place: &Place, depth: usize) -> Option<usize> {
        let depth = depth.checked_sub(1)?;
        if text.skip("[") {
            return self.read_array(text, place, depth);
        }
        let word = text.word()?;
        if text.skip("{") {
            return self.read_struct(text, place, depth);
        }
        let size = size_of_scalar(word)?;
        self.push(word, 1, size, place)?;
        Some(size)
    }

    fn read_struct(&mut self, text: &mut Text<'_>, place: &Place, depth: usize) -> Option<usize> {
        loop {
            // Offsets stand behind the types, so the text is read twice.
            let name = text.word()?.trim_start_matches("r#").to_owned();
            text.skip(":").then_some(())?;
            let mut ahead = Text(text.0);
            Self::default().read_type(&mut ahead, &Place::default(), depth)?;
            ahead.skip("@").then_some(())?;
            let offset = place.offset.checked_add(ahead.number()?)?;
            let name = match place.name.as_str() {
                "" => name,
                outer => format!("{outer}_{name}"),
            };
            self.read_type(text, &Place { name, offset }, depth)?;
            text.0 = ahead.0;
            if !text.skip(",") {
                break;
            }
        }
        text.skip("}#").then_some(())?;
        text.number()
    }

    fn read_array(&mut self, text: &mut Text<'_>, place: &Place, depth: usize) -> Option<usize> {
        let mut ahead = Text(text.0);
        let mut element = Self::default();
        let size = element.read_type(&mut ahead, &Place::default(), depth)?;
        ahead.skip(";").then_some(())?;
        let count = ahead.number()?;
        ahead.skip("]").then_some(())?;
        let bytes = size.checked_mul(count)?;
        match Text(text.0).word().and_then(size_of_scalar) {
            Some(size) => {
                let word = element.list.first()?;
                self.push(word, count, size, place)?;
            }
            None => {
                for index in 0..count {
                    let name = format!("{}_{index}", place.name)
                        .trim_start_matches('_')
                        .to_owned();
                    let offset = place.offset.checked_add(size.checked_mul(index)?)?;
                    let mut element = Text(text.0);
                    self.read_type(&mut element, &Place { name, offset }, depth)?;
                }
            }
        }
        *text = ahead;
        Some(bytes)
    }

    /// Appends `count` scalars, and before them what lies between.
    fn push(&mut self, scalar: &str, count: usize, size: usize, place: &Place) -> Option<()> {
        (self.list.len() < MAX_ITEMS).then_some(())?;
        match place.offset.checked_sub(self.end)? {
            0 => {}
            gap => self.list.push(format!("pad[{gap}]")),
        }
        self.end = place.offset.checked_add(size.checked_mul(count)?)?;
        let colon = if place.name.is_empty() { "" } else { ":" };
        let count = if count == 1 {
            String::new()
        } else {
            format!("[{count}]")
        };
        self.list
            .push(format!("{}{colon}{scalar}{count}", place.name));
        Some(())
    }
}

/// What is left to read.
#[derive(Debug, Clone, Copy)]
struct Text<'t>(&'t str);

impl<'t> Text<'t> {
    fn skip(&mut self, token: &str) -> bool {
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// Letters, digits, `_`, and `r#`; at least one.
    fn word(&mut self) -> Option<&'t str> {
        let start = usize::from(self.0.starts_with("r#")) * 2;
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let length = self.0[start..]
            .find(|c| !is_part(c))
            .unwrap_or(self.0.len() - start);
        let (word, rest) = self.0.split_at(start + length);
        self.0 = rest;
        (length > 0).then_some(word)
    }

    fn number(&mut self) -> Option<usize> {
        self.word()?.parse().ok()
    }
}

fn size_of_scalar(word: &str) -> Option<usize> {
    Some(match word {
        "u8" | "i8" => 1,
        "u16" | "i16" => 2,
        "u32" | "i32" | "f32" => 4,
        "u64" | "i64" | "f64" => 8,
        "u128" | "i128" => 16,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use kstate::Layout;
    use proptest::prelude::*;

    use super::*;

    kstate::layout! {
        struct Point { x: f32, y: f32 }
        struct Track { id: u64, r#type: [u8; 4], one: [u32; 1], points: [Point; 2], at: Point }
    }

    fn format(text: &str) -> Option<String> {
        let layout = RecordedLayout {
            id: 1,
            text: text.to_owned(),
        };
        format_of(&layout).map(|format| format.to_string())
    }

    #[test]
    fn a_struct_is_shown_by_its_fields() {
        assert_eq!(
            format(&Track::describe()).unwrap(),
            "<id:u64 type:u8[4] one:u32 points_0_x:f32 points_0_y:f32 points_1_x:f32 \
             points_1_y:f32 at_x:f32 at_y:f32"
        );
        assert_eq!(format(&u64::describe()).unwrap(), "<u64");
        assert_eq!(format(&<[f64; 3]>::describe()).unwrap(), "<f64[3]");
        assert_eq!(format("A{a:u8@0,b:u32@4}#8").unwrap(), "<a:u8 pad[3] b:u32");
        assert_eq!(format(&<[[u8; 2]; 2]>::describe()), None);
    }

    #[test]
    fn a_cut_or_foreign_description_is_none() {
        let whole = Track::describe();
        for cut in 0..whole.len() {
            let shown = format(&whole[..cut]);
            assert!(shown.is_none(), "{shown:?} of {}", &whole[..cut]);
        }
        for text in [
            "char",
            "A{}#0",
            "[u8;]",
            "A{a:u8@9,b:u8@0}#10",
            "[[A{a:u8@0}#1;99999];99999]",
        ] {
            assert_eq!(format(text), None, "{text}");
        }
        assert_eq!(format(&"[".repeat(100_000)), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in r"[Au8i64\[\]{}#@:;,0-9r]{0,30}") {
            let _ = format(&text);
        }
    }
}
