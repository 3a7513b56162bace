//! Redis over a Unix socket.

use std::sync::Arc;

use redis::{Client, Connection, cmd, pipe};

use super::{Kind, Peer};
use crate::Result;
use crate::capability::{
    By, Can, Follows, PATIENCE, Publishes, Reads, Several, Source, To, Together, Updates,
};
use crate::site::{Home, Site};
use crate::value::{Place, Value, bytes_of, copy_from, for_size};

/// Redis.
#[derive(Debug)]
pub(crate) struct Redis;

impl Peer for Redis {
    fn id(&self) -> &'static str {
        "redis"
    }

    fn title(&self) -> &'static str {
        "Redis"
    }

    fn kind(&self) -> Kind {
        Kind::Between { consistent: true }
    }

    fn used(&self) -> &'static str {
        "A server of the run's own on a Unix socket, `--save \"\" --appendonly no`, not pinned; the blocking \
         client of the crate `redis`. `GET`, `SET`; waking by `SET` and `PUBLISH` in one `MULTI`; changes by \
         `WATCH`, `GET`, `MULTI`, `SET`, `EXEC` until nobody was first; several values by the same, and `MGET`."
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

    fn updates(&self, site: &Site) -> Can<Box<dyn Updates>> {
        for_size!(site.size, updates, site)
    }

    fn several(&self, site: &Site) -> Can<Box<dyn Several>> {
        for_size!(site.size, several, site)
    }
}

pub(crate) fn connect(site: &Site) -> Result<Connection> {
    let socket = site.redis();
    if !socket.exists() {
        return Err("redis-server is missing here".into());
    }
    let client = Client::open(format!("redis+unix://{}", socket.display()))?;
    Ok(client.get_connection()?)
}

struct Keys {
    connection: Connection,
    names: Vec<String>,
}

impl Keys {
    fn open(site: &Site) -> Result<Self> {
        let mut names = site.names();
        if names.is_empty() {
            names.push(site.name.clone());
        }
        Ok(Self {
            connection: connect(site)?,
            names,
        })
    }
}

fn home<const W: usize>(site: &Site) -> Can<Home> {
    let mut keys = Keys::open(site)?;
    // Many at a time, as its documentation has it for mass insertion.
    for names in keys.names.chunks(1000) {
        let mut sets = pipe();
        for name in names {
            sets.set(name, bytes_of(&[0; W])).ignore();
        }
        sets.exec(&mut keys.connection)?;
    }
    Ok(Arc::new(()))
}

/// The first value, and the place in the program where it goes.
struct First<const W: usize> {
    of: Keys,
    place: Box<Place<W>>,
}

impl<const W: usize> Source<W> for First<W> {
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        let Keys { connection, names } = &mut self.of;
        let bytes: Vec<u8> = cmd("GET").arg(&names[0]).query(connection)?;
        copy_from(&bytes, &mut self.place)?;
        Ok(look(&self.place))
    }
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    Ok(Box::new(By(First::<W> {
        of: Keys::open(site)?,
        place: Place::new(),
    })))
}

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let mut keys = Keys::open(site)?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        let set = cmd("SET")
            .arg(&keys.names[0])
            .arg(bytes_of(value))
            .to_owned();
        Ok(set.exec(&mut keys.connection)?)
    })))
}

fn tells<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let mut keys = Keys::open(site)?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        let name = &keys.names[0];
        let both = pipe()
            .atomic()
            .set(name, bytes_of(value))
            .ignore()
            .publish(name, bytes_of(value))
            .ignore()
            .to_owned();
        Ok(both.exec(&mut keys.connection)?)
    })))
}

struct Subscribed<const W: usize>(Keys);

fn follows<const W: usize>(site: &Site) -> Can<Box<dyn Follows>> {
    Ok(Box::new(Subscribed::<W>(Keys::open(site)?)))
}

impl<const W: usize> Follows for Subscribed<W> {
    fn follow(&mut self, held: &mut dyn FnMut(Option<u64>) -> bool) -> Result<()> {
        let Keys { connection, names } = &mut self.0;
        let mut channel = connection.as_pubsub();
        channel.subscribe(&names[0])?;
        channel.set_read_timeout(Some(PATIENCE))?;
        loop {
            let word = match channel.get_message() {
                Ok(message) => {
                    let mut value = [0; W];
                    copy_from(message.get_payload_bytes(), &mut value)?;
                    Some(value[0])
                }
                Err(error) if error.is_timeout() => None,
                Err(error) => return Err(error.into()),
            };
            if !held(word) {
                channel.set_read_timeout(None)?;
                return Ok(());
            }
        }
    }
}

/// Changes all values at once.
struct Changing<const W: usize>(Keys);

fn updates<const W: usize>(site: &Site) -> Can<Box<dyn Updates>> {
    Ok(Box::new(Changing::<W>(Keys::open(site)?)))
}

fn several<const W: usize>(site: &Site) -> Can<Box<dyn Several>> {
    Ok(Box::new(Changing::<W>(Keys::open(site)?)))
}

impl<const W: usize> Changing<W> {
    fn change(&mut self) -> Result<u64> {
        let Keys { connection, names } = &mut self.0;
        let mut attempts = 0;
        redis::transaction(connection, names, |connection, pipe| {
            attempts += 1;
            let values: Vec<Vec<u8>> = cmd("MGET").arg(&*names).query(connection)?;
            for (name, bytes) in names.iter().zip(&values) {
                let mut value = [0; W];
                // What another program has put there counts as zeros.
                let _ = copy_from(bytes, &mut value);
                let next = value[0].wrapping_add(1);
                value.fill(next);
                pipe.set(name, bytes_of(&value)).ignore();
            }
            pipe.query::<Option<()>>(connection)
        })?;
        Ok(attempts)
    }
}

impl<const W: usize> Updates for Changing<W> {
    fn update(&mut self, count: u32) -> Result<u64> {
        (0..count).try_fold(0, |attempts, _| Ok(attempts + self.change()?))
    }
}

impl<const W: usize> Several for Changing<W> {
    fn commit(&mut self, count: u32) -> Result<()> {
        (0..count).try_for_each(|_| self.change().map(|_| ()))
    }

    fn read(&mut self, count: u32) -> Result<u64> {
        let mut torn = 0;
        let Keys { connection, names } = &mut self.0;
        for _ in 0..count {
            let values: Vec<Vec<u8>> = cmd("MGET").arg(&*names).query(connection)?;
            let mut together = Together::new();
            for bytes in &values {
                let mut value = [0; W];
                copy_from(bytes, &mut value)?;
                together.look(&value);
            }
            torn += together.torn();
        }
        Ok(torn)
    }
}
