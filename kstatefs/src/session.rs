//! From a configuration to a mounted file system and back.

mod mounting;
mod signals;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::backing::{Backing, Transport};
use crate::config::{Config, Passthrough};
use crate::fs::{Origin, Settings, Shared};
use crate::fuse::Fuse;
use crate::gate::Gate;
use crate::leave;
use crate::ledger::Event;
use crate::mountpoint::{self, MountPointError};
use crate::poll::{Hub, Way};
use crate::process;
use crate::takeover::{self, Left};
use crate::timer::Timer;
use crate::unused::Unused;

use mounting::{Unmounting, is_connected, mount, probe_passthrough};
use signals::SignalGuard;

/// Why nothing was served, or no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The directory cannot be mounted on.
    #[error(transparent)]
    MountPoint(#[from] MountPointError),
    /// No tmpfs to keep regions in.
    #[error("no place for states: {0}")]
    Backing(#[source] io::Error),
    /// The kernel refused to mount.
    #[error(
        "cannot mount on {path}: {source}; root may, other users need fusermount3 (package \
         fuse3) or a user namespace (unshare --user --map-root-user --mount); `kstate doctor` \
         tells what there is"
    )]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the kernel or fusermount3 said.
        source: io::Error,
    },
    /// The kernel's device cannot be opened, which nobody who mounts can do without.
    #[error("cannot mount on {path}: /dev/fuse: {source}; {advice}")]
    Device {
        /// The mount point.
        path: PathBuf,
        /// What to change.
        advice: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Passthrough was required and the kernel refused it.
    #[error(
        "the kernel passes no maps through here ({0}); it takes Linux 6.9 and CAP_SYS_ADMIN; \
         leave --passthrough at auto to go without"
    )]
    Passthrough(#[source] io::Error),
    /// The states of a daemon that has ended are mapped by passthrough, which this one cannot do.
    #[error(
        "cannot take over the states of the last daemon on {path}: they were passed through, and \
         the kernel passes no maps through here now ({source}); start it as that one was, or give \
         them up: kstate umount {path}"
    )]
    Former {
        /// The mount point.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The daemon that serves the mount point does not make room.
    #[error(
        "cannot take the place of the daemon on {path}: {source}; who has started it may, in the same \
         mount namespace and with the same --backing; or end it with its states: kstate umount {path}"
    )]
    Replace {
        /// The mount point.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// Passthrough was required, and the states of a daemon that has ended are not passed through.
    #[error(
        "cannot take over the states of the last daemon on {0} by passthrough: they are had over a \
         socket; leave --passthrough at auto to go on so, or give them up: kstate umount {0}"
    )]
    FormerSocket(PathBuf),
    /// Something the daemon needs failed.
    #[error("{doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What was mounted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Mounted {
    /// Where, as an absolute path.
    pub path: PathBuf,
    /// How programs get at regions.
    pub transport: Transport,
    /// Whether one io_uring watches all polled states; else threads do.
    pub polls_by_uring: bool,
}

/// How serving ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With the mount, which somebody has undone or wants to have undone.
    Over,
    /// Another daemon goes on with it.
    Leaving,
}

/// A file system being served by threads of this process.
#[derive(Debug)]
pub struct Server {
    mounted: Mounted,
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    session: JoinHandle<()>,
    /// Readable once the session has ended.
    ended: Arc<EventFd>,
    /// The session's own, to see whether it is connected.
    device: OwnedFd,
    /// The kernel's name of the connection; none if somebody has unmounted it before it was known.
    connection: Option<u64>,
    signals: Option<SignalGuard>,
    exit_when_unused: Option<Duration>,
}

/// Mounts and serves until unmounted or, if so configured, SIGINT, SIGTERM or SIGHUP.
/// `on_mounted` is called once the file system can be used.
///
/// # Errors
///
/// [`ServeError`]; nothing is left mounted or behind then.
pub fn serve(config: Config, on_mounted: impl FnOnce(&Mounted)) -> Result<(), ServeError> {
    let server = Server::start(config)?;
    on_mounted(server.mounted());
    server.wait()
}

