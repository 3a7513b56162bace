//! What is noted, and how it is written down.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use kstate_sys::abi::Class;
use kstate_sys::announce::Sinks;
use kstate_sys::clock::Clock;
use kstate_sys::name::StateName;

use super::wire::{Reader, Writer};
use crate::backing::Transport;
use crate::process::Identity;
use crate::state::{Attributes, Layout};

/// What holds for the mount as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// Inode number of the mount namespace that this is a path of.
    pub(crate) mount_namespace: u64,
    /// Inode number of the namespace that process ids are of.
    pub(crate) pid_namespace: u64,
    pub(crate) transport: Transport,
    pub(crate) mount_id: u64,
    /// How often it was taken over.
    pub(crate) epoch: u32,
    pub(crate) clock: Clock,
    /// Minor device numbers it was mounted under, this time and before, as long as a mapping of
    /// then was there at the last takeover.
    pub(crate) minors: Vec<u64>,
    /// The number of the next state. No number is used twice.
    pub(crate) next_ino: u64,
    /// The number of the last record. Likewise.
    pub(crate) last_record: u32,
}

/// A change of what a later daemon has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The first record of each ledger, and what a daemon that takes it over makes of it.
    Head(Head),
    /// It was mounted, under this minor device number.
    Mounted(u64),
    StateCreated {
        ino: u64,
        name: StateName,
        attributes: Attributes,
        capacity: u32,
        reach: Class,
        created: SystemTime,
    },
    Attributes(u64, Attributes),
    Capacity {
        ino: u64,
        capacity: u32,
        chosen: bool,
        reach: Class,
    },
    Layout(u64, Layout),
    Armed(u64),
    Deadline(u64, Option<Duration>),
    Announced(u64, Sinks),
    /// What persistence knows of a state, which is its own to understand.
    Persistent(u64, Option<String>),
    Claimed {
        ino: u64,
        group: u8,
        owner: Identity,
    },
    /// The file that a group was claimed through was closed, and the group kept.
    Closed(u64, u8),
    Released(u64, u8),
    StateGone(u64),
    RecordMade {
        number: u32,
        owner: Identity,
        user: (u32, u32),
    },
    RecordGone(u32),
}

const HEAD: u8 = 1;
const MOUNTED: u8 = 2;
const STATE_CREATED: u8 = 3;
const ATTRIBUTES: u8 = 4;
const CAPACITY: u8 = 5;
const LAYOUT: u8 = 6;
const ARMED: u8 = 7;
const DEADLINE: u8 = 8;
const ANNOUNCED: u8 = 9;
const PERSISTENT: u8 = 10;
const CLAIMED: u8 = 11;
const CLOSED: u8 = 12;
const RELEASED: u8 = 13;
const STATE_GONE: u8 = 14;
const RECORD_MADE: u8 = 15;
const RECORD_GONE: u8 = 16;

