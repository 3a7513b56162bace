//! kstate by its library.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use kstate::{Generation, Mount, Reader, Stamping, State, Subscribe, TransactManyError};

use super::{Kind, Peer};
use crate::Result;
use crate::capability::{
    By, Can, Follows, PATIENCE, Publishes, Reads, Several, Source, To, Together, Updates,
};
use crate::site::{Home, Site};
use crate::value::{Place, Value, for_size};

/// kstate by its library.
#[derive(Debug)]
pub(crate) struct KstateLib;

impl Peer for KstateLib {
    fn id(&self) -> &'static str {
        "kstate"
    }

    fn title(&self) -> &'static str {
        "kstate"
    }

    fn kind(&self) -> Kind {
        Kind::Kstate
    }

    fn used(&self) -> &'static str {
        "The library, typed states. Up to 64 bytes are read by `snapshot`, more by `snapshot_into`, as \
         its documentation says. Without time stamps: `Stamping::Off`; with: `Stamping::CommitTime`, \
         read by `age`. Of more than 10 000 values the others are kept without a \
         subscriber, and a daemon has as many as `vm.max_map_count` allows mappings."
    }

    fn home(&self, site: &Site) -> Can<Home> {
        for_size!(site.size, home, site)
    }

    fn has_many(&self) -> bool {
        true
    }

    fn reads(&self, site: &Site) -> Can<Box<dyn Reads>> {
        Ok(for_size!(site.size, reads, site)?)
    }

    fn reads_aged(&self, site: &Site) -> Can<Box<dyn Reads>> {
        Ok(for_size!(site.size, reads_aged, site)?)
    }

    fn publishes(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        Ok(for_size!(site.size, publishes, site, Stamping::Off)?)
    }

    fn publishes_stamped(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        Ok(for_size!(site.size, publishes, site, Stamping::CommitTime)?)
    }

    fn follows(&self, site: &Site) -> Can<Box<dyn Follows>> {
        Ok(for_size!(site.size, follows, site)?)
    }

    fn updates(&self, site: &Site) -> Can<Box<dyn Updates>> {
        Ok(for_size!(site.size, updates, site)?)
    }

    fn several(&self, site: &Site) -> Can<Box<dyn Several>> {
        Ok(for_size!(site.size, several, site)?)
    }
}

fn subscribe(site: &Site, name: &str) -> Result<Subscribe> {
    Ok(Mount::at(site.mount())?.subscribe(name))
}

pub(super) fn writing<const W: usize>(site: &Site, name: &str) -> Result<State<Value<W>>> {
    let state = subscribe(site, name)?.write().typed::<Value<W>>()?;
    state.set_stamping(Stamping::Off);
    Ok(state)
}

/// Values with a subscription each, a descriptor of this process; those behind them are kept without a subscriber.
const SUBSCRIBED: usize = 10_000;

/// What keeps states: a subscription to each, and the names of those that stay without.
struct Kept<const W: usize> {
    subscribed: Vec<State<Value<W>>>,
    left: Vec<PathBuf>,
}

impl<const W: usize> Drop for Kept<W> {
    fn drop(&mut self) {
        for state in &self.left {
            // One that stays is in the way of nobody.
            let _ = std::fs::remove_file(state);
        }
    }
}

fn home<const W: usize>(site: &Site) -> Can<Home> {
    let mut names = site.names();
    if names.is_empty() {
        names.push(site.name.clone());
    }
    let mount = Mount::at(site.mount())?;
    let mut kept = Kept::<W> {
        subscribed: Vec::new(),
        left: Vec::new(),
    };
    for name in names {
        let stays = kept.subscribed.len() >= SUBSCRIBED;
        let subscribe = mount.subscribe(name.as_str()).write();
        let subscribe = if stays { subscribe.keep() } else { subscribe };
        let state = subscribe.typed::<Value<W>>()?;
        state.set_stamping(Stamping::CommitTime);
        state.publish(&[0; W])?;
        match stays {
            true => kept.left.push(site.mount().join(&name)),
            false => kept.subscribed.push(state),
        }
    }
    // A handle for writing belongs to one thread at a time.
    Ok(Arc::new(Mutex::new(kept)))
}

/// A reader, and the place in the program where big values go.
struct Snapshots<const W: usize, const AGED: bool> {
    reader: Reader<Value<W>>,
    place: Box<Place<W>>,
}

