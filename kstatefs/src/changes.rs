//! `.kstate/changes`: what happens to many states, as lines that any program can read.
//!
//! An open file of it is a stream. It remembers of each state what has not been told yet, no more than
//! one of each kind, so that a reader who is slow gets the newest and one who never reads costs
//! nothing: a state is only watched once its last line has been read.
//!
//! Lock order: the list of streams, a stream's blocked reads, a stream, a state.

mod prefix;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use kstate_sys::region::Generation;
use serde_json::{Value, json};

use crate::blocked::{BlockedRead, BlockedReads, Given};
use crate::errno::Errno;
use crate::poll::{Hub, Poller};
use crate::rights::Credentials;
use crate::state::{Interest, Purpose, State};

pub(crate) use prefix::{NAME, Prefixes};

/// Streams that one user can have open: each remembers every state.
const MOST_OF_ONE_USER: usize = 256;

/// All streams that are open, to be told what happens.
#[derive(Debug, Default)]
pub(crate) struct Streams(RwLock<Vec<Arc<Stream>>>);

impl Streams {
    /// Adds a stream, which begins with the states `there` are now. Called with the table locked, so
    /// that none is missed or told twice.
    ///
    /// # Errors
    ///
    /// `ENFILE` when their user has [`MOST_OF_ONE_USER`].
    pub(crate) fn open<'a>(
        &self,
        stream: &Arc<Stream>,
        there: impl Iterator<Item = &'a Arc<State>>,
    ) -> Result<(), Errno> {
        let mut streams = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let theirs = |open: &&Arc<Stream>| open.reader.uid() == stream.reader.uid();
        if streams.iter().filter(theirs).count() >= MOST_OF_ONE_USER {
            return Err(Errno::ENFILE);
        }
        streams.push(stream.clone());
        drop(streams);
        // Behind that: rights that change meanwhile are looked at by one of both.
        for state in there {
            stream.appeared(state, false);
        }
        Ok(())
    }

    pub(crate) fn close(&self, stream: &Arc<Stream>) {
        let mut streams = self.0.write().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|open| !Arc::ptr_eq(open, stream));
        drop(streams);
        stream.forget_all();
    }

    pub(crate) fn created(&self, state: &Arc<State>) {
        self.each(|stream| stream.appeared(state, true));
    }

    /// Its rights are others now: who could not see it may be able to, or the other way round.
    pub(crate) fn rights_changed(&self, state: &Arc<State>) {
        self.each(|stream| match stream.reader.may_read(&state.attributes()) {
            true => stream.appeared(state, false),
            false => stream.hide(state),
        });
    }

    pub(crate) fn deleted(&self, ino: u64) {
        self.each(|stream| stream.note(ino, |news| news.deleted = true));
    }

    pub(crate) fn publisher_gone(&self, ino: u64) {
        self.each(|stream| stream.note(ino, |news| news.publisher_gone = true));
    }

    pub(crate) fn overdue(&self, ino: u64) {
        self.each(|stream| stream.note(ino, |news| news.overdue = true));
    }

    /// Those that are open.
    #[cfg(fuzzing)]
    pub(crate) fn left(&self) -> Vec<String> {
        let streams = self.0.read().unwrap_or_else(PoisonError::into_inner);
        streams.iter().map(|s| format!("{s:?}")).collect()
    }

    fn each(&self, tell: impl Fn(&Arc<Stream>)) {
        let streams = self.0.read().unwrap_or_else(PoisonError::into_inner);
        streams.iter().for_each(tell);
    }
}

/// One open file of `.kstate/changes`.
#[derive(Debug)]
pub(crate) struct Stream {
    file: u64,
    /// Only states whose names begin so.
    prefix: String,
    /// Only states that these may read.
    reader: Credentials,
    hub: Arc<Hub>,
    blocked: BlockedReads,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    states: HashMap<u64, Followed>,
    /// Those of which there is something to tell, in the order it came.
    queue: VecDeque<u64>,
    /// Lines taken out of the queue and not read yet, from `at` on.
    text: Vec<u8>,
    at: usize,
    poller: Option<Poller>,
}

#[derive(Debug)]
struct Followed {
    // Not kept alive: a stream that nobody reads holds no regions.
    state: Weak<State>,
    name: String,
    created: bool,
    /// The generation told last; none as long as the reader does not know of the state.
    told: Option<Generation>,
    news: News,
    queued: bool,
}

/// What has not been told of a state.
#[derive(Clone, Copy, Debug, Default)]
struct News {
    publisher_gone: bool,
    overdue: bool,
    deleted: bool,
}

impl Stream {
    pub(crate) fn new(file: u64, prefix: String, reader: Credentials, hub: Arc<Hub>) -> Arc<Self> {
        Arc::new(Self {
            file,
            prefix,
            reader,
            hub,
            blocked: BlockedReads::default(),
            inner: Mutex::default(),
        })
    }

