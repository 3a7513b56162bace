//! From a configuration to a mounted file system and back.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{BackingId, Session, SessionACL};
use nix::mount::MsFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::backing::{Backing, Transport};
use crate::config::{Config, Passthrough};
use crate::fs::{Settings, Shared};
use crate::fuse::Fuse;
use crate::fusermount;
use crate::mountpoint::{self, FILE_SYSTEM_TYPE, MountPointError, Unmount};
use crate::poll::{Hub, Way};
use crate::timer::Timer;

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
        let path = mountpoint::prepare(&config.directory)?;
        raise_descriptor_limit();
        // Before any thread is started, so that all of them have the signals blocked.
        let signals = match config.handle_signals {
            true => Some(SignalGuard::block().map_err(system("cannot block signals"))?),
            false => None,
        };
        let backing = Backing::create(config.backing.as_deref()).map_err(ServeError::Backing)?;
        let root = nix::unistd::geteuid().is_root();
        let allow_other = config.allow_other.unwrap_or(root);
        let fuse = Fuse::default();
        let session = mount(&path, fuse.clone(), allow_other, config.threads)?;
        let unmount = Unmounting(Some(path.clone()));
        let transport = match config.passthrough {
            Passthrough::Off => Transport::Socket,
            wanted => match probe_passthrough(session.as_fd(), &backing) {
                Ok(()) => Transport::Passthrough,
                Err(error) if wanted == Passthrough::Require => {
                    return Err(ServeError::Passthrough(error));
                }
                Err(error) => {
                    tracing::info!(%error, "no passthrough; programs map over the socket");
                    Transport::Socket
                }
            },
        };
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
        let shared = Shared::new(backing, transport, timer, Arc::new(hub), settings)
            .map_err(system("cannot set up the file system"))?;
        let shared = Arc::new(shared);
        fuse.install(shared.clone());
        let mut helpers = vec![hub_thread];
        helpers.extend(start_helpers(&shared).map_err(system("cannot start a thread"))?);
        let announcing = shared.announcer.start();
        announcing.map_err(system("cannot start a thread"))?;
        // From the table and not by a look at the mount, which nobody serves yet.
        let connection = mountpoint::connection(&path)?;
        if let Some(minor) = connection {
            shared.is_mounted_as(minor);
        }
        let weak = Arc::downgrade(&shared);
        shared.desk.on_persist(move |asked| {
            if let Some(shared) = weak.upgrade() {
                shared.persist_as_asked(asked);
            }
        });
        shared.restore_listed();
        let device = session
            .as_fd()
            .try_clone_to_owned()
            .map_err(system("cannot keep the device"))?;
        let ended = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(errno_system)?;
        let ended = Arc::new(ended);
        let theirs = ended.clone();
        let session = std::thread::Builder::new()
            .name("kstate-fuse".into())
            .spawn(move || {
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
            connection,
            signals,
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
        self.until_ended()?;
        self.stop()
    }

    /// Returns once somebody has unmounted it or a signal says that it is to end.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub(crate) fn until_ended(&self) -> Result<(), ServeError> {
        let mut fds = vec![PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        if let Some(signals) = &self.signals {
            fds.push(PollFd::new(signals.descriptor.as_fd(), PollFlags::POLLIN));
        }
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(errno_system(error)),
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
        let mut fds = [PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        let ended = |fds: &mut [PollFd<'_>], patience: u16| {
            matches!(poll(fds, PollTimeout::from(patience)), Ok(1))
        };
        let over = ended(&mut fds, 200) || {
            // Open files keep a detached mount alive. Their owners get ENOTCONN from here on.
            if let Some(connection) = self.connection {
                let abort = format!("/sys/fs/fuse/connections/{connection}/abort");
                if let Err(error) = std::fs::write(&abort, "1") {
                    tracing::debug!(%error, abort, "the connection ends with the process");
                }
            }
            ended(&mut fds, 2000)
        };
        // Nobody asks for anything any more; who has mapped a state may still commit.
        self.shared.flusher.finish();
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
        // Named here and not left to the last owner, which may be a thread that never ends.
        self.shared.backing.remove();
        self.shared.desk.remove();
        Ok(unmounted?)
    }
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

/// Mounts by the system call, or by fusermount3 where only that may.
fn mount(
    path: &Path,
    fuse: Fuse,
    allow_other: bool,
    threads: usize,
) -> Result<Session<Fuse>, ServeError> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(threads);
    // A descriptor a thread: each waits in the kernel by itself.
    config.clone_fd = true;
    config.acl = if allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let failed = |source| ServeError::Mount {
        path: path.to_owned(),
        source,
    };
    let device = match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(device) => Ok(device),
        Err(source) => match device_advice(&source) {
            Some(advice) => {
                return Err(ServeError::Device {
                    path: path.to_owned(),
                    advice,
                    source,
                });
            }
            None => Err(source),
        },
    };
    let device = match device.and_then(|device| mount_directly(device, path, allow_other)) {
        Err(refused) if refused.raw_os_error() == Some(libc::EPERM) => {
            let mut options =
                "fsname=kstatefs,subtype=kstatefs,default_permissions,nosuid,nodev,noexec"
                    .to_owned();
            if allow_other {
                options.push_str(",allow_other");
            }
            fusermount::mount(path, &options).map_err(|error| match error.kind() {
                // Its absence is no reason; what it was wanted for is.
                io::ErrorKind::NotFound => refused,
                _ => error,
            })
        }
        device => device,
    };
    let device = device.map_err(failed)?;
    let unmount = Unmounting(Some(path.to_owned()));
    let session = Session::from_fd(fuse, device, config.acl, config).map_err(failed)?;
    unmount.disarm();
    Ok(session)
}

