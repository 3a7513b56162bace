//! Capacity, length, padding.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use kstate_tests::{Daemon, Setup};

use crate::{create, errno, generation, python, replace, shell, value};

both_ways!(
    the_capacity_is_a_page_unless_chosen_and_any_from_1_before_the_first_write,
    after_the_first_write_the_capacity_only_grows_whoever_asks,
    growers_at_once_agree_on_the_largest_asked_for_while_a_writer_writes,
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

fn page() -> u32 {
    kstate_sys::abi::page_size()
}

/// Sets the capacity; the errno where it is refused.
type Way = fn(&Daemon, u32) -> Result<(), i32>;

const WAYS: [Way; 3] = [
    |daemon, bytes| {
        let file = create(daemon, "x");
        file.set_len(bytes.into()).map_err(number)
    },
    |daemon, bytes| {
        let program =
            format!("print(said(lambda: os.setxattr(path, 'user.kstate.capacity', b'{bytes}')))");
        match python(&program, &daemon.file("x")).trim() {
            "None" => Ok(()),
            "EINVAL" => Err(libc::EINVAL),
            "EFBIG" => Err(libc::EFBIG),
            other => panic!("{other}"),
        }
    },
    |daemon, bytes| {
        let state = daemon.library().subscribe("x").write().bytes().unwrap();
        match state.set_capacity(bytes) {
            Ok(capacity) => {
                assert_eq!(capacity, bytes);
                Ok(())
            }
            Err(error) => Err(kstate::Error::from(error).errno()),
        }
    },
];

fn number(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap()
}

/// As every kind of reader is told.
#[track_caller]
fn assert_capacity(daemon: &Daemon, bytes: u32) {
    let mount = daemon.library();
    assert_eq!(mount.info("x").unwrap().capacity, bytes);
    assert_eq!(mount.subscribe("x").bytes().unwrap().capacity(), bytes);
    let program = "print(os.getxattr(path, 'user.kstate.capacity').decode())";
    let said = python(program, &daemon.file("x"));
    assert_eq!(said.trim(), bytes.to_string());
}

fn the_capacity_is_a_page_unless_chosen_and_any_from_1_before_the_first_write(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    assert_capacity(&daemon, page());
    for set in WAYS {
        for bytes in [1, 63, 64, 65, 1025, page(), 7, 1] {
            set(&daemon, bytes).unwrap();
            assert_capacity(&daemon, bytes);
        }
        assert_eq!(set(&daemon, page() + 1), Err(libc::EFBIG));
        assert_capacity(&daemon, 1);
    }
    drop(file);
    crate::lifetime::evaporates(&daemon, "x");
    let _chosen = daemon.library().subscribe("x").capacity(5).write().bytes();
    assert_capacity(&daemon, 5);
}

fn after_the_first_write_the_capacity_only_grows_whoever_asks(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.set_len(10).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    let mut capacity = 10;
    for set in WAYS {
        assert_eq!(set(&daemon, capacity - 1), Err(libc::EINVAL));
        assert_capacity(&daemon, capacity);
        set(&daemon, capacity).unwrap();
        capacity *= 7;
        set(&daemon, capacity).unwrap();
        assert_capacity(&daemon, capacity);
    }
    assert_eq!(value(&daemon, "x"), b"x", "growing makes no version");
    assert_eq!(generation(&daemon, "x"), 1);
}

fn growers_at_once_agree_on_the_largest_asked_for_while_a_writer_writes(setup: Setup) {
    const EACH: u32 = 40;
    let daemon = setup.start();
    let mount = daemon.library();
    let writer = mount.subscribe("x").write().capacity(1).bytes().unwrap();
    writer.publish(b"0").unwrap();
    let reader = mount.subscribe("x").bytes().unwrap();
    assert_eq!(reader.capacity(), 1);
    // Of what one of them asks for the others may be beyond already, which is what EINVAL says.
    let step = page() / (EACH + 1);
    let asked = |grower: u32, round: u32| round * step + grower;
    let largest = asked(3, EACH);
    let done = &AtomicBool::new(false);
    let (writer, reader) = std::thread::scope(|scope| {
        let there = &daemon;
        let writing = scope.spawn(move || {
            let mut written = 0_u64;
            while !done.load(Ordering::Relaxed) {
                let capacity = usize::try_from(writer.capacity()).unwrap();
                let byte = b'0' + u8::try_from(written % 10).unwrap();
                writer.publish(&vec![byte; capacity]).unwrap();
                written += 1;
            }
            (writer, written)
        });
        let reading = scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let seen = reader.snapshot().unwrap().value;
                assert!(seen.iter().all(|byte| *byte == seen[0]), "torn");
                let plain = value(there, "x");
                assert!(plain.iter().all(|byte| *byte == plain[0]), "torn");
            }
            reader
        });
        let growers: Vec<_> = (0..3)
            .map(|grower| {
                scope.spawn(move || {
                    let state = there.library().subscribe("x").write().bytes().unwrap();
                    let file = create(there, "x");
                    for round in 1..=EACH {
                        let bytes = asked(grower, round);
                        let refused = match grower {
                            0 => file.set_len(bytes.into()).map_err(number).err(),
                            _ => {
                                let set = state.set_capacity(bytes);
                                set.err().map(|error| kstate::Error::from(error).errno())
                            }
                        };
                        assert!(matches!(refused, None | Some(libc::EINVAL)), "{refused:?}");
                        assert!(state.capacity() >= bytes, "it has what it asked for");
                    }
                })
            })
            .collect();
        let program = format!(
            "
file = os.open(path, os.O_RDWR)
refused = {{said(lambda: os.ftruncate(file, round * {step} + 3)) for round in range(1, {EACH} + 1)}}
print(refused <= {{None, 'EINVAL'}})
"
        );
        let process = python(&program, &daemon.file("x"));
        let grown: Vec<_> = growers.into_iter().map(|grower| grower.join()).collect();
        done.store(true, Ordering::Relaxed);
        let (writer, written) = writing.join().unwrap();
        assert!(written > 0);
        assert!(grown.iter().all(Result::is_ok));
        assert_eq!(process, "True\n");
        (writer, reading.join().unwrap())
    });
    assert_capacity(&daemon, largest);
    assert_eq!(writer.capacity(), largest);
    assert_eq!(reader.capacity(), largest);
    // The reader was mapped for slots of one byte.
    let whole = vec![b'z'; usize::try_from(largest).unwrap()];
    writer.publish(&whole).unwrap();
    assert_eq!(reader.snapshot().unwrap().value, whole);
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
