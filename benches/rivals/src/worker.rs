//! A process of a measurement: it is told scenes, one a line, and answers with what came of them.

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use kstatefs::{Config, Server};
use nix::sys::signal::{SigSet, Signal};

use crate::Result;
use crate::act::{perform, prepare};
use crate::peers::{self, Peer, Reach};
use crate::place::pin;
use crate::site::Site;
use crate::task::{Actor, Job, Outcome, Task, Window};

/// A signal to the whole group, such as Ctrl-C, must not end a process that has mounted or has
/// made something: it sees that its parent has gone. Before any thread is started, which inherits
/// this.
fn outlive_interrupts() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    Ok(signals.thread_block()?)
}

/// Serves kstate at that directory until the input ends.
pub(crate) fn be_daemon(mount: &Path, backing: &Path) -> Result<()> {
    outlive_interrupts()?;
    let mut config = Config::new(mount);
    config.handle_signals = false;
    config.backing = Some(backing.to_owned());
    let server = Server::start(config)?;
    println!("mounted");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    server.stop()?;
    Ok(())
}

/// Does what it is told until the input ends.
pub(crate) fn work() -> Result<()> {
    outlive_interrupts()?;
    let mut lines = io::stdin().lock().lines();
    while let Some(line) = lines.next() {
        let job: Job = serde_json::from_str(&line?)?;
        let mut scene = match Scene::open(job) {
            Ok(scene) => scene,
            Err(why) => {
                say(&Ready { cannot: Some(why) })?;
                continue;
            }
        };
        let why = scene.why_not();
        say(&Ready {
            cannot: why.clone(),
        })?;
        if why.is_none() {
            let Some(line) = lines.next() else { break };
            let outcomes = scene.play(serde_json::from_str(&line?)?);
            say(&outcomes)?;
        }
    }
    Ok(())
}

/// What is said when all threads have opened what they take.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Ready {
    pub(crate) cannot: Option<String>,
}

fn say(what: &impl serde::Serialize) -> Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, what)?;
    output.write_all(b"\n")?;
    Ok(output.flush()?)
}

/// The threads of a scene.
struct Scene {
    peer: &'static dyn Peer,
    site: Site,
    updates: bool,
    threads: Vec<Thread>,
}

struct Thread {
    ready: Receiver<Option<String>>,
    go: Sender<Window>,
    handle: JoinHandle<Outcome>,
}

impl Scene {
    fn open(job: Job) -> std::result::Result<Self, String> {
        let peer = peers::find(&job.peer).ok_or("there is no such peer")?;
        let mut site = job.site;
        if peer.reach() == Reach::OneProcess {
            let home = peer.home(&site).map_err(|cannot| cannot.0)?;
            site.home = Some(home);
        }
        let start = |actor: &Actor| Thread::start(peer, site.clone(), *actor);
        let threads = job.actors.iter().map(start).collect();
        let updates = job.actors.iter().any(|actor| actor.task == Task::Update);
        Ok(Self {
            peer,
            site,
            updates,
            threads,
        })
    }

    /// Waits until all are ready.
    fn why_not(&mut self) -> Option<String> {
        let mut why = None;
        for thread in &self.threads {
            let said = thread.ready.recv();
            why = why.or(said.unwrap_or_else(|_| Some("it panicked while opening".into())));
        }
        if why.is_some() {
            for thread in self.threads.drain(..) {
                // Told nothing, it ends.
                drop(thread.go);
                let _ = thread.handle.join();
            }
        }
        why
    }

    fn play(self, window: Window) -> Vec<Outcome> {
        for thread in &self.threads {
            // One that has ended is found below.
            let _ = thread.go.send(window);
        }
        let join = |thread: Thread| {
            thread
                .handle
                .join()
                .unwrap_or_else(|_| failed("it panicked"))
        };
        let mut outcomes: Vec<Outcome> = self.threads.into_iter().map(join).collect();
        if self.updates
            && let Ok(mut handle) = self.peer.reads(&self.site)
            && let Ok(word) = handle.word()
        {
            outcomes
                .iter_mut()
                .for_each(|outcome| outcome.left = Some(word));
        }
        outcomes
    }
}

impl Thread {
    fn start(peer: &'static dyn Peer, site: Site, actor: Actor) -> Self {
        let (say, ready) = channel();
        let (go, window) = channel();
        let handle = std::thread::spawn(move || {
            pin(actor.processor);
            let part = match prepare(peer, &site, actor.task) {
                Ok(part) => part,
                Err(cannot) => {
                    // Who listens waits for this.
                    let _ = say.send(Some(cannot.0.clone()));
                    return failed(&cannot.0);
                }
            };
            let _ = say.send(None);
            match window.recv() {
                Ok(window) => {
                    perform(part, window).unwrap_or_else(|error| failed(&error.to_string()))
                }
                Err(_) => failed("called off"),
            }
        });
        Self { ready, go, handle }
    }
}

fn failed(why: &str) -> Outcome {
    Outcome {
        cannot: Some(why.to_owned()),
        ..Outcome::default()
    }
}
