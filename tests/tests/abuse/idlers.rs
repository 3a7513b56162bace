//! Programs that take and do not use.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use kstate_tests::{Daemon, PATIENCE, Running, open_descriptors, private_bytes};

use super::{attribute, create, daemon_pid, readable, without_passthrough};

/// Opens the file a thousand times and reads nothing; some of these it has polled.
const NEVER_READS: &str = "
import os, select, sys
files = [os.open(sys.argv[1], os.O_RDONLY) for _ in range(900)]
poll = select.poll()
for f in files[:100]: poll.register(f, select.POLLIN)
poll.poll(0)
print('ready', flush=True)
sys.stdin.read()
";

/// Polls without a pause and reads nothing.
const POLLS_TIGHTLY: &str = "
import os, select, sys
f = os.open(sys.argv[1], os.O_RDONLY)
poll = select.poll()
poll.register(f, select.POLLIN)
epoll = select.epoll()
epoll.register(f, select.EPOLLIN | select.EPOLLET)
poll.poll(0)
print('ready', flush=True)
while True:
    poll.poll(0)
    epoll.poll(0)
";

const COMMITS: u32 = 500;

fn python(program: &str, daemon: &Daemon, name: &str) -> Running {
    let mut command = Command::new("python3");
    command.args(["-I", "-c", program]).arg(daemon.file(name));
    let mut python = Running::start(&mut command);
    assert_eq!(python.line(), "ready");
    python
}

fn a_reader_keeps_up_beside(mut daemon: Daemon) {
    let pid = daemon_pid(&mut daemon);
    let writer = create(&daemon, "x").unwrap();
    let reader = File::open(daemon.file("x")).unwrap();
    let idlers = [
        python(NEVER_READS, &daemon, "x"),
        python(POLLS_TIGHTLY, &daemon, "x"),
        python(POLLS_TIGHTLY, &daemon, "x"),
    ];
    let round = |number: u32| {
        let value = number.to_string();
        writer.write_all_at(value.as_bytes(), 0).unwrap();
        assert!(readable(&reader, PATIENCE), "version {number}");
        let mut bytes = [0; 16];
        let length = reader.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes[..length], value.as_bytes());
    };
    // What is allocated once is by then.
    (1000..1000 + COMMITS).for_each(round);
    let before = (private_bytes(pid), open_descriptors(pid));
    (2000..2000 + 4 * COMMITS).for_each(round);
    let after = (private_bytes(pid), open_descriptors(pid));
    let grown = after.0.saturating_sub(before.0);
    assert!(grown < 1 << 20, "{grown} bytes in {} commits", 4 * COMMITS);
    assert_eq!(after.1, before.1);
    assert_eq!(attribute(&writer, "subscribers"), 2 + 900 + 2);
    drop(idlers);
    kstate_tests::eventually("their files are closed", || {
        (attribute(&writer, "subscribers") == 2).then_some(())
    });
}

#[test]
fn who_never_reads_and_who_polls_tightly_hold_nobody_up() {
    a_reader_keeps_up_beside(Daemon::start());
}

#[test]
fn nor_do_they_without_passthrough() {
    a_reader_keeps_up_beside(without_passthrough().start());
}
