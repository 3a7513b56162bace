#![expect(unsafe_code, reason = "a descriptor that was inherited by its number")]
//! The limit of waking an event loop: a bare ring beside an eventfd that the other process polls.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};

use super::{Kind, Peer};
use crate::Result;
use crate::bare::Bare;
use crate::capability::{Can, Follows, PATIENCE, Publishes, Reads, To, lacks};
use crate::site::{Home, Site};
use crate::value::{Value, for_size};

/// An eventfd.
#[derive(Debug)]
pub(crate) struct Eventfd;

impl Peer for Eventfd {
    fn id(&self) -> &'static str {
        "eventfd"
    }

    fn title(&self) -> &'static str {
        "eventfd and poll (limit)"
    }

    fn kind(&self) -> Kind {
        Kind::Limit
    }

    fn used(&self) -> &'static str {
        "The bare ring and a write to an inherited eventfd; `poll`, a read of the eventfd, then a copy."
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
    Ok(Bare::open(&site.file_of("eventfd")?)?)
}

fn home<const W: usize>(site: &Site) -> Can<Home> {
    open::<W>(site)?;
    Ok(Arc::new(()))
}

/// The run's eventfd.
fn event(site: &Site) -> BorrowedFd<'static> {
    // SAFETY: every process of a run inherits it by that number, and none closes it.
    unsafe { BorrowedFd::borrow_raw(site.event) }
}

fn tells<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let ring = open::<W>(site)?;
    let event = event(site);
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        ring.publish(value);
        write(event, &1_u64.to_ne_bytes())?;
        Ok(())
    })))
}

struct Polling<const W: usize> {
    ring: Bare<W>,
    event: BorrowedFd<'static>,
}

fn follows<const W: usize>(site: &Site) -> Can<Box<dyn Follows>> {
    let ring = open::<W>(site)?;
    let event = event(site);
    Ok(Box::new(Polling { ring, event }))
}

impl<const W: usize> Follows for Polling<W> {
    fn follow(&mut self, held: &mut dyn FnMut(Option<u64>) -> bool) -> Result<()> {
        let patience = PollTimeout::try_from(PATIENCE)?;
        loop {
            let mut fds = [PollFd::new(self.event.as_fd(), PollFlags::POLLIN)];
            let mut word = None;
            if poll(&mut fds, patience)? > 0 {
                match read(self.event, &mut [0; 8]) {
                    Ok(_) => word = Some(self.ring.word()),
                    Err(Errno::EAGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if !held(word) {
                return Ok(());
            }
        }
    }
}
