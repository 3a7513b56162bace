//! Where scenes are played: the servers, the processes and the directory of a run.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::Result;
use crate::peers::{Peer, Reach};
use crate::place::now_ns;
use crate::process::Process;
use crate::redis_server::RedisServer;
use crate::site::{Home, Site};
use crate::task::{Actor, Job, Outcome, Window};
use crate::worker::Ready;

/// How long a scene lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    /// Before it counts.
    pub(crate) warm: Duration,
    pub(crate) measured: Duration,
}

/// The servers, the processes and the directory of a run.
#[derive(Debug)]
pub(crate) struct Stage {
    workers: Vec<Process>,
    redis: std::result::Result<RedisServer, String>,
    daemon: Option<Process>,
    event: i32,
    names: usize,
    directory: TempDir,
}

impl Stage {
    /// A stage with its servers started.
    pub(crate) fn set(install: bool) -> Result<Self> {
        raise_descriptors();
        let directory = tempfile::Builder::new()
            .prefix("kstate-rivals-")
            .tempdir_in("/dev/shm")?;
        let path = directory.path();
        let mount = path.join("mount");
        let backing = path.join("backing");
        std::fs::create_dir(&mount)?;
        std::fs::create_dir(&backing)?;
        let daemon = start_daemon(&mount, &backing)?;
        // Processes started from now on inherit it, by this number.
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
        let event = OwnedFd::from(event).into_raw_fd();
        let redis = RedisServer::start(path, install);
        Ok(Self {
            workers: Vec::new(),
            redis,
            daemon: Some(daemon),
            event,
            names: 0,
            directory,
        })
    }

    pub(crate) fn redis(&self) -> &std::result::Result<RedisServer, String> {
        &self.redis
    }

    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn daemon_id(&self) -> Option<u32> {
        self.daemon.as_ref().map(Process::id)
    }

    /// A site for values that nobody has used.
    pub(crate) fn site(&mut self, size: usize, count: usize) -> Site {
        self.names += 1;
        Site {
            directory: self.directory.path().to_owned(),
            name: format!("v{}", self.names),
            size,
            count,
            event: self.event,
            home: None,
        }
    }

    /// Makes the value, of a peer that reaches over processes; dropping what is returned ends it.
    pub(crate) fn home(
        peer: &'static dyn Peer,
        site: &Site,
    ) -> std::result::Result<Option<Home>, String> {
        match peer.reach() {
            Reach::OneProcess => Ok(None),
            Reach::Processes => peer.home(site).map(Some).map_err(|cannot| cannot.0),
        }
    }

    /// A process that plays scenes, for one who wants to kill it.
    pub(crate) fn worker(&self) -> Result<Process> {
        let mount = self.directory.path().join("mount");
        Process::start(&["worker"], &mount)
    }

    /// Has actors do their parts at the same time; as many outcomes, or why there are none.
    pub(crate) fn play(
        &mut self,
        peer: &'static dyn Peer,
        site: &Site,
        actors: &[Actor],
        length: Length,
    ) -> Result<std::result::Result<Vec<Outcome>, String>> {
        // A process each, or one for all where the peer reaches no further.
        let groups: Vec<&[Actor]> = match peer.reach() {
            Reach::Processes => actors.chunks(1).collect(),
            Reach::OneProcess => vec![actors],
        };
        while self.workers.len() < groups.len() {
            self.workers.push(self.worker()?);
        }
        let workers = &mut self.workers[..groups.len()];
        for (worker, group) in workers.iter_mut().zip(&groups) {
            let job = Job {
                peer: peer.id().to_owned(),
                site: site.clone(),
                actors: group.to_vec(),
            };
            worker.tell(&serde_json::to_string(&job)?)?;
        }
        let mut why = None;
        let mut opened = Vec::new();
        for worker in workers.iter_mut() {
            let ready: Ready = serde_json::from_str(&worker.hear()?)?;
            opened.push(ready.cannot.is_none());
            why = why.or(ready.cannot);
        }
        let start_ns = now_ns() + u64::try_from(length.warm.as_nanos())?;
        let end_ns = start_ns + u64::try_from(length.measured.as_nanos())?;
        let window = match why {
            None => Window { start_ns, end_ns },
            // Those that did open do nothing.
            Some(_) => Window {
                start_ns: 0,
                end_ns: 0,
            },
        };
        let window = serde_json::to_string(&window)?;
        let mut outcomes = Vec::new();
        let listening = || opened.iter().copied();
        for (worker, _) in workers
            .iter_mut()
            .zip(listening())
            .filter(|(_, open)| *open)
        {
            worker.tell(&window)?;
        }
        for (worker, _) in workers
            .iter_mut()
            .zip(listening())
            .filter(|(_, open)| *open)
        {
            outcomes.append(&mut serde_json::from_str(&worker.hear()?)?);
        }
        if let Some(why) = why {
            return Ok(Err(why));
        }
        match outcomes
            .iter()
            .find_map(|outcome: &Outcome| outcome.cannot.clone())
        {
            Some(why) => Ok(Err(why)),
            None => Ok(Ok(outcomes)),
        }
    }
}

/// As many descriptors as may be: who has a hundred thousand states open needs as many. The
/// processes started from now on inherit it.
fn raise_descriptors() {
    const WANTED: u64 = 300_000;
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    // Above the hard limit only root may go; what stays is enough for all but one question.
    if setrlimit(Resource::RLIMIT_NOFILE, WANTED, WANTED.max(hard)).is_err() {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// A daemon in a process of its own.
pub(crate) fn start_daemon(mount: &std::path::Path, backing: &std::path::Path) -> Result<Process> {
    let (mount_text, backing_text) = (mount.to_string_lossy(), backing.to_string_lossy());
    let mut daemon = Process::start(&["daemon", &mount_text, &backing_text], mount)?;
    match daemon.hear()?.trim() {
        "mounted" => Ok(daemon),
        other => Err(format!("the daemon said `{other}`").into()),
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.workers.clear();
        // Before the directory, which is under the mount.
        drop(self.daemon.take());
        // What iceoryx2 keeps for the next node of its configuration, of which there is none.
        let token = crate::site::token(self.directory.path());
        for entry in std::fs::read_dir("/dev/shm")
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with(&token) {
                // It takes a page or two where it stays.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
