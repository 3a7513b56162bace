#![expect(
    unsafe_code,
    reason = "nix hands received descriptors out as bare numbers"
)]
//! How a region's descriptor arrives where the kernel cannot pass maps through.
//!
//! The daemon issues a ticket for the open file; shown at its socket by the same user, once, it is
//! answered with the descriptor of the region, which can be mapped with the file's rights.

use std::ffi::OsStr;
use std::io;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kstate_sys::ioctl::{Ticket, call};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg,
    send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::errno::{self, Refusal};

/// How long the daemon may take to answer, in seconds.
const PATIENCE_S: i64 = 5;

/// Tickets asked for before a refusal counts.
const MAX_ATTEMPTS: u32 = 10;

/// The descriptor of the region behind `file`.
///
/// # Errors
///
/// What the daemon or the kernel says.
///
/// # Cost
///
/// One FUSE request and one exchange over a Unix socket, about 200 µs.
pub(crate) fn redeem(file: impl AsFd) -> io::Result<OwnedFd> {
    // An open file has one ticket at a time: another thread, or a forked child, may have asked
    // for the next one before this was shown.
    // And a receive with a timeout is interrupted by a mere stop (signal(7)): another ticket.
    let redeem_once = || errno::uninterrupted(|| redeem_once(file.as_fd()));
    for _ in 0..MAX_ATTEMPTS {
        match redeem_once() {
            Err(error) if errno::refusal(&error) == Refusal::Denied => {}
            redeemed => return redeemed,
        }
    }
    redeem_once()
}

fn redeem_once(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (socket, secret) = at_the_desk(file, PATIENCE_S)?;
    send(socket.as_raw_fd(), &secret, MsgFlags::MSG_NOSIGNAL)?;
    receive(&socket)
}

/// A connection to the daemon's socket, which may take so many seconds to answer, and what is to be shown there
/// on behalf of the open state `file`.
///
/// # Errors
///
/// What the daemon or the kernel says.
pub(crate) fn at_the_desk(
    file: BorrowedFd<'_>,
    patience_s: i64,
) -> io::Result<(OwnedFd, [u8; 16])> {
    let mut ticket = Ticket::new([0; 16], b"").ok_or_else(errno::protocol_violation)?;
    errno::uninterrupted(|| call::ticket(file, &mut ticket))?;
    let path = ticket.path().ok_or_else(errno::protocol_violation)?;
    let address = UnixAddr::new(Path::new(OsStr::from_bytes(path)))?;
    let socket = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let patience = TimeVal::new(patience_s, 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    if let Err(error) = connect(socket.as_raw_fd(), &address) {
        let error = io::Error::from(error);
        // Its owner has ended since it issued the ticket.
        return Err(match errno::is_deserted(&error) {
            true => errno::daemon_died(),
            false => error,
        });
    }
    Ok((socket, ticket.secret))
}

/// One message of four bytes, an errno or 0, with one descriptor if it is 0.
fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut answer = [0; 4];
    let mut parts = [IoSliceMut::new(&mut answer)];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let length = message.bytes;
    let mut descriptor = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            for number in received {
                // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
                descriptor = Some(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    if length == 0 {
        // It has hung up without an answer.
        return Err(errno::daemon_died());
    }
    if length != answer.len() {
        return Err(errno::protocol_violation());
    }
    match i32::from_ne_bytes(answer) {
        0 => descriptor.ok_or_else(errno::protocol_violation),
        code => Err(errno::from_code(code)),
    }
}
