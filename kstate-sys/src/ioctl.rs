//! The daemon's control interface: ioctls on an open state file.
//!
//! The same numbers and structs are in `include/kstate_ioctl.h` for programs in other languages;
//! a test compares the two. All integers are in the machine's byte order. Whatever a struct does
//! not use is zero when sent and ignored when received.
//!
//! | ioctl | argument | errors besides `EFAULT`, and `ENFILE` where the daemon has no descriptor left |
//! |---|---|---|
//! | [`SUBSCRIBE`] | in and out [`Subscribe`] | `EFBIG` capacity over a page, `ENOSPC` no memory for a bigger capacity, `EINVAL` text longer than its field |
//! | [`CLAIM`] | out [`Claim`] | `EBADF` not open for writing, `EUSERS` all groups taken, `ENOSPC`, `ESTALE` deleted, `ESRCH` process not visible to the daemon |
//! | [`RELEASE`] | in `u32`: a group of the calling process | `EINVAL` not its own |
//! | [`SET_CAPACITY`] | in and out `u32` bytes | `EBADF`, `EFBIG`, `EINVAL` shrinking after the first write, `ENOSPC` |
//! | [`WAIT_BEGIN`] | in and out [`Wait`] | `ESRCH`, `EINVAL` no place, `ESTALE` deleted |
//! | [`WAIT_END`] | none | `EINVAL` without a beginning |
//! | [`SEEN`] | in `u64`: a generation | none |
//! | [`ARM`] | none | `ENOSPC`, `EIO` damaged region |
//! | [`SET_LINGER`] | in `u64` milliseconds | `EPERM` not the owner |
//! | [`SET_DEADLINE`] | in `u64` nanoseconds, 0 for none | `EPERM` not the owner, `EINVAL` less than a millisecond |
//! | [`SET_ANNOUNCE`] | in `u32`: [`Sinks`](crate::announce::Sinks) | `EPERM` not the owner, `EOPNOTSUPP` a sink that the mount does not have, `EINVAL` a name that KBUS cannot carry |
//! | [`INFO`] | out [`Info`] | `EIO` damaged region |
//! | [`TICKET`] | out [`Ticket`] | `EACCES` not open for reading |
//! | [`RECORD`], of the registry file | out `u32`: a record of the calling process | `ESRCH`, `EUSERS` too many, `ENOSPC` |
//! | [`RELEASE_RECORD`], of the registry file | in `u32`: a record of the calling process | `EINVAL` not its own |
//! | [`SETTLE`] | in and out [`Settle`] | none |
//! | [`TURN`] | in and out [`Turn`] | `EINVAL` a group not of the calling process, `ESTALE` deleted |
//! | [`TURN_END`] | in `u32`: the group | `EINVAL` not its turn |
//! | [`RECLAIM`] | in `u32`: a group of the calling process | `EBADF` not open for writing, `EINVAL` not its own, or claimed through a file that is open, `ESTALE` deleted |
//! | [`SYNC`] | in and out `u64`: a generation | `EOPNOTSUPP` not persistent, `ESTALE` deleted, `EIO`, `ENOSPC` and what else the file's medium says |
//! | [`SET_DURABILITY`] | in `u64` nanoseconds, 0 for at once | `EPERM` not the owner, `EOPNOTSUPP` not persistent |
//! | [`RETURNED`] | in [`Groups`] | `ESTALE` deleted |
//! | [`MOUNT_ID`], of the registry file | out `u64` | none |
//! | [`LEAVE`], of the registry file | none | `EPERM` neither root nor who mounted, `EOPNOTSUPP` keeps no notes for another daemon |
//! | [`VERSION`] | out `u32` | none |
//!
//! Anything else is `ENOTTY`.

use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The type byte of every ioctl here.
pub const IOC_TYPE: u8 = 0xb5;

/// Longest text that describes a layout, in bytes.
pub const LAYOUT_TEXT_BYTES: usize = 960;

