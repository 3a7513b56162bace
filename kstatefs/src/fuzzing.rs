//! Whatever clients can send to the daemon, out of arbitrary bytes. For the fuzzer alone: this file is
//! there under `cfg(fuzzing)` only.
//!
//! What the kernel does before it asks the daemon is done here as well: it looks names up, checks rights
//! when a file is opened and sends nothing that the descriptor's mode forbids. Beyond that nothing
//! is held back: any ioctl with any bytes, any name, any word into a region that may be written, any
//! message to the socket, deaths at any time.
//!
//! Nothing may panic, hang, or be refused by an error that the tables do not list; what a stranger
//! does with a file that he may only read changes nothing of the state; and when all files are closed,
//! all is gone that nothing keeps.

mod client;
mod errors;
mod input;

use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use kstate_sys::ioctl::Ticket;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, socketpair,
};

use crate::attr::Kind;
use crate::backing::{Backing, Transport};
use crate::config::NotifyBy;
use crate::fs::{Caller, Change, Settings, Shared};
use crate::poll::Hub;
use crate::table::ROOT;

use client::Client;
use input::Input;

/// Runs before the numbers of states and records begin anew.
const RUNS: u32 = 20_000;
/// Statements of a run.
const STATEMENTS: u32 = 200;

const ROOT_USER: u32 = 0;
const ALICE: u32 = 64_001;
const BOB: u32 = 64_002;

/// Two daemons without a mount, one for each transport, and those who call them.
#[derive(Debug)]
pub struct Requests {
    daemons: [Daemon; 2],
    callers: [Caller; 4],
}

#[derive(Debug)]
struct Daemon {
    shared: Shared,
    hub: Option<std::thread::JoinHandle<()>>,
    transport: Transport,
    runs: u32,
}

/// A ticket that somebody was given.
#[derive(Debug)]
struct Held {
    ticket: Ticket,
    uid: u32,
    writable: bool,
}

impl Requests {
    /// With a process beside this one that lives as long.
    pub fn new(other: u32) -> Self {
        let own = std::process::id();
        let caller = |uid, tid| Caller { uid, gid: uid, tid };
        Self {
            daemons: [Transport::Passthrough, Transport::Socket].map(Daemon::start),
            // The last is in a pid namespace that the daemon does not see.
            callers: [
                caller(ROOT_USER, own),
                caller(ALICE, own),
                caller(BOB, other),
                caller(BOB, 0),
            ],
        }
    }

    /// Sends what the bytes say, and closes all files.
    ///
    /// # Panics
    ///
    /// When the daemon did what it may not.
    pub fn run(&mut self, bytes: &[u8]) {
        let mut input = Input::new(bytes);
        let which = input.below(2);
        if self.daemons[which].runs >= RUNS {
            self.daemons[which] = Daemon::start(self.daemons[which].transport);
        }
        let daemon = &mut self.daemons[which];
        daemon.runs += 1;
        let scribbled = Rc::new(Cell::new(false));
        let mut run = Run {
            shared: &daemon.shared,
            clients: self
                .callers
                .map(|caller| Client::new(caller, scribbled.clone())),
            tickets: Vec::new(),
        };
        for _ in 0..STATEMENTS {
            if input.is_empty() {
                break;
            }
            run.statement(&mut input);
        }
        run.end();
    }

    /// Removes what the daemons have in the file system. Nothing may be run any more.
    pub fn remove(&self) {
        for daemon in &self.daemons {
            daemon.shared.backing.remove();
            if let Some(desk) = &daemon.shared.desk {
                desk.remove();
            }
        }
    }
}

impl Daemon {
    fn start(transport: Transport) -> Self {
        let backing = Backing::create(None).expect("a tmpfs");
        let (hub, thread) = Hub::start(NotifyBy::Auto).expect("a thread");
        let settings = Settings {
            uid: ROOT_USER,
            gid: ROOT_USER,
            root_mode: 0o1777,
            linger: std::time::Duration::ZERO,
        };
        Self {
            shared: Shared::new(backing, transport, hub, settings).expect("descriptors"),
            hub: Some(thread),
            transport,
            runs: 0,
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.shared.hub.stop();
        let ended = self.hub.take().map(std::thread::JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()), "the hub panicked");
    }
}

/// One run.
struct Run<'a> {
    shared: &'a Shared,
    clients: [Client; 4],
    tickets: Vec<Held>,
}

