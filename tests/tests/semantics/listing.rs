//! Listing the directory.

use std::fs;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};

use kstate_tests::{Setup, eventually};

use crate::{create, python, start_python};

both_ways!(
    every_state_is_listed_with_its_length,
    the_listing_is_in_order_of_names_and_tells_what_is_a_directory,
    the_listing_is_as_it_was_when_its_beginning_was_read,
    a_place_in_the_listing_can_be_gone_back_to,
);

fn every_state_is_listed_with_its_length(setup: Setup) {
    let daemon = setup.start();
    let create = |length: usize| {
        let file = create(&daemon, &format!("state.{length:03}"));
        file.write_all_at(&vec![1; length], 0).unwrap();
        file
    };
    let files: Vec<_> = (0..500).map(create).collect();
    let listed = fs::read_dir(daemon.mount()).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, entry.metadata().unwrap().size())
    });
    let mut states: Vec<_> = listed.filter(|(name, _)| !name.starts_with('.')).collect();
    states.sort();
    let expected: Vec<_> = (0..500_u64).map(|i| (format!("state.{i:03}"), i)).collect();
    assert_eq!(states, expected);
    drop(files);
}

fn the_listing_is_in_order_of_names_and_tells_what_is_a_directory(setup: Setup) {
    let daemon = setup.start();
    let _files = ["b", "a.b", "B", "a-b", "a"].map(|name| create(&daemon, name));
    let entries = fs::read_dir(daemon.mount()).unwrap().map(Result::unwrap);
    let found: Vec<_> = entries
        .map(|entry| {
            let kind = entry.file_type().unwrap();
            assert_eq!(entry.ino(), entry.metadata().unwrap().ino());
            assert_eq!(kind.is_file(), !kind.is_dir());
            (entry.file_name().into_string().unwrap(), kind.is_dir())
        })
        .collect();
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [".kstate", "B", "a", "a-b", "a.b", "b"]);
    assert!(found.iter().all(|(name, dir)| *dir == (name == ".kstate")));
}

/// A directory stream of the C library on the directory of `path`, and all that is in it.
const STREAM: &str = "
libc.opendir.restype = libc.readdir64.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
stream = ctypes.c_void_p(libc.opendir(os.path.dirname(path).encode()))
def entry():
    found = libc.readdir64(stream)
    # d_name follows d_ino, d_off, d_reclen and d_type.
    return ctypes.string_at(found + 19).decode() if found else None
def rest(): return ' '.join(name for name in iter(entry, None) if name[0] != '.')
";

fn the_listing_is_as_it_was_when_its_beginning_was_read(setup: Setup) {
    let daemon = setup.start();
    let _old = [create(&daemon, "a"), create(&daemon, "c")];
    let going = create(&daemon, "b");
    let program = format!(
        "{STREAM}
entry()
print('begun', flush=True)
input()
was = rest()
libc.rewinddir(stream)
print(was, '|', rest())
"
    );
    let mut python = start_python(&program, &daemon.file("a"));
    assert_eq!(python.line(), "begun");
    let _new = create(&daemon, "d");
    drop(going);
    let b = daemon.file("b");
    eventually("the state evaporates", || (!b.exists()).then_some(()));
    python.say("");
    let line = python.line();
    // What comes with attributes leaves out what has gone.
    assert!(
        ["a b c | a c d", "a c | a c d"].contains(&line.as_str()),
        "{line}"
    );
}

fn a_place_in_the_listing_can_be_gone_back_to(setup: Setup) {
    let daemon = setup.start();
    let _files = ["a", "b", "c"].map(|name| create(&daemon, name));
    let program = format!(
        "{STREAM}
while entry() != 'a': pass
place = ctypes.c_long(libc.telldir(stream))
print(rest())
libc.seekdir(stream, place)
print(rest())
libc.rewinddir(stream)
print(entry(), entry(), entry(), rest())
"
    );
    let printed = python(&program, &daemon.file("a"));
    assert_eq!(printed, "b c\nb c\n. .. .kstate a b c\n");
}
