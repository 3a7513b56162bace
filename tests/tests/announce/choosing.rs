//! Choosing where a state is announced.

use kstate::{AnnounceError, Sinks, SubscribeError};
use kstate_tests::Daemon;
use serde_json::{Value, json};

use crate::device::Device;
use crate::{announcing, place, python, run};

#[test]
fn the_attribute_is_set_read_and_removed() {
    let directory = place();
    let daemon = announcing(directory.path()).start();
    let _kept = daemon.library().subscribe("x").bytes().unwrap();
    let program = "
def get(): print(said(lambda: os.getxattr(path, name).decode()), name in os.listxattr(path))
def set(value, flags=0): print(said(lambda: os.setxattr(path, name, value, flags)))
def remove(): print(said(lambda: os.removexattr(path, name)))
get()
remove()
set(b'kbus', os.XATTR_REPLACE)
set(b' kbus\\n')
get()
set(b'kbus', os.XATTR_CREATE)
set(b'on')
set(b'')
set(b'kbus,dbus')
get()
set(b'off')
get()
set(b'kbus')
remove()
get()
";
    let expected = "ENODATA False\nENODATA\nENODATA\nNone\nkbus True\nEEXIST\nEINVAL\nEINVAL\n\
                    ENOTSUP\nkbus True\nNone\nENODATA False\nNone\nNone\nENODATA False\n";
    assert_eq!(python(program, &daemon.file("x")), expected);
}

#[test]
fn a_name_that_kbus_does_not_know_is_refused() {
    let directory = place();
    let daemon = announcing(directory.path()).start();
    let library = daemon.library();
    for name in ["Fred_Jim", "Fred-Jim"] {
        let state = library.subscribe(name).bytes().unwrap();
        let error = state.announce(Sinks::KBUS).unwrap_err();
        assert!(matches!(error, AnnounceError::Name { .. }), "{error}");
        assert_eq!(kstate::Error::from(error).errno(), libc::EINVAL);
        let program = "print(said(lambda: os.setxattr(path, name, b'kbus')))";
        assert_eq!(python(program, &daemon.file(name)), "EINVAL\n");
        let output = run(&daemon, &["announce", name, "kbus"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(said.contains("only letters, digits and dots"), "{said}");
        assert!(state.info().unwrap().announced.is_empty());
    }
}

#[test]
fn a_sink_that_the_mount_does_not_have_is_refused() {
    let daemon = Daemon::start();
    let library = daemon.library();
    let state = library.subscribe("x").bytes().unwrap();
    let program = "
for value in b'kbus', b'dbus', b'kbus,dbus', b'off':
    print(said(lambda: os.setxattr(path, name, value)))
";
    let expected = "ENOTSUP\nENOTSUP\nENOTSUP\nNone\n";
    assert_eq!(python(program, &daemon.file("x")), expected);
    let error = state.announce(Sinks::KBUS | Sinks::DBUS).unwrap_err();
    assert!(error.to_string().contains("on kbus,dbus"), "{error}");
    assert_eq!(kstate::Error::from(error).errno(), libc::EOPNOTSUPP);
    state.announce(Sinks::NONE).unwrap();
    let subscribed = library.subscribe("y").announce(Sinks::KBUS).bytes();
    let error = subscribed.unwrap_err();
    let SubscribeError::Announce(AnnounceError::NoSink { name, sinks }) = error else {
        panic!("{error}")
    };
    assert_eq!((name.as_str(), sinks), ("y", Sinks::KBUS));
    let output = run(&daemon, &["announce", "x", "kbus"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("--kbus DEVICE"), "{said}");
    let text = std::fs::read_to_string(daemon.file(".kstate/metrics")).unwrap();
    assert!(!text.contains("announcements"), "{text}");
}

#[test]
fn a_state_that_comes_again_is_announced_nowhere() {
    let directory = place();
    let daemon = announcing(directory.path()).start();
    let library = daemon.library();
    let announced = || library.info("x").unwrap().announced;
    let state = library.subscribe("x").announce(Sinks::KBUS).bytes();
    assert_eq!(announced(), Sinks::KBUS);
    drop(state.unwrap());
    let state = library.subscribe("x").bytes().unwrap();
    assert_eq!(announced(), Sinks::NONE);
    state.announce(Sinks::KBUS).unwrap();
    std::fs::remove_file(daemon.file("x")).unwrap();
    let _again = library.subscribe("x").bytes().unwrap();
    assert_eq!(announced(), Sinks::NONE);
}

#[test]
fn what_is_chosen_no_more_is_announced_no_more() {
    let directory = place();
    let device = Device::mount(directory.path());
    let daemon = announcing(directory.path()).start();
    let library = daemon.library();
    let [state, other] = ["x", "y"].map(|name| {
        let state = library.subscribe(name).write().announce(Sinks::KBUS);
        state.bytes().unwrap()
    });
    state.publish(b"1").unwrap();
    device.message("$.KState.Committed.x", 1);
    // It is the daemon that waits, and no program.
    assert_eq!(state.info().unwrap().waiters, 0);
    state.announce(Sinks::NONE).unwrap();
    state.publish(b"2").unwrap();
    other.publish(b"1").unwrap();
    device.message("$.KState.Committed.y", 1);
    // Chosen again: from here on.
    state.announce(Sinks::KBUS).unwrap();
    state.publish(b"3").unwrap();
    device.message("$.KState.Committed.x", 3);
    assert_eq!(device.messages().len(), 3);
}

#[test]
fn the_command_chooses_and_shows() {
    let directory = place();
    let daemon = announcing(directory.path()).start();
    let _kept = daemon.library().subscribe("x").bytes().unwrap();
    let printed = |arguments: &[&str]| {
        let output = run(&daemon, arguments);
        assert!(output.status.success(), "{arguments:?} {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(printed(&["announce", "x"]), "off\n");
    assert_eq!(printed(&["announce", "x", "kbus"]), "");
    assert_eq!(printed(&["announce", "x"]), "kbus\n");
    let value: Value = serde_json::from_str(&printed(&["announce", "x", "--json"])).unwrap();
    assert_eq!(value, json!({"name": "x", "announce": "kbus"}));
    assert!(printed(&["stat", "x"]).contains("on kbus\n"));
    let value: Value = serde_json::from_str(&printed(&["stat", "x", "--json"])).unwrap();
    assert_eq!(value["announce"], "kbus");
    let states = std::fs::read_to_string(daemon.file(".kstate/states")).unwrap();
    let value: Value = serde_json::from_str(&states).unwrap();
    assert_eq!(value["announce"], "kbus");
    assert_eq!(printed(&["announce", "x", "off"]), "");
    assert_eq!(printed(&["announce", "x"]), "off\n");
    for (arguments, status, expected) in [
        (&["announce", "x", "kbus", "off"][..], 2, "stands alone"),
        (&["announce", "x", "mail"], 2, "expected off, kbus, dbus"),
        (&["announce", "none"], 3, "no state `none`"),
        (&["announce", "none", "kbus"], 3, "no state `none`"),
    ] {
        let output = run(&daemon, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
