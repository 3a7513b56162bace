//! Reading: one version at a time.

use std::fs::{File, OpenOptions};
use std::io::{IoSliceMut, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use kstate_tests::Setup;
use nix::errno::Errno;
use nix::sys::uio::preadv;
use nix::unistd::{Whence, lseek};

use crate::polling::readable;
use crate::{create, errno, python, replace};

both_ways!(
    a_state_nobody_wrote_reads_as_nothing_and_is_not_readable,
    a_write_is_one_version_and_a_read_gives_it_whole,
    later_reads_go_on_in_the_version_read_at_offset_0,
    a_first_read_elsewhere_takes_the_newest_version_too,
    a_read_gives_at_most_what_is_left_of_the_version,
    buffers_of_one_readv_are_filled_from_one_version,
    offsets_are_the_kernels_and_the_end_is_the_newest_versions,
    a_version_is_data_up_to_its_end_and_has_no_holes,
    o_direct_changes_nothing_and_asks_for_no_alignment,
);

fn a_state_nobody_wrote_reads_as_nothing_and_is_not_readable(setup: Setup) {
    let daemon = setup.start();
    let mut file = create(&daemon, "x");
    let mut text = String::new();
    assert_eq!(file.read_to_string(&mut text).unwrap(), 0);
    assert_eq!(file.metadata().unwrap().len(), 0);
    assert!(!readable(&file, Duration::ZERO));
}

fn a_write_is_one_version_and_a_read_gives_it_whole(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let mut options = OpenOptions::new();
    let writer = options.write(true).open(daemon.file("x")).unwrap();
    writer.write_all_at(b"first", 0).unwrap();
    let mut bytes = [0; 64];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 5);
    assert_eq!(&bytes[..5], b"first");
    assert_eq!(file.metadata().unwrap().len(), 5);
    assert_eq!(errno(writer.read_at(&mut bytes, 0)), libc::EBADF);
}

fn later_reads_go_on_in_the_version_read_at_offset_0(setup: Setup) {
    let daemon = setup.start();
    let mut file = create(&daemon, "x");
    replace(&daemon, "x", b"aaaa");
    let mut two = [0; 2];
    file.read_exact(&mut two).unwrap();
    replace(&daemon, "x", b"bbbbbb");
    file.read_exact(&mut two).unwrap();
    assert_eq!(&two, b"aa", "the same version, though a newer one exists");
    assert_eq!(file.read(&mut two).unwrap(), 0, "and it ends where it did");
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_exact(&mut two).unwrap();
    assert_eq!(&two, b"bb");
}

fn a_first_read_elsewhere_takes_the_newest_version_too(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    replace(&daemon, "x", b"abc");
    let mut one = [0; 1];
    file.read_exact_at(&mut one, 1).unwrap();
    assert_eq!(&one, b"b");
    replace(&daemon, "x", b"xyz");
    file.read_exact_at(&mut one, 1).unwrap();
    assert_eq!(&one, b"b");
    assert_eq!(errno(file.write_at(b"-", 1)), libc::ESTALE);
}

fn a_read_gives_at_most_what_is_left_of_the_version(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    replace(&daemon, "x", b"hello");
    let mut bytes = [b'-'; 64];
    assert_eq!(file.read_at(&mut bytes[..3], 0).unwrap(), 3);
    assert_eq!(file.read_at(&mut bytes[3..], 3).unwrap(), 2);
    assert_eq!(&bytes[..6], b"hello-", "nothing is written behind it");
    for (offset, left) in [(0, 5), (4, 1), (5, 0), (6, 0), (1 << 40, 0)] {
        let read = file.read_at(&mut [0; 64], offset);
        assert_eq!(read.unwrap(), left, "from {offset}");
    }
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
}

fn buffers_of_one_readv_are_filled_from_one_version(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    replace(&daemon, "x", b"hello");
    let (mut first, mut second) = ([0; 2], [0; 64]);
    let mut buffers = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    assert_eq!(preadv(&file, &mut buffers, 0), Ok(5));
    assert_eq!((&first, &second[..4]), (b"he", &b"llo\0"[..]));
}

fn offsets_are_the_kernels_and_the_end_is_the_newest_versions(setup: Setup) {
    let daemon = setup.start();
    let mut file = create(&daemon, "x");
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    state.publish(b"hello").unwrap();
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 5);
    state.publish(b"longer value").unwrap();
    assert_eq!(file.seek(SeekFrom::End(-5)).unwrap(), 7);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "value");
    assert_eq!(file.stream_position().unwrap(), 12);
    assert_eq!(file.seek(SeekFrom::Current(-12)).unwrap(), 0);
    assert_eq!(errno(file.seek(SeekFrom::Current(-1))), libc::EINVAL);
    // Behind the end there is nothing, and no error.
    assert_eq!(file.seek(SeekFrom::Start(5000)).unwrap(), 5000);
    assert_eq!(file.read(&mut [0; 8]).unwrap(), 0);
}

fn a_version_is_data_up_to_its_end_and_has_no_holes(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let data = |offset| lseek(&file, offset, Whence::SeekData);
    let hole = |offset| lseek(&file, offset, Whence::SeekHole);
    assert_eq!(data(0), Err(Errno::ENXIO));
    replace(&daemon, "x", b"a\0\0\0b");
    assert_eq!((data(0), data(2), data(4)), (Ok(0), Ok(2), Ok(4)));
    assert_eq!((hole(0), hole(4)), (Ok(5), Ok(5)));
    assert_eq!((data(5), hole(5)), (Err(Errno::ENXIO), Err(Errno::ENXIO)));
}

fn o_direct_changes_nothing_and_asks_for_no_alignment(setup: Setup) {
    let daemon = setup.start();
    let keep = create(&daemon, "x");
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .truncate(false);
    let direct: File = options.open(daemon.file("x")).unwrap();
    direct.write_all_at(b"hello", 0).unwrap();
    direct.write_all_at(b"EL", 1).unwrap();
    let mut three = [0; 3];
    direct.read_exact_at(&mut three, 1).unwrap();
    assert_eq!(&three, b"ELl");
    keep.write_all_at(b"later", 0).unwrap();
    assert_eq!(errno(direct.write_at(b"x", 0)), libc::ESTALE);
    // Set later, on a descriptor that has it not.
    let program = "
file = os.open(path, os.O_RDONLY)
fcntl.fcntl(file, fcntl.F_SETFL, os.O_DIRECT)
print(os.pread(file, 3, 1).decode())
";
    assert_eq!(python(program, &daemon.file("x")), "ate\n");
}
