//! The service manager that has started the daemon, and waits to hear how it is: systemd, or another that
//! speaks the protocol of sd_notify(3), which is a datagram of a few lines.

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;

use crate::backing::Transport;
use crate::config::Config;
use crate::session::{Ending, Mounted, ServeError, Server};
use crate::watchdog::Watchdog;

/// How long a manager may leave a message lying. It is told no more of that one then: nobody waits longer for
/// the daemon because its manager hangs.
const TIME_TO_TAKE: Duration = Duration::from_secs(1);

/// What the manager says to a program of its own, and to none that this one starts.
const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Who is told that the file system is mounted, ends or has failed; or nobody.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often the manager wants to hear that the daemon serves.
    period: Option<Duration>,
}

impl ServiceManager {
    /// The one that `$NOTIFY_SOCKET` names, a path or, behind `@`, a name in the abstract space; nobody where there
    /// is none, or it cannot be reached that way, which is logged.
    pub fn of_environment() -> Self {
        let variable = |name: &str| std::env::var_os(name);
        let socket = variable("NOTIFY_SOCKET").and_then(|name| match address(&name) {
            Ok(address) => Some((UnixDatagram::unbound().ok()?, address)),
            Err(error) => {
                tracing::warn!(?name, %error, "the service manager cannot be told anything");
                None
            }
        });
        if let Some((socket, _)) = &socket {
            // As long as it likes, where that cannot be set.
            let _ = socket.set_write_timeout(Some(TIME_TO_TAKE));
        }
        let own = std::process::id();
        let period = period(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), own);
        Self { socket, period }
    }

    /// Nobody, whatever the environment says: it is that of whoever started this process.
    pub(crate) const fn nobody() -> Self {
        Self {
            socket: None,
            period: None,
        }
    }

    /// Mounts and serves as [`serve`](crate::serve) does, and tells the manager.
    ///
    /// # Errors
    ///
    /// [`ServeError`]; nothing is left mounted or behind then, and the manager has been told why.
    pub fn serve(
        &self,
        config: Config,
        on_mounted: impl FnOnce(&Mounted),
    ) -> Result<(), ServeError> {
        let server = Server::start(config).inspect_err(|error| self.failed(error))?;
        on_mounted(server.mounted());
        self.tell(&format!("READY=1\n{}", status(server.mounted())));
        self.watch_over(server)
    }

    /// Serves what is mounted until its end, of which the manager is told.
    ///
    /// # Errors
    ///
    /// The mount could not be undone.
    pub(crate) fn watch_over(&self, server: Server) -> Result<(), ServeError> {
        let path = &server.mounted().path;
        let ping = |period| Some(Watchdog::start(period, path, self.teller()?));
        let watchdog = self.period.and_then(ping);
        let ending = server.until_ended()?;
        self.tell(match ending {
            Ending::Over => "STOPPING=1\nSTATUS=unmounting",
            Ending::Leaving => "STOPPING=1\nSTATUS=leaving to another daemon",
        });
        drop(watchdog);
        let stopped = server.end(ending);
        stopped.inspect_err(|error| self.failed(error))
    }

    /// That another process, the daemon, has mounted what is to be served and stays, while this one goes.
    pub(crate) fn handed_over(&self, daemon: u32, status: &str) {
        self.tell(&format!("MAINPID={daemon}\nREADY=1\n{status}"));
    }

    /// Why there is no daemon, or a mount is left.
    pub(crate) fn failed(&self, error: &(dyn Error + 'static)) {
        let reason = error.to_string().replace('\n', " ");
        match errno(error) {
            Some(errno) => self.tell(&format!("STATUS={reason}\nERRNO={errno}")),
            None => self.tell(&format!("STATUS={reason}")),
        }
    }

    /// Leaves a child nothing to tell the manager by.
    pub(crate) fn hide_from(child: &mut Command) -> &mut Command {
        VARIABLES
            .iter()
            .fold(child, |child, name| child.env_remove(name))
    }

    fn tell(&self, message: &str) {
        if let Some((socket, address)) = &self.socket {
            send(socket, address, message);
        }
    }

    /// What tells the manager that the daemon serves.
    fn teller(&self) -> Option<impl Fn() + Send + use<>> {
        let (socket, address) = self.socket.as_ref()?;
        let (socket, address) = (socket.try_clone().ok()?, address.clone());
        Some(move || send(&socket, &address, "WATCHDOG=1"))
    }
}

/// What a mount is, in a line that `systemctl status` shows.
pub(crate) fn status(mounted: &Mounted) -> String {
    let how = match mounted.transport {
        Transport::Passthrough => "by passthrough",
        Transport::Socket => "over its socket",
    };
    format!("STATUS=serving {} {how}", mounted.path.display()).replace('\n', " ")
}

fn send(socket: &UnixDatagram, address: &SocketAddr, message: &str) {
    if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
        tracing::warn!(%error, message, "the service manager was not told");
    }
}

fn address(name: &OsString) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        // Such as of a virtual machine's host, `vsock:`.
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// As sd_watchdog_enabled(3) has it: of another process than `own` the period is not this one's business.
fn period(microseconds: Option<OsString>, process: Option<OsString>, own: u32) -> Option<Duration> {
    let process = process.map(|process| process.to_str()?.parse().ok());
    if process.is_some_and(|process: Option<u32>| process != Some(own)) {
        return None;
    }
    let microseconds = microseconds?.to_str()?.parse().ok()?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds))
}

/// The kernel's answer that is at the bottom of an error, if there is one.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    match error.downcast_ref::<io::Error>() {
        Some(answer) => answer.raw_os_error(),
        None => error.source().and_then(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name() {
        let of = |name: &str| address(&name.into());
        let path = of("/run/systemd/notify").unwrap();
        assert_eq!(path.as_pathname(), Some("/run/systemd/notify".as_ref()));
        let name = of("@a/b").unwrap();
        assert_eq!(name.as_abstract_name(), Some(&b"a/b"[..]));
        for other in ["", "relative", "vsock:2:1", &"/x".repeat(60)] {
            assert!(of(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_watchdogs_period_is_for_the_process_that_it_names() {
        let of = |time: Option<&str>, process: Option<&str>| {
            period(time.map(Into::into), process.map(Into::into), 7)
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(of(Some("1000000"), None), second);
        assert_eq!(of(Some("1000000"), Some("7")), second);
        for (time, process) in [
            (None, None),
            (Some("0"), None),
            (Some("x"), None),
            (Some("1000000"), Some("8")),
            (Some("1000000"), Some("x")),
        ] {
            assert_eq!(of(time, process), None, "{time:?} {process:?}");
        }
    }

    #[test]
    fn the_errno_is_that_of_the_cause() {
        let source = io::Error::from_raw_os_error(libc::EPERM);
        let path = "/x".into();
        assert_eq!(
            errno(&ServeError::Mount { path, source }),
            Some(libc::EPERM)
        );
        let named = ServeError::Backing(io::Error::other("no tmpfs"));
        assert_eq!(errno(&named), None);
    }
}
