//! Processes of good faith that use what the hostile one writes over: every call comes back, and with an
//! error that has a name.

use std::time::Duration;

use kstate::{Bytes, Content, Generation, Mount, Reader, State, Trapping};
use kstate_tests::Checked;

use super::Result;
use super::board::Entry;
use super::outcome::note;
use super::part::{self, BANK, FAST, goes_on};
use super::random::Random;

/// The states that are damaged: one of eight bytes, one of checked values, one of a page of bytes.
pub(crate) const BAD: [&str; 3] = ["soak.bad.0", "soak.bad.1", "soak.bad.2"];
/// Good accounts whose transactions write a damaged state as well.
pub(crate) const MIXED: &str = "soak.mixed";
/// Calls until everything is subscribed to anew.
const CALLS: usize = 2000;

/// Handles of the damaged states.
struct Bad {
    small: State<u64>,
    checked: State<Checked>,
    page: State<Bytes>,
}

impl Bad {
    /// Subscribes to them; `None` if that did not succeed, which is noted.
    fn subscribe(mount: &Mount, write: bool, entry: &Entry) -> Result<Option<Self>> {
        let options = |name| {
            let subscribe = mount.subscribe(name).existing();
            match write {
                true => subscribe.write(),
                false => subscribe,
            }
        };
        let all = (
            entry.timed(|| options(BAD[0]).typed()),
            entry.timed(|| options(BAD[1]).typed()),
            entry.timed(|| options(BAD[2]).bytes()),
        );
        match all {
            (Ok(small), Ok(checked), Ok(page)) => Ok(Some(Self {
                small,
                checked,
                page,
            })),
            (small, checked, page) => {
                note(entry, &small.map(drop))?;
                note(entry, &checked.map(drop))?;
                note(entry, &page.map(drop))?;
                std::thread::park_timeout(Duration::from_millis(1));
                Ok(None)
            }
        }
    }

