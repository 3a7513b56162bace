//! The daemon's side of the ioctls of `kstate_sys::ioctl`.

use std::time::Duration;

use kstate_sys::abi::{ABI_VERSION, page_size};
use kstate_sys::announce::Sinks;
use kstate_sys::ioctl::{
    self, Groups, Info, Settle, Subscribe, Turn, Wait, info_flags, outcome, transport,
};
use kstate_sys::region::{Generation, IntentRef};
use zerocopy::{FromBytes, IntoBytes};

use crate::backing::Transport;
use crate::errno::Errno;
use crate::fs::{Caller, Shared};
use crate::handle::Handle;
use crate::intents::{IntentRecord, Part};
use crate::socket::Right;
use crate::state::Layout;
use crate::timer::Look;
use crate::xattr;

/// Carries out `command` on an open state. The answer is what the caller's argument becomes.
///
/// # Errors
///
/// As the table in `kstate_sys::ioctl` says.
pub(crate) fn on_state(
    shared: &Shared,
    handle: &Handle,
    caller: Caller,
    command: u32,
    argument: &[u8],
) -> Result<Vec<u8>, Errno> {
    let state = &handle.state;
    // A view is not a way to the region.
    let of_views = [ioctl::INFO, ioctl::SEEN, ioctl::VERSION];
    if handle.view.is_some() && !of_views.contains(&command) {
        return Err(Errno::ENOTTY);
    }
    match command {
        ioctl::SUBSCRIBE => subscribe(shared, handle, caller, argument),
        ioctl::CLAIM => {
            if !handle.mode.write {
                return Err(Errno::EBADF);
            }
            let claim = state.claim(&shared.reaper, caller.tid, handle.id)?;
            Ok(claim.as_bytes().to_vec())
        }
        ioctl::RECLAIM => {
            if !handle.mode.write {
                return Err(Errno::EBADF);
            }
            let group = u32::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            state.reclaim(&shared.reaper, caller.tid, handle.id, group)?;
            Ok(Vec::new())
        }
        ioctl::RETURNED => {
            let listed = Groups::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            state.has_returned(&shared.reaper, caller.tid, &listed)?;
            Ok(Vec::new())
        }
        ioctl::RELEASE => {
            let group = u32::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            state.release(&shared.reaper, caller.tid, group)?;
            Ok(Vec::new())
        }
        ioctl::SET_CAPACITY => {
            if !handle.mode.write {
                return Err(Errno::EBADF);
            }
            let wanted = u32::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            let capacity = state.set_capacity(u64::from(wanted))?;
            Ok(capacity.as_bytes().to_vec())
        }
        ioctl::WAIT_BEGIN => {
            let asked = Wait::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            let begun = state.wait_begin(&shared.reaper, caller.tid, handle.id, asked)?;
            if begun.look {
                shared.hub.watch(state);
            }
            if let Some(expires) = begun.expires {
                let (timer, look) = (&shared.common.timer, Look::Waits(state.ino()));
                timer.schedule_by(look, expires);
            }
            Ok(begun.wait.as_bytes().to_vec())
        }
        ioctl::WAIT_END => {
            state.wait_end(&shared.reaper, caller.tid, handle.id)?;
            Ok(Vec::new())
        }
        ioctl::SEEN => {
            let generation = u64::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            handle.mark_seen(Generation(generation));
            Ok(Vec::new())
        }
        ioctl::ARM => state.arm().map(|()| Vec::new()),
        ioctl::SET_LINGER => {
            let millis = u64::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            if caller.uid != 0 && caller.uid != state.attributes().uid {
                return Err(Errno::EPERM);
            }
            state.set_attributes(|a| a.linger = Duration::from_millis(millis))?;
            // It may have to go sooner, or later, than it would have.
            shared.look_after(state);
            Ok(Vec::new())
        }
        ioctl::SET_DEADLINE => {
            let nanos = u64::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            if caller.uid != 0 && caller.uid != state.attributes().uid {
                return Err(Errno::EPERM);
            }
            xattr::set_deadline(shared, state, Some(Duration::from_nanos(nanos)))?;
            Ok(Vec::new())
        }
        ioctl::SET_ANNOUNCE => {
            let bits = u32::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            if caller.uid != 0 && caller.uid != state.attributes().uid {
                return Err(Errno::EPERM);
            }
            // A sink that only later daemons know is one that this mount does not have.
            let sinks = Sinks::from_bits(bits).ok_or(Errno::EOPNOTSUPP)?;
            shared.announce(state, sinks)?;
            Ok(Vec::new())
        }
        ioctl::SET_DURABILITY => {
            let nanos = u64::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            if caller.uid != 0 && caller.uid != state.attributes().uid {
                return Err(Errno::EPERM);
            }
            shared.set_durability(state, Duration::from_nanos(nanos))?;
            Ok(Vec::new())
        }
        ioctl::INFO => Ok(info(handle)?.as_bytes().to_vec()),
        ioctl::TICKET => {
            // The descriptor can be read, as a file open for writing alone cannot.
            if !handle.mode.read {
                return Err(Errno::EACCES);
            }
            let right = Right::of_state(state, handle.mode.write);
            ticket(shared, right, caller, handle.id)
        }
        ioctl::SETTLE => settle(shared, handle, caller, argument),
        ioctl::TURN => {
            let asked = Turn::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            let wanted = Duration::from_micros(asked.microseconds.into());
            let given = state.give_turn(&shared.reaper, caller.tid, asked.group, wanted)?;
            if let Some(given) = given {
                shared.common.timer.schedule(Look::Turn(state.ino()), given);
            }
            let micros = given.map_or(0, |given| given.as_micros());
            let answer = Turn {
                microseconds: u32::try_from(micros).unwrap_or(u32::MAX),
                ..asked
            };
            Ok(answer.as_bytes().to_vec())
        }
        ioctl::TURN_END => {
            let group = u32::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            // Its deadline stays, and finds nothing to be done or the next one's still to come.
            state.end_turn(&shared.reaper, caller.tid, group)?;
            Ok(Vec::new())
        }
        ioctl::VERSION => Ok(ABI_VERSION.as_bytes().to_vec()),
        _ => Err(Errno::ENOTTY),
    }
}

