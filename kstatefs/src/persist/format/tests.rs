use proptest::prelude::*;

use super::*;

pub(in crate::persist) fn image() -> Image {
    Image {
        name: StateName::new("robot.gps").unwrap(),
        generation: 7,
        ceiling: 1007,
        clean: false,
        mode: 0o1640,
        uid: 1000,
        gid: 100,
        capacity: 64,
        layout: Some((0x1234_5678_9abc_def0, "[u8;4]".into())),
        linger: Duration::from_millis(1500),
        deadline: Some(Duration::from_nanos(1)),
        announce: 3,
        within: Duration::ZERO,
        time: Some(Duration::new(1_800_000_000, 999_999_999)),
        value: b"abcd".to_vec(),
    }
}

fn any_image() -> impl Strategy<Value = Image> {
    let duration = || (any::<u64>(), 0..1_000_000_000u32).prop_map(|(s, ns)| Duration::new(s, ns));
    let layout = proptest::option::of((any::<u64>(), "[a-zé]{0,480}"));
    let numbers = (any::<u64>(), any::<u64>(), any::<bool>(), any::<[u32; 5]>());
    let times = (
        duration(),
        proptest::option::of(duration()),
        duration(),
        proptest::option::of(duration()),
    );
    let value = proptest::collection::vec(any::<u8>(), 0..=4096);
    (
        "[a-z]{1,100}(\\.[0-9]{1,100})?",
        numbers,
        layout,
        times,
        value,
    )
        .prop_map(
            |(name, (generation, ceiling, clean, bits), layout, times, value)| Image {
                name: StateName::new(name).unwrap(),
                generation,
                ceiling,
                clean,
                mode: bits[0],
                uid: bits[1],
                gid: bits[2],
                capacity: bits[3],
                layout,
                linger: times.0,
                deadline: times.1,
                announce: bits[4],
                within: times.2,
                time: times.3,
                value,
            },
        )
}

#[test]
fn a_small_state_is_one_block_and_a_page_of_value_fits_beside_the_longest_name_and_layout() {
    for page in [4096, 16384, 65536] {
        let area = area_of_page(page);
        assert_eq!(page_of_area(area), Some(page));
        assert_eq!(encode(&image(), [1; 16], 1, area, 0).unwrap().len(), 4096);
        let mut most = image();
        most.name = StateName::new("n".repeat(MAX_NAME_BYTES)).unwrap();
        most.layout = Some((1, "l".repeat(LAYOUT_TEXT_BYTES)));
        most.value = vec![0xff; page as usize];
        let bytes = encode(&most, [1; 16], 1, area, 1).unwrap();
        assert_eq!(bytes.len(), area as usize, "the whole area and no more");
        assert_eq!(decode(&bytes, 1).unwrap().image, most);
        most.value.push(0);
        let refused = encode(&most, [1; 16], 1, area, 1).unwrap_err().to_string();
        assert!(refused.contains(&format!("room for {page}")), "{refused}");
    }
    for area in [0, 4096, 4097, 6144, 12288 + 1, 4096 + 131_072, u32::MAX] {
        assert_eq!(page_of_area(area), None, "{area}");
    }
}

