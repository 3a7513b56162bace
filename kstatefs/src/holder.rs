//! A process that holds regions while no daemon does, where they are memfds, which go with the last
//! descriptor. It is split off by the first daemon and serves those behind it, until one of them ends in
//! order, the mount is undone, or nobody is left who could come.
//!
//! The daemon has one end of a socket and the process the other; when the daemon's closes without a word it was
//! killed, and the next one connects by the name `holder` in the private directory.

mod keeper;

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, bind, connect, listen, recvmsg, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The socket in the private directory.
const NAME: &str = "holder";
/// What the process is named.
pub(crate) const PROCESS: &CStr = c"kstate-holder";
/// How long either may take to answer, in seconds.
const PATIENCE: i64 = 5;

/// What either says to the other.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Message {
    op: u32,
    slot: u32,
    value: u64,
}

/// What it can say.
mod op {
    /// Hold this descriptor under the number `slot`; from the holder: this is held there.
    pub(super) const KEEP: u32 = 1;
    /// What is there is not wanted any more.
    pub(super) const DROP: u32 = 2;
    /// The mount has the minor device number `value`.
    pub(super) const MOUNTED: u32 = 3;
    /// Give me all you hold; from the holder: that was all.
    pub(super) const TAKE: u32 = 4;
    /// End.
    pub(super) const END: u32 = 5;
}

/// The daemon's end.
#[derive(Debug)]
pub(crate) struct Holder {
    link: OwnedFd,
    /// It did not answer once, and is not waited for again.
    silent: AtomicBool,
    slots: Mutex<Slots>,
}

/// The numbers that descriptors are held under.
#[derive(Debug, Default)]
struct Slots {
    free: Vec<u32>,
    next: u32,
}

/// A descriptor that is held, until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    holder: Arc<Holder>,
    slot: u32,
    /// Not dropped with this.
    stays: bool,
}

/// Regions that were held, by the number of their state.
pub(crate) type Regions = HashMap<u64, (OwnedFd, Held)>;

impl Holder {
    /// Splits one off, which can be found in `directory`.
    ///
    /// # Errors
    ///
    /// `EAGAIN` for want of processes, and what else the kernel says.
    ///
    /// # Cost
    ///
    /// A fork of this process, the memory of which it shares from then on, each page until it is written to.
    pub(crate) fn start(directory: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let (_directory, address) = address(directory)?;
        // One of a holder before this, which is gone.
        let _ = std::fs::remove_file(directory.join(NAME));
        bind(listener.as_raw_fd(), &address)?;
        listen(&listener, Backlog::new(1)?)?;
        keeper::split_off(theirs.as_raw_fd(), listener.as_raw_fd())
            .map_err(io::Error::from_raw_os_error)?;
        Self::of(ours)
    }

    /// The one that was split off by the daemon that had `directory`, and all it holds.
    ///
    /// # Errors
    ///
    /// `ECONNREFUSED` or `ENOENT` when there is none, `EAGAIN` when it does not answer, `EMFILE`.
    pub(crate) fn connect(directory: &Path) -> io::Result<(Arc<Self>, Regions)> {
        let holder = Arc::new(Self::of(Self::reach(directory)?)?);
        holder.send(op::TAKE, 0, 0, None)?;
        let mut given = Vec::new();
        loop {
            let (message, descriptor) = holder.receive()?;
            match (message.op, descriptor) {
                (op::KEEP, Some(descriptor)) => given.push((message.slot, descriptor)),
                (op::TAKE, _) => break,
                // Out of descriptors: the kernel leaves out what does not fit.
                _ => return Err(io::Error::from_raw_os_error(libc::EMFILE)),
            }
        }
        let used: HashSet<u32> = given.iter().map(|(slot, _)| *slot).collect();
        let next = used.iter().max().map_or(0, |last| last + 1);
        let mut slots = holder.slots();
        slots.free = (0..next).filter(|slot| !used.contains(slot)).collect();
        slots.next = next;
        drop(slots);
        let mut regions = HashMap::new();
        for (slot, descriptor) in given {
            let held = Held {
                holder: holder.clone(),
                slot,
                stays: false,
            };
            // What has no name of ours is none of ours, and let go of.
            if let Some(ino) = number_of(&descriptor) {
                regions.insert(ino, (descriptor, held));
            }
        }
        Ok((holder, regions))
    }

