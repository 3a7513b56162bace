//! Both ways to see a state, over a region in a memfd.

use kstate_sys::abi::Class;
use zerocopy::IntoBytes;

use super::*;
use crate::testing::Region;

#[test]
fn a_state_never_written_is_zeros_of_no_length() {
    let region = Region::new(64);
    let reader = region.reader::<[u64; 8]>(Class::B64);
    let snapshot = reader.snapshot().unwrap();
    assert_eq!((snapshot.value, snapshot.length()), ([0; 8], 0));
    assert!(snapshot.generation().is_never() && snapshot.age().is_none());
    assert!(
        region
            .reader::<Bytes>(Class::B64)
            .snapshot()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn what_is_published_is_read_in_either_way() {
    let region = Region::new(24);
    let state = region.state::<[u64; 3]>(1);
    state.publish(&[1, 2, 3]).unwrap();
    let typed = state.snapshot().unwrap();
    assert_eq!(
        (*typed, typed.generation().0, typed.length()),
        ([1, 2, 3], 1, 24)
    );
    assert!(typed.age().is_some_and(|age| age.as_secs() < 60));
    let bytes = region.reader::<Bytes>(Class::B64);
    assert_eq!(*bytes.snapshot().unwrap(), [1_u64, 2, 3].as_bytes());
    let mut buffer = [0; 30];
    assert_eq!(bytes.snapshot_into(&mut buffer).unwrap().value, 24);
    assert_eq!(buffer[8], 2);
    let mut value = [0; 3];
    assert_eq!(state.snapshot_into(&mut value).unwrap().value, 24);
    assert_eq!(value, [1, 2, 3]);
}

#[test]
fn every_size_of_type_comes_through() {
    fn through<const N: usize>() {
        let region = Region::new(u32::try_from(N).unwrap());
        let state = region.state::<[u8; N]>(1);
        let value = core::array::from_fn(|i| (i % 251).to_le_bytes()[0]);
        state.publish(&value).unwrap();
        assert_eq!(state.snapshot().unwrap().value, value);
        let mut tx = state.begin().unwrap();
        assert_eq!(*tx.get().unwrap(), value);
    }
    through::<1>();
    through::<4>();
    through::<7>();
    through::<8>();
    through::<16>();
    through::<33>();
    through::<64>();
    through::<65>();
    through::<256>();
    through::<257>();
    through::<1024>();
    through::<1025>();
    through::<4096>();
}

#[test]
fn a_version_of_another_length_is_an_error_that_names_both() {
    let region = Region::new(64);
    let bytes = region.state::<Bytes>(1);
    let typed = region.reader::<u64>(Class::B64);
    for length in [0, 7, 9] {
        bytes.publish(&vec![1; length]).unwrap();
        let error = typed.snapshot().unwrap_err();
        let found = u32::try_from(length).unwrap();
        assert!(
            matches!(&error, ReadError::Length { found: f, expected: 8, .. } if *f == found),
            "{length}: {error:?}"
        );
        assert!(error.to_string().contains("u64"), "{error}");
    }
    let mut short = [0; 3];
    let error = region
        .reader::<Bytes>(Class::B64)
        .snapshot_into(&mut short)
        .unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::TooLong {
                length: 9,
                room: 3,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_reader_follows_a_state_that_grows() {
    let region = Region::new(4096);
    let bytes = region.reader::<Bytes>(Class::B64);
    let typed = region.reader::<[u8; 2000]>(Class::B64);
    let state = region.state::<Bytes>(1);
    state.publish(&[3; 2000]).unwrap();
    assert_eq!(bytes.snapshot().unwrap().len(), 2000);
    assert_eq!(typed.snapshot().unwrap().value, [3; 2000]);
    assert_eq!(bytes.clone().snapshot().unwrap().len(), 2000);
}

#[test]
fn a_damaged_region_is_an_error() {
    let region = Region::new(64);
    let state = region.state::<u64>(1);
    state.publish(&5).unwrap();
    // The tag of slot 4, the first of group 1.
    region.scribble(512 + 4 * 64, &99_u64.to_ne_bytes());
    let error = state.snapshot().unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error:?}");
    region.scribble(512 + 4 * 64, &1_u64.to_ne_bytes());
    region.scribble(512 + 4 * 64 + 8, &u32::MAX.to_ne_bytes());
    let error = state.snapshot().unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error:?}");
}
