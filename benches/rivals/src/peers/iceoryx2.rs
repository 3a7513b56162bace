#![expect(unsafe_code, reason = "to say that a loan was written is unsafe")]
//! iceoryx2: a blackboard for the value, an event to wake.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use iceoryx2::config::Config;
use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::reader::EntryHandle;
use iceoryx2::port::writer::EntryHandleMut;
use iceoryx2::prelude::{
    FileName, LogLevel, Path, SemanticString, ServiceName, ipc, ipc_threadsafe, set_log_level,
};

use super::{Kind, Peer};
use crate::Result;
use crate::capability::{By, Can, Follows, PATIENCE, Publishes, Reads, Source, To};
use crate::site::{Home, Site, token};
use crate::value::{Value, for_size};

/// iceoryx2.
#[derive(Debug)]
pub(crate) struct Iceoryx2;

impl Peer for Iceoryx2 {
    fn id(&self) -> &'static str {
        "iceoryx2"
    }

    fn title(&self) -> &'static str {
        "iceoryx2"
    }

    fn kind(&self) -> Kind {
        Kind::Between { consistent: true }
    }

    fn used(&self) -> &'static str {
        "Service type `ipc`. A blackboard with one entry: `EntryHandle::get`, `EntryHandleMut::update_with_copy` \
         up to 64 bytes, `loan_uninit` above; one node a thread; waking by an event service, `notify` after the update and `timed_wait`."
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

    fn tells(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        for_size!(site.size, tells, site)
    }

    fn follows(&self, site: &Site) -> Can<Box<dyn Follows>> {
        for_size!(site.size, follows, site)
    }
}

/// The key of the value in its blackboard.
const KEY: u64 = 0;

/// A node whose files are the run's own.
fn node<S: iceoryx2::service::Service>(site: &Site) -> Result<Node<S>> {
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    let root = site.directory_of("iceoryx2")?;
    let root = Path::new(root.as_os_str().as_encoded_bytes())?;
    config.global.set_root_path(&root);
    // Shared memory has one directory for all.
    let prefix = format!("{}_", token(&site.directory));
    config.global.prefix = FileName::new(prefix.as_bytes())?;
    Ok(NodeBuilder::new().config(&config).create::<S>()?)
}

/// The node of this thread, as a program has one for all it does.
fn node_of_thread(site: &Site) -> Result<Rc<Node<ipc::Service>>> {
    type OfRun = Option<(PathBuf, Rc<Node<ipc::Service>>)>;
    thread_local!(static NODE: RefCell<OfRun> = const { RefCell::new(None) });
    NODE.with_borrow_mut(|kept| match kept {
        Some((run, node)) if *run == site.directory => Ok(node.clone()),
        _ => {
            let node = Rc::new(node::<ipc::Service>(site)?);
            *kept = Some((site.directory.clone(), node.clone()));
            Ok(node)
        }
    })
}

fn name(site: &Site, what: &str) -> Result<ServiceName> {
    Ok(ServiceName::new(&format!("{}/{what}", site.name))?)
}

fn home<const W: usize>(site: &Site) -> Can<Home> {
    // What several threads may hold meets the same files.
    let node = node::<ipc_threadsafe::Service>(site)?;
    let mut creator = node
        .service_builder(&name(site, "value")?)
        .blackboard_creator::<u64>()
        .add::<Value<W>>(KEY, [0; W]);
    for key in 1..site.count as u64 {
        creator = creator.add::<Value<W>>(key, [0; W]);
    }
    let blackboard = creator.create()?;
    let event = node
        .service_builder(&name(site, "event")?)
        .event()
        .open_or_create()?;
    Ok(Arc::new((blackboard, event, node)))
}

struct Reading<const W: usize> {
    entry: EntryHandle<ipc::Service, u64, Value<W>>,
    node: Rc<Node<ipc::Service>>,
}

impl<const W: usize> Reading<W> {
    fn open(site: &Site) -> Result<Self> {
        let node = node_of_thread(site)?;
        let service = node
            .service_builder(&name(site, "value")?)
            .blackboard_opener::<u64>()
            .open()?;
        let reader = service.reader_builder().create()?;
        let entry = reader.entry::<Value<W>>(&KEY)?;
        Ok(Self { entry, node })
    }
}

impl<const W: usize> Source<W> for Reading<W> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        let value = self.entry.get();
        Ok(look(&value))
    }
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    Ok(Box::new(By(Reading::<W>::open(site)?)))
}

struct Writing<const W: usize> {
    /// Always there: a loan takes it and gives it back.
    entry: Option<EntryHandleMut<ipc::Service, u64, Value<W>>>,
    node: Rc<Node<ipc::Service>>,
}

impl<const W: usize> Writing<W> {
    fn open(site: &Site) -> Result<Self> {
        let node = node_of_thread(site)?;
        let service = node
            .service_builder(&name(site, "value")?)
            .blackboard_opener::<u64>()
            .open()?;
        let writer = service.writer_builder().create()?;
        let entry = Some(writer.entry::<Value<W>>(&KEY)?);
        Ok(Self { entry, node })
    }

    #[inline(always)]
    fn update(&mut self, value: &Value<W>) -> Result<()> {
        let entry = self.entry.take().ok_or("the entry is on loan")?;
        self.entry = Some(if W <= 8 {
            entry.update_with_copy(*value);
            entry
        } else {
            let mut loan = entry.loan_uninit();
            loan.value_mut().write(*value);
            // SAFETY: written just now.
            unsafe { loan.assume_init_and_update() }
        });
        Ok(())
    }
}

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let mut writing = Writing::<W>::open(site)?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        writing.update(value)
    })))
}

fn tells<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let mut writing = Writing::<W>::open(site)?;
    let event = writing
        .node
        .service_builder(&name(site, "event")?)
        .event()
        .open_or_create()?;
    let notifier: Notifier<ipc::Service> = event.notifier_builder().create()?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        writing.update(value)?;
        notifier.notify()?;
        Ok(())
    })))
}

struct Following<const W: usize> {
    listener: Listener<ipc::Service>,
    reading: Reading<W>,
}

fn follows<const W: usize>(site: &Site) -> Can<Box<dyn Follows>> {
    let reading = Reading::<W>::open(site)?;
    let event = reading
        .node
        .service_builder(&name(site, "event")?)
        .event()
        .open_or_create()?;
    let listener = event.listener_builder().create()?;
    Ok(Box::new(Following { listener, reading }))
}

impl<const W: usize> Follows for Following<W> {
    fn follow(&mut self, held: &mut dyn FnMut(Option<u64>) -> bool) -> Result<()> {
        loop {
            let events = self.listener.timed_wait(|_| {}, PATIENCE)?;
            let word = self.reading.copy_out(|value| value[0])?;
            if !held((events > 0).then_some(word)) {
                return Ok(());
            }
        }
    }
}
