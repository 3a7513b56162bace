//! Capacity, length, padding.

use std::os::unix::fs::FileExt;

use kstate_tests::Setup;

use crate::{create, errno, generation, python, replace, shell, value};

both_ways!(
    ftruncate_sets_the_capacity_and_never_shrinks_after_the_first_write,
    text_round_trips_with_nothing_appended,
    shorter_text_after_longer_leaves_no_remains,
    a_fixed_size_state_keeps_its_size_when_parts_are_overwritten,
    a_version_of_another_length_is_no_typed_value,
);

kstate::layout! {
    /// A value of a fixed size.
    struct Pose { x: f64, y: f64, count: u32, mode: u32 }
}

fn ftruncate_sets_the_capacity_and_never_shrinks_after_the_first_write(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.set_len(100).unwrap();
    file.set_len(8).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0, "room is no length");
    assert_eq!(errno(file.write_at(&[1; 9], 0)), libc::EFBIG);
    file.write_all_at(&[1; 8], 0).unwrap();
    assert_eq!(errno(file.set_len(7)), libc::EINVAL);
    nix::unistd::truncate(&daemon.file("x"), 100).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 8);
    file.write_all_at(&[2; 100], 0).unwrap();
    assert_eq!(errno(file.set_len(1 << 20)), libc::EFBIG);
    assert_eq!(value(&daemon, "x"), [2; 100]);
    assert_eq!(generation(&daemon, "x"), 2);
}

fn text_round_trips_with_nothing_appended(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let script = r#"echo 42 > "$1"; cat "$1"; wc -c < "$1"; printf %s "$(<"$1")""#;
    assert_eq!(shell(script, &daemon.file("x")), "42\n3\n42");
    assert_eq!(value(&daemon, "x"), b"42\n");
}

fn shorter_text_after_longer_leaves_no_remains(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let script = r#"
        echo something long > "$1"
        echo 7 > "$1"; cat "$1"
        echo something long > "$1"
        printf 8 | tee "$1" > /dev/null; cat "$1"; echo
        exec 3<> "$1"; read -r line <&3; echo "$line, longer" >&3; cat "$1"
        exec 3<> "$1"; read -r line <&3; echo 9 >&3; cat "$1"
    "#;
    // The value that `tee` left has no end of line; `read` reads it for all that.
    assert_eq!(shell(script, &daemon.file("x")), "7\n8\n8, longer\n9\n");
    let program = "
with open(path, 'w') as file: file.write('something long')
with open(path, 'w') as file: file.write('10')
print(open(path).read())
";
    assert_eq!(python(program, &daemon.file("x")), "10\n");
    assert_eq!(value(&daemon, "x"), b"10");
}

fn a_fixed_size_state_keeps_its_size_when_parts_are_overwritten(setup: Setup) {
    let daemon = setup.start();
    let library = daemon.library();
    let state = library.subscribe("x").write().typed::<Pose>().unwrap();
    let mut pose = Pose {
        x: 1.0,
        y: 2.0,
        count: 3,
        mode: 4,
    };
    state.publish(&pose).unwrap();
    let size = size_of::<Pose>() as u64;
    let unchanged = |pose: &Pose| {
        assert_eq!(state.snapshot().unwrap().value, *pose);
        let length = std::fs::metadata(daemon.file("x")).unwrap().len();
        assert_eq!(length, size);
    };
    unchanged(&pose);
    let program = "
file = os.open(path, os.O_RDWR)
os.pwrite(file, struct.pack('=d', 5.0), 8)
count, = struct.unpack('=I', os.pread(file, 24, 0)[16:20])
os.pwrite(file, struct.pack('=I', count + 1), 16)
";
    python(program, &daemon.file("x"));
    (pose.y, pose.count) = (5.0, 4);
    unchanged(&pose);
    let dd = "printf '\\1\\2\\3\\4' |
        dd of=\"$1\" bs=1 count=4 seek=20 iflag=fullblock conv=notrunc status=none";
    shell(dd, &daemon.file("x"));
    pose.mode = u32::from_ne_bytes([1, 2, 3, 4]);
    unchanged(&pose);
    // Three versions before, and then one a byte with dd.
    assert_eq!(generation(&daemon, "x"), 3 + 4);
    // The library made the room that it asked for, and no more.
    let file = create(&daemon, "x");
    assert_eq!(errno(file.write_at(b"12345", 20)), libc::EFBIG);
    unchanged(&pose);
}

fn a_version_of_another_length_is_no_typed_value(setup: Setup) {
    let daemon = setup.start();
    let library = daemon.library();
    let state = library.subscribe("x").write().typed::<Pose>().unwrap();
    replace(&daemon, "x", b"short");
    let error = state.snapshot().unwrap_err().to_string();
    assert!(error.contains('5') && error.contains("24"), "{error}");
    assert_eq!(value(&daemon, "x"), b"short", "nothing is added to it");
}
