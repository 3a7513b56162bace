//! Many states.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use kstate_tests::{Daemon, PATIENCE, private_bytes};
use nix::sys::signal::Signal;

use super::{daemon_pid, raise_own_limit, without_passthrough};

const STATES: usize = 10_000;
/// What the daemon may need for one, beside its region.
const BYTES_A_STATE: u64 = 4096;

fn keep_list_read_unmount(mut daemon: Daemon, states: usize) {
    let pid = daemon_pid(&mut daemon);
    let before = private_bytes(pid);
    let name = |number: usize| format!("many.{number}");
    for number in 0..states {
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create_new(true).mode(0o1644);
        let mut file = options.open(daemon.file(&name(number))).unwrap();
        file.write_all(number.to_string().as_bytes()).unwrap();
    }
    let listed = fs::read_dir(daemon.mount()).unwrap();
    let listed: HashSet<_> = listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".kstate")
        .collect();
    assert_eq!(listed.len(), states);
    for number in 0..states {
        assert!(listed.contains(&name(number)));
        let value = fs::read_to_string(daemon.file(&name(number))).unwrap();
        assert_eq!(value, number.to_string());
    }
    let grown = private_bytes(pid).saturating_sub(before);
    let bound = BYTES_A_STATE * states as u64;
    assert!(grown <= bound, "{grown} bytes for {states} states");
    let start = Instant::now();
    daemon.process().signal(Signal::SIGTERM);
    assert!(daemon.process().finish().success());
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(fs::read_dir(daemon.mount()).unwrap().count(), 0);
}

#[test]
fn ten_thousand_kept_states_are_listed_and_read_and_go_with_the_mount() {
    keep_list_read_unmount(Daemon::start(), STATES);
}

#[test]
fn ten_thousand_kept_states_without_passthrough() {
    // Each is a descriptor of the daemon, which has the limit of this process.
    let states = STATES.min(raise_own_limit().saturating_sub(200));
    keep_list_read_unmount(without_passthrough().start(), states);
}
