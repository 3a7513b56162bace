//! Writers in processes of their own, flat out, and readers beside them.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use kstate_sys::abi::{CLASSES, Class};
use kstate_sys::clock::Ticks;
use kstate_sys::region::{
    self, Generation, Group, LiveOwner, Mapped, Memory, Notice, Writer, live_generation,
};

use super::shared::{Process, Region, Seed, Until, buffer, bytes};

const DURATION: Duration = Duration::from_millis(1000);

/// Publishes values of up to `longest` bytes until the end, in bigger slots each time.
fn write(region: Mapped<'_>, group: u8, longest: usize, until: Until) -> u8 {
    let mut value = [0_u8; 65536];
    let mut writer = Writer::claimed(&region, Group(group), Class::B64);
    let mut seed = Seed(u64::from(group) << 32);
    while until.lasts() {
        for _ in 0..64 {
            seed.0 += 1;
            let length = seed.length(longest);
            seed.fill(&mut value[..length]);
            for class in CLASSES {
                if region.slot_bytes(class) >= length {
                    writer.grow(class);
                    break;
                }
            }
            let Ok(head) = writer.publish(&region, &value[..length], seed.time()) else {
                return 1;
            };
            if region.header().notice().contains(Notice::ARMED) {
                let owner = LiveOwner::of(Group(group));
                // One reads its version back, the other has it at hand.
                if group != 1 && region::show_live(&region, owner, head, &value[..length]) {
                    continue;
                }
                if region::refresh_live(&region, owner).is_err() {
                    return 2;
                }
            }
        }
    }
    0
}

/// Reads until the end. Returns how many versions it saw.
fn read(region: Mapped<'_>, longest: usize, until: Until) -> u64 {
    let mut room = buffer(longest);
    let (mut last, mut seen) = (Generation::NEVER, 0);
    while until.lasts() {
        for _ in 0..64 {
            let version = region::read(&region, &mut room).unwrap();
            assert!(version.generation() >= last, "it went back");
            if version.generation().is_never() {
                continue;
            }
            seen += u64::from(version.generation() > last);
            last = version.generation();
            let value = bytes(&room[..version.length as usize]);
            Seed::of(&value, version.time, longest);
            let described = region::describe(&region).unwrap();
            assert!(described.generation() >= last);
            let expected = Seed(described.time.0).length(longest);
            assert_eq!(described.length as usize, expected);
        }
    }
    seen
}

/// Copies the live page until the end, as a program may that only has the mapping.
fn read_live(region: Mapped<'_>, longest: usize, until: Until) -> u64 {
    let mut room = buffer(longest);
    let (mut last, mut seen) = (Generation::NEVER, 0);
    while until.lasts() {
        let Some(before) = live_generation(&region).filter(|g| !g.is_never()) else {
            continue;
        };
        let length = region.header().live_length.load(Ordering::Relaxed) as usize;
        region.live().load(&mut room);
        std::sync::atomic::fence(Ordering::Acquire);
        if live_generation(&region) != Some(before) {
            continue;
        }
        assert!(before >= last, "the live page went back");
        seen += u64::from(before > last);
        last = before;
        // The time is not in the live page; the first word tells the seed.
        let value = bytes(&room);
        let seed = Seed::first(&value);
        Seed::of(&value[..length], seed.time(), longest);
        assert!(
            value[length..].iter().all(|b| *b == 0),
            "a longer one's rest"
        );
    }
    seen
}

fn stress(writers: u8, longest: usize, armed: bool) {
    let region = Region::new();
    let until = Until::after(DURATION);
    if armed {
        region.mapped().header().raise(Notice::ARMED);
    }
    let writers: Vec<Process> = (1..=writers)
        .map(|group| Process::fork(|| write(region.mapped(), group, longest, until)))
        .collect();
    let seen = thread::scope(|scope| {
        let read = |_| scope.spawn(|| read(region.mapped(), longest, until));
        let mut readers: Vec<_> = (0..2).map(read).collect();
        if armed {
            readers.push(scope.spawn(|| read_live(region.mapped(), longest, until)));
        }
        let seen = readers.into_iter().map(|reader| reader.join().unwrap());
        seen.collect::<Vec<_>>()
    });
    for writer in writers {
        writer.join();
    }
    let newest = region::newest(&region.mapped()).unwrap().generation();
    // Any one reader may have been out of luck on a busy machine.
    assert!(seen.iter().sum::<u64>() > 3, "{seen:?} versions were seen");
    if armed {
        assert_eq!(
            live_generation(&region.mapped()),
            Some(newest),
            "the live page is stale"
        );
    }
}

#[test]
fn versions_stay_whole_beside_one_writer() {
    stress(1, region_page(), false);
}

#[test]
fn versions_stay_whole_beside_two_writers_of_every_class() {
    stress(2, region_page(), false);
}

#[test]
fn small_versions_stay_whole_beside_three_writers() {
    stress(3, 64, false);
}

#[test]
fn copies_of_the_live_page_stay_whole_and_it_ends_newest() {
    stress(2, region_page(), true);
}

fn region_page() -> usize {
    kstate_sys::abi::page_size() as usize
}

#[test]
fn no_update_of_two_processes_is_lost() {
    const EACH: u64 = 20_000;
    let region = Region::new();
    let add = |group: u8| {
        let region = region.mapped();
        let mut writer = Writer::claimed(&region, Group(group), Class::B64);
        let mut room = [const { std::mem::MaybeUninit::new(0) }; 8];
        let mut left = EACH;
        while left > 0 {
            let Ok(base) = region::read(&region, &mut room) else {
                return 1;
            };
            let next = base.time.0 + 1;
            match writer.commit(&region, base.head, &next.to_le_bytes(), Ticks(next)) {
                Ok(_) => left -= 1,
                Err(region::CommitError::Conflict { .. }) => {}
                Err(_) => return 2,
            }
        }
        0
    };
    let processes = [1, 2, 3].map(|group| Process::fork(|| add(group)));
    for process in processes {
        process.join();
    }
    let mut room = buffer(8);
    let version = region::read(&region.mapped(), &mut room).unwrap();
    assert_eq!(version.generation().0, 3 * EACH);
    let total = u64::from_le_bytes(bytes(&room).try_into().unwrap());
    assert_eq!(total, 3 * EACH);
    assert_eq!(version.time.0, total);
}
