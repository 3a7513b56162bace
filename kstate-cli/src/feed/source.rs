//! The input side of `kstate feed`: records from standard input or from a socket on this machine,
//! one at a time and as they arrive.

mod address;
mod framing;
mod socket_file;

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

pub(crate) use self::address::Address;
use self::framing::Framer;
pub(crate) use self::framing::Framing;
use self::socket_file::SocketFile;

/// How many clients of a stream socket are served at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// How a source is told to stop, from another thread or from a signal handler.
///
/// Set `flag`, then make one of `wakes` readable and leave it so (an eventfd, or a pipe whose other
/// end is closed or written to). The flag alone would be missed by a source just about to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop<'a> {
    /// Looked at before each record.
    pub(crate) flag: &'a AtomicBool,
    /// One becomes readable when there is reason to look at nothing else any more.
    pub(crate) wakes: [BorrowedFd<'a>; 2],
}

impl Stop<'_> {
    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Waits until one of the descriptors can be read or has ended, and says which; `None` when
    /// told to stop.
    fn wait(&self, descriptors: &[BorrowedFd<'_>]) -> io::Result<Option<Vec<bool>>> {
        let polled = descriptors.iter().chain(&self.wakes);
        let mut polled: Vec<_> = polled
            .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
            .collect();
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_none_or(|events| !events.is_empty());
        loop {
            if self.is_set() {
                return Ok(None);
            }
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut ready: Vec<bool> = polled.iter().map(is_ready).collect();
        let wakes = ready.split_off(descriptors.len());
        Ok((!wakes.contains(&true)).then_some(ready))
    }
}

/// Records, one after another, until the input ends or the source is told to stop.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    stop: Stop<'a>,
    framing: Framing,
    max_length: usize,
    input: Input,
}

#[derive(Debug)]
enum Input {
    Stream {
        file: File,
        framer: Framer,
    },
    Listener {
        listener: UnixListener,
        connections: Vec<Connection>,
        turn: usize,
        _file: SocketFile,
    },
    Datagrams {
        socket: OwnedFd,
        local: Option<SocketAddr>,
        _file: Option<SocketFile>,
    },
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    framer: Framer,
}

impl<'a> Source<'a> {
    /// Opens standard input or makes a socket. `max_length` is the longest record in bytes.
    ///
    /// A Unix socket's file is removed when the source is dropped. One that is left over from a
    /// process that died, so that nobody listens to it, is replaced.
    ///
    /// # Errors
    ///
    /// The records would be longer than `max_length`, the socket's path or port is in use, or the
    /// kernel refuses. No socket file is left behind.
    pub(crate) fn open(
        address: &Address,
        framing: Framing,
        max_length: usize,
        stop: Stop<'a>,
    ) -> Result<Self, OpenError> {
        if let Framing::Records(bytes) = framing
            && bytes.get() > max_length
        {
            return Err(OpenError::RecordSize {
                bytes: bytes.get(),
                bound: max_length,
            });
        }
        let refused = |source| OpenError::Refused {
            address: address.to_string(),
            source,
        };
        let input = match address {
            Address::Stdin => {
                let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(refused)?;
                Input::Stream {
                    file: stdin.into(),
                    framer: Framer::new(framing, max_length),
                }
            }
            Address::UnixStream(path) => {
                let (listener, file) = SocketFile::bind(path, |path| UnixListener::bind(path))?;
                listener.set_nonblocking(true).map_err(refused)?;
                Input::Listener {
                    listener,
                    connections: Vec::new(),
                    turn: 0,
                    _file: file,
                }
            }
            Address::UnixDatagram(path) => {
                let (socket, file) = SocketFile::bind(path, |path| UnixDatagram::bind(path))?;
                Input::Datagrams {
                    socket: socket.into(),
                    local: None,
                    _file: Some(file),
                }
            }
            Address::Udp(address) => {
                let socket = UdpSocket::bind(address).map_err(refused)?;
                let local = Some(socket.local_addr().map_err(refused)?);
                Input::Datagrams {
                    socket: socket.into(),
                    local,
                    _file: None,
                }
            }
        };
        Ok(Self {
            stop,
            framing,
            max_length,
            input,
        })
    }

    /// The address of a UDP source, with the port that the kernel chose where it was given as 0.
    #[must_use]
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match &self.input {
            Input::Datagrams { local, .. } => *local,
            Input::Stream { .. } | Input::Listener { .. } => None,
        }
    }

    /// Waits for the next record and puts it into `record`, in the place of what is there; `None`
    /// when the input has ended or the source was told to stop. A socket never ends.
    ///
    /// A datagram is a record of its own, however long the records of a stream would be. Records
    /// of several clients of a stream socket come in turn, each whole.
    ///
    /// # Errors
    ///
    /// Where [`FeedError::is_one_record`], only that record is lost: the next call goes on behind
    /// it. Otherwise the input cannot be read any more, except that a stream socket goes on with
    /// its other clients.
    ///
    /// # Cost
    ///
    /// No system call while records are at hand; then one `poll` and one `read` for up to 64 KiB
    /// of them. One `recv` a datagram, and a `poll` when there is none.
    pub(crate) fn next_record(&mut self, record: &mut Vec<u8>) -> Result<Option<()>, FeedError> {
        let stop = self.stop;
        match &mut self.input {
            Input::Stream { file, framer } => next_of_stream(stop, file, framer, record),
            Input::Listener {
                listener,
                connections,
                turn,
                ..
            } => {
                let new_framer = || Framer::new(self.framing, self.max_length);
                next_of_clients(stop, listener, connections, turn, new_framer, record)
            }
            Input::Datagrams { socket, .. } => {
                next_datagram(stop, socket, self.framing, self.max_length, record)
            }
        }
    }
}