/// `_IOC` of the kernel's `<asm-generic/ioctl.h>`: two bits direction, 14 size, 8 type, 8 number.
const fn ioc(direction: u32, number: u8, size: usize) -> u32 {
    assert!(size < 1 << 14);
    #[expect(clippy::cast_possible_truncation, reason = "below 2^14: asserted")]
    let size = size as u32;
    direction << 30 | size << 16 | (IOC_TYPE as u32) << 8 | number as u32
}

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// Says what is wanted of the state and learns how to map it.
pub const SUBSCRIBE: u32 = ioc(READ | WRITE, 1, size_of::<Subscribe>());
/// Claims a slot group for the calling process.
pub const CLAIM: u32 = ioc(READ, 2, size_of::<Claim>());
/// Gives a group back. Only when nothing in the process writes through it any more.
pub const RELEASE: u32 = ioc(WRITE, 3, size_of::<u32>());
/// Sets the capacity, as `ftruncate` does; answers with the one in force.
pub const SET_CAPACITY: u32 = ioc(READ | WRITE, 4, size_of::<u32>());
/// The calling process is going to wait: sets the wait mark, says where to sleep, and for how long
/// the mark stays. Asked again it begins anew.
pub const WAIT_BEGIN: u32 = ioc(READ | WRITE, 5, size_of::<Wait>());
/// It waits no more through this open file.
pub const WAIT_END: u32 = ioc(NONE, 6, 0);
/// What `poll` on this open file compares with: versions up to this one have been seen.
pub const SEEN: u32 = ioc(WRITE, 7, size_of::<u64>());
/// Arms the live page for the rest of the state's life.
pub const ARM: u32 = ioc(NONE, 8, 0);
/// How long the state outlives its last subscriber.
pub const SET_LINGER: u32 = ioc(WRITE, 9, size_of::<u64>());
/// What is known of the state.
pub const INFO: u32 = ioc(READ, 10, size_of::<Info>());
/// A one-time ticket for the region's descriptor, to be shown at the daemon's socket.
pub const TICKET: u32 = ioc(READ, 11, size_of::<Ticket>());
/// A record for commits of several states, the calling process's until that ends. Its two pages are
/// the files [`record_file`] and [`record_list_file`] name.
pub const RECORD: u32 = ioc(READ, 12, size_of::<u32>());
/// Has a commit of several states settled that this state's head has an intent of, or that goes
/// through a record of the calling process: put back if it has been undecided for long.
pub const SETTLE: u32 = ioc(READ | WRITE, 13, size_of::<Settle>());
/// Gives a record back that nothing in the process uses any more. Its number is not used again.
pub const RELEASE_RECORD: u32 = ioc(WRITE, 14, size_of::<u32>());
/// Asks that polite writers of the state leave it to a group of the calling process for a while.
pub const TURN: u32 = ioc(READ | WRITE, 15, size_of::<Turn>());
/// Ends that before its time.
pub const TURN_END: u32 = ioc(WRITE, 16, size_of::<u32>());
/// How long after a commit the next one is expected.
pub const SET_DEADLINE: u32 = ioc(WRITE, 17, size_of::<u64>());
/// Where the state's commits are announced, from now on.
pub const SET_ANNOUNCE: u32 = ioc(WRITE, 18, size_of::<u32>());
/// A group that the calling process claimed through a file of a daemon that has ended is written to through
/// this one from now on.
pub const RECLAIM: u32 = ioc(WRITE, 19, size_of::<u32>());
/// Waits until the version of that generation, 0 for the newest one, or a later one is in the state's file for
/// good; answers with the generation that is.
pub const SYNC: u32 = ioc(READ | WRITE, 20, size_of::<u64>());
/// How soon behind a commit its version is written to the state's file.
pub const SET_DURABILITY: u32 = ioc(WRITE, 21, size_of::<u64>());
/// A number that this mount has in common with the daemons that take its states over, and with no other.
pub const MOUNT_ID: u32 = ioc(READ, 22, size_of::<u64>());
/// Has the daemon end without its states, for another one that takes them over.
pub const LEAVE: u32 = ioc(NONE, 23, 0);
/// All handles of the calling process are connected to this daemon that had the state open at one before it,
/// and have reclaimed their groups but for those listed: what else it had then is given back.
pub const RETURNED: u32 = ioc(WRITE, 24, size_of::<Groups>());
/// The daemon's ABI version. This one never changes.
pub const VERSION: u32 = ioc(READ, 255, size_of::<u32>());

