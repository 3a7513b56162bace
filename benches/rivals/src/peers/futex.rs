//! The limit of waking: a bare ring on whose index the other process sleeps.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kstate_sys::futex::{self, Deadline};

use super::{Kind, Peer};
use crate::Result;
use crate::bare::Bare;
use crate::capability::{Can, Follows, PATIENCE, Publishes, Reads, To, lacks};
use crate::site::{Home, Site};
use crate::value::{Value, for_size};

/// A futex.
#[derive(Debug)]
pub(crate) struct Futex;

impl Peer for Futex {
    fn id(&self) -> &'static str {
        "futex"
    }

    fn title(&self) -> &'static str {
        "futex (limit)"
    }

    fn kind(&self) -> Kind {
        Kind::Limit
    }

    fn used(&self) -> &'static str {
        "The bare ring and `FUTEX_WAKE` after each publication; `FUTEX_WAIT` on the index, then a copy."
    }

    fn home(&self, site: &Site) -> Can<Home> {
        for_size!(site.size, home, site)
    }

    fn reads(&self, _: &Site) -> Can<Box<dyn Reads>> {
        lacks("only wakes: the bare ring reads")
    }

    fn publishes(&self, _: &Site) -> Can<Box<dyn Publishes>> {
        lacks("only wakes: the bare ring publishes")
    }

    fn tells(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        for_size!(site.size, tells, site)
    }

    fn follows(&self, site: &Site) -> Can<Box<dyn Follows>> {
        for_size!(site.size, follows, site)
    }
}

fn open<const W: usize>(site: &Site) -> Result<Bare<W>> {
    Ok(Bare::open(&site.file_of("futex")?)?)
}

fn home<const W: usize>(site: &Site) -> Can<Home> {
    open::<W>(site)?;
    Ok(Arc::new(()))
}

fn tells<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let ring = open::<W>(site)?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        ring.publish(value);
        futex::wake_all(ring.head());
        Ok(())
    })))
}

struct Sleeping<const W: usize>(Bare<W>);

fn follows<const W: usize>(site: &Site) -> Can<Box<dyn Follows>> {
    Ok(Box::new(Sleeping::<W>(open(site)?)))
}

impl<const W: usize> Follows for Sleeping<W> {
    fn follow(&mut self, held: &mut dyn FnMut(Option<u64>) -> bool) -> Result<()> {
        let mut seen = 0;
        loop {
            // ORDERING: Acquire with the exchange in `publish`.
            let head = self.0.head().load(Ordering::Acquire);
            let word = (head != seen).then(|| self.0.word());
            seen = head;
            if !held(word) {
                return Ok(());
            }
            #[expect(clippy::cast_possible_truncation, reason = "the low half is compared")]
            let expected = seen as u32;
            futex::wait(self.0.head(), expected, Some(Deadline::after(PATIENCE)))?;
        }
    }
}