    /// Subscribes again and again and does `work` each time.
    fn each_time(
        mount: &Mount,
        write: bool,
        entry: &Entry,
        mut work: impl FnMut(&Self) -> Result,
    ) -> Result {
        while goes_on() {
            if let Some(bad) = Self::subscribe(mount, write, entry)? {
                for _ in 0..CALLS {
                    if !goes_on() {
                        break;
                    }
                    work(&bad)?;
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn read(mount: &Mount, entry: &Entry) -> Result {
    let mut room = [0; 100];
    Bad::each_time(mount, false, entry, |bad| {
        note(entry, &entry.timed(|| bad.small.snapshot()).map(drop))?;
        note(entry, &entry.timed(|| bad.checked.snapshot()).map(drop))?;
        note(entry, &entry.timed(|| bad.page.snapshot()).map(drop))?;
        let into = entry.timed(|| bad.page.snapshot_into(&mut room));
        note(entry, &into.map(drop))?;
        let _ = entry.timed(|| bad.page.generation());
        Ok(())
    })
}

pub(crate) fn wait(mount: &Mount, entry: &Entry) -> Result {
    fn one<T: Content>(reader: &Reader<T>, entry: &Entry) -> Result {
        let since = reader.generation();
        let waited = entry.timed(|| reader.wait(since, Some(Duration::from_millis(20))));
        note(entry, &waited)
    }
    Bad::each_time(mount, false, entry, |bad| {
        one(&bad.small, entry)?;
        one(&bad.checked, entry)?;
        one(&bad.page, entry)
    })
}

pub(crate) fn write(mount: &Mount, entry: &Entry) -> Result {
    let ways = [Trapping::Thread, Trapping::Signal, Trapping::Software];
    let mut random = Random::of_this_process();
    Bad::each_time(mount, true, entry, |bad| {
        note(entry, &entry.timed(|| bad.small.publish(&1)).map(drop))?;
        let page = vec![2; random.below(4000)];
        note(entry, &entry.timed(|| bad.page.publish(&page)).map(drop))?;
        let changed = entry.timed(|| bad.small.transact(|value| *value = value.wrapping_add(1)));
        note(entry, &changed.map(drop))?;
        bad.checked.set_trapping(ways[random.below(ways.len())]);
        let raw = entry.timed(|| {
            let mut tx = bad.checked.begin_raw().map_err(kstate::Error::from)?;
            if let Ok(bytes) = tx.bytes_mut() {
                bytes.fill(3);
            }
            tx.commit().map_err(kstate::Error::from)
        });
        match raw {
            Ok(outcome) => note(entry, &outcome),
            Err(kstate::Error::Begin(error)) => note(entry, &Err::<(), _>(error)),
            Err(kstate::Error::Commit(error)) => note(entry, &Err::<(), _>(error)),
            Err(error) => Err(error.into()),
        }
    })
}

pub(crate) fn transfer(mount: &Mount, entry: &Entry) -> Result {
    let accounts = part::accounts(mount, MIXED, 2)?;
    let mut random = Random::of_this_process();
    Bad::each_time(mount, true, entry, |bad| {
        let done = entry.timed(|| {
            kstate::transact_many(|tx| {
                part::move_some(tx, &accounts, &mut random)?;
                tx.add(&bad.small)?;
                match random.below(3) {
                    0 => {
                        tx.get(&bad.small)?;
                    }
                    1 => tx.set(&bad.small, &7)?,
                    _ => {
                        let value = tx.get_mut(&bad.small)?;
                        *value = value.wrapping_add(1);
                    }
                }
                Ok(())
            })
        });
        note(entry, &done.map(drop))?;
        // And good ones alone, for which the record must serve again.
        let good =
            entry.timed(|| kstate::transact_many(|tx| part::move_some(tx, &accounts, &mut random)));
        Ok(good.map(drop)?)
    })
}

pub(crate) fn audit(mount: &Mount, entry: &Entry) -> Result {
    let bank = part::readers(mount, BANK, 2)?;
    let mixed = part::readers(mount, MIXED, 2)?;
    let fast = mount.subscribe(FAST).typed::<Checked>()?.reader();
    let mut newest = Generation::NEVER;
    Bad::each_time(mount, false, entry, |bad| {
        let cut = entry.timed(|| kstate::cut((&bank[0], &*bad.small, &bank[1])));
        note(entry, &cut.map(drop))?;
        let cut = entry.timed(|| kstate::cut((&fast, &*bad.checked)));
        if let Ok((fast, _)) = &cut {
            part::check(entry, fast.generation(), &fast.value, &mut newest);
        }
        note(entry, &cut.map(drop))?;
        let cut = entry.timed(|| kstate::cut((&mixed[0], &mixed[1], &*bad.small)));
        if let Ok((first, second, _)) = &cut {
            Entry::add(&entry.torn, u64::from(!part::sums_up(&[*first, *second])));
        }
        note(entry, &cut.map(drop))?;
        let cut = entry.timed(|| kstate::cut(&mixed[..]));
        if let Ok(good) = &cut {
            Entry::add(&entry.torn, u64::from(!part::sums_up(good)));
        }
        note(entry, &cut.map(drop))
    })
}

pub(crate) fn ask(mount: &Mount, entry: &Entry) -> Result {
    let file = |name: &str| mount.path().join(name);
    while goes_on() {
        for name in BAD {
            note(entry, &entry.timed(|| std::fs::read(file(name))))?;
            note(entry, &entry.timed(|| mount.info(name)))?;
        }
        let value = entry.timed(|| std::fs::read(file(FAST)))?;
        let (words, rest) = value.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        let whole = Checked::try_from(words)
            .is_ok_and(|value| rest.is_empty() && kstate_tests::number_of(&value).is_some());
        Entry::add(&entry.torn, u64::from(!whole));
        entry.timed(|| mount.info(FAST))?;
        entry.timed(|| mount.names())?;
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Ok(())
}