/// Those that the registry file knows.
pub(crate) fn on_registry(
    shared: &Shared,
    caller: Caller,
    file: u64,
    command: u32,
    argument: &[u8],
) -> Result<Vec<u8>, Errno> {
    match command {
        ioctl::VERSION => Ok(ABI_VERSION.as_bytes().to_vec()),
        ioctl::LEAVE => {
            if !shared.is_owner(caller.uid) {
                return Err(Errno::EPERM);
            }
            // Without notes nobody could take anything over.
            let is_noted = shared.common.ledger.model(|_| ()).is_some();
            match is_noted && shared.leaving.ask() {
                true => Ok(Vec::new()),
                false => Err(Errno::EOPNOTSUPP),
            }
        }
        ioctl::MOUNT_ID => Ok(shared.mount_id().as_bytes().to_vec()),
        ioctl::TICKET => {
            let right = Right::new(shared.registry.region_file(), false);
            ticket(shared, right, caller, file)
        }
        ioctl::RECORD => {
            let number = shared.reaper.hold_record(caller.tid, |process, owner| {
                let user = (caller.uid, caller.gid);
                let (backing, transport) = (&shared.backing, shared.transport());
                shared
                    .common
                    .intents
                    .create(backing, transport, process, owner, user)
            })?;
            Ok(number.as_bytes().to_vec())
        }
        ioctl::RELEASE_RECORD => {
            let number = u32::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
            match shared.reaper.release_record(caller.tid, number) {
                true => Ok(Vec::new()),
                false => Err(Errno::EINVAL),
            }
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// Those that the files of a record know.
pub(crate) fn on_record(
    shared: &Shared,
    record: &IntentRecord,
    part: Part,
    writable: bool,
    caller: Caller,
    file: u64,
    command: u32,
) -> Result<Vec<u8>, Errno> {
    match command {
        ioctl::VERSION => Ok(ABI_VERSION.as_bytes().to_vec()),
        ioctl::TICKET => {
            let right = Right::new(record.file(part), writable);
            ticket(shared, right, caller, file)
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// Who asks must have it in its way: a commit of nobody's concern is nobody's to give up. A reader
/// may be concerned too, when it takes a cut.
fn settle(
    shared: &Shared,
    handle: &Handle,
    caller: Caller,
    argument: &[u8],
) -> Result<Vec<u8>, Errno> {
    let asked = Settle::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
    let commit = IntentRef::from_raw(asked.intent);
    let record = shared.common.intents.get(commit.record());
    let process = shared.reaper.find(caller.tid);
    let is_own = record.is_some_and(|record| Some(record.owner()) == process);
    let settled = if is_own || handle.state.has_intent_of(commit) {
        let find = |process, ino| shared.reaper.held(process, ino);
        shared.common.intents.settle(commit, find)
    } else {
        true
    };
    if settled {
        // A reader cannot do it, and its own commit may depend on it.
        handle.state.finish_committed();
    }
    let outcome = match settled {
        true => ioctl::settled::DONE,
        false => ioctl::settled::NOT_YET,
    };
    Ok(Settle::new(asked.intent, outcome).as_bytes().to_vec())
}

fn subscribe(
    shared: &Shared,
    handle: &Handle,
    caller: Caller,
    argument: &[u8],
) -> Result<Vec<u8>, Errno> {
    let asked = Subscribe::read_from_bytes(argument).map_err(|_| Errno::EINVAL)?;
    let mut answer = Subscribe::default();
    if asked.abi_version != ABI_VERSION {
        answer.outcome = outcome::ABI_VERSION;
        return Ok(answer.as_bytes().to_vec());
    }
    let state = &handle.state;
    let text = asked.layout_text().ok_or(Errno::EINVAL)?;
    // A reader of somebody else's state must not be able to fix its layout or room for everybody.
    let owner = caller.uid == 0 || caller.uid == state.attributes().uid;
    if asked.layout_id != 0 {
        let layout = Layout {
            id: asked.layout_id,
            text: text.to_owned(),
        };
        if let Err(recorded) = state.record_layout(&layout, handle.mode.write || owner)? {
            answer.outcome = outcome::LAYOUT;
            answer.layout_id = recorded.id;
            answer.set_layout_text(&recorded.text);
            return Ok(answer.as_bytes().to_vec());
        }
    }
    answer.capacity = match handle.mode.write {
        true => state.want_capacity(asked.capacity)?,
        // An owner's wish counts, before anybody who writes has said anything.
        false if owner => state.suggest_capacity(asked.capacity)?,
        false => state.capacity(),
    };
    answer.outcome = outcome::OK;
    answer.transport = match shared.transport() {
        Transport::Passthrough => transport::PASSTHROUGH,
        Transport::Socket => transport::SOCKET,
    };
    answer.page_size = page_size();
    answer.clock_kind = shared.common.clock.kind() as u32;
    answer.clock_ns_per_tick_32 = shared.common.clock.ns_per_tick_32();
    answer.state_id = state.ino();
    answer.mount_id = shared.mount_id();
    if let Some(layout) = state.layout() {
        answer.layout_id = layout.id;
        answer.set_layout_text(&layout.text);
    }
    Ok(answer.as_bytes().to_vec())
}

fn info(handle: &Handle) -> Result<Info, Errno> {
    let state = &handle.state;
    let version = state.describe()?;
    let (attributes, counts) = (state.attributes(), state.counts());
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let age = state.age(&version).map_or(u64::MAX, nanos);
    let mut flags = 0;
    if state.is_armed() {
        flags |= info_flags::ARMED;
    }
    if attributes.is_kept() {
        flags |= info_flags::KEPT;
    }
    if state.overdue().is_some() {
        flags |= info_flags::OVERDUE;
    }
    let store = state.store();
    if store.is_some() {
        flags |= info_flags::PERSISTENT;
    }
    let sinks = state.sinks();
    if sinks.contains(Sinks::KBUS) {
        flags |= info_flags::KBUS;
    }
    if sinks.contains(Sinks::DBUS) {
        flags |= info_flags::DBUS;
    }
    Ok(Info {
        state_id: state.ino(),
        generation: version.generation().0,
        age_ns: age,
        layout_id: state.layout().map_or(0, |layout| layout.id),
        linger_ms: millis(attributes.linger),
        deadline_ns: state.deadline().map_or(0, nanos),
        durable: store.map_or(0, |store| store.durable().0),
        length: version.length,
        capacity: state.capacity(),
        subscribers: counts.subscribers,
        writers: counts.writers,
        waiters: counts.waiters,
        flags,
    })
}

fn ticket(shared: &Shared, right: Right, caller: Caller, file: u64) -> Result<Vec<u8>, Errno> {
    Ok(shared
        .desk
        .issue(right, caller.uid, file)?
        .as_bytes()
        .to_vec())
}