impl Server {
    /// Mounts, and serves from threads of this process.
    ///
    /// # Errors
    ///
    /// [`ServeError`]; nothing is left mounted or behind then.
    pub fn start(config: Config) -> Result<Self, ServeError> {
        let path = mountpoint::resolve(&config.directory)?;
        let gate = Gate::enter(&path).map_err(system(
            "another daemon is being started there and does not come to an end",
        ))?;
        let backing = config.backing.as_deref();
        // Before the mount of a dead daemon is removed, by which others know that what it has left is
        // still wanted.
        let left = if config.replace && mountpoint::is_served(&path)? {
            let refused = |source| ServeError::Replace {
                path: path.clone(),
                source,
            };
            // While it serves on: once it has ended there is no way back.
            let minor = mountpoint::connection(&path)?.unwrap_or(0);
            let model = takeover::examine(backing, &path, minor).map_err(refused)?;
            may_serve(config.passthrough, model.head.transport, &path)?;
            Some(leave::replace(backing, &path).map_err(refused)?)
        } else if config.restartable {
            mountpoint::examine(&path)?;
            let found = takeover::find(backing, &path);
            found.map_err(system("cannot take over what the last daemon has left"))?
        } else {
            None
        };
        if let Some(left) = &left {
            may_serve(config.passthrough, left.transport(), &path)?;
        }
        raise_descriptor_limit();
        let left = match left.map(Left::open).transpose() {
            Ok(left) => left.flatten(),
            Err(source) => {
                return Err(system("cannot take over what the last daemon has left")(
                    source,
                ));
            }
        };
        if let Some((backing, _)) = &left {
            // From here on nothing but the time tells that it is wanted.
            let touched = takeover::touch(backing.directory());
            touched.map_err(system("cannot keep what the last daemon has left"))?;
        }
        let path = mountpoint::prepare(&path)?;
        // Before any thread is started, so that all of them have the signals blocked.
        let signals = match config.handle_signals {
            true => Some(SignalGuard::block().map_err(system("cannot block signals"))?),
            false => None,
        };
        let (backing, model) = match left {
            Some((backing, model)) => (backing, Some(model)),
            None => {
                let backing = Backing::create(config.backing.as_deref());
                (backing.map_err(ServeError::Backing)?, None)
            }
        };
        let root = nix::unistd::geteuid().is_root();
        let allow_other = config.allow_other.unwrap_or(root);
        let fuse = Fuse::default();
        let session = mount(&path, fuse.clone(), allow_other, config.threads)?;
        let unmount = Unmounting(Some(path.clone()));
        let former = model.as_ref().map(|model| model.head.transport);
        let transport = match config.passthrough {
            // As programs have the regions mapped.
            _ if former == Some(Transport::Socket) => Transport::Socket,
            Passthrough::Off if former.is_none() => Transport::Socket,
            wanted => match probe_passthrough(session.as_fd(), &backing) {
                Ok(()) => Transport::Passthrough,
                Err(source) if former.is_some() => {
                    return Err(ServeError::Former { path, source });
                }
                Err(error) if wanted == Passthrough::Require => {
                    return Err(ServeError::Passthrough(error));
                }
                Err(error) => {
                    tracing::info!(%error, "no passthrough; programs map over the socket");
                    Transport::Socket
                }
            },
        };
        if transport == Transport::Socket && config.restartable {
            let started = backing.start_holder();
            started.map_err(system("cannot split off the process that holds regions"))?;
        }
        let timer = Arc::new(Timer::default());
        let (hub, hub_thread) = Hub::start(config.notify_by, timer.clone())
            .map_err(system("cannot watch polled states"))?;
        let polls_by_uring = hub.way() == Way::Uring;
        let settings = Settings {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            root_mode: config
                .root_mode
                .unwrap_or(if allow_other { 0o1777 } else { 0o700 }),
            linger: config.linger,
            announce: config.announce(),
            manifest: config.manifest.clone(),
        };
        // From the table and not by a look at the mount, which nobody serves yet.
        let minor = mountpoint::connection(&path)?;
        let origin = match (&model, config.restartable) {
            (Some(_), _) => takeover::resume(backing.directory()),
            (None, true) => takeover::begin(backing.directory(), &path, transport),
            (None, false) => Origin::fresh(),
        };
        let origin = origin.map_err(system("cannot keep notes for a daemon to come"))?;
        let shared = Shared::new(backing, transport, timer, Arc::new(hub), settings, origin)
            .map_err(system("cannot set up the file system"))?;
        let shared = Arc::new(shared);
        if let Some(model) = &model {
            let restored = takeover::restore(&shared, model);
            restored.map_err(system("cannot take over what the last daemon has left"))?;
        }
        if config.handle_signals {
            // By who starts it so: before anybody finds it served.
            shared.leaving.expect();
        }
        if let Some(minor) = minor {
            shared.is_mounted_as(minor);
            shared.backing.mounted(minor);
            shared.common.ledger.note_end(Event::Mounted(minor));
        }
        fuse.install(shared.clone());
        let mut helpers = vec![hub_thread];
        helpers.extend(start_helpers(&shared).map_err(system("cannot start a thread"))?);
        let announcing = shared.announcer.start();
        announcing.map_err(system("cannot start a thread"))?;
        let weak = Arc::downgrade(&shared);
        shared.desk.on_persist(move |asked| {
            if let Some(shared) = weak.upgrade() {
                shared.persist_as_asked(asked);
            }
        });
        if let Some(model) = &model {
            shared.reattach(model);
        }
        shared.restore_listed();
        let device = session
            .as_fd()
            .try_clone_to_owned()
            .map_err(system("cannot keep the device"))?;
        let ended = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(errno_system)?;
        let ended = Arc::new(ended);
        let theirs = ended.clone();
        let serving = shared.clone();
        // What is mounted keeps others away from here on. Not later: who finds it served must not find the
        // gate closed.
        drop(gate);
        let session = std::thread::Builder::new()
            .name("kstate-fuse".into())
            .spawn(move || {
                // What is there goes with this daemon from here on, and not before: had it not come so far,
                // another one could.
                serving.backing.keep();
                match session.run() {
                    // Cut from here, because programs had files open.
                    Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                    Err(error) => tracing::error!(%error, "the FUSE session ended badly"),
                    Ok(()) => {}
                }
                if let Err(error) = theirs.write(1) {
                    tracing::error!(%error, "the end of the session cannot be told");
                }
            })
            .map_err(system("cannot start a thread"))?;
        unmount.disarm();
        let mounted = Mounted {
            path,
            transport,
            polls_by_uring,
        };
        Ok(Self {
            mounted,
            shared,
            helpers,
            session,
            ended,
            device,
            connection: minor,
            signals,
            exit_when_unused: config.exit_when_unused,
        })
    }