fn next_of_stream(
    stop: Stop<'_>,
    file: &mut File,
    framer: &mut Framer,
    record: &mut Vec<u8>,
) -> Result<Option<()>, FeedError> {
    while !stop.is_set() {
        if framer.next_record(record)? {
            return Ok(Some(()));
        }
        if framer.is_finished() || stop.wait(&[file.as_fd()])?.is_none() {
            return Ok(None);
        }
        fill(file, framer)?;
    }
    Ok(None)
}

fn next_of_clients(
    stop: Stop<'_>,
    listener: &UnixListener,
    connections: &mut Vec<Connection>,
    turn: &mut usize,
    new_framer: impl Fn() -> Framer,
    record: &mut Vec<u8>,
) -> Result<Option<()>, FeedError> {
    while !stop.is_set() {
        for _ in 0..connections.len() {
            *turn = (*turn + 1) % connections.len();
            if connections[*turn].framer.next_record(record)? {
                return Ok(Some(()));
            }
        }
        connections.retain(|connection| !connection.framer.is_finished());

        let mut descriptors: Vec<_> = connections
            .iter()
            .map(|client| client.stream.as_fd())
            .collect();
        if connections.len() < MAX_CONNECTIONS {
            descriptors.push(listener.as_fd());
        }
        let Some(ready) = stop.wait(&descriptors)? else {
            return Ok(None);
        };
        let accept = ready.get(connections.len()) == Some(&true);
        for (connection, _) in connections
            .iter_mut()
            .zip(ready)
            .filter(|(_, ready)| *ready)
        {
            fill(&mut connection.stream, &mut connection.framer)?;
        }
        if accept {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    connections.push(Connection {
                        stream,
                        framer: new_framer(),
                    });
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(None)
}

fn next_datagram(
    stop: Stop<'_>,
    socket: &OwnedFd,
    framing: Framing,
    max_length: usize,
    record: &mut Vec<u8>,
) -> Result<Option<()>, FeedError> {
    // `MSG_TRUNC` returns a datagram's whole length even where less of it fits.
    let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
    while !stop.is_set() {
        // One byte more than a record, for a newline that is not part of it.
        record.resize(max_length + 1, 0);
        match recv(socket.as_raw_fd(), record, flags) {
            Ok(length) => {
                record.truncate(length);
                return framing.strip_datagram(record, length, max_length).map(Some);
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                if stop.wait(&[socket.as_fd()])?.is_none() {
                    break;
                }
            }
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    record.clear();
    Ok(None)
}

/// Reads once. After an error that lasts, the framer has finished and what it had is gone.
fn fill(stream: &mut impl Read, framer: &mut Framer) -> io::Result<()> {
    match stream.read(framer.room()) {
        Ok(0) => framer.end(),
        Ok(length) => framer.filled(length),
        Err(error) if is_passing(&error) => {}
        Err(error) => {
            framer.abandon();
            return Err(error);
        }
    }
    Ok(())
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::ConnectionAborted
    )
}

/// A source that could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OpenError {
    /// Every record would be longer than the state takes.
    #[error("records of {bytes} bytes are longer than the {bound} bytes that fit into the state")]
    RecordSize {
        /// The length of a record in bytes.
        bytes: usize,
        /// The longest that fits, in bytes.
        bound: usize,
    },
    /// A process listens there already.
    #[error("{path} is in use: a process listens there; end it, or choose another path")]
    InUse {
        /// The path of the socket.
        path: PathBuf,
    },
    /// Something lies there that is not a socket, and so is not ours to replace.
    #[error("{path} exists and is not a socket; remove it, or choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("cannot listen at `{address}`: {source}")]
    Refused {
        /// The address as it would be written.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A record that could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FeedError {
    /// A record is longer than the state takes.
    #[error("a record has {found} bytes or more, but only {bound} bytes fit into the state")]
    TooLong {
        /// How much of it was seen, in bytes.
        found: usize,
        /// The longest that fits, in bytes.
        bound: usize,
    },
    /// The input ends in the middle of a record, or a datagram is not a record.
    #[error("found {found} bytes where a record of {wanted} bytes belongs")]
    WrongSize {
        /// The length found, in bytes.
        found: usize,
        /// The length of every record, in bytes.
        wanted: usize,
    },
    /// The kernel cannot read the input.
    #[error("cannot read the input: {0}")]
    Read(#[from] io::Error),
}

impl FeedError {
    /// Whether only one record is lost, and the next may be asked for.
    #[must_use]
    pub(crate) fn is_one_record(&self) -> bool {
        matches!(self, Self::TooLong { .. } | Self::WrongSize { .. })
    }
}

#[cfg(test)]
mod tests;
