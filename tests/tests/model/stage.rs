//! The processes, and what they are told.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use kstate::{Bytes, State};
use kstate_sys::ioctl::{Claim, call};
use kstate_tests::{Daemon, PATIENCE, Running, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::test_runner::TestCaseError;

use super::reference::{ACTORS, Act, CAPACITY_BYTES as CAPACITY, Reference};
use super::step::Step;

/// Processes at a daemon, for one case after the other.
pub(crate) struct Stage<'d> {
    daemon: &'d Daemon,
    listener: UnixListener,
    socket: PathBuf,
    actors: Vec<Option<Actor>>,
}

struct Actor {
    stream: BufReader<UnixStream>,
    pid: Pid,
    /// Not of a fork, which is another process's child.
    running: Option<Running>,
}

/// The states of a case, as this process has them: subscribed to before all others.
struct States {
    prefix: String,
    a: State<u64>,
    b: State<u64>,
    c: State<Bytes>,
}

impl States {
    fn new(daemon: &Daemon, case: u32) -> Self {
        let prefix = format!("case-{case}");
        let mount = daemon.library();
        let subscribe = |part: &str| mount.subscribe(format!("{prefix}.{part}")).write();
        // In this order, which is the one they are committed in.
        Self {
            a: subscribe("a").typed().unwrap(),
            b: subscribe("b").typed().unwrap(),
            c: subscribe("c").capacity(CAPACITY).bytes().unwrap(),
            prefix,
        }
    }

    /// Waits until these groups of each state are the free ones below some number. The daemon
    /// counts who has closed its file no more, but has its groups back only when it has ended.
    fn await_free(&self, expected: &[Vec<u32>; 3]) {
        let states = [self.a.as_fd(), self.b.as_fd(), self.c.as_fd()];
        eventually("the dead one's slots are free", || {
            let free = states.iter().zip(expected).all(|(state, expected)| {
                let mut free = Vec::new();
                for _ in expected {
                    let mut claim = Claim::default();
                    call::claim(state, &mut claim).unwrap();
                    free.push(claim.group);
                }
                for group in &free {
                    call::release(state, *group).unwrap();
                }
                free == *expected
            });
            free.then_some(())
        });
    }
}

impl Actor {
    fn tell(&mut self, line: &str) -> String {
        if writeln!(self.stream.get_mut(), "{line}").is_err() {
            return String::from("nothing: it has ended");
        }
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => String::from("nothing: it has ended"),
            Ok(_) => line.trim_end().to_owned(),
            Err(error) => format!("nothing: {error}"),
        }
    }

    fn kill(mut self) {
        kill(self.pid, Signal::SIGKILL).expect("it lives");
        if let Some(running) = &mut self.running {
            running.finish();
        }
    }
}

impl<'d> Stage<'d> {
    /// With processes that have subscribed to nothing yet; `name` is no other stage's.
    pub(crate) fn new(daemon: &'d Daemon, name: u32) -> Self {
        let socket = daemon.home().join(format!("stage-{name}"));
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut stage = Self {
            daemon,
            listener,
            socket,
            actors: Vec::new(),
        };
        for _ in 0..ACTORS {
            let actor = stage.start();
            stage.actors.push(Some(actor));
        }
        stage
    }

    fn start(&self) -> Actor {
        let running = self.daemon.actor(&self.socket);
        let mut actor = self.accept();
        actor.running = Some(running);
        actor
    }

    fn accept(&self) -> Actor {
        let stream = eventually("a process says who it is", || {
            match self.listener.accept() {
                Ok((stream, _)) => Some(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) => panic!("{error}"),
            }
        });
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut actor = Actor {
            stream: BufReader::new(stream),
            pid: Pid::this(),
            running: None,
        };
        actor.pid = Pid::from_raw(actor.line().parse().unwrap());
        actor
    }

    fn actor(&mut self, actor: usize) -> &mut Actor {
        self.actors[actor].as_mut().expect("it lives")
    }

    /// One case: all `steps`, each answered as the reference has it. After a failure the stage is of
    /// no use any more.
    pub(crate) fn play(
        &mut self,
        case: u32,
        ways: &[&'static str],
        steps: &[Step],
    ) -> Result<(), TestCaseError> {
        let states = States::new(self.daemon, case);
        let mut reference = Reference::new(ways.to_vec());
        let open = format!("open {}", states.prefix);
        for actor in 0..ACTORS {
            assert_eq!(self.actor(actor).tell(&open), "ok");
        }
        let mut said = String::new();
        for step in steps {
            for act in reference.apply(step) {
                match act {
                    Act::Tell {
                        actor,
                        line,
                        expected,
                    } => {
                        let answer = self.actor(actor).tell(&line);
                        said.push_str(&format!("process {actor}: {line} → {answer}\n"));
                        if answer != expected {
                            return Err(failed(&said, format!("and not: {expected}")));
                        }
                    }
                    Act::Fork { actor } => {
                        let child = self.actor(actor).tell("fork");
                        let fork = self.accept();
                        assert_eq!(fork.pid.to_string(), child);
                        let number = self.actors.len();
                        said.push_str(&format!("process {actor}: fork → process {number}\n"));
                        self.actors.push(Some(fork));
                    }
                    Act::Kill { actor } => {
                        said.push_str(&format!("process {actor}: is killed\n"));
                        self.actors[actor].take().expect("it lives").kill();
                        states.await_free(&reference.free());
                        if actor < ACTORS {
                            let mut anew = self.start();
                            let opened = anew.tell(&open);
                            if opened != "ok" {
                                return Err(failed(&said, opened));
                            }
                            self.actors[actor] = Some(anew);
                            reference.arrive(actor);
                        }
                    }
                }
            }
        }
        for (actor, forked) in self.actors.drain(ACTORS..).enumerate() {
            if let Some(mut forked) = forked {
                // No answer: it ends.
                let ended = forked.tell("quit");
                assert!(ended.starts_with("nothing"), "fork {actor}: {ended}");
            }
        }
        for actor in 0..ACTORS {
            assert_eq!(self.actor(actor).tell("close"), "ok", "{said}");
        }
        // This process's own are the first.
        states.await_free(&[(); 3].map(|()| (2..10).collect()));
        Ok(())
    }
}

/// What was said until something was wrong.
fn failed(said: &str, what: impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(format!("\n{said}{what}"))
}
