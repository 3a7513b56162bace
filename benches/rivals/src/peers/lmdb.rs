#![expect(unsafe_code, reason = "opening an environment is unsafe")]
//! LMDB through heed.

use std::sync::Arc;

use heed::types::{Bytes, Str};
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions};

use super::{Kind, Peer};
use crate::Result;
use crate::capability::{By, Can, Publishes, Reads, Several, Source, To, Together, Updates};
use crate::site::{Home, Site};
use crate::value::{Place, Value, bytes_of, bytes_of_mut, copy_from, for_size};

/// Room for every value of a scene, and for the pages that readers still see.
const MAP_BYTES: usize = 256 * 1024 * 1024;

/// LMDB.
#[derive(Debug)]
pub(crate) struct Lmdb;

impl Peer for Lmdb {
    fn id(&self) -> &'static str {
        "lmdb"
    }

    fn title(&self) -> &'static str {
        "LMDB"
    }

    fn kind(&self) -> Kind {
        Kind::Between { consistent: true }
    }

    fn used(&self) -> &'static str {
        "Through heed: an environment on tmpfs with `MDB_WRITEMAP` and `MDB_NOSYNC`, which LMDB's documentation \
         gives for speed where durability is not wanted. A transaction an operation."
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

    fn updates(&self, site: &Site) -> Can<Box<dyn Updates>> {
        for_size!(site.size, updates, site)
    }

    fn several(&self, site: &Site) -> Can<Box<dyn Several>> {
        for_size!(site.size, several, site)
    }
}

/// An environment, its one database, and the names of the values in it.
pub(crate) struct Store {
    pub(crate) env: Env,
    pub(crate) database: Database<'static, Str, Bytes>,
    names: Vec<String>,
}

impl Store {
    pub(crate) fn open(site: &Site, map_bytes: usize) -> Result<Self> {
        let path = site.file_of("lmdb")?;
        std::fs::create_dir_all(&path)?;
        let mut options = EnvOpenOptions::new();
        options.map_size(map_bytes);
        // SAFETY: nothing has to survive the machine.
        unsafe { options.flags(EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC) };
        // SAFETY: nobody but LMDB changes the files.
        let env = unsafe { options.open(&path) }?;
        // Who finds it does not take the writers' lock.
        let found = env.open_databases_and_commit(env.read_txn()?, |opener, rtxn| {
            let found = opener.open_database(rtxn, None)?;
            Ok::<_, heed::Error>(found.map_or(CommitOrAbort::Abort(()), CommitOrAbort::Commit))
        })?;
        let database = match found {
            CommitOrAbort::Commit(database) => database,
            CommitOrAbort::Abort(()) => create(&env)?,
        };
        let mut names = site.names();
        if names.is_empty() {
            names.push("value".to_owned());
        }
        Ok(Self {
            env,
            database,
            names,
        })
    }
}

fn create(env: &Env) -> Result<Database<'static, Str, Bytes>> {
    let wtxn = env.write_txn()?;
    let created = env.create_databases_and_commit(wtxn, |opener, wtxn| {
        opener
            .create_database(wtxn, None)
            .map(CommitOrAbort::<_, ()>::Commit)
    })?;
    Ok(created.unwrap_commit())
}

fn home<const W: usize>(site: &Site) -> Can<Home> {
    let store = Store::open(site, MAP_BYTES)?;
    let mut wtxn = store.env.write_txn()?;
    for name in &store.names {
        store.database.put(&mut wtxn, name, bytes_of(&[0; W]))?;
    }
    wtxn.commit()?;
    // A reader's slot is its environment's; the files are what stays.
    Ok(Arc::new(()))
}

/// The first value, and the place in the program where it goes.
struct First<const W: usize> {
    of: Store,
    place: Box<Place<W>>,
}

impl<const W: usize> Source<W> for First<W> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        let Store {
            env,
            database,
            names,
        } = &self.of;
        let rtxn = env.read_txn()?;
        let bytes = database.get(&rtxn, &names[0])?;
        copy_from(bytes.ok_or("no value")?, &mut self.place)?;
        drop(rtxn);
        Ok(look(&self.place))
    }
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    Ok(Box::new(By(First::<W> {
        of: Store::open(site, MAP_BYTES)?,
        place: Place::new(),
    })))
}

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let store = Store::open(site, MAP_BYTES)?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        let mut wtxn = store.env.write_txn()?;
        store
            .database
            .put(&mut wtxn, &store.names[0], bytes_of(value))?;
        Ok(wtxn.commit()?)
    })))
}

/// Changes all values of a store in one transaction.
struct Changing<const W: usize>(Store);

fn updates<const W: usize>(site: &Site) -> Can<Box<dyn Updates>> {
    Ok(Box::new(Changing::<W>(Store::open(site, MAP_BYTES)?)))
}

fn several<const W: usize>(site: &Site) -> Can<Box<dyn Several>> {
    Ok(Box::new(Changing::<W>(Store::open(site, MAP_BYTES)?)))
}

impl<const W: usize> Changing<W> {
    fn change(&self) -> Result<()> {
        let Store {
            env,
            database,
            names,
        } = &self.0;
        let mut wtxn = env.write_txn()?;
        for name in names {
            let mut value = [0; W];
            let bytes = database.get(&wtxn, name)?;
            bytes_of_mut(&mut value).copy_from_slice(bytes.ok_or("no value")?);
            let next = value[0].wrapping_add(1);
            value.fill(next);
            database.put(&mut wtxn, name, bytes_of(&value))?;
        }
        Ok(wtxn.commit()?)
    }
}

impl<const W: usize> Updates for Changing<W> {
    fn update(&mut self, count: u32) -> Result<u64> {
        for _ in 0..count {
            self.change()?;
        }
        // A writer waits for its turn.
        Ok(u64::from(count))
    }
}

impl<const W: usize> Several for Changing<W> {
    fn commit(&mut self, count: u32) -> Result<()> {
        (0..count).try_for_each(|_| self.change())
    }

    fn read(&mut self, count: u32) -> Result<u64> {
        let mut torn = 0;
        for _ in 0..count {
            let rtxn = self.0.env.read_txn()?;
            let mut together = Together::new();
            for name in &self.0.names {
                let mut value = [0; W];
                let bytes = self.0.database.get(&rtxn, name)?;
                copy_from(bytes.ok_or("no value")?, &mut value)?;
                together.look(&value);
            }
            torn += together.torn();
        }
        Ok(torn)
    }
}
