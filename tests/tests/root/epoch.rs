//! Waits across a restart of the daemon, as far as its region shows one: marks gone, another epoch. It
//! takes passthrough to write there as a daemon does.

use std::fs::File;
use std::time::{Duration, Instant};

use kstate::{Change, Generation, Notifier, NotifyBy, Wait, Waited};
use kstate_sys::abi::{Class, Geometry};
use kstate_sys::futex;
use kstate_sys::region::{Mapped, Memory, Notice};
use kstate_tests::{PATIENCE, Setup, Sleeper, eventually, take_seats};
use memmap2::{MmapOptions, MmapRaw};

/// Who is not woken looks by itself after a second or four.
const AT_ONCE: Duration = Duration::from_millis(700);

fn map(file: &File) -> MmapRaw {
    let length = Geometry::of_this_machine().mapped_len(Class::B64);
    MmapOptions::new().len(length).map_raw(file).unwrap()
}

/// What a daemon does that has forgotten who waits.
fn restart(region: &Mapped<'_>) {
    let header = region.header();
    header.lower(Notice::WAITERS);
    header
        .epoch
        .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    header.stir_crowd();
    futex::wake_all(&header.head);
    futex::wake_all(&header.crowd);
}

pub(crate) fn who_sleeps_begins_again_in_another_epoch() {
    let daemon = Setup::default().with("--passthrough=require").start();
    let mount = daemon.library();
    let state = mount.subscribe("x").write().typed::<u64>().unwrap();
    state.publish(&1).unwrap();
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .open(daemon.file("x"))
        .unwrap();
    let page = map(&file);
    let base = std::ptr::NonNull::new(page.as_mut_ptr()).unwrap();
    #[expect(unsafe_code, reason = "the daemon's side of a region")]
    // SAFETY: mapped for longer than it is used, writable, as long as it says.
    let region = unsafe { Mapped::new(base, page.len(), Geometry::of_this_machine()) }.unwrap();
    for crowded in [false, true] {
        let seats = crowded.then(|| take_seats(&mount, "x"));
        let mut seen = state.generation();
        let reader = mount.subscribe("x").typed::<u64>().unwrap().reader();
        let asleep = Sleeper::start({
            let reader = reader.clone();
            move || {
                Wait::new()
                    .timeout(PATIENCE)
                    .for_change(&reader, seen)
                    .unwrap()
            }
        });
        asleep.await_asleep();
        let mut notifiers = Vec::new();
        for way in [NotifyBy::Uring, NotifyBy::Thread] {
            let mut notifier = Notifier::by(way).unwrap();
            let of = mount.subscribe("x").typed::<u64>().unwrap().reader();
            notifier.add_since(&of, seen).unwrap();
            notifiers.push(notifier);
        }
        restart(&region);
        // Each asks again, be it told that nothing is new.
        for notifier in &mut notifiers {
            let nothing = notifier.wait(Some(Duration::from_millis(50))).unwrap();
            assert_eq!(nothing, []);
        }
        eventually("the mark is set again", || {
            region
                .header()
                .notice()
                .contains(Notice::WAITERS)
                .then_some(())
        });
        asleep.await_asleep();
        let start = Instant::now();
        seen = state.publish(&2).unwrap();
        for notifier in &mut notifiers {
            let events = notifier.wait(Some(PATIENCE)).unwrap();
            assert_eq!(events[0].change, Change::To(seen), "crowded: {crowded}");
        }
        assert_eq!(asleep.join(), Waited::Changed(seen));
        assert!(start.elapsed() < AT_ONCE, "crowded: {crowded}");
        assert!(seen > Generation(1));
        drop(seats);
    }
}
