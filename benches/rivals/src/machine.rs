//! What a run was made on, and of what.

use std::collections::BTreeMap;
use std::process::Command;

/// The lock file: which version of each peer was built.
const LOCK: &str = include_str!("../Cargo.lock");

/// Packages whose versions the report names.
const PACKAGES: [&str; 9] = [
    "kstate",
    "iceoryx2",
    "mmap-sync",
    "heed",
    "redb",
    "redis",
    "arc-swap",
    "left-right",
    "parking_lot",
];

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or("?").to_owned()
}

fn field(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or_else(|| "?".to_owned(), |(_, value)| value.trim().to_owned())
}

/// The machine.
pub(crate) fn describe() -> BTreeMap<String, String> {
    let mut machine = BTreeMap::new();
    let mut add = |name: &str, value: String| machine.insert(name.to_owned(), value);
    add("processor", field("/proc/cpuinfo", "model name"));
    add("processors", crate::place::processors().to_string());
    add("memory", field("/proc/meminfo", "MemTotal"));
    add("kernel", first_line("uname", &["-sr"]));
    add("compiler", first_line("rustc", &["--version"]));
    let virtual_machine = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let guest = virtual_machine.contains(" hypervisor");
    add(
        "virtual machine",
        if guest { "yes" } else { "no" }.to_owned(),
    );
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    add(
        "load when it began",
        load.split(' ').next().unwrap_or("?").to_owned(),
    );
    machine
}

/// Versions of what is measured.
pub(crate) fn versions(redis_server: Option<&str>) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    for package in PACKAGES {
        let start = format!("name = \"{package}\"\nversion = \"");
        // Of several, the one that is used here is the newest.
        let version = LOCK
            .rsplit_once(&start)
            .and_then(|(_, rest)| rest.split_once('"'));
        let version = version.map_or("?", |(version, _)| version);
        let name = match package {
            "redis" => "redis (client)",
            name => name,
        };
        versions.insert(name.to_owned(), version.to_owned());
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let commit = first_line("git", &["-C", root, "describe", "--always", "--dirty"]);
    versions.insert("kstate (commit)".to_owned(), commit);
    let server = redis_server.unwrap_or("missing");
    versions.insert("redis-server".to_owned(), server.to_owned());
    versions
}

/// Today.
pub(crate) fn date() -> String {
    first_line("date", &["--utc", "+%Y-%m-%d %H:%M UTC"])
}
