//! What callers do with regions: by ioctl, and by writing over them.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use kstate_sys::abi::{Class, Geometry};
use kstate_sys::clock::Ticks;
use kstate_sys::futex;
use kstate_sys::ioctl::{self, Claim, Ticket};
use kstate_sys::region::{self, Group, LiveOwner, Memory, Notice, Writer};
use zerocopy::FromBytes;

use super::Held;
use super::client::{Client, Kind, Open};
use super::errors::{allow, of_others, of_registry, of_state, of_view};
use super::input::Input;
use crate::fs::{Region, Shared};
use crate::region::RegionMapping;

/// What only those may change who may write.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    value: Option<(u64, Vec<u8>)>,
    capacity: u32,
    linger: Duration,
    deadline: Option<Duration>,
    mode: u32,
    layout: Option<u64>,
    writers: u32,
}

impl Client {
    /// A word into a region that it may write.
    pub(super) fn scribble(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let Some(open) = self.any(input).filter(|open| open.write) else {
            return;
        };
        let (mut place, word) = input.scribble();
        let Ok(region) = shared.region_of(&open.opened) else {
            return;
        };
        if open.kind == Kind::Record {
            place = 8 * (place / 8 % 64);
        }
        let offset = i64::try_from(place).expect("within a region");
        let put = |file: BorrowedFd<'_>| {
            nix::sys::uio::pwrite(file, &word.to_ne_bytes(), offset)?;
            Ok(())
        };
        region.file().with(put).expect("memory");
        self.world.scribbled.set(true);
    }

    /// A commit as the library makes one, which the daemon only notices.
    pub(super) fn commit(&self, shared: &Shared, input: &mut Input<'_>) {
        let is_writable = |open: &Open| open.kind == Kind::State && open.write;
        let Some(open) = self.any(input).filter(is_writable) else {
            return;
        };
        let value = input.value();
        let ioctl =
            |command, argument: &[u8]| shared.ioctl(self.caller, open.file(), command, argument);
        let Ok(claim) = ioctl(ioctl::CLAIM, &[]) else {
            return;
        };
        let claim = Claim::read_from_bytes(&claim).expect("a claim");
        let group = Group(u8::try_from(claim.group).expect("a group"));
        let class = Class::from_raw(claim.class).expect("a class");
        let Ok(Region::State(state)) = shared.region_of(&open.opened) else {
            panic!("a region of {open:?}");
        };
        let geometry = Geometry::of_this_machine();
        let file = state.region_file();
        let mapping =
            RegionMapping::new(file, geometry, Class::Page, shared.common.intents.clone());
        let mapping = mapping.expect("memory");
        let mapped = mapping.mapped();
        let mut writer = Writer::claimed(&mapped, group, class);
        let length = value.len().clamp(1, claim.capacity as usize);
        let base = state.describe().map(|version| version.head);
        let committed = base.is_ok_and(|base| {
            let value = value.get(..length).unwrap_or(&[7]);
            writer.commit(&mapped, base, value, Ticks::NONE).is_ok()
        });
        if committed {
            let notice = mapped.header().notice();
            if notice.contains(Notice::ARMED) {
                let _ = region::refresh_live(&mapped, LiveOwner::of(group));
            }
            if notice.contains(Notice::WAITERS) {
                futex::wake_all(&mapped.header().head);
            }
        }
        ioctl(ioctl::RELEASE, &claim.group.to_ne_bytes()).expect("it was claimed");
    }

    pub(super) fn ioctl(&mut self, shared: &Shared, input: &mut Input<'_>) -> Option<Held> {
        let open = self.any(input)?;
        let command = input.command();
        let mut argument = input.argument(command);
        if command == ioctl::RELEASE_RECORD
            && let Some(number) = self.records.last()
            && input.one_in(2)
        {
            argument = number.to_ne_bytes().to_vec();
        }
        let attr = shared.getattr(open.opened.ino).ok()?;
        let is_of_state = matches!(open.kind, Kind::State | Kind::View);
        let is_stranger = is_of_state && !open.write && !self.owns(&attr);
        let before = is_stranger.then(|| shown(shared, &open));
        let answer = shared.ioctl(self.caller, open.file(), command, &argument);
        let allowed = match open.kind {
            Kind::State => of_state(command),
            Kind::View => of_view(command),
            Kind::Registry => of_registry(command),
            Kind::Record => of_others(command),
            Kind::Report(_) | Kind::Changes | Kind::Directory => &[libc::ENOTTY],
        };
        let allowed = match (open.kind, command) {
            // Only where there is a socket.
            (Kind::Registry | Kind::Record, ioctl::TICKET) => &[libc::ENOTTY],
            _ => allowed,
        };
        let what = (&open, command, &argument);
        let answer = allow(what, answer, allowed, self.world.scribbled.get())?;
        if let Some(before) = before {
            let mut after = shown(shared, &open);
            // Its process may have claimed a group through another file, and give that back here.
            if command == ioctl::RELEASE
                && let (Some(before), Some(after)) = (&before, &mut after)
            {
                after.writers = before.writers;
            }
            assert_eq!(before, after, "{:?} did {command:x}", self.caller);
        }
        if command & 1 << 31 == 0 {
            assert!(answer.is_empty());
        }
        match command {
            ioctl::TICKET => {
                if open.kind == Kind::State {
                    assert!(open.read, "a ticket is for who may read");
                }
                Some(Held {
                    ticket: Ticket::read_from_bytes(&answer).expect("as long as a ticket"),
                    uid: self.caller.uid,
                    writable: open.write,
                })
            }
            ioctl::RECORD => {
                let number = u32::read_from_bytes(&answer).expect("a number");
                self.records.push(number);
                None
            }
            ioctl::CLAIM | ioctl::SET_CAPACITY => {
                assert!(open.write, "only for who may write");
                None
            }
            _ => None,
        }
    }
}

fn shown(shared: &Shared, open: &Open) -> Option<Shown> {
    let Ok(Region::State(state)) = shared.region_of(&open.opened) else {
        return None;
    };
    let value = state.read().ok();
    Some(Shown {
        value: value.map(|(head, bytes)| (head.generation().0, bytes)),
        capacity: state.capacity(),
        linger: state.attributes().linger,
        deadline: state.deadline(),
        mode: state.attributes().mode,
        layout: state.layout().map(|layout| layout.id),
        writers: state.counts().writers,
    })
}
