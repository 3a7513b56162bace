//! `O_APPEND`: what `>>` does.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use kstate_tests::{Daemon, Setup};

use crate::{create, errno, generation, python, replace, shell, value};

both_ways!(
    appending_adds_to_the_newest_value,
    appending_after_a_read_is_validated,
    a_shell_appends_without_seeking,
    an_offset_is_nothing_to_appending_writes,
    truncated_and_appended_to_a_value_begins_anew,
    whether_to_append_can_be_changed_later,
    rwf_append_writes_at_the_end_that_the_kernel_knows,
);

fn append(daemon: &Daemon) -> File {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    options.open(daemon.file("x")).unwrap()
}

fn appending_adds_to_the_newest_value(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    // The library's versions too, of which the kernel knows nothing.
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    let mut early = append(&daemon);
    for word in [&b"a"[..], b"bc"] {
        append(&daemon).write_all(word).unwrap();
    }
    state.publish(b"much longer ").unwrap();
    early.write_all(b"and").unwrap();
    state.publish(b"-").unwrap();
    early.write_all(b"d").unwrap();
    early.write_all(b"e").unwrap();
    assert_eq!(value(&daemon, "x"), b"-de");
}

fn appending_after_a_read_is_validated(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    replace(&daemon, "x", b"ab");
    let mut file = append(&daemon);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    // At the end of what was read, and no replacement.
    file.write_all(b"c").unwrap();
    assert_eq!(value(&daemon, "x"), b"abc");
    replace(&daemon, "x", b"other");
    assert_eq!(errno(file.write(b"d")), libc::ESTALE);
    assert_eq!(value(&daemon, "x"), b"other");
}

fn a_shell_appends_without_seeking(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let script = r#"echo a >> "$1"; echo b >> "$1"; { echo c; echo d; } >> "$1"; cat "$1""#;
    assert_eq!(shell(script, &daemon.file("x")), "a\nb\nc\nd\n");
    assert_eq!(generation(&daemon, "x"), 4);
}

fn an_offset_is_nothing_to_appending_writes(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let file = append(&daemon);
    file.write_all_at(b"ab", 0).unwrap();
    file.write_all_at(b"c", 0).unwrap();
    file.write_all_at(b"d", 100).unwrap();
    assert_eq!(value(&daemon, "x"), b"abcd");
}

fn truncated_and_appended_to_a_value_begins_anew(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    replace(&daemon, "x", b"old");
    let mut file = append(&daemon);
    file.set_len(0).unwrap();
    file.write_all(b"a").unwrap();
    file.write_all(b"b").unwrap();
    assert_eq!(value(&daemon, "x"), b"ab");
}

fn rwf_append_writes_at_the_end_that_the_kernel_knows(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    state.publish(b"ab").unwrap();
    let program = "
file = os.open(path, os.O_RDWR)
assert os.fstat(file).st_size == 2
os.pwritev(file, [b'c'], 0, os.RWF_APPEND)
";
    python(program, &daemon.file("x"));
    assert_eq!(value(&daemon, "x"), b"abc");
}

fn whether_to_append_can_be_changed_later(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    replace(&daemon, "x", b"ab");
    let program = "
file = os.open(path, os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
os.read(file, 9)
os.write(file, b'c')
print(open(path).read())
fcntl.fcntl(file, fcntl.F_SETFL, 0)
os.pwrite(file, b'A', 0)
print(open(path).read())
";
    assert_eq!(python(program, &daemon.file("x")), "abc\nAbc\n");
}
