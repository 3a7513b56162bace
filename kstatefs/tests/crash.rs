//! Power fails at each step of writing a state's file, and what the disk may have then is recovered: a
//! version that was saved, byte for byte, and never one older than the last that was said to be kept.
//!
//! What the disk may have is the model in `crash/disk.rs`; the histories are run by `crash/history.rs`
//! over the medium in `crash/recorder.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "crash/disk.rs"]
mod disk;
#[path = "crash/history.rs"]
mod history;
#[path = "crash/recorder.rs"]
mod recorder;

use kstatefs::persist::{StateFile, inspect};
use proptest::prelude::*;

use history::{Fault, History, Step, Torn, version};
use recorder::Recorder;

/// One block, one block to its last byte, the least that takes two, and a whole page.
const LENGTHS: [usize; 4] = [10, 3927, 3928, 4096];

fn save(length: usize) -> Step {
    Step::Save {
        length,
        fault: None,
    }
}

fn fails(length: usize, at: usize, written: usize) -> Step {
    let fault = Some(Fault { at, written });
    Step::Save { length, fault }
}

#[test]
fn power_may_fail_at_any_byte_of_saves_that_go_well() {
    let steps = LENGTHS.into_iter().chain([10, 4096, 4096, 0]).map(save);
    let steps = [Step::Initialise { fault: None }].into_iter().chain(steps);
    let checked = History::run(steps).check(Torn::AtEachByte);
    assert!(checked > 100_000, "{checked} crashes");
}

#[test]
fn power_may_fail_after_writes_and_syncs_that_failed() {
    let steps = [
        Step::Initialise { fault: None },
        save(10),
        // A write that fails half way, with more written than what is tried next.
        fails(4096, 0, 5000),
        save(10),
        // Syncs that fail: what they were for is lost unless it is written again.
        fails(4096, 1, 0),
        fails(10, 1, 0),
        fails(3928, 0, 100),
        save(4096),
        fails(10, 1, 0),
        save(0),
        save(4096),
    ];
    History::run(steps).check(Torn::AtEachByte);
}

#[test]
fn power_may_fail_after_a_daemon_that_found_what_only_memory_had() {
    let steps = [
        Step::Initialise { fault: None },
        save(4096),
        // What memory has is the version of the failed sync, and that is what is recovered.
        fails(10, 1, 0),
        Step::Restart,
        save(10),
        fails(4096, 1, 0),
        Step::Restart,
        // Not even what was recovered can be made sure of, twice; then it can, but no more.
        fails(10, 1, 0),
        Step::Restart,
        fails(10, 0, 4000),
        fails(10, 3, 0),
        Step::Restart,
        Step::Settle,
        save(4096),
    ];
    History::run(steps).check(Torn::AtEachByte);
}

#[test]
fn a_file_that_could_not_be_made_at_first_is_made_again() {
    let steps = [
        Step::Initialise {
            fault: Some(Fault {
                at: 0,
                written: 9000,
            }),
        },
        Step::Initialise {
            fault: Some(Fault { at: 1, written: 0 }),
        },
        Step::Initialise { fault: None },
        save(10),
    ];
    History::run(steps).check(Torn::Here(61));
}

#[test]
fn a_stale_block_of_another_file_never_passes() {
    let version = |generation| version(generation, 10);
    let theirs = Recorder::default();
    let mut other = StateFile::initialise(&theirs, &version(90)).unwrap();
    for generation in 91..95 {
        other.save(&version(generation)).unwrap();
    }
    let theirs = theirs.memory();
    let ours = Recorder::default();
    let mut file = StateFile::initialise(&ours, &version(1)).unwrap();
    for generation in 2..5 {
        file.save(&version(generation)).unwrap();
        for block in 0..theirs.len() / 4096 {
            let range = block * 4096..(block + 1) * 4096;
            let mut mixed = ours.memory();
            mixed[range.clone()].copy_from_slice(&theirs[range]);
            if let Ok((_, image)) = StateFile::recover(&Recorder::with(mixed)) {
                assert_eq!(image, version(generation), "block {block}");
            }
        }
    }
}

/// A file with the versions 1 to 4 saved to it, two of which are still there.
fn four_saved() -> Vec<u8> {
    let recorder = Recorder::default();
    let mut file = StateFile::initialise(&recorder, &version(1, 10)).unwrap();
    for (generation, length) in [(2, 10), (3, 4096), (4, 700)] {
        file.save(&version(generation, length)).unwrap();
    }
    recorder.memory()
}

fn any_step() -> impl Strategy<Value = Step> {
    let length = || proptest::sample::select(LENGTHS.to_vec());
    let fault = (0..4usize, 0..9000usize).prop_map(|(at, written)| Fault { at, written });
    prop_oneof![
        3 => length().prop_map(save),
        3 => (length(), fault).prop_map(|(length, fault)| Step::Save { length, fault: Some(fault) }),
        1 => Just(Step::Restart),
        1 => Just(Step::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn power_may_fail_anywhere_in_any_history(
        steps in proptest::collection::vec(any_step(), 1..8),
    ) {
        let steps = [Step::Initialise { fault: None }].into_iter().chain(steps);
        History::run(steps).check(Torn::Here(509));
    }

    #[test]
    fn a_file_that_was_written_over_fails_or_gives_a_version_that_was_saved(
        at: prop::sample::Index,
        bytes in proptest::collection::vec(any::<u8>(), 1..40),
        flips in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
    ) {
        let mut file = four_saved();
        let at = at.index(file.len());
        for (place, byte) in file[at..].iter_mut().zip(&bytes) {
            *place = *byte;
        }
        for (index, bits) in flips {
            let index = index.index(file.len());
            file[index] ^= bits;
        }
        if let Ok((_, image)) = StateFile::recover(&Recorder::with(file)) {
            prop_assert!(image == version(3, 4096) || image == version(4, 700), "{image:?}");
        }
    }

    #[test]
    fn no_bytes_make_recovery_or_inspection_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..20_000),
        marks in any::<[bool; 2]>(),
        whole: bool,
    ) {
        let area = 8192;
        if whole {
            bytes.resize(2 * area, 0);
        }
        let head = &four_saved()[..12];
        for (index, is_marked) in marks.into_iter().enumerate() {
            if is_marked && let Some(start) = bytes.get_mut(index * area..index * area + 12) {
                start.copy_from_slice(head);
            }
        }
        let recorder = Recorder::with(bytes.clone());
        prop_assert!(inspect(&recorder).unwrap().counts().is_none());
        prop_assert!(StateFile::recover(&recorder).is_err());
        prop_assert_eq!(recorder.memory(), bytes, "nothing is written");
    }
}
