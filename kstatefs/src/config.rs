//! How the daemon is set up: options of the command line, and of mount(8).

mod buses;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

#[cfg(feature = "dbus")]
pub(crate) use buses::BusKind;
use buses::device;
pub use buses::{Bus, KbusPrefix};

use crate::announce;
use crate::xattr::parse_duration;

/// Everything that can be chosen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Where to mount.
    pub directory: PathBuf,
    /// A tmpfs directory for region files; `None` for the first one found.
    pub backing: Option<PathBuf>,
    /// Whether the kernel shall pass maps through.
    pub passthrough: Passthrough,
    /// Whether users other than the one who mounts may come in; `None`: if that is root.
    pub allow_other: Option<bool>,
    /// Mode bits of the root directory; `None`: 1777 if others may come in, else 0700.
    pub root_mode: Option<u32>,
    /// The list of persistent states, which all come back when it is mounted and join it when they are made;
    /// made if it is absent. `None`: none comes back by itself.
    pub manifest: Option<PathBuf>,
    /// How long a new state outlives its last subscriber.
    pub linger: Duration,
    /// Threads that answer requests.
    pub threads: usize,
    /// How commits are noticed on behalf of programs that poll.
    pub notify_by: NotifyBy,
    /// The device of KBUS, where states can be announced on it.
    pub kbus: Option<PathBuf>,
    /// What the names of messages there begin with; a dot and the state's name follow.
    pub kbus_prefix: KbusPrefix,
    /// The bus of D-Bus, where states can be announced on one.
    pub dbus: Option<Bus>,
    /// Keep notes, and without passthrough a process that holds regions, so that a daemon started on the same
    /// mount point after this one was killed takes its states over. That process is forked when the daemon
    /// starts, and shares the memory of the program until then.
    pub restartable: bool,
    /// Take the place of the daemon that serves the mount point, if one does.
    pub replace: bool,
    /// Unmount and end once nothing has needed the daemon for so long: no state is open, lingers or is
    /// kept by its sticky bit, and no program has anything of the mount in use. Persistent states are in their files by then.
    pub exit_when_unused: Option<Duration>,
    /// Unmount on SIGINT, SIGTERM and SIGHUP. Not for a daemon inside another program.
    pub handle_signals: bool,
}

/// Whether the kernel passes maps through to the backing pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Passthrough {
    /// If it can.
    #[default]
    Auto,
    /// Or the mount fails.
    Require,
    /// Programs get the region's descriptor over the daemon's socket instead.
    Off,
}

/// How commits are noticed on behalf of programs that poll state files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum NotifyBy {
    /// One io_uring if it can wait on futexes (Linux 6.7), else threads.
    #[default]
    Auto,
    /// Threads in futex_waitv, 127 states each.
    Futex,
}

/// What mount(8) and fstab may say of any file system and means nothing to this one: its files are
/// in memory, have no access times, and are served by whoever may mount (mount(8),
/// FILESYSTEM-INDEPENDENT MOUNT OPTIONS).
const GENERIC: [&str; 42] = [
    "async",
    "atime",
    "auto",
    "default_permissions",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "group",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "_netdev",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "noexec",
    "nofail",
    "nogroup",
    "noiversion",
    "nolazytime",
    "nomand",
    "noowner",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "rw",
    "silent",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "user",
    "users",
];

/// Likewise, with a value.
const GENERIC_WITH_VALUE: [&str; 7] = [
    "comment", "fsname", "helper", "max_read", "subtype", "uhelper", "user",
];