/// Argument of [`SUBSCRIBE`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Subscribe {
    /// In: the caller's ABI version. Out: the daemon's.
    pub abi_version: u32,
    /// Out: an [`outcome`].
    pub outcome: u32,
    /// In: capacity wanted in bytes, 0 for no opinion. Out: the one in force.
    pub capacity: u32,
    /// Out: a [`transport`].
    pub transport: u32,
    /// Out: page size in bytes.
    pub page_size: u32,
    /// Out: [`ClockKind`](crate::clock::ClockKind) of commit times.
    pub clock_kind: u32,
    /// Out: nanoseconds per tick in units of 2^-32 ns.
    pub clock_ns_per_tick_32: u64,
    /// Out: the state's inode number.
    pub state_id: u64,
    /// Out: which mount it is of, as [`MOUNT_ID`] has it.
    pub mount_id: u64,
    /// In: id of the caller's layout, 0 for untyped. Out: the one recorded.
    pub layout_id: u64,
    /// In and out: bytes of `layout_text` in use.
    pub layout_text_length: u32,
    reserved: u32,
    /// In: text describing the caller's layout. Out: the one recorded.
    pub layout_text: [u8; LAYOUT_TEXT_BYTES],
}

/// What [`Subscribe::outcome`] can be.
pub mod outcome {
    /// Subscribed.
    pub const OK: u32 = 0;
    /// Another ABI version; only `abi_version` is valid.
    pub const ABI_VERSION: u32 = 1;
    /// Another layout is recorded; `layout_id` and `layout_text` say which.
    pub const LAYOUT: u32 = 2;
}

/// Argument of [`WAIT_BEGIN`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Wait {
    /// In: the [`place`] wanted. Out: the one given, which another wait of the process through the
    /// same open file may have been given, too.
    pub place: u32,
    /// In: for how many milliseconds, 0 for as long as the file is open. Out: for how many. They
    /// are counted from no sooner than the call.
    pub milliseconds: u32,
}

/// What [`Wait::place`] can be.
pub mod place {
    /// On `head`, where committers wake. Only few get it.
    pub const HEAD: u32 = 1;
    /// On `crowd`, where the daemon wakes.
    pub const CROWD: u32 = 2;
}

/// What [`Subscribe::transport`] can be.
pub mod transport {
    /// Map the state's own descriptor.
    pub const PASSTHROUGH: u32 = 1;
    /// Ask for a [`TICKET`](super::TICKET) and show it at the daemon's socket.
    pub const SOCKET: u32 = 2;
}

impl Default for Subscribe {
    fn default() -> Self {
        Self {
            abi_version: crate::abi::ABI_VERSION,
            outcome: 0,
            capacity: 0,
            transport: 0,
            page_size: 0,
            clock_kind: 0,
            clock_ns_per_tick_32: 0,
            state_id: 0,
            mount_id: 0,
            layout_id: 0,
            layout_text_length: 0,
            reserved: 0,
            layout_text: [0; LAYOUT_TEXT_BYTES],
        }
    }
}

impl Subscribe {
    /// Puts `text` in place, cut at a character boundary if it is too long.
    pub fn set_layout_text(&mut self, text: &str) {
        let cut = text.floor_char_boundary(LAYOUT_TEXT_BYTES);
        self.layout_text = [0; LAYOUT_TEXT_BYTES];
        self.layout_text[..cut].copy_from_slice(&text.as_bytes()[..cut]);
        self.layout_text_length = u32::try_from(cut).unwrap_or(0);
    }

    /// The text; `None` when the length is out of range or the bytes are no UTF-8.
    pub fn layout_text(&self) -> Option<&str> {
        let text = self.layout_text.get(..self.layout_text_length as usize)?;
        core::str::from_utf8(text).ok()
    }
}

/// Result of [`CLAIM`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Claim {
    /// The group, never 0.
    pub group: u32,
    /// [`Class`](crate::abi::Class) of the slots allocated for it.
    pub class: u32,
    /// Capacity in force, in bytes.
    pub capacity: u32,
    reserved: u32,
}

