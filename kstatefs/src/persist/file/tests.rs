use std::fs::File;
use std::os::unix::fs::FileExt;

use super::super::error::CopyError;
use super::super::format::tests::image;
use super::*;

fn version(generation: u64, length: usize) -> Image {
    let value = vec![u8::try_from(generation).unwrap(); length];
    Image {
        generation,
        value,
        ..image()
    }
}

fn file() -> File {
    tempfile::tempfile().unwrap()
}

fn generation(file: &File) -> u64 {
    StateFile::recover(file).unwrap().1.generation
}

#[test]
fn what_was_saved_last_is_recovered() {
    let file = file();
    let mut saved = StateFile::initialise(&file, &version(1, 10)).unwrap();
    assert_eq!(StateFile::recover(&file).unwrap().1, version(1, 10));
    assert_eq!(saved.save(&version(2, 4096)).unwrap(), 8192);
    assert_eq!(saved.save(&version(3, 10)).unwrap(), 4096);
    let (mut again, found) = StateFile::recover(&file).unwrap();
    assert_eq!(found, version(3, 10));
    assert_eq!(again.file_id(), saved.file_id());
    // The version that was found, too: nobody knows whether the disk has it.
    assert_eq!(again.save(&version(4, 0)).unwrap(), 8192);
    assert_eq!(again.save(&version(5, 0)).unwrap(), 4096);
    assert_eq!(generation(&file), 5);
    assert_eq!(again.room(), page_size());
}

#[test]
fn a_save_leaves_length_and_blocks_of_the_file_as_they_were() {
    use std::os::unix::fs::MetadataExt;
    let file = file();
    let mut saved = StateFile::initialise(&file, &version(1, 1)).unwrap();
    let before = file.metadata().unwrap();
    assert_eq!(before.len(), 2 * (4096 + u64::from(page_size())));
    assert!(before.blocks() * 512 >= before.len(), "all is allocated");
    for (generation, length) in [(2, 4096), (3, 1), (4, 4096), (5, 300)] {
        saved.save(&version(generation, length)).unwrap();
        let after = file.metadata().unwrap();
        assert_eq!(
            (after.len(), after.blocks()),
            (before.len(), before.blocks())
        );
    }
}

#[test]
fn a_value_too_long_for_the_file_is_refused_and_changes_nothing() {
    let file = file();
    let mut saved = StateFile::initialise(&file, &version(1, 1)).unwrap();
    let error = saved
        .save(&version(2, page_size() as usize + 1))
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(generation(&file), 1);
    saved.save(&version(3, 1)).unwrap();
    assert_eq!(generation(&file), 3);
}

#[test]
fn a_file_of_a_machine_with_other_pages_is_read_and_saved_to() {
    let file = file();
    let area = format::area_of_page(16384);
    for (index, sequence) in [(0, 1), (1, 2)] {
        let value = version(sequence, 16384);
        let bytes = format::encode(&value, [9; 16], sequence, area, index).unwrap();
        file.write_all_at(&bytes, u64::from(area) * index as u64)
            .unwrap();
    }
    let (mut saved, found) = StateFile::recover(&file).unwrap();
    assert_eq!(found, version(2, 16384));
    assert_eq!(saved.room(), 16384);
    saved.save(&version(3, 16384)).unwrap();
    assert_eq!(generation(&file), 3);
    file.write_all_at(&[0], 0).unwrap();
    assert_eq!(
        generation(&file),
        2,
        "the second copy is found without the first"
    );
}

#[test]
fn a_file_that_lost_its_end_still_serves_its_first_copy() {
    let file = file();
    let mut saved = StateFile::initialise(&file, &version(1, 1)).unwrap();
    saved.save(&version(2, 1)).unwrap();
    file.set_len(5000).unwrap();
    let (mut saved, found) = StateFile::recover(&file).unwrap();
    assert_eq!(found.generation, 1);
    saved.save(&version(3, 1)).unwrap();
    assert_eq!(generation(&file), 3);
}

#[test]
fn a_version_to_come_is_refused_whatever_the_other_copy_says() {
    for index in 0..2 {
        let file = file();
        let saved = StateFile::initialise(&file, &version(1, 1)).unwrap();
        file.write_all_at(&[2], saved.offset(index) + 8).unwrap();
        let error = StateFile::recover(&file).unwrap_err();
        assert!(matches!(error, FileError::Version { found: 2 }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("version 2") && text.contains("version 1"),
            "{text}"
        );
    }
}

#[test]
fn copies_of_two_files_are_never_taken_for_one() {
    let (ours, theirs) = (file(), file());
    let saved = StateFile::initialise(&ours, &version(1, 1)).unwrap();
    let mut foreign = StateFile::initialise(&theirs, &version(2, 1)).unwrap();
    foreign.save(&version(3, 1)).unwrap();
    let mut block = [0; 4096];
    theirs.read_exact_at(&mut block, saved.offset(1)).unwrap();
    ours.write_all_at(&block, saved.offset(1)).unwrap();
    let error = StateFile::recover(&ours).unwrap_err();
    assert!(matches!(error, FileError::TwoFiles), "{error}");
}

#[test]
fn a_value_that_looks_like_a_copy_is_not_taken_for_one() {
    // Where the second copy of a file of small pages would be lies the value of one of big pages.
    let file = file();
    let forged = format::encode(&version(99, 1), [1; 16], 99, 8192, 1).unwrap();
    let area = format::area_of_page(65536);
    let mut value = vec![0; 65536];
    let at = 8192 - (160 + "robot.gps[u8;4]".len());
    value[at..at + 4096].copy_from_slice(&forged);
    let whole = Image {
        generation: 1,
        value,
        ..image()
    };
    for (index, sequence) in [(0, 2), (1, 1)] {
        let bytes = format::encode(&whole, [9; 16], sequence, area, index).unwrap();
        file.write_all_at(&bytes, u64::from(area) * index as u64)
            .unwrap();
    }
    assert_eq!(generation(&file), 1);
    file.write_all_at(&[0], 0).unwrap();
    assert_eq!(generation(&file), 1);
    file.write_all_at(&[0], u64::from(area)).unwrap();
    assert!(StateFile::recover(&file).is_err());
}

#[test]
fn what_is_no_file_of_a_state_says_so() {
    let file = file();
    assert!(matches!(StateFile::recover(&file), Err(FileError::Empty)));
    file.write_all_at(b"#!/bin/sh\n", 0).unwrap();
    assert!(matches!(
        StateFile::recover(&file),
        Err(FileError::NotAStateFile)
    ));
    file.set_len(16384).unwrap();
    assert!(matches!(
        StateFile::recover(&file),
        Err(FileError::NotAStateFile)
    ));
    file.set_len(1 << 40).unwrap();
    assert!(matches!(
        StateFile::recover(&file),
        Err(FileError::NotAStateFile)
    ));
    let error = StateFile::initialise(&file, &version(1, 1)).unwrap_err();
    assert!(matches!(error, FileError::NotEmpty { .. }), "{error}");
}

#[test]
fn both_copies_damaged_are_told_of_one_by_one() {
    let file = file();
    let saved = StateFile::initialise(&file, &version(1, 1)).unwrap();
    for index in 0..2 {
        file.write_all_at(b"x", saved.offset(index) + 170).unwrap();
    }
    let error = StateFile::recover(&file).unwrap_err();
    let FileError::Damaged { first, second } = &error else {
        panic!("{error}");
    };
    assert!(matches!(first, CopyError::Checksum { .. }), "{first}");
    assert!(matches!(second, CopyError::Checksum { .. }), "{second}");
}
