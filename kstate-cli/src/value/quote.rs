//! Text beside other values on one line: bare where that is plain, else in double quotes.

use std::str::Chars;

use super::hex;

/// Text whose bytes that are not UTF-8 are written `\xNN`; all else stays as it is.
pub(super) fn escape_invalid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        push_escaped(&mut text, chunk.invalid());
    }
    text
}

/// Writes text bare where it is plain, and else so that [`unquote`] reads it back.
pub(super) fn quote(bytes: &[u8]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:+@%".contains(c);
    if let Ok(text) = str::from_utf8(bytes)
        && !text.is_empty()
        && text.chars().all(plain)
    {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                '\n' => quoted.push_str("\\n"),
                '\t' => quoted.push_str("\\t"),
                c if c.is_control() => {
                    push_escaped(&mut quoted, c.encode_utf8(&mut [0; 4]).as_bytes())
                }
                c => quoted.push(c),
            }
        }
        push_escaped(&mut quoted, chunk.invalid());
    }
    quoted.push('"');
    quoted
}

/// Reads what [`quote`] wrote, from behind the opening quote to behind the closing one.
pub(super) fn unquote(rest: &mut Chars<'_>) -> Result<Vec<u8>, &'static str> {
    const NO_END: &str = "has no closing quote";
    const BAD_ESCAPE: &str = r#"has an escape other than \" \\ \n \t \r \0 \xNN"#;
    let mut bytes = Vec::new();
    loop {
        let c = match rest.next().ok_or(NO_END)? {
            '"' => return Ok(bytes),
            '\\' => match rest.next().ok_or(NO_END)? {
                c @ ('"' | '\\') => c,
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                'x' => {
                    let digits: String = rest.by_ref().take(2).collect();
                    match hex::parse(&digits).as_deref() {
                        Ok(&[byte]) => bytes.push(byte),
                        _ => return Err(BAD_ESCAPE),
                    }
                    continue;
                }
                _ => return Err(BAD_ESCAPE),
            },
            c => c,
        };
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

fn push_escaped(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push_str("\\x");
        text.push_str(&hex::render(&[*byte]));
    }
}
