//! redb, within one process: what is not durable is seen nowhere else.

use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Kind, Peer, Reach};
use crate::Result;
use crate::capability::{By, Can, Publishes, Reads, Several, Source, To, Together, Updates};
use crate::site::{Home, Site};
use crate::value::{Place, Value, bytes_of, copy_from, for_size};

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("values");

/// redb.
#[derive(Debug)]
pub(crate) struct Redb;

impl Peer for Redb {
    fn id(&self) -> &'static str {
        "redb"
    }

    fn title(&self) -> &'static str {
        "redb, in process"
    }

    fn kind(&self) -> Kind {
        Kind::Within
    }

    fn reach(&self) -> Reach {
        Reach::OneProcess
    }

    fn used(&self) -> &'static str {
        "A database on tmpfs, `Durability::None`, a transaction an operation, in threads of one process: a \
         non-durable commit exists only in its process's memory, as its documentation says."
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

fn keys(site: &Site) -> u64 {
    site.count.max(1) as u64
}

fn home<const W: usize>(site: &Site) -> Can<Home> {
    let path = site.file_of("redb")?;
    // Of an earlier round.
    let _ = std::fs::remove_file(&path);
    let database = Database::create(path)?;
    let tx = database.begin_write()?;
    for key in 0..keys(site) {
        tx.open_table(TABLE)?.insert(key, bytes_of(&[0; W]))?;
    }
    tx.commit()?;
    Ok(Arc::new(database))
}

struct Shared<const W: usize> {
    database: Arc<Database>,
    keys: u64,
    place: Box<Place<W>>,
}

impl<const W: usize> Shared<W> {
    fn open(site: &Site) -> Result<Self> {
        let keys = keys(site);
        let database = site.shared()?;
        Ok(Self {
            database,
            keys,
            place: Place::new(),
        })
    }
}

impl<const W: usize> Source<W> for Shared<W> {
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let bytes = table.get(0)?.ok_or("no value")?;
        copy_from(bytes.value(), &mut self.place)?;
        Ok(look(&self.place))
    }
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    Ok(Box::new(By(Shared::<W>::open(site)?)))
}

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let shared = Shared::<W>::open(site)?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        let mut tx = shared.database.begin_write()?;
        tx.set_durability(Durability::None)?;
        tx.open_table(TABLE)?.insert(0, bytes_of(value))?;
        Ok(tx.commit()?)
    })))
}

fn updates<const W: usize>(site: &Site) -> Can<Box<dyn Updates>> {
    Ok(Box::new(Shared::<W>::open(site)?))
}

fn several<const W: usize>(site: &Site) -> Can<Box<dyn Several>> {
    Ok(Box::new(Shared::<W>::open(site)?))
}

impl<const W: usize> Shared<W> {
    fn change(&self) -> Result<()> {
        let mut tx = self.database.begin_write()?;
        tx.set_durability(Durability::None)?;
        {
            let mut table = tx.open_table(TABLE)?;
            for key in 0..self.keys {
                let mut value = [0; W];
                copy_from(table.get(key)?.ok_or("no value")?.value(), &mut value)?;
                let next = value[0].wrapping_add(1);
                value.fill(next);
                table.insert(key, bytes_of(&value))?;
            }
        }
        Ok(tx.commit()?)
    }
}

impl<const W: usize> Updates for Shared<W> {
    fn update(&mut self, count: u32) -> Result<u64> {
        (0..count).try_for_each(|_| self.change())?;
        Ok(u64::from(count))
    }
}

impl<const W: usize> Several for Shared<W> {
    fn commit(&mut self, count: u32) -> Result<()> {
        (0..count).try_for_each(|_| self.change())
    }

    fn read(&mut self, count: u32) -> Result<u64> {
        let mut torn = 0;
        for _ in 0..count {
            let table = self.database.begin_read()?.open_table(TABLE)?;
            let mut together = Together::new();
            for key in 0..self.keys {
                let mut value = [0; W];
                copy_from(table.get(key)?.ok_or("no value")?.value(), &mut value)?;
                together.look(&value);
            }
            torn += together.torn();
        }
        Ok(torn)
    }
}