impl Claim {
    /// A claim as the daemon answers it.
    pub const fn new(group: u32, class: u32, capacity: u32) -> Self {
        Self {
            group,
            class,
            capacity,
            reserved: 0,
        }
    }
}

/// Result of [`INFO`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Info {
    /// The state's inode number.
    pub state_id: u64,
    /// The newest generation.
    pub generation: u64,
    /// Nanoseconds since the newest commit; `u64::MAX` when never written or not stamped.
    pub age_ns: u64,
    /// Id of the recorded layout, 0 for none.
    pub layout_id: u64,
    /// Milliseconds the state outlives its last subscriber.
    pub linger_ms: u64,
    /// Nanoseconds after a commit within which the next one is expected; 0 for no such deadline.
    pub deadline_ns: u64,
    /// The newest generation that is in the state's file for good; 0 for none.
    pub durable: u64,
    /// Length of the newest version in bytes.
    pub length: u32,
    /// Capacity in bytes.
    pub capacity: u32,
    /// Open descriptors.
    pub subscribers: u32,
    /// Claimed groups, plus descriptors that programs without the library have open for writing.
    pub writers: u32,
    /// Processes that wait, plus descriptors polled.
    pub waiters: u32,
    /// [`info_flags`].
    pub flags: u32,
}

/// Bits of [`Info::flags`].
pub mod info_flags {
    /// The live page is armed.
    pub const ARMED: u32 = 1;
    /// The sticky bit keeps the state until unmount.
    pub const KEPT: u32 = 2;
    /// No commit came within the deadline, or the last writer has gone.
    pub const OVERDUE: u32 = 4;
    /// Commits are announced on KBUS.
    pub const KBUS: u32 = 8;
    /// Commits are announced on D-Bus.
    pub const DBUS: u32 = 16;
    /// The state is backed by a file.
    pub const PERSISTENT: u32 = 32;
}

/// Result of [`TICKET`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Ticket {
    /// To be sent as the first and only message; valid once, for a few seconds, for the user that
    /// asked.
    pub secret: [u8; 16],
    /// Bytes of `address` in use.
    pub address_length: u32,
    reserved: u32,
    /// Path of the daemon's Unix socket.
    pub address: [u8; 104],
}

impl Ticket {
    /// A ticket for the socket at `address`; `None` when the path is too long.
    pub fn new(secret: [u8; 16], path: &[u8]) -> Option<Self> {
        let mut address = [0; 104];
        address.get_mut(..path.len())?.copy_from_slice(path);
        Some(Self {
            secret,
            address_length: u32::try_from(path.len()).ok()?,
            reserved: 0,
            address,
        })
    }

    /// The socket's path; `None` when the length is out of range.
    pub fn path(&self) -> Option<&[u8]> {
        self.address.get(..self.address_length as usize)
    }
}

/// Argument of [`RETURNED`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Groups {
    /// A bit for each group.
    pub bits: [u64; 4],
}

impl Groups {
    /// Whether `group` is one of them.
    pub const fn contains(&self, group: u8) -> bool {
        self.bits[group as usize / 64] >> (group % 64) & 1 != 0
    }

    /// Puts `group` in or takes it out.
    pub fn set(&mut self, group: u8, is_in: bool) {
        let bit = 1 << (group % 64);
        let word = &mut self.bits[usize::from(group) / 64];
        match is_in {
            true => *word |= bit,
            false => *word &= !bit,
        }
    }
}

/// Argument of [`SETTLE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Settle {
    /// In: which commit, as a slot's metadata name it.
    pub intent: u64,
    /// Out: a [`settled`].
    pub outcome: u32,
    reserved: u32,
}

impl Settle {
    /// A question about `intent`, or its answer.
    pub const fn new(intent: u64, outcome: u32) -> Self {
        Self {
            intent,
            outcome,
            reserved: 0,
        }
    }
}

/// What [`Settle::outcome`] can be.
pub mod settled {
    /// No head that was not finished has an intent of it any more. Of one that is committed anyone
    /// who may write takes the bit off.
    pub const DONE: u32 = 0;
    /// Its owner still has time: ask again in a millisecond.
    pub const NOT_YET: u32 = 1;
}