#[test]
fn the_bytes_of_a_copy_are_those_of_the_table() {
    let bytes = encode(&image(), [0xaa; 16], 5, 8192, 1).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(&bytes[..8], b"kstfile\xb5");
    assert_eq!(word(8), 1);
    assert_eq!(bytes[16..32], [0xaa; 16]);
    assert_eq!([long(32), long(40), long(48)], [5, 7, 1007]);
    assert_eq!(long(56), 0x1234_5678_9abc_def0);
    assert_eq!(
        [long(64), long(72), long(80), long(88)],
        [1, 0, 0, 1_800_000_000]
    );
    assert_eq!(
        [word(96), word(100), word(104), word(108)],
        [500_000_000, 1, 0, 999_999_999]
    );
    assert_eq!([word(112), word(116), word(120)], [8192, 1, 2 | 4 | 8]);
    assert_eq!(
        [word(124), word(128), word(132), word(136)],
        [0o1640, 1000, 100, 64]
    );
    assert_eq!(
        [word(140), word(144), word(148), word(152), word(156)],
        [3, 9, 6, 4, 0]
    );
    assert_eq!(&bytes[160..179], b"robot.gps[u8;4]abcd");
    assert!(bytes[179..].iter().all(|byte| *byte == 0));
    let counted = [&bytes[..12], &bytes[16..179]].concat();
    assert_eq!(word(12), crc32c::crc32c(&counted));
    // The check value of CRC-32C (RFC 3720, B.4).
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn each_bit_of_a_copy_counts() {
    let whole = encode(&image(), [7; 16], 5, 8192, 0).unwrap();
    let length = HEAD_BYTES + "robot.gps[u8;4]abcd".len();
    for bit in 0..length * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bytes, 0).is_err(), "bit {bit}");
    }
}

#[test]
fn what_no_program_of_this_version_writes_is_refused_under_a_good_checksum_too() {
    let whole = encode(&image(), [7; 16], 5, 8192, 0).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        let (head, content) = Head::read_from_prefix(&bytes).unwrap();
        let sum = checksum(&head, &content[..19]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        decode(&bytes, 0)
    };
    assert!(
        with(179, 1).is_ok(),
        "what is behind the value does not count"
    );
    assert!(matches!(with(116, 1), Err(CopyError::Misplaced)));
    for (at, byte) in [
        (120, 16),
        (99, 0xff),
        (156, 1),
        (113, 0),
        (161, b'@'),
        (169, 0xff),
    ] {
        let decoded = with(at, byte);
        assert!(
            matches!(decoded, Err(CopyError::Field { .. })),
            "{at}: {decoded:?}"
        );
    }
}

#[test]
fn a_copy_that_is_cut_anywhere_is_none() {
    let bytes = encode(&image(), [7; 16], 5, 8192, 0).unwrap();
    for cut in 0..179 {
        assert!(decode(&bytes[..cut], 0).is_err(), "{cut}");
    }
    assert!(decode(&bytes[..179], 0).is_ok());
}

proptest! {
    #[test]
    fn every_image_comes_back_as_it_was(image in any_image(), sequence: u64, id: [u8; 16]) {
        let bytes = encode(&image, id, sequence, 8192, 1).unwrap();
        prop_assert_eq!(bytes.len() % 4096, 0);
        let copy = decode(&bytes, 1).unwrap();
        prop_assert_eq!(copy, Copy { file_id: id, sequence, area: 8192, image });
    }

    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), head: bool, index in 0..2usize) {
        if head && bytes.len() >= 12 {
            bytes[..8].copy_from_slice(&MARK);
            bytes[8..12].copy_from_slice(&FILE_VERSION.to_le_bytes());
        }
        prop_assert!(decode(&bytes, index).is_err());
    }

    #[test]
    fn no_head_under_a_good_checksum_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 400),
        lengths in [0..20u8, 0..20u8, 0..200u8],
        valid: bool,
    ) {
        bytes[..8].copy_from_slice(&MARK);
        bytes[8..12].copy_from_slice(&FILE_VERSION.to_le_bytes());
        bytes[112..116].copy_from_slice(&8192u32.to_le_bytes());
        let mut length = 0;
        for (at, one) in [144, 148, 152].into_iter().zip(lengths) {
            bytes[at..at + 4].copy_from_slice(&u32::from(one).to_le_bytes());
            length += usize::from(one);
        }
        if valid {
            bytes[116..124].copy_from_slice(&[0; 8]);
        }
        let (head, content) = Head::read_from_prefix(&bytes).unwrap();
        let sum = checksum(&head, &content[..length]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        let _ = decode(&bytes, 0);
    }
}