/// What to do about a device that does not open, where that is known.
fn device_advice(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error() {
        Some(libc::ENOENT) => {
            Some("load the module: modprobe fuse; in a container pass the device in")
        }
        // fusermount3 opens it as the user who calls it, and a namespace changes nothing either.
        Some(libc::EACCES) => Some(
            "it is closed to this user; as root: chmod 0666 /dev/fuse, and for good an udev rule: \
             KERNEL==\"fuse\", MODE=\"0666\"",
        ),
        _ => None,
    }
}

/// As root, or as root of a user namespace (the device must have been opened in it).
fn mount_directly(device: File, path: &Path, allow_other: bool) -> io::Result<OwnedFd> {
    let rootmode = std::fs::metadata(path)?.mode();
    let mut options = format!(
        "fd={},rootmode={rootmode:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        nix::unistd::geteuid(),
        nix::unistd::getegid()
    );
    if allow_other {
        options.push_str(",allow_other");
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let kind = Some(FILE_SYSTEM_TYPE);
    nix::mount::mount(Some("kstatefs"), path, kind, flags, Some(options.as_str()))?;
    Ok(device.into())
}

/// Registers a real backing file: INIT offers passthrough to ordinary users too, and only this
/// is then refused (EPERM).
fn probe_passthrough(device: BorrowedFd<'_>, backing: &Backing) -> io::Result<()> {
    let file = backing.region(0, 4096, Transport::Passthrough)?;
    let id = file.with(|fd| BackingId::create_raw(device, fd))?;
    close_backing(device, id)
}

/// `FUSE_DEV_IOC_BACKING_CLOSE` of `<linux/fuse.h>`.
fn close_backing(device: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    const FUSE_DEV_IOC_BACKING_CLOSE: u32 = 1 << 30 | 4 << 16 | 229 << 8 | 2;
    #[expect(unsafe_code, reason = "fuser closes only ids that it has wrapped")]
    // SAFETY: reads four bytes at the address given.
    let result = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            libc::Ioctl::from(FUSE_DEV_IOC_BACKING_CLOSE),
            &raw const id,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Whether the file system that `device` serves is there still: mounted, and not aborted. Of one
/// that is not, poll says that it has failed (kernel fs/fuse/dev.c, fuse_dev_poll).
fn is_connected(device: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(device, PollFlags::empty())];
    let polled = poll(&mut fds, PollTimeout::ZERO);
    let failed = |fd: &PollFd<'_>| {
        fd.revents()
            .is_none_or(|events| events.contains(PollFlags::POLLERR))
    };
    polled.is_ok() && !failed(&fds[0])
}

/// Unmounts when something fails between mounting and serving.
struct Unmounting(Option<PathBuf>);

impl Unmounting {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Unmounting {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = mountpoint::detach(&path, Unmount::Lazy)
        {
            tracing::warn!(%error, "left mounted");
        }
    }
}

/// The three signals that end the daemon, blocked and readable from a descriptor.
#[derive(Debug)]
struct SignalGuard {
    descriptor: SignalFd,
    before: SigSet,
}

impl SignalGuard {
    fn block() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { descriptor, before })
    }
}

impl Drop for SignalGuard {
    fn drop(&mut self) {
        // The signal that ended the daemon must not end its caller now.
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        let _ = nix::fcntl::fcntl(&self.descriptor, nix::fcntl::FcntlArg::F_SETFL(flags));
        while let Ok(Some(_)) = self.descriptor.read_signal() {}
        if let Err(error) = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None) {
            tracing::warn!(%error, "signals stay blocked");
        }
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
