//! What a device does not take: no commit fails for it.

use kstate::Sinks;

use crate::device::{Device, Mood};
use crate::{announcing, await_dropped, dropped, place, sent};

const NAME: &str = "$.KState.Committed.x";

#[test]
fn an_absent_device_is_counted_and_found_once_it_is_there() {
    let directory = place();
    let daemon = announcing(directory.path()).start();
    let library = daemon.library();
    let state = library.subscribe("x").write().announce(Sinks::KBUS);
    let state = state.bytes().unwrap();
    for count in 1..=3 {
        state.publish(b"lost").unwrap();
        await_dropped(&daemon, "absent", count);
    }
    let device = Device::mount(directory.path());
    state.publish(b"found").unwrap();
    assert_eq!(device.message(NAME, 4).record.length, 5);
    kstate_tests::eventually("it is counted", || (sent(&daemon) == 1).then_some(()));
    assert_eq!(dropped(&daemon, "absent"), 3);
    drop((state, library, daemon));
}

#[test]
fn what_a_device_refuses_is_counted_and_the_next_one_is_sent() {
    let directory = place();
    let device = Device::mount(directory.path());
    let daemon = announcing(directory.path()).start();
    let library = daemon.library();
    let state = library.subscribe("x").write().announce(Sinks::KBUS);
    let state = state.bytes().unwrap();
    let (mut full, mut failed) = (0, 0);
    for (mood, is_full) in [
        (Mood::RefusesWrites(libc::EAGAIN), true),
        (Mood::RefusesWrites(libc::EBUSY), true),
        (Mood::RefusesWrites(libc::EIO), false),
        (Mood::RefusesToSend(libc::EAGAIN), true),
        (Mood::RefusesToSend(libc::EBUSY), true),
        (Mood::RefusesToSend(libc::EBADMSG), false),
        (Mood::CutsShort, false),
    ] {
        device.set(mood);
        state.publish(b"lost").unwrap();
        full += u64::from(is_full);
        failed += u64::from(!is_full);
        await_dropped(&daemon, "full", full);
        await_dropped(&daemon, "failed", failed);
        // Not even half of the one before is in its way.
        device.set(Mood::Takes);
        let generation = state.publish(b"sent").unwrap();
        device.message(NAME, generation.0);
    }
    assert_eq!(
        (dropped(&daemon, "absent"), device.messages().len()),
        (0, 7)
    );
}
