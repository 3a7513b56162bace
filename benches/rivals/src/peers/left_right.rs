//! left-right, within one process.

use std::sync::{Arc, Mutex};

use left_right::{Absorb, ReadHandle, ReadHandleFactory, WriteHandle};

use super::{Kind, Peer, Reach};
use crate::Result;
use crate::capability::{By, Can, Publishes, Reads, Source, To};
use crate::site::{Home, Site};
use crate::value::{Place, Value, for_size};

/// left-right.
#[derive(Debug)]
pub(crate) struct LeftRight;

impl Peer for LeftRight {
    fn id(&self) -> &'static str {
        "left-right"
    }

    fn title(&self) -> &'static str {
        "left-right, in process"
    }

    fn kind(&self) -> Kind {
        Kind::Within
    }

    fn reach(&self) -> Reach {
        Reach::OneProcess
    }

    fn used(&self) -> &'static str {
        "`enter` and a copy; one operation that replaces the value, `append` and `publish`. One writer."
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
}

/// What is replaced.
#[derive(Clone)]
struct Held<const W: usize>(Value<W>);

/// By which value.
struct Replace<const W: usize>(Value<W>);

impl<const W: usize> Absorb<Replace<W>> for Held<W> {
    fn absorb_first(&mut self, operation: &mut Replace<W>, _: &Self) {
        self.0 = operation.0;
    }

    fn absorb_second(&mut self, operation: Replace<W>, _: &Self) {
        self.0 = operation.0;
    }

    fn sync_with(&mut self, first: &Self) {
        self.0 = first.0;
    }
}

type Writer<const W: usize> = WriteHandle<Held<W>, Replace<W>>;

/// Readers are made by one, the writer is taken once.
struct Ends<const W: usize> {
    readers: ReadHandleFactory<Held<W>>,
    writer: Mutex<Option<Writer<W>>>,
}

fn home<const W: usize>(_: &Site) -> Can<Home> {
    let (mut writer, reader) = left_right::new_from_empty::<_, Replace<W>>(Held([0; W]));
    writer.publish();
    Ok(Arc::new(Ends {
        readers: reader.factory(),
        writer: Mutex::new(Some(writer)),
    }))
}

struct Entering<const W: usize> {
    reader: ReadHandle<Held<W>>,
    place: Box<Place<W>>,
    _home: Arc<Ends<W>>,
}

impl<const W: usize> Source<W> for Entering<W> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        **self.place = self.reader.enter().ok_or("the writer has gone")?.0;
        Ok(look(&self.place))
    }
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    let home: Arc<Ends<W>> = site.shared()?;
    let reader = home.readers.handle();
    Ok(Box::new(By(Entering {
        reader,
        place: Place::new(),
        _home: home,
    })))
}

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let home: Arc<Ends<W>> = site.shared()?;
    let writer = home.writer.lock().map(|mut writer| writer.take());
    // Of a scene, which has a value of its own.
    let mut writer = writer.ok().flatten().ok_or("there is one writer")?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        writer.append(Replace(*value));
        writer.publish();
        Ok(())
    })))
}