    /// There is a state, which may be one of those wanted.
    fn appeared(self: &Arc<Self>, state: &Arc<State>, created: bool) {
        if !state.name().as_str().starts_with(&self.prefix)
            || !self.reader.may_read(&state.attributes())
        {
            return;
        }
        let mut inner = self.lock();
        // Looked at with the stream locked: of one that goes from here on it is told.
        if inner.states.contains_key(&state.ino()) || state.is_gone() {
            return;
        }
        let followed = Followed {
            state: Arc::downgrade(state),
            name: state.name().as_str().to_owned(),
            created,
            told: None,
            news: News {
                overdue: state.overdue().is_some(),
                ..News::default()
            },
            queued: false,
        };
        inner.states.insert(state.ino(), followed);
        self.queue(inner, state.ino());
    }

    /// A state is closed to the reader: what has not been told is not for him any more, nor is its
    /// end, when there are no rights left to compare.
    fn hide(&self, state: &State) {
        let mut inner = self.lock();
        if inner.states.remove(&state.ino()).is_none() {
            return;
        }
        inner.queue.retain(|queued| *queued != state.ino());
        drop(inner);
        state.forget_interests(self.file);
    }

    /// Something happened to a state, which may be followed.
    fn note(self: &Arc<Self>, ino: u64, set: impl FnOnce(&mut News)) {
        let mut inner = self.lock();
        let Some(followed) = inner.states.get_mut(&ino) else {
            return;
        };
        set(&mut followed.news);
        // Came and went without being told: nothing to tell.
        if followed.news.deleted && followed.told.is_none() {
            inner.states.remove(&ino);
            inner.tidy_queue();
            return;
        }
        self.queue(inner, ino);
    }

    /// Puts a state in the queue and tells the reader that there is something.
    fn queue(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, ino: u64) {
        match inner.states.get_mut(&ino) {
            Some(followed) if !followed.queued => followed.queued = true,
            _ => return,
        }
        inner.queue.push_back(ino);
        let poller = inner.poller.take();
        drop(inner);
        if let Some(poller) = poller {
            poller.call();
        }
        if self.blocked.len() > 0 {
            self.serve();
        }
    }

    /// Whole lines, as many as have room; a part of one where even that has not.
    pub(crate) fn read(self: &Arc<Self>, size: usize) -> Given {
        let mut inner = self.lock();
        let (mut given, mut told) = (Vec::new(), Vec::new());
        loop {
            if inner.at == inner.text.len() {
                inner.text.clear();
                inner.at = 0;
                match self.next_lines(&mut inner, &mut told) {
                    Some(lines) => inner.text = lines,
                    None => break,
                }
            }
            let text = &inner.text[inner.at..];
            let room = size - given.len();
            let fits = match text.len() <= room {
                true => text.len(),
                false if given.is_empty() => room,
                // The end of a line that fits still.
                false => text[..room]
                    .iter()
                    .rposition(|b| *b == b'\n')
                    .map_or(0, |n| n + 1),
            };
            given.extend_from_slice(&text[..fits]);
            inner.at += fits;
            if inner.at < inner.text.len() {
                break;
            }
        }
        drop(inner);
        for (state, generation) in told {
            self.watch(&state, generation);
        }
        match given.is_empty() && size > 0 {
            true => Given::NotYet,
            false => Given::Bytes(given),
        }
    }

    /// What there is to tell of the state that has waited longest. It is to be watched then, from what
    /// was `told` on.
    fn next_lines(
        &self,
        inner: &mut Inner,
        told: &mut Vec<(Arc<State>, Generation)>,
    ) -> Option<Vec<u8>> {
        while let Some(ino) = inner.queue.pop_front() {
            let Some(followed) = inner.states.get_mut(&ino) else {
                continue;
            };
            followed.queued = false;
            let state = followed.state.upgrade();
            if self.is_hidden(state.as_deref()) {
                self.drop_hidden(inner, ino, state.as_deref());
                continue;
            }
            let lines = followed.lines(ino, state.as_deref());
            match std::mem::take(&mut followed.news).deleted {
                true => drop(inner.states.remove(&ino)),
                false => told.extend(state.zip(followed.told)),
            }
            if !lines.is_empty() {
                return Some(lines);
            }
        }
        None
    }

    fn watch(self: &Arc<Self>, state: &Arc<State>, told: Generation) {
        let (this, ino) = (Arc::downgrade(self), state.ino());
        let registered = state.register(Interest {
            file: self.file,
            purpose: Purpose::Changes,
            beyond: Some(told),
            not_before: None,
            handle: None,
            call: Poller::new(move || {
                if let Some(this) = this.upgrade() {
                    let inner = this.lock();
                    this.queue(inner, ino);
                }
            }),
        });
        match registered {
            Ok(found) if found.look => self.hub.watch(state),
            Ok(_) => {}
            Err(error) => tracing::debug!(?error, name = %state.name(), "changes are not told"),
        }
    }