impl<const W: usize, const AGED: bool> Source<W> for Snapshots<W, AGED> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        if W <= 8 {
            return match self.reader.snapshot() {
                Ok(snapshot) => {
                    if AGED {
                        black_box(snapshot.age());
                    }
                    // By itself: the place of the whole snapshot would be handed on with it.
                    let value = snapshot.value;
                    Ok(look(&value))
                }
                Err(error) => Err(error.to_string().into()),
            };
        }
        match self.reader.snapshot_into(&mut self.place) {
            Ok(snapshot) => {
                if AGED {
                    black_box(snapshot.age());
                }
                Ok(look(&self.place))
            }
            Err(error) => Err(error.to_string().into()),
        }
    }
}

fn reads<const W: usize>(site: &Site) -> Result<Box<dyn Reads>> {
    let reader = subscribe(site, &site.name)?.typed::<Value<W>>()?.reader();
    let place = Place::new();
    Ok(Box::new(By(Snapshots::<W, false> { reader, place })))
}

fn reads_aged<const W: usize>(site: &Site) -> Result<Box<dyn Reads>> {
    let reader = subscribe(site, &site.name)?.typed::<Value<W>>()?.reader();
    let place = Place::new();
    Ok(Box::new(By(Snapshots::<W, true> { reader, place })))
}

fn publishes<const W: usize>(site: &Site, stamping: Stamping) -> Result<Box<dyn Publishes>> {
    let state = writing::<W>(site, &site.name)?;
    state.set_stamping(stamping);
    Ok(Box::new(To::<_, W>::new(
        move |value: &Value<W>| match state.publish(value) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string().into()),
        },
    )))
}

struct Following<const W: usize>(Reader<Value<W>>);

fn follows<const W: usize>(site: &Site) -> Result<Box<dyn Follows>> {
    let reader = subscribe(site, &site.name)?.typed::<Value<W>>()?.reader();
    Ok(Box::new(Following::<W>(reader)))
}

impl<const W: usize> Follows for Following<W> {
    fn follow(&mut self, held: &mut dyn FnMut(Option<u64>) -> bool) -> Result<()> {
        let mut seen = Generation(0);
        loop {
            let snapshot = self.0.snapshot()?;
            let word = (snapshot.generation() != seen).then_some(snapshot.value[0]);
            seen = snapshot.generation();
            if !held(word) {
                return Ok(());
            }
            // Whatever ended it, the newest value is looked at.
            let _ = self.0.wait(seen, Some(PATIENCE))?;
        }
    }
}

struct Updating<const W: usize>(State<Value<W>>);

fn updates<const W: usize>(site: &Site) -> Result<Box<dyn Updates>> {
    Ok(Box::new(Updating(writing::<W>(site, &site.name)?)))
}

impl<const W: usize> Updates for Updating<W> {
    fn update(&mut self, count: u32) -> Result<u64> {
        let mut attempts = 0;
        for _ in 0..count {
            let done = self.0.transact(|value| {
                let next = value[0].wrapping_add(1);
                value.fill(next);
            });
            match done {
                Ok(done) => attempts += u64::from(done.attempts),
                Err(error) => return Err(error.to_string().into()),
            }
        }
        Ok(attempts)
    }
}

struct Both<const W: usize> {
    states: Vec<State<Value<W>>>,
    readers: Vec<Reader<Value<W>>>,
}

fn several<const W: usize>(site: &Site) -> Result<Box<dyn Several>> {
    let states = site.names();
    let states = states.iter().map(|name| writing::<W>(site, name));
    let states = states.collect::<Result<Vec<_>>>()?;
    let readers = states.iter().map(State::reader).collect();
    Ok(Box::new(Both { states, readers }))
}

impl<const W: usize> Several for Both<W> {
    fn commit(&mut self, count: u32) -> Result<()> {
        for _ in 0..count {
            kstate::transact_many(|tx| {
                for state in &self.states {
                    tx.add(state)?;
                }
                for state in &self.states {
                    let value = tx.get_mut(state)?;
                    let next = value[0].wrapping_add(1);
                    value.fill(next);
                }
                Ok::<_, TransactManyError>(())
            })?;
        }
        Ok(())
    }

    fn read(&mut self, count: u32) -> Result<u64> {
        let mut torn = 0;
        for _ in 0..count {
            let mut together = Together::new();
            for snapshot in &kstate::cut(&self.readers[..])? {
                together.look(&snapshot.value);
            }
            torn += together.torn();
        }
        Ok(torn)
    }
}
