//! Whatever clients can send to the daemon, out of arbitrary bytes. For the fuzzer alone: this file is
//! there under `cfg(fuzzing)` only.
//!
//! What the kernel does before it asks the daemon is done here as well: it looks names up, checks rights
//! when a file is opened and sends nothing that the descriptor's mode forbids. Beyond that nothing
//! is held back: any ioctl with any bytes, any name, any word into a region that may be written, any
//! message to the socket, deaths at any time.
//!
//! Nothing may panic, hang, or be refused by an error that the tables do not list; what a stranger
//! does with a file that he may only read changes nothing of the state; nobody is told of a state that
//! he may not read, and who follows all of them is told of each that comes and goes; every read that
//! waits is answered, where there is something for it without a signal; and when all files are
//! closed, all is gone that nothing keeps.

mod client;
mod errors;
mod input;
mod reads;
mod regions;
mod told;
mod waiting;
mod world;

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kstate_sys::ioctl::Ticket;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, socketpair,
};

use crate::attr::Kind as FileKind;
use crate::backing::{Backing, Transport};
use crate::config::NotifyBy;
use crate::fs::{Caller, Change, Origin, Settings, Shared};
use crate::inode::Node;
use crate::poll::Hub;
use crate::timer::{Look, Timer};
use crate::xattr::Mode;

use client::{Client, Kind};
use input::Input;
use world::World;

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
    notify: NotifyBy,
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
            daemons: [
                Daemon::start(Transport::Passthrough, NotifyBy::Auto),
                Daemon::start(Transport::Socket, NotifyBy::Futex),
            ],
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
        let first = input.byte();
        let which = usize::from(first % 2);
        let streams_last = first & 2 != 0;
        if self.daemons[which].runs >= RUNS {
            let Daemon {
                transport, notify, ..
            } = self.daemons[which];
            self.daemons[which] = Daemon::start(transport, notify);
        }
        let daemon = &mut self.daemons[which];
        daemon.runs += 1;
        let world = Rc::new(World::default());
        let mut run = Run {
            shared: &daemon.shared,
            clients: self
                .callers
                .map(|caller| Client::new(caller, world.clone())),
            world,
            tickets: Vec::new(),
        };
        for _ in 0..STATEMENTS {
            if input.is_empty() {
                break;
            }
            run.statement(&mut input);
        }
        run.end(streams_last);
    }

    /// Removes what the daemons have in the file system. Nothing may be run any more.
    pub fn remove(&self) {
        for daemon in &self.daemons {
            daemon.shared.backing.remove();
            daemon.shared.desk.remove();
        }
    }
}

