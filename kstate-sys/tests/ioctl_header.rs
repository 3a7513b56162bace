//! `include/kstate_ioctl.h` beside the Rust definitions: every number, size, offset and constant.

#![cfg(not(kstate_loom))]

use std::collections::BTreeMap;
use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use kstate_sys::announce::{self, Record, Sinks};
use kstate_sys::ioctl::{self, Claim, Groups, Info, Settle, Subscribe, Ticket, Turn, Wait};
use kstate_sys::{abi, name, region};

fn header() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include/kstate_ioctl.h")
}

/// What the header calls a thing, and its value on the Rust side.
type Values = BTreeMap<String, u64>;

fn constants() -> Values {
    let of = |name: &str, value: u64| (name.to_owned(), value);
    BTreeMap::from([
        of("KSTATE_ABI_VERSION", abi::ABI_VERSION.into()),
        of("KSTATE_IOC_TYPE", ioctl::IOC_TYPE.into()),
        of("KSTATE_LAYOUT_TEXT_BYTES", ioctl::LAYOUT_TEXT_BYTES as u64),
        of("KSTATE_MAX_NAME_BYTES", name::MAX_NAME_BYTES as u64),
        of("KSTATE_O_LIBRARY", abi::O_LIBRARY.cast_unsigned().into()),
        of(
            "KSTATE_LIVE_TAG",
            offset_of!(region::Header, live_tag) as u64,
        ),
        of(
            "KSTATE_LIVE_LENGTH",
            offset_of!(region::Header, live_length) as u64,
        ),
        of("KSTATE_LIVE_UNFINISHED", region::LIVE_UNFINISHED),
        of("KSTATE_OUTCOME_OK", ioctl::outcome::OK.into()),
        of(
            "KSTATE_OUTCOME_ABI_VERSION",
            ioctl::outcome::ABI_VERSION.into(),
        ),
        of("KSTATE_OUTCOME_LAYOUT", ioctl::outcome::LAYOUT.into()),
        of(
            "KSTATE_TRANSPORT_PASSTHROUGH",
            ioctl::transport::PASSTHROUGH.into(),
        ),
        of("KSTATE_TRANSPORT_SOCKET", ioctl::transport::SOCKET.into()),
        of("KSTATE_INFO_ARMED", ioctl::info_flags::ARMED.into()),
        of("KSTATE_INFO_KEPT", ioctl::info_flags::KEPT.into()),
        of("KSTATE_INFO_OVERDUE", ioctl::info_flags::OVERDUE.into()),
        of("KSTATE_INFO_KBUS", ioctl::info_flags::KBUS.into()),
        of("KSTATE_INFO_DBUS", ioctl::info_flags::DBUS.into()),
        of("KSTATE_ANNOUNCE_KBUS", Sinks::KBUS.bits().into()),
        of("KSTATE_ANNOUNCE_DBUS", Sinks::DBUS.bits().into()),
        of(
            "KSTATE_ANNOUNCEMENT_VERSION",
            announce::RECORD_VERSION.into(),
        ),
        of("KSTATE_IOC_SUBSCRIBE", ioctl::SUBSCRIBE.into()),
        of("KSTATE_IOC_CLAIM", ioctl::CLAIM.into()),
        of("KSTATE_IOC_RELEASE", ioctl::RELEASE.into()),
        of("KSTATE_IOC_SET_CAPACITY", ioctl::SET_CAPACITY.into()),
        of("KSTATE_IOC_WAIT_BEGIN", ioctl::WAIT_BEGIN.into()),
        of("KSTATE_IOC_WAIT_END", ioctl::WAIT_END.into()),
        of("KSTATE_PLACE_HEAD", ioctl::place::HEAD.into()),
        of("KSTATE_PLACE_CROWD", ioctl::place::CROWD.into()),
        of("KSTATE_IOC_SEEN", ioctl::SEEN.into()),
        of("KSTATE_IOC_ARM", ioctl::ARM.into()),
        of("KSTATE_IOC_SET_LINGER", ioctl::SET_LINGER.into()),
        of("KSTATE_IOC_INFO", ioctl::INFO.into()),
        of("KSTATE_IOC_TICKET", ioctl::TICKET.into()),
        of("KSTATE_IOC_RECORD", ioctl::RECORD.into()),
        of("KSTATE_IOC_RELEASE_RECORD", ioctl::RELEASE_RECORD.into()),
        of("KSTATE_IOC_SETTLE", ioctl::SETTLE.into()),
        of("KSTATE_SETTLED_DONE", ioctl::settled::DONE.into()),
        of("KSTATE_SETTLED_NOT_YET", ioctl::settled::NOT_YET.into()),
        of("KSTATE_IOC_TURN", ioctl::TURN.into()),
        of("KSTATE_IOC_TURN_END", ioctl::TURN_END.into()),
        of("KSTATE_IOC_SET_DEADLINE", ioctl::SET_DEADLINE.into()),
        of("KSTATE_IOC_SET_ANNOUNCE", ioctl::SET_ANNOUNCE.into()),
        of("KSTATE_IOC_RECLAIM", ioctl::RECLAIM.into()),
        of("KSTATE_IOC_SYNC", ioctl::SYNC.into()),
        of("KSTATE_IOC_SET_DURABILITY", ioctl::SET_DURABILITY.into()),
        of("KSTATE_IOC_RETURNED", ioctl::RETURNED.into()),
        of("KSTATE_IOC_MOUNT_ID", ioctl::MOUNT_ID.into()),
        of("KSTATE_IOC_LEAVE", ioctl::LEAVE.into()),
        of(
            "KSTATE_INFO_PERSISTENT",
            ioctl::info_flags::PERSISTENT.into(),
        ),
        of("KSTATE_IOC_VERSION", ioctl::VERSION.into()),
    ])
}

const fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// Puts size and alignment of a struct, and offset and size of its fields, under the names that
/// `probe` prints. Private `reserved` fields are only measured there.
macro_rules! layout {
    ($values:ident, $rust:ident, $c:literal, [$($field:ident: $in_c:literal),* $(,)?]) => {
        $values.insert(format!("sizeof {}", $c), size_of::<$rust>() as u64);
        $values.insert(format!("alignof {}", $c), align_of::<$rust>() as u64);
        $(
            let offset = offset_of!($rust, $field) as u64;
            let size = size_of_field(|s: &$rust| &s.$field) as u64;
            $values.insert(format!("offsetof {}.{}", $c, $in_c), offset);
            $values.insert(format!("sizeof {}.{}", $c, $in_c), size);
        )*
    };
}

fn layouts() -> Values {
    let mut values = Values::new();
    layout!(values, Subscribe, "kstate_subscribe", [
        abi_version: "abi_version", outcome: "outcome", capacity: "capacity",
        transport: "transport", page_size: "page_size", clock_kind: "clock_kind",
        clock_ns_per_tick_32: "clock_ns_per_tick_32", state_id: "state_id",
        mount_id: "mount_id", layout_id: "layout_id", layout_text_length: "layout_text_length",
        layout_text: "layout_text",
    ]);
    layout!(values, Claim, "kstate_claim", [
        group: "group", class: "class_", capacity: "capacity",
    ]);
    layout!(values, Info, "kstate_info", [
        state_id: "state_id", generation: "generation", age_ns: "age_ns", layout_id: "layout_id",
        linger_ms: "linger_ms", deadline_ns: "deadline_ns", durable: "durable", length: "length", capacity: "capacity",
        subscribers: "subscribers", writers: "writers", waiters: "waiters", flags: "flags",
    ]);
    layout!(values, Record, "kstate_announcement", [
        version: "version", length: "length", generation: "generation", time_ns: "time_ns",
        pid: "pid",
    ]);
    layout!(values, Groups, "kstate_groups", [bits: "bits"]);
    layout!(values, Turn, "kstate_turn", [group: "group", microseconds: "microseconds"]);
    layout!(values, Wait, "kstate_wait", [place: "place", milliseconds: "milliseconds"]);
    layout!(values, Settle, "kstate_settle", [intent: "intent", outcome: "outcome"]);
    layout!(values, Ticket, "kstate_ticket", [
        secret: "secret", address_length: "address_length", address: "address",
    ]);
    values
}

/// The names of all constants with a value, and of all fields by struct, as the text has them.
fn declared(text: &str) -> (Vec<String>, BTreeMap<String, Vec<String>>) {
    let constants = text
        .lines()
        .filter_map(|line| line.strip_prefix("#define KSTATE_"))
        .filter_map(|rest| rest.split_once(char::is_whitespace))
        .map(|(name, _)| format!("KSTATE_{name}"))
        .collect();
    let mut structs = BTreeMap::new();
    for body in text.split("\nstruct ").skip(1) {
        let (name, body) = body.split_once(" {").expect("a struct opens on its line");
        let (body, _) = body.split_once("\n};").expect("a struct is closed");
        let fields = body
            .lines()
            .filter_map(|line| line.split_once(';'))
            .map(|(declaration, _)| {
                let name = declaration.split_whitespace().last();
                let name = name.and_then(|name| name.split('[').next());
                name.expect("a field has a name").to_owned()
            })
            .collect();
        structs.insert(name.to_owned(), fields);
    }
    (constants, structs)
}