    /// What was mounted.
    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    /// Serves until unmounted or until a signal says so.
    ///
    /// # Errors
    ///
    /// The mount could not be undone.
    pub fn wait(self) -> Result<(), ServeError> {
        let ending = self.until_ended()?;
        self.end(ending)
    }

    /// Returns once somebody has unmounted it, a signal says that it is to end, or another daemon that it is to
    /// make room; or once it was unused for as long as it was to wait for that, and is unmounted.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub(crate) fn until_ended(&self) -> Result<Ending, ServeError> {
        let mut fds = vec![
            PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.leaving.awaited(), PollFlags::POLLIN),
        ];
        if let Some(signals) = &self.signals {
            fds.push(PollFd::new(signals.descriptor.as_fd(), PollFlags::POLLIN));
        }
        let mut unused = self.exit_when_unused.map(Unused::for_so_long);
        loop {
            let pause = unused.as_ref().map_or(PollTimeout::NONE, Unused::pause);
            match poll(&mut fds, pause) {
                Ok(0) => {
                    if let Some(unused) = &mut unused
                        && unused.look(|| self.is_needed())
                    {
                        if self.unmount_unused() {
                            return Ok(Ending::Over);
                        }
                        unused.begin_anew();
                    }
                }
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(errno_system(error)),
            }
        }
        let ended = |fd: &PollFd<'_>| fd.any() == Some(true);
        Ok(
            match ended(&fds[1]) && !ended(&fds[0]) && !fds.get(2).is_some_and(ended) {
                true => Ending::Leaving,
                false => Ending::Over,
            },
        )
    }

    fn is_needed(&self) -> bool {
        self.shared
            .states()
            .iter()
            .any(|state| state.needs_daemon())
    }

    /// Unmounts if nobody uses the mount; whether it did.
    fn unmount_unused(&self) -> bool {
        let path = &self.mounted.path;
        let Some(minor) = self.connection else {
            return false;
        };
        match mountpoint::unmount_unused(path, minor) {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(%error, "unused, and cannot be unmounted");
                false
            }
        }
    }

    /// Ends as it is to.
    ///
    /// # Errors
    ///
    /// The mount could not be undone.
    pub(crate) fn end(self, ending: Ending) -> Result<(), ServeError> {
        match ending {
            Ending::Over => self.stop(),
            Ending::Leaving => {
                self.leave();
                Ok(())
            }
        }
    }

    /// Ends all threads, and leaves the mount dead and what was kept to another daemon.
    fn leave(self) {
        tracing::info!(path = %self.mounted.path.display(), "leaving to another daemon");
        self.shared.common.ledger.leave();
        let cut = match self.connection {
            Some(minor) => mountpoint::cut(&self.mounted.path, minor),
            None => Ok(()),
        };
        if let Err(error) = cut {
            tracing::debug!(%error, "cut by its name among the connections");
            self.abort();
        }
        let shared = self.shared.clone();
        let over = has_ended(&self.ended, 2000);
        self.end_threads(over);
        shared.backing.leave();
        if over {
            // Else a thread may still write to a region, and its end is that of the process.
            shared.backing.unlock();
        }
    }

    /// Cuts the connection. Who has files open gets ENOTCONN from here on.
    fn abort(&self) {
        if let Some(connection) = self.connection {
            let abort = format!("/sys/fs/fuse/connections/{connection}/abort");
            if let Err(error) = std::fs::write(&abort, "1") {
                tracing::debug!(%error, abort, "the connection ends with the process");
            }
        }
    }

    /// Unmounts, ends all threads and removes what was kept.
    ///
    /// # Errors
    ///
    /// The mount could not be undone.
    pub fn stop(self) -> Result<(), ServeError> {
        let unmounted = match self.connection {
            // Programs that have files open lose the name, and the connection below.
            Some(minor) => {
                let is_connected = || is_connected(self.device.as_fd());
                mountpoint::unmount_device(&self.mounted.path, minor, is_connected)
            }
            None => Ok(()),
        };
        let over = has_ended(&self.ended, 200) || {
            // Open files keep a detached mount alive.
            self.abort();
            has_ended(&self.ended, 2000)
        };
        let shared = self.shared.clone();
        self.end_threads(over);
        // Named here and not left to the last owner, which may be a thread that never ends.
        shared.backing.remove();
        Ok(unmounted?)
    }

    /// Ends them, that of the session if it is `over`.
    fn end_threads(self, over: bool) {
        // Nobody asks for anything any more; who has mapped a state may still commit.
        let end = !self.shared.common.ledger.is_left();
        self.shared.flusher.finish(end);
        self.shared.announcer.stop(&self.shared.states());
        self.shared.hub.stop();
        self.shared.reaper.stop();
        self.shared.common.timer.stop();
        self.shared.desk.stop();
        for helper in self.helpers {
            if helper.join().is_err() {
                tracing::error!("a thread of the daemon panicked");
            }
        }
        if over && self.session.join().is_err() {
            tracing::error!("the FUSE session panicked");
        }
        self.shared.desk.remove();
    }
}