impl Daemon {
    fn start(transport: Transport, notify: NotifyBy) -> Self {
        let backing = Backing::create(None).expect("a tmpfs");
        // Nobody runs it: time passes when a run says so.
        let timer = Arc::new(Timer::default());
        let (hub, thread) = Hub::start(notify, timer.clone()).expect("a thread");
        let settings = Settings {
            uid: ROOT_USER,
            gid: ROOT_USER,
            root_mode: 0o1777,
            linger: Duration::ZERO,
            announce: crate::announce::Settings::default(),
            manifest: None,
        };
        let origin = Origin::fresh().expect("randomness");
        Self {
            shared: Shared::new(backing, transport, timer, Arc::new(hub), settings, origin)
                .expect("descriptors"),
            hub: Some(thread),
            transport,
            notify,
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
    world: Rc<World>,
    tickets: Vec<Held>,
}

impl Run<'_> {
    fn statement(&mut self, input: &mut Input<'_>) {
        let index = input.below(self.clients.len());
        let client = &mut self.clients[index];
        let shared = self.shared;
        let choice = input.byte() % 32;
        match choice {
            0 | 1 => client.create(shared, input),
            2..=4 => client.open(shared, input),
            5 | 6 => client.write(shared, input),
            7..=9 => client.read(shared, input),
            10 => client.poll(shared, input),
            11 | 12 => client.set_attributes(shared, input),
            13 => client.extended_attributes(shared, input),
            14 => client.unlink(shared, input),
            15 => client.close(shared, input),
            16 => client.look(shared, input),
            17..=19 => client.open_control(shared, input),
            20 => client.scribble(shared, input),
            21 => {
                let state = client.state(shared, input);
                match input.byte() % 9 {
                    0 => shared.reaper.end(client.caller.tid),
                    8 => shared.look(Look::Waits(state)),
                    1 => shared.look(Look::Linger(state)),
                    2 => shared.look(Look::Turn(state)),
                    3 => shared.look(Look::Views(state)),
                    4 => shared.look(Look::Signals),
                    5 => {
                        std::thread::sleep(Duration::from_millis(1));
                        shared.look(Look::Overdue(state));
                    }
                    _ => shared.look(Look::Overdue(state)),
                }
            }
            22 => self.show(input),
            23 => self.forget(input),
            24 | 25 => client.commit(shared, input),
            _ => {
                if let Some(held) = client.ioctl(shared, input) {
                    self.tickets.push(held);
                }
            }
        }
        for client in &mut self.clients {
            if matches!(choice, 0 | 1 | 11 | 12) {
                client.note_rights(shared);
            }
            client.take_answers(shared);
        }
    }

    /// The kernel lets go of the name of a stream.
    fn forget(&self, input: &mut Input<'_>) {
        let open = self.clients.iter().flat_map(|client| &client.open);
        let open: Vec<u64> = open.map(|open| open.opened.ino).collect();
        let (which, some) = (input.below(8), input.number());
        self.world.forget(self.shared, which, some, &open);
    }

    /// A message to the socket: a ticket, or not.
    fn show(&mut self, input: &mut Input<'_>) {
        let desk = &self.shared.desk;
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
            // Where maps are passed through no region is given away.
            (libc::ENOTTY, None) => self
                .tickets
                .retain(|held| held.ticket.secret[..] != message[..]),
            other => panic!("answered {other:?}"),
        }
    }

    /// Closes all files and lets go of what is kept: then nothing may be left. Streams are closed
    /// before that, or when all states have gone, and have told so.
    fn end(mut self, streams_last: bool) {
        let shared = self.shared;
        for client in &mut self.clients {
            client.leave(shared, |kind| kind != Kind::Changes || !streams_last);
        }
        if !streams_last {
            self.world.forget_all(shared);
            expect_nothing(shared);
        }
        for client in &mut self.clients {
            client.expect_current(shared);
        }
        self.end_states();
        for client in &mut self.clients {
            for open in client.open.clone() {
                client.drain(shared, &open);
            }
            client.leave(shared, |_| true);
        }
        self.world.forget_all(shared);
        expect_nothing(shared);
        assert!(shared.reaper.is_idle(), "{:?}", shared.reaper);
        assert!(shared.common.intents.all().is_empty());
    }

    /// Lets go of those states that are kept.
    fn end_states(&self) {
        let shared = self.shared;
        let root = self.clients[0].caller;
        let list = || shared.list(Node::Root.ino()).expect("a directory");
        for entry in list().iter().filter(|entry| entry.kind == FileKind::File) {
            let lingers = shared.get_xattr(entry.ino, "user.kstate.linger");
            let attr = shared.getattr(entry.ino).expect("it is listed");
            let kept = attr.mode & libc::S_ISVTX != 0;
            assert!(
                kept || lingers.as_deref() != Ok(b"0ms"),
                "{} is left: {attr:?}",
                entry.name
            );
            let change = Change {
                mode: Some(attr.mode & 0o777),
                ..Change::default()
            };
            shared
                .setattr(entry.ino, None, change)
                .expect("it is listed");
            // With the mode's change it may have gone.
            let linger = "user.kstate.linger";
            let _ = shared.set_xattr(root, entry.ino, linger, Some(b"0"), Mode::Any);
        }
        let left = list();
        assert!(
            left.iter().all(|entry| entry.kind == FileKind::Directory),
            "{left:?}"
        );
    }
}

/// Nothing is left of what was open. The thread that watches may just be about to find that nobody
/// waits.
fn expect_nothing(shared: &Shared) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = shared.left();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left: {left:#?}");
        std::thread::sleep(Duration::from_micros(50));
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