impl Event {
    /// As bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Self::Head(head) => head.encode(to.u8(HEAD)),
            Self::Mounted(minor) => to.u8(MOUNTED).u64(*minor),
            Self::StateCreated {
                ino,
                name,
                attributes,
                capacity,
                reach,
                created,
            } => {
                to.u8(STATE_CREATED).u64(*ino);
                to.bytes(name.as_str().as_bytes());
                encode_attributes(&mut to, attributes);
                to.u32(*capacity).u32(*reach as u32).time(*created)
            }
            Self::Attributes(ino, attributes) => {
                encode_attributes(to.u8(ATTRIBUTES).u64(*ino), attributes)
            }
            Self::Capacity {
                ino,
                capacity,
                chosen,
                reach,
            } => {
                to.u8(CAPACITY).u64(*ino).u32(*capacity);
                to.u8(u8::from(*chosen)).u32(*reach as u32)
            }
            Self::Layout(ino, layout) => {
                to.u8(LAYOUT).u64(*ino).u64(layout.id);
                to.bytes(layout.text.as_bytes())
            }
            Self::Armed(ino) => to.u8(ARMED).u64(*ino),
            Self::Deadline(ino, after) => {
                to.u8(DEADLINE).u64(*ino).u8(u8::from(after.is_some()));
                to.duration(after.unwrap_or_default())
            }
            Self::Announced(ino, sinks) => to.u8(ANNOUNCED).u64(*ino).u32(sinks.bits()),
            Self::Persistent(ino, text) => {
                to.u8(PERSISTENT).u64(*ino).u8(u8::from(text.is_some()));
                to.bytes(text.as_deref().unwrap_or_default().as_bytes())
            }
            Self::Claimed { ino, group, owner } => {
                encode_owner(to.u8(CLAIMED).u64(*ino).u8(*group), *owner)
            }
            Self::Closed(ino, group) => to.u8(CLOSED).u64(*ino).u8(*group),
            Self::Released(ino, group) => to.u8(RELEASED).u64(*ino).u8(*group),
            Self::StateGone(ino) => to.u8(STATE_GONE).u64(*ino),
            Self::RecordMade {
                number,
                owner,
                user: (uid, gid),
            } => encode_owner(to.u8(RECORD_MADE).u32(*number), *owner)
                .u32(*uid)
                .u32(*gid),
            Self::RecordGone(number) => to.u8(RECORD_GONE).u32(*number),
        };
        to.0
    }

    /// From bytes; `None` for what is none of this version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let event = match from.u8()? {
            HEAD => Self::Head(Head::decode(&mut from)?),
            MOUNTED => Self::Mounted(from.u64()?),
            STATE_CREATED => Self::StateCreated {
                ino: from.u64()?,
                name: StateName::new(from.bytes()?).ok()?,
                attributes: decode_attributes(&mut from)?,
                capacity: from.u32()?,
                reach: Class::from_raw(from.u32()?)?,
                created: from.time()?,
            },
            ATTRIBUTES => Self::Attributes(from.u64()?, decode_attributes(&mut from)?),
            CAPACITY => Self::Capacity {
                ino: from.u64()?,
                capacity: from.u32()?,
                chosen: from.bool()?,
                reach: Class::from_raw(from.u32()?)?,
            },
            LAYOUT => {
                let (ino, id) = (from.u64()?, from.u64()?);
                let text = from.text()?.to_owned();
                Self::Layout(ino, Layout { id, text })
            }
            ARMED => Self::Armed(from.u64()?),
            DEADLINE => {
                let (ino, is_some) = (from.u64()?, from.bool()?);
                let after = from.duration()?;
                Self::Deadline(ino, is_some.then_some(after))
            }
            ANNOUNCED => Self::Announced(from.u64()?, Sinks::from_bits(from.u32()?)?),
            PERSISTENT => {
                let (ino, is_some) = (from.u64()?, from.bool()?);
                let text = from.text()?.to_owned();
                Self::Persistent(ino, is_some.then_some(text))
            }
            CLAIMED => Self::Claimed {
                ino: from.u64()?,
                group: from.u8()?,
                owner: decode_owner(&mut from)?,
            },
            CLOSED => Self::Closed(from.u64()?, from.u8()?),
            RELEASED => Self::Released(from.u64()?, from.u8()?),
            STATE_GONE => Self::StateGone(from.u64()?),
            RECORD_MADE => Self::RecordMade {
                number: from.u32()?,
                owner: decode_owner(&mut from)?,
                user: (from.u32()?, from.u32()?),
            },
            RECORD_GONE => Self::RecordGone(from.u32()?),
            _ => return None,
        };
        from.end(event)
    }
}

impl Head {
    fn encode<'a>(&self, to: &'a mut Writer) -> &'a mut Writer {
        to.bytes(self.mount.as_os_str().as_bytes());
        to.u64(self.mount_namespace).u64(self.pid_namespace);
        to.u8(match self.transport {
            Transport::Passthrough => 0,
            Transport::Socket => 1,
        });
        to.u64(self.mount_id).u32(self.epoch);
        to.u32(self.clock.kind() as u32)
            .u64(self.clock.ns_per_tick_32());
        to.u64(self.next_ino).u32(self.last_record);
        to.u32(u32::try_from(self.minors.len()).unwrap_or(0));
        for minor in &self.minors {
            to.u64(*minor);
        }
        to
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mount = PathBuf::from(OsStr::from_bytes(from.bytes()?));
        let (mount_namespace, pid_namespace) = (from.u64()?, from.u64()?);
        let transport = match from.u8()? {
            0 => Transport::Passthrough,
            1 => Transport::Socket,
            _ => return None,
        };
        let (mount_id, epoch) = (from.u64()?, from.u32()?);
        let clock = Clock::from_raw(from.u32()?, from.u64()?)?;
        let (next_ino, last_record) = (from.u64()?, from.u32()?);
        let minors = (0..from.u32()?)
            .map(|_| from.u64())
            .collect::<Option<_>>()?;
        Some(Self {
            mount,
            mount_namespace,
            pid_namespace,
            transport,
            mount_id,
            epoch,
            clock,
            minors,
            next_ino,
            last_record,
        })
    }
}

fn encode_attributes<'a>(to: &'a mut Writer, attributes: &Attributes) -> &'a mut Writer {
    to.u32(attributes.mode)
        .u32(attributes.uid)
        .u32(attributes.gid);
    to.time(attributes.changed).duration(attributes.linger)
}

fn decode_attributes(from: &mut Reader<'_>) -> Option<Attributes> {
    Some(Attributes {
        mode: from.u32()?,
        uid: from.u32()?,
        gid: from.u32()?,
        changed: from.time()?,
        linger: from.duration()?,
    })
}

fn encode_owner(to: &mut Writer, owner: Identity) -> &mut Writer {
    to.u32(owner.pid.cast_unsigned()).u64(owner.started)
}

fn decode_owner(from: &mut Reader<'_>) -> Option<Identity> {
    Some(Identity {
        pid: from.u32()?.cast_signed(),
        started: from.u64()?,
    })
}