impl Run<'_> {
    fn statement(&mut self, input: &mut Input<'_>) {
        let index = input.below(self.clients.len());
        let client = &mut self.clients[index];
        let shared = self.shared;
        match input.byte() % 24 {
            0 | 1 => client.create(shared, input),
            2 | 3 => client.open(shared, input),
            4 | 5 => client.write(shared, input),
            6 => client.read(shared, input),
            7 => client.poll(shared, input),
            8 => client.set_attributes(shared, input),
            9 => client.extended_attributes(shared, input),
            10 => client.unlink(shared, input),
            11 => client.close(shared, input),
            12 => client.look(shared, input),
            13 => client.open_record(shared, input),
            14 | 15 => client.scribble(shared, input),
            16 => match input.below(3) {
                0 => shared.reaper.end(client.caller.tid),
                1 => shared.look_again(client.state(shared, input)),
                _ => shared.end_turn_in_time(client.state(shared, input)),
            },
            17 => self.show(input),
            _ => {
                if let Some(held) = client.ioctl(shared, input) {
                    self.tickets.push(held);
                }
            }
        }
    }

    /// A message to the socket: a ticket, or not.
    fn show(&mut self, input: &mut Input<'_>) {
        let Some(desk) = &self.shared.desk else {
            return;
        };
        let uid = [ROOT_USER, ALICE, BOB][input.below(3)];
        let chosen = match self.tickets.len() {
            0 => None,
            count => Some(input.below(count)),
        };
        let mut message = match chosen {
            Some(index) if !input.one_in(4) => self.tickets[index].ticket.secret.to_vec(),
            _ => input.some_bytes(),
        };
        if input.one_in(8) {
            message.push(0);
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (theirs, ours) = pair.expect("descriptors");
        // An empty one is none.
        if send(ours.as_raw_fd(), &message, MsgFlags::empty()).is_err() {
            return;
        }
        let gone = input.one_in(8);
        let ours = (!gone).then_some(ours);
        let served = desk.serve_as(theirs, uid);
        let Some(ours) = ours else { return };
        served.expect("it is there");
        let (code, descriptor) = answer(&ours);
        let shown = self
            .tickets
            .iter()
            .position(|held| held.ticket.secret[..] == message[..] && held.uid == uid);
        match (code, descriptor) {
            (0, Some(descriptor)) => {
                let held = self.tickets.remove(shown.expect("nobody was given this"));
                let flags = nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_GETFL);
                let access = flags.expect("an open file") & libc::O_ACCMODE;
                let right = if held.writable {
                    libc::O_RDWR
                } else {
                    libc::O_RDONLY
                };
                assert_eq!(access, right);
            }
            (libc::EACCES | libc::ESTALE, None) => {}
            other => panic!("answered {other:?}"),
        }
    }

    /// Closes all files and lets go of what is kept: then nothing may be left.
    fn end(self) {
        let shared = self.shared;
        let root = self.clients[0].caller;
        for client in self.clients {
            client.leave(shared);
        }
        let entries = shared.list(ROOT).expect("a directory");
        for entry in entries.iter().filter(|entry| entry.kind == Kind::File) {
            let lingers = shared.get_xattr(entry.ino, "user.kstate.linger");
            let attr = shared.getattr(entry.ino).expect("it is listed");
            let kept = attr.mode & libc::S_ISVTX != 0;
            assert!(
                kept || lingers.as_deref() != Ok(b"0ms"),
                "{} is left: {attr:?}",
                entry.name
            );
            let change = Change {
                mode: Some(0),
                ..Change::default()
            };
            shared
                .setattr(entry.ino, None, change)
                .expect("it is listed");
            // With the mode's change it may have gone.
            let _ = shared.set_xattr(root, entry.ino, "user.kstate.linger", b"0");
        }
        let left = shared.list(ROOT).expect("a directory");
        assert!(
            left.iter().all(|entry| entry.kind == Kind::Directory),
            "{left:?}"
        );
        assert!(shared.reaper.is_idle(), "{:?}", shared.reaper);
        assert!(shared.intents.all().is_empty());
    }
}

/// What came back over the socket.
fn answer(socket: &OwnedFd) -> (i32, Option<OwnedFd>) {
    let mut code = [0; 8];
    let mut parts = [std::io::IoSliceMut::new(&mut code)];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 2]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags);
    let received = received.expect("an answer");
    let mut descriptors = Vec::new();
    for part in received.cmsgs().expect("room for them") {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            descriptors.extend(numbers);
        }
    }
    assert_eq!(received.bytes, 4);
    assert!(descriptors.len() <= 1);
    let [a, b, c, d, ..] = code;
    let descriptor = descriptors.pop().map(|number| {
        #[expect(unsafe_code, reason = "nix returns a bare number")]
        // SAFETY: a new descriptor that nobody else owns.
        unsafe {
            <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number)
        }
    });
    (i32::from_ne_bytes([a, b, c, d]), descriptor)
}