    fn reach(directory: &Path) -> io::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let link = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let (_directory, address) = address(directory)?;
        connect(link.as_raw_fd(), &address)?;
        Ok(link)
    }

    fn of(link: OwnedFd) -> io::Result<Self> {
        let patience = TimeVal::seconds(PATIENCE);
        setsockopt(&link, sockopt::SendTimeout, &patience)?;
        setsockopt(&link, sockopt::ReceiveTimeout, &patience)?;
        Ok(Self {
            link,
            silent: AtomicBool::new(false),
            slots: Mutex::default(),
        })
    }

    /// Has `descriptor` held.
    ///
    /// # Errors
    ///
    /// `EPIPE` when it is gone, `EAGAIN` when it does not answer, for which it is waited once.
    pub(crate) fn hold(self: &Arc<Self>, descriptor: BorrowedFd<'_>) -> io::Result<Held> {
        let mut slots = self.slots();
        let slot = slots.free.last().copied().unwrap_or(slots.next);
        self.send(op::KEEP, slot, 0, Some(descriptor))?;
        if slots.free.pop().is_none() {
            slots.next += 1;
        }
        Ok(Held {
            holder: self.clone(),
            slot,
            stays: false,
        })
    }

    /// Tells it under which minor device number the mount is, without which it ends when no daemon is there.
    pub(crate) fn mounted(&self, minor: u64) {
        if let Err(error) = self.send(op::MOUNTED, 0, minor, None) {
            tracing::warn!(%error, "states will not outlive this daemon");
        }
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        // One that is gone need not.
        let _ = self.send(op::END, 0, 0, None);
    }

    fn send(
        &self,
        op: u32,
        slot: u32,
        value: u64,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        if self.is_silent() {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        }
        let message = Message { op, slot, value };
        let parts = [IoSlice::new(message.as_bytes())];
        let descriptors = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
        let rights = descriptors.as_ref().map(|d| ControlMessage::ScmRights(d));
        let rights = rights.as_slice();
        let link = self.link.as_raw_fd();
        match sendmsg::<UnixAddr>(link, &parts, rights, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => Ok(()),
            Err(error) => {
                // Each state would wait as long, and others for it.
                if error == Errno::EAGAIN && !self.silent.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "the process that holds states does not answer: those of now will not outlive \
                         this daemon"
                    );
                }
                Err(error.into())
            }
        }
    }

    /// Whether it counts as gone, because it did not answer.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    fn receive(&self) -> io::Result<(Message, Option<OwnedFd>)> {
        let mut bytes = [0; size_of::<Message>()];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut room = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let link = self.link.as_raw_fd();
        let how = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<UnixAddr>(link, &mut parts, Some(&mut room), how)?;
        let mut descriptor = None;
        for control in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                for number in descriptors {
                    #[expect(unsafe_code, reason = "nix returns a bare number")]
                    // SAFETY: a new descriptor that nobody else owns.
                    let owned = unsafe { OwnedFd::from_raw_fd(number) };
                    descriptor = Some(owned);
                }
            }
        }
        let length = received.bytes;
        let message = bytes.get(..length).map(Message::read_from_bytes);
        match message {
            Some(Ok(message)) => Ok((message, descriptor)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Leaves it held when this is dropped.
    pub(crate) fn leave(mut self) {
        self.stays = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let mut slots = self.holder.slots();
        // One that is gone holds nothing.
        let _ = self.holder.send(op::DROP, self.slot, 0, None);
        slots.free.push(self.slot);
    }
}

/// Ends the one of a dead daemon's `directory`, if there is one.
pub(crate) fn dismiss(directory: &Path) {
    if let Ok(holder) = Holder::reach(directory).and_then(Holder::of) {
        holder.end();
    }
}

/// The name of the socket by a directory that is open: the address of a socket has room for some 100 bytes.
fn address(directory: &Path) -> io::Result<(File, UnixAddr)> {
    let directory = File::open(directory)?;
    let path = format!("/proc/self/fd/{}/{NAME}", directory.as_fd().as_raw_fd());
    let address = UnixAddr::new(path.as_str())?;
    Ok((directory, address))
}

/// The number of the state whose region a memfd is, by the name it was given when it was made.
fn number_of(descriptor: &OwnedFd) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).ok()?;
    let name = link.to_str()?.strip_prefix("/memfd:kstate-")?;
    name.strip_suffix(" (deleted)")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd(ino: u64) -> OwnedFd {
        let name = std::ffi::CString::new(format!("kstate-{ino}")).unwrap();
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        nix::sys::memfd::memfd_create(&*name, flags).unwrap()
    }

    #[test]
    fn what_is_held_outlives_who_had_it_held() {
        let directory = tempfile::tempdir().unwrap();
        let holder = Arc::new(Holder::start(directory.path()).unwrap());
        let mut held = Vec::new();
        for ino in 16..416 {
            let region = memfd(ino);
            nix::unistd::write(&region, &ino.to_le_bytes()).unwrap();
            held.push(holder.hold(region.as_fd()).unwrap());
        }
        // Some are let go of, and one comes in the place of one of them.
        held.drain(100..200);
        held.push(holder.hold(memfd(7).as_fd()).unwrap());
        held.into_iter().for_each(Held::leave);
        assert_eq!(Arc::strong_count(&holder), 1);
        drop(holder);
        let (holder, regions) = Holder::connect(directory.path()).unwrap();
        let mut found: Vec<_> = regions.keys().copied().collect();
        found.sort_unstable();
        let expected: Vec<u64> = [7].into_iter().chain(16..116).chain(216..416).collect();
        assert_eq!(found, expected);
        let (region, _) = &regions[&300];
        let mut bytes = [0; 8];
        nix::sys::uio::pread(region, &mut bytes, 0).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), 300);
        assert_eq!(holder.slots().next, 400);
        drop(regions);
        assert_eq!(holder.slots().free.len(), 400);
        holder.end();
        drop(holder);
        let start = std::time::Instant::now();
        while Holder::reach(directory.path()).is_ok() {
            assert!(start.elapsed().as_secs() < 10);
            std::thread::yield_now();
        }
    }
    #[test]
    fn one_that_does_not_answer_is_waited_for_once() {
        let flags = SockFlag::SOCK_CLOEXEC;
        // Nobody reads from the other end, as when it is stopped.
        let (ours, _theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let holder = Arc::new(Holder::of(ours).unwrap());
        let region = memfd(16);
        let start = std::time::Instant::now();
        let mut held = Vec::new();
        while let Ok(one) = holder.hold(region.as_fd()) {
            held.push(one);
        }
        assert!(!held.is_empty() && holder.is_silent());
        for _ in 0..100 {
            holder.hold(region.as_fd()).unwrap_err();
        }
        drop(held);
        holder.end();
        let patience = u64::try_from(PATIENCE).unwrap();
        assert!(start.elapsed().as_secs() < 2 * patience);
    }
}
