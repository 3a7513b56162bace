//! arc-swap, within one process.

use std::sync::Arc;

use super::{Kind, Peer, Reach};
use crate::Result;
use crate::capability::{By, Can, Publishes, Reads, Source, To, Updates};
use crate::site::{Home, Site};
use crate::value::{Place, Value, for_size};

/// arc-swap.
#[derive(Debug)]
pub(crate) struct ArcSwap;

impl Peer for ArcSwap {
    fn id(&self) -> &'static str {
        "arc-swap"
    }

    fn title(&self) -> &'static str {
        "arc-swap, in process"
    }

    fn kind(&self) -> Kind {
        Kind::Within
    }

    fn reach(&self) -> Reach {
        Reach::OneProcess
    }

    fn used(&self) -> &'static str {
        "A `Cache` and a copy, as it advises who reads often; `store` of a new `Arc`, `rcu` to change."
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

    fn updates(&self, site: &Site) -> Can<Box<dyn Updates>> {
        for_size!(site.size, updates, site)
    }
}

type Shared<const W: usize> = arc_swap::ArcSwap<Value<W>>;

fn home<const W: usize>(_: &Site) -> Can<Home> {
    Ok(Arc::new(Shared::<W>::from_pointee([0; W])))
}

struct Loading<const W: usize> {
    cache: arc_swap::Cache<Arc<Shared<W>>, Arc<Value<W>>>,
    place: Box<Place<W>>,
}

impl<const W: usize> Source<W> for Loading<W> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        **self.place = **self.cache.load();
        Ok(look(&self.place))
    }
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    let shared: Arc<Shared<W>> = site.shared()?;
    Ok(Box::new(By(Loading::<W> {
        cache: arc_swap::Cache::new(shared),
        place: Place::new(),
    })))
}

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let shared: Arc<Shared<W>> = site.shared()?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        shared.store(Arc::new(*value));
        Ok(())
    })))
}

fn updates<const W: usize>(site: &Site) -> Can<Box<dyn Updates>> {
    Ok(Box::new(Changing::<W>(site.shared()?)))
}

struct Changing<const W: usize>(Arc<Shared<W>>);

impl<const W: usize> Updates for Changing<W> {
    fn update(&mut self, count: u32) -> Result<u64> {
        let mut attempts = 0;
        for _ in 0..count {
            self.0.rcu(|value| {
                attempts += 1;
                [value[0].wrapping_add(1); W]
            });
        }
        Ok(attempts)
    }
}
