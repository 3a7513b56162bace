//! A daemon that has no descriptors left.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kstate::SubscribeError;
use kstate_sys::ioctl::{Ticket, call};
use kstate_tests::{Daemon, PATIENCE, Running, Setup, eventually, open_descriptors};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::{attribute, create, daemon_pid, raise_own_limit, readable, without_passthrough};

const LIMIT: u32 = 200;

/// A state with a writer and a reader, and one that was opened and not written yet.
struct Existing {
    writer: File,
    reader: File,
    unwritten: File,
    rounds: u32,
}

impl Existing {
    fn new(daemon: &Daemon) -> Self {
        let writer = create(daemon, "existing").unwrap();
        writer.write_all_at(b"value", 0).unwrap();
        Self {
            writer,
            reader: File::open(daemon.file("existing")).unwrap(),
            unwritten: create(daemon, "unwritten").unwrap(),
            rounds: 0,
        }
    }

    fn goes_on(&mut self, daemon: &Daemon) {
        self.rounds += 1;
        let value = self.rounds.to_string();
        let mut bytes = [0; 16];
        self.reader.read_at(&mut bytes, 0).unwrap();
        assert!(!readable(&self.reader, Duration::ZERO));
        self.writer.set_len(0).unwrap();
        self.writer.write_all_at(value.as_bytes(), 0).unwrap();
        assert!(readable(&self.reader, PATIENCE));
        let length = self.reader.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes[..length], value.as_bytes());
        self.unwritten.write_all_at(b"first", 0).unwrap();
        assert_eq!(fs::read(daemon.file("unwritten")).unwrap(), b"first");
        assert_eq!(fs::read(daemon.file("existing")).unwrap(), value.as_bytes());
        assert!(attribute(&self.writer, "subscribers") >= 2);
        assert!(fs::read_dir(daemon.mount()).unwrap().count() >= 3);
    }
}

/// Creates states until the daemon refuses, and again a few times.
fn states_until_refused(daemon: &Daemon) -> Vec<File> {
    let mut files = Vec::new();
    let mut refused = 0;
    while refused < 20 {
        match create(daemon, &format!("many.{}", files.len())) {
            Ok(file) => files.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENFILE), "{error}");
                refused += 1;
            }
        }
        assert!(files.len() <= LIMIT as usize);
    }
    files
}

#[test]
fn a_daemon_out_of_descriptors_refuses_states_by_enfile_and_serves_those_there_are() {
    let mut daemon = without_passthrough().descriptors(LIMIT).start();
    let mut existing = Existing::new(&daemon);
    let mut files = states_until_refused(&daemon);
    assert!(files.len() > 50, "{}", files.len());
    let refused = daemon.library().subscribe("by.the.library").bytes();
    let refused = refused.map(drop).unwrap_err();
    assert!(
        matches!(&refused, SubscribeError::Full { name } if name.as_str() == "by.the.library"),
        "{refused:?}"
    );
    assert_eq!(kstate::Error::from(refused).errno(), libc::ENFILE);
    existing.goes_on(&daemon);
    // One's own state can be deleted, and the name is free and refused as any.
    let last = files.len() - 1;
    fs::remove_file(daemon.file(&format!("many.{last}"))).unwrap();
    existing.goes_on(&daemon);
    drop(files.split_off(files.len() / 2));
    let again: Vec<File> = (0..files.len() / 2)
        .map(|number| {
            let name = format!("again.{number}");
            // Closing is told to the daemon after close(2) has returned.
            eventually("there is room", || create(&daemon, &name).ok())
        })
        .collect();
    again[0].write_all_at(b"works", 0).unwrap();
    existing.goes_on(&daemon);
    assert!(daemon.process().ended().is_none());
}

/// Forks children each of which is going to wait (`WAIT_BEGIN`), which costs the daemon a
/// descriptor, until one is refused. Prints how many were not, and the errno.
const WAITERS: &str = "
import fcntl, os, signal, struct, sys
children = []
# Its other end closes with this process, however that ends.
alive, life = os.pipe()
while True:
    r, w = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(life)
        f = os.open(sys.argv[1], os.O_RDONLY)
        try:
            # A seat, for as long as the file is open.
            fcntl.ioctl(f, 0xc008b505, struct.pack('II', 1, 0))
            os.write(w, b'0')
        except OSError as e: os.write(w, str(e.errno).encode())
        os.read(alive, 1)
        os._exit(0)
    children.append(child)
    said = int(os.read(r, 9))
    os.close(r); os.close(w)
    if said: break
