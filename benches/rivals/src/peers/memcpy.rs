//! The limit of copying: from one place of a process to another.

use std::sync::Arc;

use super::{Kind, Peer, Reach};
use crate::Result;
use crate::capability::{By, Can, Publishes, Reads, Source, To, lacks};
use crate::site::{Home, Site};
use crate::value::{Place, Value, for_size};

/// memcpy.
#[derive(Debug)]
pub(crate) struct Memcpy;

impl Peer for Memcpy {
    fn id(&self) -> &'static str {
        "memcpy"
    }

    fn title(&self) -> &'static str {
        "memcpy (limit)"
    }

    fn kind(&self) -> Kind {
        Kind::Limit
    }

    fn reach(&self) -> Reach {
        Reach::OneProcess
    }

    fn used(&self) -> &'static str {
        "A copy from memory of one's own that nobody shares."
    }

    fn home(&self, _: &Site) -> Can<Home> {
        Ok(Arc::new(()))
    }

    fn reads(&self, site: &Site) -> Can<Box<dyn Reads>> {
        for_size!(site.size, reads, site)
    }

    fn publishes(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        for_size!(site.size, publishes, site)
    }

    fn tells(&self, _: &Site) -> Can<Box<dyn Publishes>> {
        lacks("shares nothing")
    }
}

struct Own<const W: usize> {
    from: Box<Place<W>>,
    place: Box<Place<W>>,
}

impl<const W: usize> Own<W> {
    fn new() -> Self {
        Self {
            from: Place::new(),
            place: Place::new(),
        }
    }
}

impl<const W: usize> Source<W> for Own<W> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        **self.place = **std::hint::black_box(&*self.from);
        Ok(look(&self.place))
    }
}

fn reads<const W: usize>(_: &Site) -> Can<Box<dyn Reads>> {
    Ok(Box::new(By(Own::<W>::new())))
}

fn publishes<const W: usize>(_: &Site) -> Can<Box<dyn Publishes>> {
    let mut own = Own::<W>::new();
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        **own.place = *value;
        std::hint::black_box(&own.place);
        Ok(())
    })))
}