    /// Whether there is something to read. If not, `poller` is called when there is.
    pub(crate) fn poll(self: &Arc<Self>, poller: Option<Poller>) -> bool {
        let mut inner = self.lock();
        if poller.is_some() {
            inner.poller = poller;
        }
        let mut told = Vec::new();
        let found = inner.at < inner.text.len() || self.has_lines(&mut inner, &mut told);
        drop(inner);
        for (state, generation) in told {
            self.watch(&state, generation);
        }
        found
    }

    /// Whether a read would find lines. Takes out of the queue what there is nothing to tell of any
    /// more: who is told to read shall not be blocked. It is to be watched then, from what was `told` on.
    fn has_lines(&self, inner: &mut Inner, told: &mut Vec<(Arc<State>, Generation)>) -> bool {
        while let Some(ino) = inner.queue.front().copied() {
            if let Some(followed) = inner.states.get_mut(&ino) {
                let state = followed.state.upgrade();
                if self.is_hidden(state.as_deref()) {
                    self.drop_hidden(inner, ino, state.as_deref());
                } else if followed.has_lines(state.as_deref()) {
                    return true;
                } else {
                    followed.queued = false;
                    followed.news = News::default();
                    told.extend(state.zip(followed.told));
                }
            }
            inner.queue.pop_front();
        }
        false
    }

    /// Forgets a state that may not be read any more.
    fn drop_hidden(&self, inner: &mut Inner, ino: u64, state: Option<&State>) {
        inner.states.remove(&ino);
        if let Some(state) = state {
            state.forget_interests(self.file);
        }
    }

    fn is_hidden(&self, state: Option<&State>) -> bool {
        state.is_some_and(|state| !self.reader.may_read(&state.attributes()))
    }

    /// Keeps a read that has found nothing until there is something.
    pub(crate) fn block(self: &Arc<Self>, read: BlockedRead) {
        match self.blocked.add(read) {
            Ok(()) => self.serve(),
            Err(read) => read.answer(Err(Errno::EOPNOTSUPP)),
        }
    }

    fn serve(self: &Arc<Self>) {
        self.blocked.serve(|size| Ok(self.read(size)));
    }

    /// The reads that wait here.
    pub(crate) fn blocked(&self) -> &BlockedReads {
        &self.blocked
    }

    fn forget_all(&self) {
        let states = std::mem::take(&mut self.lock().states);
        for state in states.values().filter_map(|known| known.state.upgrade()) {
            state.forget_interests(self.file);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Takes what is not followed any more out of the queue, when that is the most of it: a stream that
    /// nobody reads remembers nothing of what came and went.
    fn tidy_queue(&mut self) {
        if self.queue.len() > 2 * self.states.len() + 64 {
            let states = &self.states;
            self.queue.retain(|ino| states.contains_key(ino));
        }
    }
}

impl Followed {
    fn newest(&self, state: Option<&State>) -> Generation {
        let newest = state.and_then(|state| state.newest().ok());
        newest.or(self.told).unwrap_or(Generation::NEVER)
    }

    fn is_overdue(&self, state: Option<&State>, newest: Generation) -> bool {
        self.news.overdue && state.is_some_and(|state| state.overdue() == Some(newest))
    }

    /// Whether [`lines`](Self::lines) would be some.
    fn has_lines(&self, state: Option<&State>) -> bool {
        let newest = self.newest(state);
        self.told.is_none_or(|told| newest > told)
            || self.is_overdue(state, newest)
            || self.news.publisher_gone
            || self.news.deleted
    }

    /// What there is to tell, a line each, in the order it must have happened.
    fn lines(&mut self, ino: u64, state: Option<&State>) -> Vec<u8> {
        let mut lines = Vec::new();
        let mut line = |event: &str, more: Option<(&str, Value)>| {
            let mut line = json!({ "event": event, "state": self.name, "id": ino });
            if let (Some((key, value)), Some(line)) = (more, line.as_object_mut()) {
                line.insert(key.to_owned(), value);
            }
            lines.extend_from_slice(line.to_string().as_bytes());
            lines.push(b'\n');
        };
        let newest = self.newest(state);
        let generation = Some(("generation", json!(newest.0)));
        if self.told.is_none() {
            let event = if self.created { "created" } else { "present" };
            line(event, generation.clone());
        } else if self.told.is_some_and(|told| newest > told) {
            line("changed", generation.clone());
        }
        if self.is_overdue(state, newest) {
            line("overdue", generation);
        }
        if self.news.publisher_gone {
            let writers = state.map_or(0, |state| state.counts().writers);
            line("publisher_gone", Some(("writers", json!(writers))));
        }
        if self.news.deleted {
            line("deleted", None);
        }
        self.told = Some(newest);
        lines
    }
}
