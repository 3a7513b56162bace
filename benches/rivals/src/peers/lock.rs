//! A lock around a value, within one process.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::{Kind, Peer, Reach};
use crate::Result;
use crate::capability::{By, Can, Follows, PATIENCE, Publishes, Reads, Source, To, Updates};
use crate::site::{Home, Site};
use crate::value::{Place, Value, for_size};

/// A lock.
#[derive(Debug)]
pub(crate) struct Lock;

impl Peer for Lock {
    fn id(&self) -> &'static str {
        "lock"
    }

    fn title(&self) -> &'static str {
        "lock, in process"
    }

    fn kind(&self) -> Kind {
        Kind::Within
    }

    fn reach(&self) -> Reach {
        Reach::OneProcess
    }

    fn used(&self) -> &'static str {
        "`parking_lot::Mutex` around the value; waking by its `Condvar`."
    }

    fn home(&self, site: &Site) -> Can<Home> {
        for_size!(site.size, home, site)
    }

    fn reads(&self, site: &Site) -> Can<Box<dyn Reads>> {
        for_size!(site.size, reads, site)
    }

    fn publishes(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        for_size!(site.size, publishes, site)
    }

    fn tells(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        for_size!(site.size, tells, site)
    }

    fn follows(&self, site: &Site) -> Can<Box<dyn Follows>> {
        for_size!(site.size, follows, site)
    }

    fn updates(&self, site: &Site) -> Can<Box<dyn Updates>> {
        for_size!(site.size, updates, site)
    }
}

struct Shared<const W: usize> {
    value: Mutex<Value<W>>,
    changed: Condvar,
}

fn home<const W: usize>(_: &Site) -> Can<Home> {
    Ok(Arc::new(Shared {
        value: Mutex::new([0; W]),
        changed: Condvar::new(),
    }))
}

struct Copying<const W: usize> {
    shared: Arc<Shared<W>>,
    place: Box<Place<W>>,
}

impl<const W: usize> Source<W> for Copying<W> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        **self.place = *self.shared.value.lock();
        Ok(look(&self.place))
    }
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    Ok(Box::new(By(Copying::<W> {
        shared: site.shared()?,
        place: Place::new(),
    })))
}

struct Locking<const W: usize>(Arc<Shared<W>>);

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let shared: Arc<Shared<W>> = site.shared()?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        *shared.value.lock() = *value;
        Ok(())
    })))
}

fn tells<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let shared: Arc<Shared<W>> = site.shared()?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        *shared.value.lock() = *value;
        shared.changed.notify_all();
        Ok(())
    })))
}

fn follows<const W: usize>(site: &Site) -> Can<Box<dyn Follows>> {
    Ok(Box::new(Locking::<W>(site.shared()?)))
}

impl<const W: usize> Follows for Locking<W> {
    fn follow(&mut self, held: &mut dyn FnMut(Option<u64>) -> bool) -> Result<()> {
        let mut value = self.0.value.lock();
        let mut seen = value[0];
        loop {
            self.0.changed.wait_for(&mut value, PATIENCE);
            let copy: Value<W> = *value;
            let word = (copy[0] != seen).then_some(copy[0]);
            seen = copy[0];
            if !held(word) {
                return Ok(());
            }
        }
    }
}

fn updates<const W: usize>(site: &Site) -> Can<Box<dyn Updates>> {
    Ok(Box::new(Locking::<W>(site.shared()?)))
}

impl<const W: usize> Updates for Locking<W> {
    fn update(&mut self, count: u32) -> Result<u64> {
        for _ in 0..count {
            let mut value = self.0.value.lock();
            let next = value[0].wrapping_add(1);
            value.fill(next);
        }
        Ok(u64::from(count))
    }
}
