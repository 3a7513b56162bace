use proptest::prelude::*;
use serde_json::json;

use super::*;

fn name() -> StateName {
    StateName::new("robot.gps").unwrap()
}

fn image() -> Image {
    Image {
        name: name(),
        generation: u64::MAX,
        ceiling: u64::MAX,
        clean: true,
        mode: 0o1640,
        uid: 1000,
        gid: 100,
        capacity: 64,
        layout: Some((0x0123_4567_89ab_cdef, "A{a:u16@0,b:f32@2}#6".into())),
        linger: Duration::from_millis(1500),
        deadline: Some(Duration::from_nanos(1)),
        announce: 3,
        within: Duration::from_millis(10),
        time: Some(Duration::new(1_795_664_832, 5)),
        value: vec![1, 0, 0, 0, 0xc0, 0x3f],
    }
}

fn read_back(document: &Value) -> Result<Image, String> {
    let read = Exported::parse(document.to_string().as_bytes());
    let image = read.and_then(|read| read.image(name()));
    image.map_err(|error| error.to_string())
}

#[test]
fn a_document_has_everything_and_the_fields_of_the_value() {
    assert_eq!(
        Exported::of(&image()).to_json(),
        json!({
            "format": "kstate-export/1",
            "name": "robot.gps",
            "generation": u64::MAX,
            "layout": {"id": "0123456789abcdef", "text": "A{a:u16@0,b:f32@2}#6"},
            "time": "2026-11-26T03:47:12.000000005Z",
            "length": 6,
            "value": {"a": 1, "b": 1.5},
            "hex": "01000000c03f",
            "capacity": 64,
            "mode": "1640",
            "uid": 1000,
            "gid": 100,
            "linger_ns": 1_500_000_000,
            "deadline_ns": 1,
            "announce": "kbus,dbus",
            "within_ns": 10_000_000,
            "ceiling": u64::MAX,
            "clean": true,
        })
    );
    assert_eq!(
        read_back(&Exported::of(&image()).to_json()).unwrap(),
        image()
    );
}

#[test]
fn a_document_by_hand_needs_a_value_and_little_else() {
    let text = "A{a:u16@0,b:f32@2}#6";
    let read = read_back(&json!({
        "format": "kstate-export/1", "name": "x",
        "layout": {"id": "1", "text": text}, "value": {"a": 1, "b": 1.5},
    }));
    let read = read.unwrap();
    assert_eq!(read.value, image().value);
    assert_eq!(
        (read.generation, read.ceiling, read.mode, read.capacity),
        (1, 1, 0o644, 6)
    );
    let read = read_back(&json!({"format": "kstate-export/1", "name": "x", "hex": "00 ff"}));
    assert_eq!(read.unwrap().value, [0, 0xff]);
}

#[test]
fn a_value_told_twice_has_to_be_the_same_but_not_spelt_the_same() {
    let mut document = Exported::of(&image()).to_json();
    document["value"] = json!({"b": "1.50", "a": "0x1"});
    assert_eq!(read_back(&document).unwrap(), image());
    document["value"]["a"] = json!(2);
    assert!(
        read_back(&document)
            .unwrap_err()
            .contains("take out the one")
    );
    // A NaN whose bits have no spelling.
    let odd = Image {
        value: vec![1, 0, 1, 0, 0xc0, 0x7f],
        ..image()
    };
    assert_eq!(read_back(&Exported::of(&odd).to_json()).unwrap(), odd);
}

#[test]
fn what_cannot_be_imported_says_why() {
    let good = Exported::of(&image()).to_json();
    for (field, value, said) in [
        (
            "format",
            json!("kstate-export/2"),
            "reads `kstate-export/1`",
        ),
        ("format", json!(null), "no `format`"),
        ("time", json!("yesterday"), "2026-11-26"),
        ("mode", json!("rw-r--r--"), "octal"),
        ("announce", json!("mqtt"), "kbus"),
        ("length", json!(7), "has 6 bytes"),
        ("hex", json!("0"), "two a byte"),
        ("layout", json!({"id": "x", "text": ""}), "hexadecimal"),
        ("generation", json!(-1), "-1"),
        ("colour", json!("red"), "colour"),
    ] {
        let mut document = good.clone();
        document[field] = value;
        let error = read_back(&document).unwrap_err();
        assert!(error.contains(said), "{field}: {error}");
    }
    let mut document = good.clone();
    document.as_object_mut().unwrap().remove("hex");
    document["layout"] = json!(null);
    assert!(read_back(&document).unwrap_err().contains("no `layout`"));
    document.as_object_mut().unwrap().remove("value");
    assert!(read_back(&document).unwrap_err().contains("neither"));
    assert!(
        Exported::parse(b"\x00")
            .unwrap_err()
            .to_string()
            .contains("--raw")
    );
}

proptest! {
    #[test]
    fn every_value_comes_back(value in proptest::collection::vec(any::<u8>(), 0..100), layout: bool) {
        let layout = layout.then(|| (1, format!("[f64;{}]", value.len() / 8)));
        let image = Image { value, layout, ..image() };
        prop_assert_eq!(read_back(&Exported::of(&image).to_json()), Ok(image));
    }
}
