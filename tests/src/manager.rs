//! A service manager, as far as what it is told goes: sd_notify(3).

use std::io::{IoSliceMut, Result};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt,
};

use crate::deadline::PATIENCE;

/// A socket for messages, and how a service is told of it.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    /// What `$NOTIFY_SOCKET` is to be.
    pub name: String,
}

/// A message, and the process that sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its lines.
    pub lines: Vec<String>,
    /// By the kernel's word.
    pub pid: i32,
}

impl Told {
    /// Whether it has a line.
    pub fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|other| other == line)
    }

    /// What stands behind a word and `=`.
    pub fn value(&self, word: &str) -> Option<&str> {
        let value = |line: &'_ str| -> Option<usize> {
            line.strip_prefix(word)?.strip_prefix('=').map(str::len)
        };
        let found = self.lines.iter();
        found
            .filter_map(|line| value(line).map(|length| &line[line.len() - length..]))
            .next()
    }
}

impl ServiceManager {
    /// Listens at a path in `directory`.
    ///
    /// # Panics
    ///
    /// When it cannot.
    #[track_caller]
    pub fn at_path(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Self::over(socket, path.to_str().expect("text").to_owned())
    }

    /// Listens at an abstract name that is like no other.
    ///
    /// # Panics
    ///
    /// When it cannot.
    #[track_caller]
    pub fn abstractly(directory: &Path) -> Self {
        let name = directory.to_str().expect("text");
        let address = SocketAddr::from_abstract_name(name).expect("a short name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        Self::over(socket, format!("@{name}"))
    }

    fn over(socket: UnixDatagram, name: String) -> Self {
        setsockopt(&socket, sockopt::PassCred, &true).expect("a socket has it");
        Self { socket, name }
    }

    /// The next message.
    ///
    /// # Panics
    ///
    /// When none comes.
    #[track_caller]
    pub fn told(&self) -> Told {
        self.told_within(PATIENCE).expect("it is told something")
    }

    /// The next message, if one comes within that time.
    ///
    /// # Panics
    ///
    /// When the socket fails.
    #[track_caller]
    pub fn told_within(&self, time: Duration) -> Option<Told> {
        self.socket.set_read_timeout(Some(time)).expect("some time");
        match self.receive() {
            Ok(told) => Some(told),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn receive(&self) -> Result<Told> {
        let mut bytes = [0; 4096];
        let mut control = nix::cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let (socket, none) = (self.socket.as_raw_fd(), MsgFlags::empty());
        let message = recvmsg::<()>(socket, &mut parts, Some(&mut control), none)?;
        let sender = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::ScmCredentials(sender) => Some(sender.pid()),
            _ => None,
        });
        let (pid, length) = (sender.unwrap_or(0), message.bytes);
        let text = String::from_utf8_lossy(&bytes[..length]);
        Ok(Told {
            lines: text.lines().map(str::to_owned).collect(),
            pid,
        })
    }
}
