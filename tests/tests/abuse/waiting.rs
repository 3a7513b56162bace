//! Reads that wait, beside a writer that never pauses for long.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kstate_tests::{Daemon, PATIENCE, Setup};

use crate::create;

/// The last value.
const LAST: &[u8] = b"the last";

#[test]
fn no_read_that_waits_is_forgotten_beside_a_fast_writer() {
    for setup in [
        Setup::default(),
        Setup::default().with("--passthrough=off"),
        Setup::default().with("--notify-by=futex"),
    ] {
        let daemon = setup.start();
        std::thread::scope(|scope| {
            for name in ["x", "y"] {
                let daemon = &daemon;
                scope.spawn(move || readers_beside_a_writer(daemon, name));
            }
        });
    }
}

fn readers_beside_a_writer(daemon: &Daemon, name: &str) {
    let writer = create(daemon, name).unwrap();
    writer.write_all_at(b"first", 0).unwrap();
    let (sender, ended) = mpsc::channel();
    let view = |number: usize| match number {
        0 => format!("{name}@100us,wait"),
        _ => format!("{name}@wait"),
    };
    for number in 0..5 {
        let mut file = File::open(daemon.file(&view(number))).unwrap();
        let sender = sender.clone();
        // Not waited for: one that is forgotten never ends.
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            loop {
                let length = file.read(&mut bytes).unwrap();
                if bytes[..length].starts_with(LAST) {
                    return sender.send(number).unwrap();
                }
            }
        });
    }
    let start = Instant::now();
    let mut written = 0_u32;
    while start.elapsed() < Duration::from_secs(2) {
        written += 1;
        writer.write_all_at(&written.to_le_bytes(), 0).unwrap();
        // Now and then a reader has the time to wait.
        if written.is_multiple_of(7) {
            std::thread::sleep(Duration::from_micros(u64::from(written % 300)));
        }
    }
    writer.write_all_at(LAST, 0).unwrap();
    for _ in 0..5 {
        ended.recv_timeout(PATIENCE).expect("all are told the last");
    }
}
