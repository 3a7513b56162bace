//! Writing: each write is a commit.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use kstate_tests::Setup;
use nix::sys::uio::pwritev;
use nix::unistd::{fdatasync, fsync, syncfs};

use crate::{create, errno, generation, python, replace, value};

both_ways!(
    a_write_after_a_read_is_validated_and_the_loser_gets_estale,
    a_write_without_a_read_goes_into_the_newest_version,
    after_estale_only_reading_offset_0_renews_the_base,
    other_writes_splice_into_the_base,
    a_write_at_the_end_of_what_was_read_replaces_the_value,
    buffers_of_one_writev_are_one_version,
    an_empty_write_is_nothing,
    memory_that_cannot_be_read_is_not_committed,
    a_value_beyond_the_capacity_is_efbig_and_changes_nothing,
    syncing_succeeds_and_commits_nothing,
);

fn a_write_after_a_read_is_validated_and_the_loser_gets_estale(setup: Setup) {
    let daemon = setup.start();
    let winner = create(&daemon, "x");
    winner.write_all_at(b"0", 0).unwrap();
    let loser = create(&daemon, "x");
    let mut byte = [0; 1];
    winner.read_exact_at(&mut byte, 0).unwrap();
    loser.read_exact_at(&mut byte, 0).unwrap();
    winner.write_all_at(b"1", 0).unwrap();
    assert_eq!(errno(loser.write_at(b"2", 0)), libc::ESTALE);
    loser.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(&byte, b"1", "the loser's value was not applied");
    loser.write_all_at(b"2", 0).unwrap();
    loser.write_all_at(b"3", 0).unwrap();
    winner.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(&byte, b"3", "after success the base is one's own version");
}

fn a_write_without_a_read_goes_into_the_newest_version(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let other = create(&daemon, "x");
    file.write_all_at(b"aaaa", 0).unwrap();
    other.write_all_at(b"bb", 1).unwrap();
    file.write_all_at(b"c", 0).unwrap();
    assert_eq!(value(&daemon, "x"), b"cbba");
}

fn after_estale_only_reading_offset_0_renews_the_base(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"ab", 0).unwrap();
    let mut two = [0; 2];
    file.read_exact_at(&mut two, 0).unwrap();
    replace(&daemon, "x", b"cd");
    assert_eq!(errno(file.write_at(b"z", 0)), libc::ESTALE);
    let mut one = [0; 1];
    file.read_exact_at(&mut one, 1).unwrap();
    assert_eq!(&one, b"b", "still the version read first");
    assert_eq!(errno(file.write_at(b"z", 0)), libc::ESTALE);
    file.read_exact_at(&mut two, 0).unwrap();
    file.write_all_at(b"z", 0).unwrap();
}

fn other_writes_splice_into_the_base(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"hello", 0).unwrap();
    file.write_all_at(b"EL", 1).unwrap();
    file.write_all_at(b"!", 6).unwrap();
    assert_eq!(value(&daemon, "x"), b"hELlo\0!");
}

fn a_write_at_the_end_of_what_was_read_replaces_the_value(setup: Setup) {
    let daemon = setup.start();
    let mut file = create(&daemon, "x");
    replace(&daemon, "x", b"long value");
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    file.write_all(b"short").unwrap();
    assert_eq!(value(&daemon, "x"), b"short");
    // The descriptor's offset is behind that now: spliced in, unless it is set back.
    file.write_all(b"!").unwrap();
    assert_eq!(value(&daemon, "x"), b"short\0\0\0\0\0\0\0\0\0\0!");
    // Where nothing was read a write at the end only makes the value longer.
    let mut other = create(&daemon, "x");
    other.seek(SeekFrom::End(0)).unwrap();
    other.write_all(b"?").unwrap();
    assert!(value(&daemon, "x").ends_with(b"!?"));
}

fn buffers_of_one_writev_are_one_version(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let buffers = [IoSlice::new(b"he"), IoSlice::new(b"llo")];
    assert_eq!(pwritev(&file, &buffers, 0), Ok(5));
    assert_eq!(value(&daemon, "x"), b"hello");
    assert_eq!(generation(&daemon, "x"), 1);
    // Each buffer takes a page of the request, of which there are 256.
    let many = [IoSlice::new(b"-"); 200];
    assert_eq!(pwritev(&file, &many, 0), Ok(200));
    assert_eq!(value(&daemon, "x"), [b'-'; 200]);
    assert_eq!(generation(&daemon, "x"), 2);
}

fn an_empty_write_is_nothing(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    assert_eq!(file.write_at(b"", 0).unwrap(), 0);
    assert_eq!(file.write_at(b"", 1 << 40).unwrap(), 0);
    assert_eq!(generation(&daemon, "x"), 0);
    file.write_all_at(b"1", 0).unwrap();
    let mut byte = [0; 1];
    file.read_exact_at(&mut byte, 0).unwrap();
    replace(&daemon, "x", b"2");
    assert_eq!(file.write_at(b"", 0).unwrap(), 0, "nor is it validated");
    assert_eq!(generation(&daemon, "x"), 2);
}

fn memory_that_cannot_be_read_is_not_committed(setup: Setup) {
    let daemon = setup.start();
    let keep = create(&daemon, "x");
    keep.write_all_at(b"kept", 0).unwrap();
    let program = "
file = os.open(path, os.O_RDWR)
bad = ctypes.c_void_p(8)
print(said(lambda: call('write', file, bad, ctypes.c_size_t(3))))
print(said(lambda: call('read', file, bad, ctypes.c_size_t(3))))
print(os.getxattr(file, 'user.kstate.generation').decode())
# Two pages, the second of which nobody may touch.
page = os.sysconf('SC_PAGE_SIZE')
pages = mmap.mmap(-1, 2 * page)
pages[page - 2:page] = b'KE'
start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
call('mprotect', ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0)
print(call('write', file, ctypes.c_void_p(start + page - 2), ctypes.c_size_t(4)))
";
    assert_eq!(python(program, &daemon.file("x")), "EFAULT\nEFAULT\n1\n2\n");
    assert_eq!(value(&daemon, "x"), b"KEpt");
    assert_eq!(generation(&daemon, "x"), 2);
}

fn a_value_beyond_the_capacity_is_efbig_and_changes_nothing(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"kept", 0).unwrap();
    let page = usize::try_from(kstate_sys::abi::page_size()).unwrap();
    assert_eq!(errno(file.write_at(&vec![0; page + 1], 0)), libc::EFBIG);
    assert_eq!(errno(file.write_at(b"xx", page as u64 - 1)), libc::EFBIG);
    assert_eq!(errno(file.write_at(b"x", page as u64)), libc::EFBIG);
    assert_eq!(errno(file.write_at(b"x", 1 << 40)), libc::EFBIG);
    assert_eq!(value(&daemon, "x"), b"kept");
    file.write_all_at(&vec![7; page], 0).unwrap();
    assert_eq!(value(&daemon, "x"), vec![7; page]);
}

fn syncing_succeeds_and_commits_nothing(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let mut options = OpenOptions::new();
    let writer = options.write(true).open(daemon.file("x")).unwrap();
    let reader = File::open(daemon.file("x")).unwrap();
    let directory = File::open(daemon.mount()).unwrap();
    for _ in 0..2 {
        for descriptor in [&file, &writer, &reader, &directory] {
            assert_eq!(fsync(descriptor), Ok(()));
            assert_eq!(fdatasync(descriptor), Ok(()));
            assert_eq!(syncfs(descriptor), Ok(()));
        }
        file.write_all_at(b"1", 0).unwrap();
    }
    assert_eq!(generation(&daemon, "x"), 2);
}
