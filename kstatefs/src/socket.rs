//! Hands region descriptors to programs where the kernel cannot pass their maps through.
//!
//! A program that has opened a state asks for a ticket by ioctl and shows it here. The ticket
//! stands for the rights of that open file, so the mode bits have been checked by the kernel; the
//! peer's credentials must be those of the asker, and a ticket serves once.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kstate_sys::ioctl::Ticket;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    getsockopt, listen, recv, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::private::PrivateDirectory;

/// How long a ticket is good.
const TICKET_LIFE: Duration = Duration::from_secs(5);
/// How long a connection may take to show its ticket. One at a time is served.
const PATIENCE_MS: i64 = 200;
/// Tickets outstanding at one time; a program that hoards them gets no more.
const MAX_TICKETS: usize = 4096;

/// The socket, and the tickets that are good there.
#[derive(Debug)]
pub(crate) struct Desk {
    directory: PrivateDirectory,
    path: PathBuf,
    listener: OwnedFd,
    tickets: Mutex<HashMap<[u8; 16], Issued>>,
}

#[derive(Debug)]
struct Issued {
    descriptor: OwnedFd,
    uid: u32,
    expires: Instant,
}

impl Desk {
    /// Opens the socket in a directory of its own below the runtime directory.
    ///
    /// # Errors
    ///
    /// What the kernel says, with the path.
    pub(crate) fn open() -> io::Result<Self> {
        // The first that can be written: root of a user namespace may not write /run.
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let places = runtime
            .into_iter()
            .chain(["/run".into(), std::env::temp_dir()]);
        let mut directory = Err(io::Error::other("no place for a socket"));
        for place in places {
            // Others may search it but not list it.
            directory = PrivateDirectory::create(&place, 0o711);
            if directory.is_ok() {
                break;
            }
        }
        let directory = directory?;
        let path = directory.path().join("socket");
        let open = || -> io::Result<OwnedFd> {
            let kind = SockType::SeqPacket;
            let listener = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
            bind(listener.as_raw_fd(), &UnixAddr::new(&path)?)?;
            // Anybody may knock; what counts is the ticket and who shows it.
            std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
            listen(&listener, Backlog::new(128)?)?;
            Ok(listener)
        };
        let listener = open().map_err(|error| {
            io::Error::other(format!("cannot listen on {}: {error}", path.display()))
        })?;
        Ok(Self {
            directory,
            path,
            listener,
            tickets: Mutex::default(),
        })
    }

    /// Removes the socket and its directory; again, nothing.
    pub(crate) fn remove(&self) {
        self.directory.remove();
    }

    /// A ticket for `descriptor`, good once for user `uid`.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when too many are outstanding; no randomness.
    pub(crate) fn issue(&self, descriptor: OwnedFd, uid: u32) -> io::Result<Ticket> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        let ticket = Ticket::new(secret, self.path.as_os_str().as_encoded_bytes())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?;
        let mut tickets = self.lock();
        let now = Instant::now();
        tickets.retain(|_, issued| issued.expires > now);
        if tickets.len() >= MAX_TICKETS {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        tickets.insert(
            secret,
            Issued {
                descriptor,
                uid,
                expires: now + TICKET_LIFE,
            },
        );
        Ok(ticket)
    }

    /// Serves until [`Desk::stop`].
    pub(crate) fn run(&self) {
        loop {
            match accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Ok(peer) => {
                    #[expect(unsafe_code, reason = "nix returns a bare number")]
                    // SAFETY: a new descriptor that nobody else owns.
                    let peer = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(peer) };
                    if let Err(error) = self.serve(&peer) {
                        tracing::debug!(%error, "a program was not served at the socket");
                    }
                }
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::ECONNABORTED) => {}
                // `stop` has shut the socket down.
                Err(nix::errno::Errno::EINVAL) => return,
                Err(error) => {
                    tracing::error!(%error, "nobody can get at regions any more");
                    // Out of descriptors, most likely: give others time to close some.
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    /// Ends [`Desk::run`].
    pub(crate) fn stop(&self) {
        let how = nix::sys::socket::Shutdown::Both;
        if let Err(error) = nix::sys::socket::shutdown(self.listener.as_raw_fd(), how) {
            tracing::error!(%error, "the socket cannot be shut down");
        }
    }

    fn serve(&self, peer: &OwnedFd) -> io::Result<()> {
        let patience = TimeVal::new(0, PATIENCE_MS * 1000);
        setsockopt(peer, sockopt::ReceiveTimeout, &patience)?;
        setsockopt(peer, sockopt::SendTimeout, &patience)?;
        let uid = getsockopt(peer, sockopt::PeerCredentials)?.uid();
        // One byte more than a ticket, so that a longer message is seen as such.
        let mut secret = [0; 17];
        let length = recv(peer.as_raw_fd(), &mut secret, MsgFlags::empty())?;
        let issued = match <[u8; 16]>::try_from(&secret[..length]) {
            Ok(secret) => self.redeem(&secret, uid),
            Err(_) => None,
        };
        match issued {
            Some(descriptor) => {
                let descriptors = [descriptor.as_fd().as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&descriptors)];
                answer(peer, 0, &rights)
            }
            None => answer(peer, libc::EACCES, &[]),
        }
    }

    fn redeem(&self, secret: &[u8; 16], uid: u32) -> Option<OwnedFd> {
        let mut tickets = self.lock();
        let now = Instant::now();
        let good = |issued: &Issued| issued.uid == uid && issued.expires > now;
        // A wrong user does not use up somebody's ticket.
        if !tickets.get(secret).is_some_and(good) {
            return None;
        }
        tickets.remove(secret).map(|issued| issued.descriptor)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 16], Issued>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(peer: &OwnedFd, errno: i32, rights: &[ControlMessage<'_>]) -> io::Result<()> {
    let errno = errno.to_ne_bytes();
    let parts = [IoSlice::new(&errno)];
    // A peer that has gone must not end the daemon by SIGPIPE.
    sendmsg::<UnixAddr>(
        peer.as_raw_fd(),
        &parts,
        rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}