/// Argument of [`TURN`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Turn {
    /// In: the group that is going to commit.
    pub group: u32,
    /// In: how long, in microseconds. Out: how long it was given; 0 if another has its turn or the
    /// last one is too short a time ago.
    pub microseconds: u32,
}

/// The file of a record's public page, below the root.
pub fn record_file(record: u32) -> String {
    format!(".kstate/intents/{record}")
}

/// The file of a record's private page, below the root.
pub fn record_list_file(record: u32) -> String {
    format!(".kstate/intents/{record}.list")
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Subscribe>() == 1024);
    assert!(offset_of!(Subscribe, clock_ns_per_tick_32) == 24);
    assert!(offset_of!(Subscribe, state_id) == 32);
    assert!(offset_of!(Subscribe, mount_id) == 40);
    assert!(offset_of!(Subscribe, layout_id) == 48);
    assert!(offset_of!(Subscribe, layout_text_length) == 56);
    assert!(offset_of!(Subscribe, layout_text) == 64);
    assert!(size_of::<Claim>() == 16);
    assert!(size_of::<Info>() == 80);
    assert!(offset_of!(Info, linger_ms) == 32);
    assert!(offset_of!(Info, deadline_ns) == 40);
    assert!(offset_of!(Info, durable) == 48);
    assert!(offset_of!(Info, length) == 56);
    assert!(offset_of!(Info, flags) == 76);
    assert!(size_of::<Ticket>() == 128);
    assert!(offset_of!(Ticket, address_length) == 16);
    assert!(offset_of!(Ticket, address) == 24);
    assert!(SUBSCRIBE == 0xc400_b501);
    assert!(CLAIM == 0x8010_b502);
    assert!(RELEASE == 0x4004_b503);
    assert!(SET_CAPACITY == 0xc004_b504);
    assert!(size_of::<Wait>() == 8);
    assert!(WAIT_BEGIN == 0xc008_b505);
    assert!(WAIT_END == 0x0000_b506);
    assert!(SEEN == 0x4008_b507);
    assert!(ARM == 0x0000_b508);
    assert!(SET_LINGER == 0x4008_b509);
    assert!(INFO == 0x8050_b50a);
    assert!(TICKET == 0x8080_b50b);
    assert!(size_of::<Settle>() == 16);
    assert!(RECORD == 0x8004_b50c);
    assert!(SETTLE == 0xc010_b50d);
    assert!(RELEASE_RECORD == 0x4004_b50e);
    assert!(size_of::<Turn>() == 8);
    assert!(TURN == 0xc008_b50f);
    assert!(TURN_END == 0x4004_b510);
    assert!(SET_DEADLINE == 0x4008_b511);
    assert!(SET_ANNOUNCE == 0x4004_b512);
    assert!(RECLAIM == 0x4004_b513);
    assert!(SYNC == 0xc008_b514);
    assert!(SET_DURABILITY == 0x4008_b515);
    assert!(MOUNT_ID == 0x8008_b516);
    assert!(LEAVE == 0x0000_b517);
    assert!(size_of::<Groups>() == 32);
    assert!(RETURNED == 0x4020_b518);
    assert!(VERSION == 0x8004_b5ff);
};

/// Calls into the daemon; each is one FUSE round trip, 7 to 60 µs.
pub mod call {
    #![expect(unsafe_code, reason = "ioctl(2) takes an untyped pointer")]

    use std::io;
    use std::os::fd::{AsFd, AsRawFd};

    use super::{Claim, Groups, Info, Settle, Subscribe, Ticket, Turn, Wait};

