//! Programs killed while the daemon answers them.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use kstate_tests::{Daemon, PATIENCE, Running, eventually, open_descriptors};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{attribute, create, daemon_pid, readable, without_passthrough};

/// Forks a child that does one thing in a loop, kills it a moment later, and again. The moment is
/// drawn, and is up to eight milliseconds: from within the first call to hundreds later.
const KILLER: &str = "
import os, random, select, signal, sys, time
mount, work, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
path = mount + '/x'
def read():
    f = os.open(path, os.O_RDONLY)
    for _ in range(20): os.pread(f, 4096, 0)
    os.close(f)
def poll():
    f = os.open(path, os.O_RDONLY)
    p = select.poll(); p.register(f, select.POLLIN)
    for _ in range(5):
        p.poll()
        os.pread(f, 4096, 0)
    os.close(f)
def open_():
    os.close(os.open(path, os.O_RDWR))
    os.close(os.open(mount + '/own.' + work, os.O_RDWR | os.O_CREAT))
def write():
    f = os.open(mount + '/own.' + work, os.O_RDWR | os.O_CREAT)
    for _ in range(20): os.pwrite(f, b'x' * 500, 0)
    os.close(f)
work_of = dict(read=read, poll=poll, open=open_, write=write)[work]
killer = os.getpid()
for _ in range(kills):
    child = os.fork()
    if child == 0:
        while os.getppid() == killer:
            try: work_of()
            # ESTALE and ENOENT: a name that comes and goes while it is opened.
            except OSError: pass
        os._exit(0)
    time.sleep(random.random() * 0.008)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print('done', flush=True)
";

const KILLS_A_WORK: u32 = 100;

fn what_is_open(process: Pid) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let links = entries.map(|entry| std::fs::read_link(entry.unwrap().path()));
    links.filter_map(std::result::Result::ok).collect()
}

fn serves_on_after_kills(mut daemon: Daemon) {
    let pid = daemon_pid(&mut daemon);
    let writer = create(&daemon, "x").unwrap();
    let reader = create(&daemon, "x").unwrap();
    writer.write_all_at(b"before", 0).unwrap();
    // Its threads open what they need as they start.
    let mut descriptors = open_descriptors(pid);
    eventually("the daemon has what it needs", || {
        std::thread::sleep(Duration::from_millis(100));
        let before = std::mem::replace(&mut descriptors, open_descriptors(pid));
        (before == descriptors).then_some(())
    });
    let mut killers: Vec<Running> = ["read", "poll", "open", "write"]
        .into_iter()
        .map(|work| {
            let mut command = Command::new("python3");
            command.args(["-I", "-c", KILLER]).arg(daemon.mount());
            command.args([work, &KILLS_A_WORK.to_string()]);
            Running::start(&mut command)
        })
        .collect();
    // Commits go on, so that pollers are being told when they die; and who uses the library dies
    // too, and leaves a group or a wait mark.
    let start = Instant::now();
    let mut number = 0_u32;
    while killers.iter_mut().any(|killer| killer.ended().is_none()) {
        assert!(start.elapsed() < 3 * PATIENCE);
        number += 1;
        writer
            .write_all_at(format!("{number:6}").as_bytes(), 0)
            .unwrap();
        if number.is_multiple_of(200) {
            for role in [&["wait"][..], &["publish"]] {
                let mut worker = daemon.worker("library", role);
                assert_eq!(worker.line(), "ready");
                worker.signal(Signal::SIGKILL);
                worker.finish();
            }
        }
    }
    for killer in &mut killers {
        assert_eq!(killer.line(), "done");
    }
    eventually("what the dead had open is closed", || {
        (attribute(&writer, "subscribers") == 2).then_some(())
    });
    eventually("none of the dead waits", || {
        (attribute(&writer, "waiters") == 0).then_some(())
    });
    eventually("the states of the dead evaporate", || {
        let mut left = std::fs::read_dir(daemon.mount()).unwrap();
        left.all(|entry| [".kstate", "x"].contains(&entry.unwrap().file_name().to_str().unwrap()))
            .then_some(())
    });
    let start = Instant::now();
    while open_descriptors(pid) != descriptors {
        assert!(
            start.elapsed() < PATIENCE,
            "{descriptors} descriptors before, and now {:#?}",
            what_is_open(pid)
        );
    }
    let mut bytes = [0; 16];
    reader.read_at(&mut bytes, 0).unwrap();
    writer.write_all_at(b"after ", 0).unwrap();
    assert!(readable(&reader, PATIENCE));
    let length = reader.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..length], b"after ");
}

#[test]
fn nothing_is_left_of_programs_killed_while_they_are_answered() {
    serves_on_after_kills(Daemon::start());
}

#[test]
fn nor_is_anything_left_without_passthrough() {
    serves_on_after_kills(without_passthrough().start());
}