impl Config {
    /// The defaults, mounted on `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            backing: None,
            passthrough: Passthrough::Auto,
            allow_other: None,
            root_mode: None,
            manifest: None,
            linger: Duration::ZERO,
            threads: 4,
            notify_by: NotifyBy::Auto,
            kbus: None,
            kbus_prefix: KbusPrefix::default(),
            dbus: None,
            restartable: true,
            replace: false,
            exit_when_unused: None,
            handle_signals: true,
        }
    }

    /// Where states can be announced.
    pub(crate) fn announce(&self) -> announce::Settings {
        let prefix = self.kbus_prefix.as_str();
        announce::Settings {
            kbus: self.kbus.clone().map(|device| (device, prefix.to_owned())),
            dbus: self.dbus.clone(),
        }
    }

    /// Takes over options in the form of mount(8)'s `-o`, separated by commas. The generic ones
    /// that mount(8) passes on are taken as given, except `ro`.
    ///
    /// # Errors
    ///
    /// A sentence naming the option.
    pub fn apply_mount_options(&mut self, options: &str) -> Result<(), String> {
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (option, None),
            };
            match (key, value) {
                ("allow_other", None) => self.allow_other = Some(true),
                ("backing", Some(path)) => self.backing = Some(path.into()),
                ("kbus", Some(path)) => self.kbus = Some(device(path)?),
                ("kbus_prefix", Some(value)) => self.kbus_prefix = value.parse()?,
                ("dbus", Some(value)) => self.dbus = Some(value.parse()?),
                ("linger", Some(value)) => self.linger = duration(value)?,
                ("manifest", Some(path)) => self.manifest = Some(path.into()),
                ("mode", Some(value)) => self.root_mode = Some(mode(value)?),
                ("threads", Some(value)) => self.threads = threads(value)?,
                ("nopassthrough", None) => self.passthrough = Passthrough::Off,
                ("passthrough", None) => self.passthrough = Passthrough::Require,
                ("ro", None) => {
                    return Err(
                        "mount option `ro` makes no sense here: states are there to be published \
                         to; leave it out, and use mode=OCTAL to say who may make some"
                            .into(),
                    );
                }
                (key, None) if GENERIC.contains(&key) => {}
                (key, Some(_)) if GENERIC_WITH_VALUE.contains(&key) => {}
                (key, _) if key.starts_with("x-") || key.starts_with("X-") => {}
                _ => {
                    return Err(format!(
                        "unknown mount option `{option}`; known are allow_other, backing=DIR, \
                         dbus=BUS, kbus=DEVICE, kbus_prefix=NAME, linger=TIME, \
                         manifest=FILE, mode=OCTAL, threads=N, passthrough, nopassthrough"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What the command line can say about a mount. Shared by `kstatefs` and `kstate mount`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Directory to mount on; it must exist
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    /// Take over the states of the daemon that serves DIR, which ends; programs go on meanwhile
    #[arg(long)]
    pub replace: bool,

    /// Tmpfs directory to keep states in [default: the first of /dev/shm, /run/shm, /run]
    #[arg(long, value_name = "DIR")]
    pub backing: Option<PathBuf>,

    /// Let the kernel pass maps through to the backing pages (Linux 6.9 and root): if it can
    /// (auto), or fail (require), or use the daemon's socket instead (off)
    #[arg(long, value_enum, default_value_t)]
    pub passthrough: Passthrough,

    /// Let users other than the one who mounts come in [default: only if root mounts]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub allow_other: Option<bool>,

    /// Mode of the root directory, octal [default: 1777 if others may come in, else 0700]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub root_mode: Option<u32>,

    /// File that lists persistent states: those it lists come back now, those made persistent later join it
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,

    /// How long a new state outlives its last subscriber, as 500ms or 2s
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub linger: Duration,

    /// Unmount and end once nobody has used any state for so long
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub exit_when_unused: Option<Duration>,

    /// Threads that answer requests
    #[arg(long, value_name = "N", default_value = "4", value_parser = threads)]
    pub threads: usize,

    /// How to notice commits for programs that poll: by one io_uring if it can (auto), or by
    /// threads in futex_waitv (futex)
    #[arg(long, value_enum, default_value_t)]
    pub notify_by: NotifyBy,

    /// Device of KBUS, such as /dev/kbus0: owners of states can have commits announced on it
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    pub kbus: Option<PathBuf>,

    /// What the names of messages on KBUS begin with; a dot and the state's name follow
    #[arg(long, value_name = "NAME", default_value_t)]
    pub kbus_prefix: KbusPrefix,

    /// Bus of D-Bus, session, system or an address such as unix:path=/run/bus: owners of states can
    /// have commits announced on it [needs a build with the feature dbus]
    #[arg(long, value_name = "BUS")]
    pub dbus: Option<Bus>,

    /// Options as mount(8) has them: allow_other, backing=DIR, dbus=BUS, kbus=DEVICE,
    /// kbus_prefix=NAME, linger=TIME, manifest=FILE, mode=OCTAL, threads=N, passthrough,
    /// nopassthrough; those for any file system, but ro, change nothing
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
}

impl Arguments {
    /// The configuration they say.
    ///
    /// # Errors
    ///
    /// A sentence naming a mount option that does not exist or has no such value.
    pub fn into_config(self) -> Result<Config, String> {
        let mut config = Config {
            backing: self.backing,
            passthrough: self.passthrough,
            allow_other: self.allow_other,
            root_mode: self.root_mode,
            manifest: self.manifest,
            linger: self.linger,
            threads: self.threads,
            notify_by: self.notify_by,
            kbus: self.kbus,
            kbus_prefix: self.kbus_prefix,
            dbus: self.dbus,
            replace: self.replace,
            exit_when_unused: self.exit_when_unused,
            ..Config::new(self.directory)
        };
        for options in &self.options {
            config.apply_mount_options(options)?;
        }
        Ok(config)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text.as_bytes())
        .ok_or_else(|| format!("`{text}` is no time such as 500ms or 2s"))
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o1777)
        .ok_or_else(|| format!("`{text}` is no octal mode such as 0750 or 1777"))
}

fn threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| (1..=64).contains(threads))
        .ok_or_else(|| format!("`{text}` is no number of threads from 1 to 64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_are_taken_over() {
        let mut config = Config::new("/mnt");
        config
            .apply_mount_options(
                "rw,nosuid,allow_other,backing=/dev/shm,linger=2s,mode=0750,x-a=b,kbus=/dev/kbus0",
            )
            .unwrap();
        assert_eq!(config.allow_other, Some(true));
        assert_eq!(config.backing.as_deref(), Some("/dev/shm".as_ref()));
        assert_eq!(config.linger, Duration::from_secs(2));
        assert_eq!(config.root_mode, Some(0o750));
        assert_eq!(config.kbus.as_deref(), Some("/dev/kbus0".as_ref()));
    }

    #[test]
    fn what_mount_says_of_any_file_system_is_taken_as_given() {
        let mut config = Config::new("/mnt");
        config
            .apply_mount_options(
                "relatime,nodiratime,strictatime,lazytime,sync,users,group,owner,silent,iversion,\
                 comment=x,fsname=a,subtype=b,max_read=1,user=me,X-mount.mkdir,_netdev",
            )
            .unwrap();
        let error = config.apply_mount_options("rw,ro").unwrap_err();
        assert!(error.contains("`ro` makes no sense"), "{error}");
    }

    #[test]
    fn an_unknown_or_malformed_option_is_named() {
        let mut config = Config::new("/mnt");
        for bad in [
            "nonsense",
            "linger=x",
            "mode=9",
            "threads=0",
            "allow_other=1",
            "kbus_prefix=KState",
        ] {
            let error = config.apply_mount_options(bad).unwrap_err();
            let shown = bad.split_once('=').map_or(bad, |(_, value)| value);
            assert!(error.contains(shown), "{error}");
        }
    }
}