    macro_rules! ioctl {
        ($(#[$doc:meta])* $name:ident, $number:ident, in $argument:ty) => {
            $(#[$doc])*
            ///
            /// # Errors
            ///
            /// The daemon's errno; see the table of this module.
            pub fn $name(fd: impl AsFd, argument: $argument) -> io::Result<()> {
                // SAFETY: the number says that the kernel reads as many bytes as the type has.
                let result = unsafe {
                    libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(super::$number), &raw const argument)
                };
                if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
            }
        };
        ($(#[$doc:meta])* $name:ident, $number:ident, inout $argument:ty) => {
            $(#[$doc])*
            ///
            /// # Errors
            ///
            /// The daemon's errno; see the table of this module.
            pub fn $name(fd: impl AsFd, argument: &mut $argument) -> io::Result<()> {
                // SAFETY: the number says that the kernel reads and writes as many bytes as the
                // type has; any bytes are a value of it.
                let result = unsafe {
                    libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(super::$number), &raw mut *argument)
                };
                if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
            }
        };
        ($(#[$doc:meta])* $name:ident, $number:ident) => {
            $(#[$doc])*
            ///
            /// # Errors
            ///
            /// The daemon's errno; see the table of this module.
            pub fn $name(fd: impl AsFd) -> io::Result<()> {
                // SAFETY: the number says that there is no argument.
                let result = unsafe {
                    libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(super::$number))
                };
                if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
            }
        };
    }

    ioctl!(/** [`SUBSCRIBE`](super::SUBSCRIBE). */ subscribe, SUBSCRIBE, inout Subscribe);
    ioctl!(/** [`CLAIM`](super::CLAIM). */ claim, CLAIM, inout Claim);
    ioctl!(/** [`RELEASE`](super::RELEASE). */ release, RELEASE, in u32);
    ioctl!(/** [`SET_CAPACITY`](super::SET_CAPACITY). */ set_capacity, SET_CAPACITY, inout u32);
    ioctl!(/** [`WAIT_BEGIN`](super::WAIT_BEGIN). */ wait_begin, WAIT_BEGIN, inout Wait);
    ioctl!(/** [`WAIT_END`](super::WAIT_END). */ wait_end, WAIT_END);
    ioctl!(/** [`SEEN`](super::SEEN). */ seen, SEEN, in u64);
    ioctl!(/** [`ARM`](super::ARM). */ arm, ARM);
    ioctl!(/** [`SET_LINGER`](super::SET_LINGER). */ set_linger, SET_LINGER, in u64);
    ioctl!(/** [`INFO`](super::INFO). */ info, INFO, inout Info);
    ioctl!(/** [`TICKET`](super::TICKET). */ ticket, TICKET, inout Ticket);
    ioctl!(/** [`RECORD`](super::RECORD). */ record, RECORD, inout u32);
    ioctl!(/** [`RELEASE_RECORD`](super::RELEASE_RECORD). */ release_record, RELEASE_RECORD, in u32);
    ioctl!(/** [`SETTLE`](super::SETTLE). */ settle, SETTLE, inout Settle);
    ioctl!(/** [`TURN`](super::TURN). */ turn, TURN, inout Turn);
    ioctl!(/** [`TURN_END`](super::TURN_END). */ turn_end, TURN_END, in u32);
    ioctl!(/** [`SET_DEADLINE`](super::SET_DEADLINE). */ set_deadline, SET_DEADLINE, in u64);
    ioctl!(/** [`SET_ANNOUNCE`](super::SET_ANNOUNCE). */ set_announce, SET_ANNOUNCE, in u32);
    ioctl!(/** [`RECLAIM`](super::RECLAIM). */ reclaim, RECLAIM, in u32);
    ioctl!(/** [`SYNC`](super::SYNC). */ sync, SYNC, inout u64);
    ioctl!(/** [`SET_DURABILITY`](super::SET_DURABILITY). */ set_durability, SET_DURABILITY, in u64);
    ioctl!(/** [`MOUNT_ID`](super::MOUNT_ID). */ mount_id, MOUNT_ID, inout u64);
    ioctl!(/** [`LEAVE`](super::LEAVE). */ leave, LEAVE);
    ioctl!(/** [`RETURNED`](super::RETURNED). */ returned, RETURNED, in Groups);
    ioctl!(/** [`VERSION`](super::VERSION). */ version, VERSION, inout u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_layout_text_is_cut_at_a_character() {
        let mut argument = Subscribe::default();
        argument.set_layout_text(&"é".repeat(600));
        assert_eq!(argument.layout_text().unwrap(), "é".repeat(480));
        argument.layout_text_length = 961;
        assert_eq!(argument.layout_text(), None);
    }
}