print(len(children) - 1, said, flush=True)
sys.stdin.read()
for child in children: os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
";

fn refuses_waiters(setup: Setup) {
    let mut daemon = setup.descriptors(LIMIT).start();
    let pid = daemon_pid(&mut daemon);
    let mut existing = Existing::new(&daemon);
    let before = open_descriptors(pid);
    let mut command = Command::new("python3");
    command
        .args(["-I", "-c", WAITERS])
        .arg(daemon.file("existing"));
    let mut waiters = Running::start(&mut command);
    let said = waiters.line();
    let (count, code) = said.split_once(' ').unwrap();
    let count: usize = count.parse().unwrap();
    assert!((50..LIMIT as usize).contains(&count), "{count}");
    assert_eq!(code, libc::ENFILE.to_string());
    assert_eq!(attribute(&existing.writer, "waiters"), count);
    existing.goes_on(&daemon);
    // Who writes through the library is refused, and by the same error.
    let refused = daemon.library().subscribe("existing").write().bytes();
    let refused = kstate::Error::from(refused.map(drop).unwrap_err());
    assert_eq!(refused.errno(), libc::ENFILE, "{refused}");
    waiters.close_input();
    assert!(waiters.finish().success());
    // The one that waits still is the reader above, which has polled.
    eventually("the daemon has forgotten them", || {
        let waiters = attribute(&existing.writer, "waiters");
        (open_descriptors(pid) == before && waiters <= 1).then_some(())
    });
    existing.goes_on(&daemon);
    let state = daemon
        .library()
        .subscribe("existing")
        .write()
        .bytes()
        .unwrap();
    state.publish(b"works").unwrap();
}

#[test]
fn a_daemon_out_of_descriptors_refuses_waiters_by_enfile() {
    refuses_waiters(Setup::default());
}

#[test]
fn a_daemon_out_of_descriptors_refuses_waiters_without_passthrough_as_well() {
    refuses_waiters(without_passthrough());
}

/// A connection to the daemon's socket.
fn knock(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

fn ticket(file: &File) -> Ticket {
    let mut ticket = Ticket::new([0; 16], b"").unwrap();
    call::ticket(file, &mut ticket).unwrap();
    ticket
}

#[test]
fn tickets_that_nobody_shows_cost_the_daemon_no_descriptor() {
    raise_own_limit();
    let mut daemon = without_passthrough().descriptors(LIMIT).start();
    let pid = daemon_pid(&mut daemon);
    let _keep = create(&daemon, "x").unwrap();
    let before = open_descriptors(pid);
    let hoarded: Vec<File> = (0..2 * LIMIT)
        .map(|_| {
            let file = File::open(daemon.file("x")).unwrap();
            ticket(&file);
            file
        })
        .collect();
    assert_eq!(open_descriptors(pid), before);
    create(&daemon, "y").unwrap();
    drop(hoarded);
}

#[test]
fn a_daemon_out_of_descriptors_still_hands_regions_out_at_its_socket() {
    let daemon = without_passthrough().descriptors(LIMIT).start();
    let mut existing = Existing::new(&daemon);
    let ticket = ticket(&existing.reader);
    let address = std::str::from_utf8(ticket.path().unwrap()).unwrap();
    let files = states_until_refused(&daemon);
    // As many as the socket holds; who comes then is refused by the kernel, for now.
    let silent: Vec<OwnedFd> = (0..100)
        .map_while(|_| knock(Path::new(address)).ok())
        .collect();
    existing.goes_on(&daemon);
    let state = daemon.library().subscribe("existing").bytes().unwrap();
    assert_eq!(
        state.snapshot().unwrap().value,
        existing.rounds.to_string().as_bytes()
    );
    drop((silent, files));
    existing.goes_on(&daemon);
    eventually("there is room", || create(&daemon, "again").ok());
    let state = daemon.library().subscribe("again").write().bytes().unwrap();
    state.publish(b"works").unwrap();
}
