//! Streams of changes.

use super::*;

/// Opens `.kstate/changes`.
fn open(fs: &Shared, caller: Caller) -> u64 {
    let attr = fs.lookup(Node::Control.ino(), b"changes").unwrap();
    fs.open(caller, attr.ino, libc::O_RDONLY).unwrap().file
}

/// Events that there are to read now.
fn events(fs: &Shared, file: u64) -> Vec<String> {
    let Given::Bytes(text) = fs.read(file, 0, 4096).unwrap() else {
        return Vec::new();
    };
    let event = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["event"].as_str().unwrap().to_owned()
    };
    std::str::from_utf8(&text)
        .unwrap()
        .lines()
        .map(event)
        .collect()
}

fn set_mode(fs: &Shared, ino: u64, file: Option<u64>, mode: u32) {
    let change = Change {
        mode: Some(mode),
        ..Change::default()
    };
    fs.setattr(ino, file, change).unwrap();
}

#[test]
fn of_a_state_that_has_gone_nothing_is_told_when_its_rights_change() {
    let fs = shared(Transport::Passthrough);
    let (ino, file) = create(&fs, "x");
    let stream = open(&fs, OWNER);
    assert_eq!(events(&fs, stream), ["present"]);
    fs.unlink(OWNER, Node::Root.ino(), b"x").unwrap();
    assert_eq!(events(&fs, stream), ["deleted"]);
    set_mode(&fs, ino, Some(file), 0o600);
    assert!(events(&fs, stream).is_empty());
}

#[test]
fn a_stream_leaves_nothing_at_a_state_that_was_hidden_from_its_reader() {
    let fs = shared(Transport::Passthrough);
    let (ino, writer) = create(&fs, "x");
    let _other = fs.open(OWNER, ino, libc::O_RDONLY).unwrap();
    for value in [b"1", b"2"] {
        fs.write(OWNER, writer, 0, value, 0).unwrap();
    }
    let stream = open(&fs, STRANGER);
    assert_eq!(events(&fs, stream), ["present"]);
    let state = fs.state(ino).unwrap();
    assert_eq!(state.counts().waiters, 1);
    set_mode(&fs, ino, None, 0o600);
    // That a writer leaves is news without a commit.
    fs.release(writer);
    assert!(events(&fs, stream).is_empty());
    fs.release(stream);
    assert_eq!(state.counts().waiters, 0);
}
