#![expect(unsafe_code, reason = "its reading is unsafe")]
//! mmap-sync.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mmap_sync::synchronizer::Synchronizer;

use super::{Kind, Peer};
use crate::Result;
use crate::capability::{By, Can, Publishes, Reads, Source, To};
use crate::site::{Home, Site};
use crate::value::{Place, Value, for_size};

/// How long a writer waits for readers, as in its examples.
const GRACE: Duration = Duration::from_secs(1);

/// mmap-sync.
#[derive(Debug)]
pub(crate) struct MmapSync;

impl Peer for MmapSync {
    fn id(&self) -> &'static str {
        "mmap-sync"
    }

    fn title(&self) -> &'static str {
        "mmap-sync"
    }

    fn kind(&self) -> Kind {
        // A reader that is overtaken within the grace period has the guarantee of its own care.
        Kind::Between { consistent: true }
    }

    fn used(&self) -> &'static str {
        "Files on tmpfs, `read(false)` and `write` with a grace period of a second, as in its README and \
         examples; what is read is copied out under the guard."
    }

    fn home(&self, site: &Site) -> Can<Home> {
        for_size!(site.size, home, site)
    }

    fn has_many(&self) -> bool {
        true
    }

    fn reads(&self, site: &Site) -> Can<Box<dyn Reads>> {
        for_size!(site.size, reads, site)
    }

    fn publishes(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        for_size!(site.size, publishes, site)
    }
}

fn path(site: &Site) -> Result<PathBuf> {
    site.file_of("mmap-sync")
}

fn home<const W: usize>(site: &Site) -> Can<Home> {
    let first = path(site)?;
    let others = site
        .names()
        .into_iter()
        .map(|name| first.with_file_name(name));
    for path in others.chain([first.clone()]) {
        let mut writer = Synchronizer::new(path.as_os_str());
        writer.write::<Value<W>>(&[0; W], GRACE)?;
    }
    // The files are what stays.
    Ok(Arc::new(()))
}

struct Reading<const W: usize> {
    synchronizer: Synchronizer,
    place: Box<Place<W>>,
}

impl<const W: usize> Source<W> for Reading<W> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        // SAFETY: dropped long before the grace period ends, unless this thread is stopped for as
        // long; written as the same type.
        let guarded = unsafe { self.synchronizer.read::<Value<W>>(false) }?;
        **self.place = *guarded;
        drop(guarded);
        Ok(look(&self.place))
    }
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    let synchronizer = Synchronizer::new(path(site)?.as_os_str());
    let place = Place::new();
    Ok(Box::new(By(Reading::<W> {
        synchronizer,
        place,
    })))
}

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let mut writer = Synchronizer::new(path(site)?.as_os_str());
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        writer.write(value, GRACE)?;
        Ok(())
    })))
}