/// A C program that prints all that the header declares, a name and a number a line.
fn probe(constants: &[String], structs: &BTreeMap<String, Vec<String>>) -> String {
    use core::fmt::Write as _;
    let mut program = String::from(
        "#include \"kstate_ioctl.h\"\n#include <stddef.h>\n#include <stdio.h>\n\
         #define SAY(name, value) printf(\"%s=%llu\\n\", name, (unsigned long long)(value))\n\
         int main(void)\n{\n",
    );
    let mut say = |name: String, value: String| {
        writeln!(program, "    SAY(\"{name}\", {value});").expect("a string takes all");
    };
    for name in constants {
        say(name.clone(), name.clone());
    }
    for (name, fields) in structs {
        say(format!("sizeof {name}"), format!("sizeof(struct {name})"));
        say(
            format!("alignof {name}"),
            format!("_Alignof(struct {name})"),
        );
        for field in fields {
            let place = format!("offsetof(struct {name}, {field})");
            say(format!("offsetof {name}.{field}"), place);
            let size = format!("sizeof(((struct {name} *)0)->{field})");
            say(format!("sizeof {name}.{field}"), size);
        }
    }
    program + "    return 0;\n}\n"
}

fn run(command: &mut Command, what: &str) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{what} needs {:?}: {error}", command.get_program()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed:\n{errors}");
    String::from_utf8(output.stdout).expect("it prints text")
}

fn compiled_values(probe_name: &str) -> Values {
    let text = fs::read_to_string(header()).expect("the header is in the repository");
    let (constants, structs) = declared(&text);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, binary) = (
        folder.join(format!("{probe_name}.c")),
        folder.join(probe_name),
    );
    fs::write(&source, probe(&constants, &structs)).expect("the target folder is writable");
    let mut cc = Command::new("cc");
    cc.args([
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-I",
    ])
    .arg(header().parent().expect("a file is in a folder"))
    .arg("-o")
    .args([&binary, &source]);
    run(
        &mut cc,
        "comparing the C header (install a C compiler as `cc`)",
    );
    run(
        &mut Command::new(&binary),
        "the program that prints the C header",
    )
    .lines()
    .map(|line| line.split_once('=').expect("`name=number` lines"))
    .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
    .collect()
}

#[test]
fn the_header_and_the_rust_side_agree() {
    let mut expected = constants();
    expected.extend(layouts());
    let mut found = compiled_values("probe_values");
    // Private on the Rust side: they fill the gaps, which the next test measures.
    found.retain(|name, _| !name.ends_with(".reserved"));
    let missing: Vec<_> = expected
        .keys()
        .filter(|k| !found.contains_key(*k))
        .collect();
    let extra: Vec<_> = found
        .keys()
        .filter(|k| !expected.contains_key(*k))
        .collect();
    assert!(missing.is_empty(), "not in the header: {missing:?}");
    assert!(
        extra.is_empty(),
        "only in the header, or not compared here: {extra:?}"
    );
    for (name, value) in &expected {
        assert_eq!(
            found[name], *value,
            "{name}: left the header, right the Rust side"
        );
    }
    assert!(
        expected.len() > 24 + 4 * 2,
        "compared {} values",
        expected.len()
    );
}

#[test]
fn no_struct_has_padding() {
    let values = compiled_values("probe_padding");
    for structure in [
        "kstate_subscribe",
        "kstate_claim",
        "kstate_info",
        "kstate_ticket",
        "kstate_wait",
    ] {
        let fields: u64 = values
            .iter()
            .filter(|(name, _)| name.starts_with(&format!("sizeof {structure}.")))
            .map(|(_, size)| size)
            .sum();
        assert_eq!(
            fields,
            values[&format!("sizeof {structure}")],
            "{structure}"
        );
    }
}

#[test]
fn the_header_is_cplusplus_too() {
    if Command::new("c++").arg("--version").output().is_err() {
        eprintln!("LEFT OUT: no `c++` here, so nobody looked whether the header is C++");
        return;
    }
    let mut cc = Command::new("c++");
    cc.args([
        "-x",
        "c++",
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
    ])
    .arg("-fsyntax-only")
    .arg(header());
    run(&mut cc, "compiling the header as C++");
}
