use proptest::prelude::*;
use serde_json::json;

use super::*;

fn format(text: &str) -> ValueFormat {
    text.parse().unwrap()
}

fn rendered(format_text: &str, bytes: &[u8]) -> String {
    String::from_utf8(format(format_text).render(bytes).unwrap()).unwrap()
}

fn parsed(format_text: &str, input: &str) -> Vec<u8> {
    format(format_text).parse(input.as_bytes()).unwrap()
}

fn refusal(format_text: &str, input: &str) -> String {
    format(format_text)
        .parse(input.as_bytes())
        .unwrap_err()
        .to_string()
}

#[test]
fn struct_goes_both_ways() {
    let mut bytes = 7u32.to_le_bytes().to_vec();
    bytes.extend(48.125f64.to_le_bytes());
    bytes.extend((-1e300f64).to_le_bytes());
    assert_eq!(rendered("<u32 f64 f64", &bytes), "7 48.125 -1e300");
    assert_eq!(parsed("<u32 f64 f64", " 7 48.125\n-1e300\n"), bytes);
    assert_eq!(parsed("<Idd", "7,48.125,-1e300"), bytes);
    assert_eq!(parsed("<u32 f64 f64", "[7, 48.125, -1e300]"), bytes);
    assert_eq!(
        format("<u32 f64 f64").render_json(&bytes).unwrap(),
        json!([7, 48.125, -1e300])
    );
    assert_eq!(format("<u32 f64 f64").length(), Some(20));
}