/// Whether the session ends within so many milliseconds.
fn has_ended(ended: &EventFd, patience: u16) -> bool {
    let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::from(patience)), Ok(1))
}

fn start_helpers(shared: &Arc<Shared>) -> io::Result<Vec<JoinHandle<()>>> {
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.into()).spawn(run)
    };
    let mut threads = Vec::new();
    let theirs = shared.clone();
    threads.push(spawn(
        "kstate-reaper",
        Box::new(move || theirs.reaper.run()),
    )?);
    let theirs = shared.clone();
    let time = move || theirs.common.timer.run(|look| theirs.look(look));
    threads.push(spawn("kstate-timer", Box::new(time))?);
    let theirs = shared.clone();
    threads.push(spawn("kstate-socket", Box::new(move || theirs.desk.run()))?);
    Ok(threads)
}

/// Whether states that are had by `former` can be served as was asked, as far as can be told before anything is
/// mounted.
fn may_serve(wanted: Passthrough, former: Transport, path: &Path) -> Result<(), ServeError> {
    match former {
        Transport::Socket if wanted == Passthrough::Require => {
            Err(ServeError::FormerSocket(path.to_owned()))
        }
        Transport::Passthrough if !process::may_pass_through() => Err(ServeError::Former {
            path: path.to_owned(),
            source: io::Error::from_raw_os_error(libc::EPERM),
        }),
        _ => Ok(()),
    }
}

/// A process that waits or writes costs a descriptor; without passthrough a state does, too.
fn raise_descriptor_limit() {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => {
            if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                tracing::warn!(%error, soft, hard, "descriptor limit not raised");
            }
        }
        _ => {}
    }
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::System { doing, source }
}

fn errno_system(error: nix::errno::Errno) -> ServeError {
    ServeError::System {
        doing: "cannot wait for the session",
        source: error.into(),
    }
}