#[test]
fn named_fields_make_an_object_and_come_in_any_order() {
    let text = ">id:u16 pad[2] label:char[6] at:f32[2]";
    let bytes = parsed(text, r#"at=1.5,-2 label="a b" id=0x102"#);
    assert_eq!(bytes[..10], [1, 2, 0, 0, b'a', b' ', b'b', 0, 0, 0]);
    assert_eq!(rendered(text, &bytes), r#"id=258 label="a b" at=1.5,-2.0"#);
    let object = json!({"id": 258, "label": "a b", "at": [1.5, -2.0]});
    assert_eq!(format(text).render_json(&bytes).unwrap(), object);
    assert_eq!(parsed(text, &object.to_string()), bytes);
    assert_eq!(parsed(text, r#"258 "a b" 1.5 -2"#), bytes);
    assert_eq!(parsed(text, r#"[258, "a b", [1.5, -2]]"#), bytes);
}

#[test]
fn both_spellings_of_an_array_are_one() {
    let (times, brackets) = (format("<4*f32"), format("<f32[4]"));
    let bytes = times.parse(b"1 2 3 4").unwrap();
    assert_eq!(
        times.render_json(&bytes).unwrap(),
        brackets.render_json(&bytes).unwrap()
    );
    assert_eq!(
        times.render_json(&bytes).unwrap(),
        json!([[1.0, 2.0, 3.0, 4.0]])
    );
    assert_eq!(
        format("<4f").render_json(&bytes).unwrap(),
        json!([1.0, 2.0, 3.0, 4.0])
    );
    assert_eq!(format("3*char[8]").length(), Some(24));
    assert_eq!(format("char[8][3]").length(), Some(24));
}

#[test]
fn f32_is_spelt_as_short_as_it_reads_back() {
    let bytes = 0.1f32.to_le_bytes();
    assert_eq!(rendered("<f32", &bytes), "0.1");
    assert_eq!(
        format("<f32").render_json(&bytes).unwrap().to_string(),
        "[0.1]"
    );
}

#[test]
fn what_json_has_no_number_for_is_a_string() {
    let text = "<u128 i128 f64 f64 char[2]";
    let mut bytes = u128::MAX.to_le_bytes().to_vec();
    bytes.extend(i128::MIN.to_le_bytes());
    bytes.extend(f64::INFINITY.to_le_bytes());
    bytes.extend(f64::NAN.to_le_bytes());
    bytes.extend([0xff, 0]);
    let value = format(text).render_json(&bytes).unwrap();
    let (most, least) = (u128::MAX.to_string(), i128::MIN.to_string());
    assert_eq!(value, json!([most, least, "inf", "NaN", {"hex": "ff"}]));
    assert_eq!(parsed(text, &value.to_string()), bytes);
    assert_eq!(parsed(text, &rendered(text, &bytes)), bytes);
}

#[test]
fn integers_take_radices_signs_and_underscores() {
    assert_eq!(parsed(">u32", "0xdead_beef"), [0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(parsed(">i8 i8 u8", "-0x80 +127 0b11"), [0x80, 0x7f, 3]);
    assert_eq!(parsed("<u8", "-0"), [0]);
    assert_eq!(parsed("<u64", "1_000"), 1000u64.to_le_bytes());
    for word in ["--1", "-+1", "_1", "0x", "0x-1", "", "１"] {
        assert!(format("<i32").parse(word.as_bytes()).is_err(), "{word}");
    }
}

#[test]
fn a_refusal_names_the_item_what_was_found_and_an_example() {
    let expected = "expected `<u32 f64 f64` (20 bytes), e.g. `1 2.5 3.5`";
    let text = "<u32 f64 f64";
    assert_eq!(
        refusal(text, "1 abc 3"),
        format!("item 2 `f64`: `abc` is not a number; {expected}")
    );
    assert_eq!(
        refusal(text, "5_000_000_000 2 3"),
        format!(
            "item 1 `u32`: `5_000_000_000` is out of range; u32 holds 0 to 4294967295; {expected}"
        )
    );
    assert_eq!(
        refusal(text, "1.5 2 3"),
        format!("item 1 `u32`: `1.5` is not a whole number; {expected}")
    );
    assert_eq!(
        refusal(text, "1"),
        format!("found 1 value, wanted 3; {expected}")
    );
    assert_eq!(
        format(text).render(&[0; 12]).unwrap_err().to_string(),
        format!("the value has 12 bytes; {expected}")
    );
    assert_eq!(
        refusal("<f32", "1e39"),
        "item 1 `f32`: `1e39` is out of range; f32 holds -3.4028235e38 to 3.4028235e38; \
         expected `<f32` (4 bytes), e.g. `1.5`"
    );
    assert_eq!(
        refusal("i8", "-129"),
        "item 1 `i8`: `-129` is out of range; i8 holds -128 to 127; \
         expected `i8` (1 byte), e.g. `1`"
    );
    assert_eq!(
        refusal("char[4]", "abcde"),
        "item 1 `char[4]`: `abcde` has 5 bytes, which is more than 4; \
         expected `char[4]` (4 bytes), e.g. `text`"
    );
    assert_eq!(
        refusal("bytes[2]", "abcdef"),
        "item 1 `bytes[2]`: `abcdef` has 3 bytes, not 2; expected `bytes[2]` (2 bytes), e.g. `0f0f`"
    );
    assert_eq!(
        format("u8 bool").render(&[1, 2]).unwrap_err().to_string(),
        "item 2 `bool`: the byte 0x02 is neither 0 (false) nor 1 (true); \
         expected `u8 bool` (2 bytes), e.g. `1 true`"
    );
}

#[test]
fn a_refusal_names_the_field() {
    let text = "<lat:f64 lon:f64";
    let expected = "expected `<lat:f64 lon:f64` (16 bytes), e.g. `lat=1.5 lon=2.5`";
    assert_eq!(
        refusal(text, "lat=1"),
        format!("the field `lon` is missing; {expected}")
    );
    assert_eq!(
        refusal(text, "lat=1 lat=2"),
        format!("the field `lat` is given twice; {expected}")
    );
    assert_eq!(
        refusal(text, r#"{"lat": 1, "alt": 2}"#),
        format!("the format has no field `alt`; {expected}")
    );
    assert_eq!(
        refusal(text, "1 lon=2"),
        format!("`1` has no name, but a later value has; {expected}")
    );
    assert_eq!(
        refusal(text, "lat=1,2 lon=3"),
        format!("item 1 `lat:f64`: found 2 elements; {expected}")
    );
    assert_eq!(
        refusal(text, r#"{"lat": null, "lon": 2}"#),
        format!("item 1 `lat:f64`: `null` is not a number; {expected}")
    );
    assert_eq!(
        refusal("<f64 f64", r#"{"lat": 1}"#),
        "`{\"lat\":1}` is an object, but the items have no names; \
         expected `<f64 f64` (16 bytes), e.g. `1.5 2.5`"
    );
}

#[test]
fn text_keeps_every_byte_and_shows_the_invalid_escaped() {
    assert_eq!(parsed("text", "grüß\n"), "grüß\n".as_bytes());
    assert_eq!(rendered("text", b"a\xff\xc3b"), r"a\xff\xc3b");
    assert_eq!(
        format("text").render_json(b"\xff").unwrap(),
        json!({"hex": "ff"})
    );
    assert_eq!(
        format("text").parse(b"ab\xff").unwrap_err().to_string(),
        "byte 2 of 3 is 0xff, which is not UTF-8; `text` takes text, `raw` takes any bytes"
    );
    assert_eq!(format("raw").parse(b"ab\xff").unwrap(), b"ab\xff");
}

#[test]
fn hex_takes_space_and_prefixes() {
    assert_eq!(parsed("hex", " 0x00FF\n 2a 0X01 "), [0, 0xff, 0x2a, 1]);
    assert_eq!(parsed("hex", ""), [] as [u8; 0]);
    assert_eq!(rendered("hex", &[0, 0xff, 0x2a]), "00ff2a");
    assert_eq!(
        refusal("hex", "abc"),
        "`abc` has 3 hexadecimal digits; expected two a byte, as in `00ff 0x2a`"
    );
    assert!(refusal("hex", "é0").contains("found `é`"));
}

#[test]
fn json_is_stored_compact_and_otherwise_unchanged() {
    let text = "{ \"a b\" : [ 1.10, 12345678901234567890123 ],\n\t\"\\\" ,\\\\\" : \" x \" }";
    let stored = parsed("json", text);
    assert_eq!(
        str::from_utf8(&stored).unwrap(),
        r#"{"a b":[1.10,12345678901234567890123],"\" ,\\":" x "}"#
    );
    assert_eq!(format("json").render(&stored).unwrap(), stored);
    assert!(refusal("json", "{\"a\": }").starts_with("7 bytes are not a JSON document: expected"));
    assert!(refusal("json", " ").contains("there is nothing in them"));
    assert!(format("json").render(b"\xff").is_err());
}

#[test]
fn formats_that_mean_nothing_are_refused() {
    use FormatError as E;
    let error = |text: &str| text.parse::<ValueFormat>().unwrap_err();
    assert_eq!(error(" "), E::Empty);
    assert_eq!(error("<"), E::Empty);
    assert_eq!(error("u33"), E::UnknownItem { word: "u33".into() });
    assert_eq!(
        error("4f32[2]"),
        E::UnknownItem {
            word: "4f32[2]".into()
        }
    );
    assert_eq!(error("é"), E::UnknownItem { word: "é".into() });
    assert_eq!(
        error("char"),
        E::NoLength {
            word: "char".into()
        }
    );
    assert_eq!(
        error("2*f32[2]"),
        E::BadCount {
            word: "2*f32[2]".into()
        }
    );
    assert_eq!(
        error("0*u8"),
        E::BadCount {
            word: "0*u8".into()
        }
    );
    assert_eq!(
        error("u8[2"),
        E::BadCount {
            word: "u8[2".into()
        }
    );
    assert_eq!(
        error("u8[2]x"),
        E::BadCount {
            word: "u8[2]x".into()
        }
    );
    assert_eq!(
        error("u8[1][2]"),
        E::BadCount {
            word: "u8[1][2]".into()
        }
    );
    assert_eq!(error("a:u8 u8"), E::PartlyNamed { word: "u8".into() });
    assert_eq!(error("a:u8 a:u8"), E::NameTwice { name: "a".into() });
    assert_eq!(
        error("a:4x"),
        E::NamedPadding {
            word: "a:pad[4]".into()
        }
    );
    assert_eq!(
        error("<a:Id"),
        E::UnknownItem {
            word: "a:Id".into()
        }
    );
    assert_eq!(error("1a:u8"), E::BadName { name: "1a".into() });
    assert_eq!(
        error("a:pad[2]"),
        E::NamedPadding {
            word: "a:pad[2]".into()
        }
    );
    assert_eq!(error("u64[8193]"), E::TooLarge);
    assert_eq!(error("u128[18446744073709551615]"), E::TooLarge);
    assert_eq!(error("<99999999999999999999x"), E::TooLarge);
    assert_eq!(error("<65536d"), E::TooLarge);
    assert_eq!(error("@Id"), E::NativeAlignment { letter: '@' });
    assert_eq!(error("Id"), E::NativeAlignment { letter: 'd' });
    assert_eq!(error("l"), E::AmbiguousLetter { letter: 'l' });
}

#[test]
fn letters_of_python_lie_as_python_has_them() {
    // struct.pack('<B3xhq4s?f', 1, -2, 3, b'ab', True, 0.5)
    let bytes = b"\x01\0\0\0\xfe\xff\x03\0\0\0\0\0\0\0ab\0\0\x01\0\0\0\x3f";
    assert_eq!(rendered("<B3xhq4s?f", bytes), "1 -2 3 ab true 0.5");
    assert_eq!(parsed("<B3xhq4s?f", "1 -2 3 ab true 0.5"), bytes);
    assert_eq!(format("<2l").length(), Some(8));
    assert_eq!(format("I4xd").length(), Some(16));
    assert_eq!(rendered("!n:H", &[1, 2]), "n=258");
}

/// One item of a layout, and bytes that can lie in its place.
fn item() -> impl Strategy<Value = (String, Vec<u8>)> {
    let fixed = |spelling: &'static str, width: usize| {
        (
            Just(spelling.to_owned()),
            prop::collection::vec(any::<u8>(), width),
        )
    };
    let sized = |spelling: &'static str| {
        prop::collection::vec(any::<u8>(), 1..20)
            .prop_map(move |bytes| (format!("{spelling}[{}]", bytes.len()), bytes))
    };
    prop_oneof![
        fixed("u8", 1),
        fixed("i16", 2),
        fixed("u32", 4),
        fixed("i64", 8),
        fixed("u128", 16),
        fixed("i128", 16),
        fixed("u16[3]", 6),
        fixed("f32", 4).prop_filter("NaN", |(_, b)| b[3] & 0x7f != 0x7f && b[0] & 0x7f != 0x7f),
        fixed("f64", 8).prop_filter("NaN", |(_, b)| b[7] & 0x7f != 0x7f && b[0] & 0x7f != 0x7f),
        any::<bool>().prop_map(|value| ("bool".to_owned(), vec![u8::from(value)])),
        sized("char"),
        sized("bytes"),
        "[ -~é\n]{1,9}".prop_map(|text| (format!("char[{}]", text.len()), text.into_bytes())),
        (1usize..5).prop_map(|width| (format!("pad[{width}]"), vec![0; width])),
    ]
}

/// A layout, and a value of it.
fn layout_and_value() -> impl Strategy<Value = (String, Vec<u8>)> {
    (
        prop::sample::select(vec!["<", ">", "=", ""]),
        prop::collection::vec(item(), 1..8),
        any::<bool>(),
    )
        .prop_map(|(order, items, named)| {
            let mut text = order.to_owned();
            let mut value = Vec::new();
            for (index, (spelling, bytes)) in items.iter().enumerate() {
                if named && !spelling.starts_with("pad") {
                    text.push_str(&format!("field_{index}:"));
                }
                text.push_str(spelling);
                text.push(' ');
                value.extend(bytes);
            }
            (text, value)
        })
}

proptest! {
    #[test]
    fn what_is_rendered_parses_back((text, value) in layout_and_value()) {
        let format = format(&text);
        let line = format.render(&value).unwrap();
        let shown = String::from_utf8_lossy(&line);
        prop_assert_eq!(format.parse(&line).unwrap(), &value[..], "{}", shown);
        let json = format.render_json(&value).unwrap().to_string();
        prop_assert_eq!(format.parse(json.as_bytes()).unwrap(), &value[..], "{}", json);
    }

    #[test]
    fn bytes_parse_back_from_raw_and_hex(value in prop::collection::vec(any::<u8>(), 0..100)) {
        for format in [ValueFormat::Raw, ValueFormat::Hex] {
            prop_assert_eq!(format.parse(&format.render(&value).unwrap()).unwrap(), &value[..]);
        }
    }

    #[test]
    fn no_bytes_panic(
        (text, _) in layout_and_value(),
        value in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        for format in [format(&text), ValueFormat::Text, ValueFormat::Json] {
            let _ = format.render(&value);
            let _ = format.render_json(&value);
            let _ = format.parse(&value);
        }
    }

    #[test]
    fn no_text_panics(
        layout in r#"[<>=!@]?([a-z]{0,3}:)?[0-9*]{0,3}[uifbcdxspQ\[\]0-9 é]{0,12}"#,
        line in r#"[-+0-9a-fxe_."\\, ={}\[\]é]{0,20}"#,
    ) {
        if let Ok(format) = layout.parse::<ValueFormat>() {
            let _ = format.parse(line.as_bytes());
        }
        let _ = format("<a:i16 b:char[4]").parse(line.as_bytes());
    }
}
