//! What programs wait for through open files, and telling them when it has come.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kstate_sys::region::{self, Generation, Head, Memory, Notice};
use smallvec::SmallVec;

use super::waits::wake_crowd;
use super::{Inner, State};
use crate::errno::Errno;
use crate::handle::Handle;
use crate::poll::{Poller, Pollers};
use crate::region::RegionMapping;

/// News that a committer tells by itself on behalf of a `write(2)`; of more it leaves to the thread
/// that watches.
const FEW: usize = 8;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// `poll` of a file of the state.
    Poll,
    /// A read that has nothing to give yet.
    Read,
    /// A line in a stream of changes.
    Changes,
    /// The end of being overdue.
    Deadline,
    /// Something to announce, to the sink of these bits.
    Announce(u32),
    /// Something to write to the state's file.
    Flush,
}

/// That somebody wants to be called once when there is a version behind `beyond`.
#[derive(Debug)]
pub(crate) struct Interest {
    /// The open file.
    pub(crate) file: u64,
    pub(crate) purpose: Purpose,
    /// If not given, the newest one there is when this is registered.
    pub(crate) beyond: Option<Generation>,
    /// News that come earlier wait for it.
    pub(crate) not_before: Option<Instant>,
    /// If given, what has been seen through it is no news either.
    pub(crate) handle: Option<Arc<Handle>>,
    pub(crate) call: Poller,
}

/// What is kept of one.
#[derive(Debug)]
pub(super) struct Kept {
    beyond: Generation,
    not_before: Option<Instant>,
    handle: Option<Arc<Handle>>,
    call: Poller,
    /// There is news, whose time has not come.
    has_news: bool,
}

/// When somebody has to be told.
enum Due {
    Now,
    In(Duration),
    NotYet,
}

impl Kept {
    fn due(&self, newest: Generation) -> Due {
        let seen = self.handle.as_ref().map(|handle| handle.seen());
        match newest > self.beyond && seen.is_none_or(|seen| newest > seen) {
            false => Due::NotYet,
            true => match self
                .not_before
                .and_then(|at| at.checked_duration_since(Instant::now()))
            {
                None | Some(Duration::ZERO) => Due::Now,
                Some(left) => Due::In(left),
            },
        }
    }
}

/// What is found when an interest is registered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registered {
    /// The state has gone, and nothing was kept.
    pub(crate) gone: bool,
    /// Whoever watches heads must be asked to look at this one.
    pub(crate) look: bool,
    pub(crate) newest: Generation,
}

/// What is to be done behind [`State::tell`].
#[derive(Default)]
pub(crate) struct Untold {
    /// The head beyond which the next version is news to somebody.
    pub(crate) watch: Option<(Head, Arc<RegionMapping>)>,
    /// After which time to tell again.
    pub(crate) later: Option<Duration>,
    /// A crowd of which not all have been woken.
    pub(crate) crowd: Option<Arc<RegionMapping>>,
}

impl State {
    /// Keeps an interest until it is told.
    pub(crate) fn register(&self, interest: Interest) -> Result<Registered, Errno> {
        let mut inner = self.lock();
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        if !inner.gone {
            // ORDERING: set already it was before this lock was taken, so before the load below.
            mapped.header().raise_once(Notice::WAITERS);
        }
        // ORDERING: SeqCst after `raise`: who commits after this load finds the mark. Then the wait
        // in flight ends; if there is none, or news already, somebody must look.
        let head = Head::from_raw(mapped.header().head.load(Ordering::SeqCst));
        let newest = match head.has_intent() {
            false => head.generation(),
            // Sealed, most likely.
            true if inner.gone => head.generation(),
            true => region::newest(&mapped)?.generation(),
        };
        if inner.gone {
            return Ok(Registered {
                gone: true,
                look: false,
                newest,
            });
        }
        let beyond = interest.beyond.unwrap_or(newest);
        let key = (interest.file, interest.purpose);
        let kept = Kept {
            beyond,
            not_before: interest.not_before,
            handle: interest.handle,
            call: interest.call,
            has_news: false,
        };
        inner.interests.insert(key, kept);
        Ok(Registered {
            gone: false,
            look: !inner.watched || newest > beyond,
            newest,
        })
    }

    /// Forgets one.
    pub(crate) fn forget_interest(&self, file: u64, purpose: Purpose) {
        let mut inner = self.lock();
        inner.interests.remove(&(file, purpose));
        self.lower_mark_if_unused(&inner);
    }

    /// Forgets what is waited for through `file`.
    pub(crate) fn forget_interests(&self, file: u64) {
        let mut inner = self.lock();
        self.forget_interests_of(&mut inner, file);
    }

    pub(super) fn forget_interests_of(&self, inner: &mut Inner, file: u64) {
        inner.interests.retain(|(kept, _), _| *kept != file);
        self.lower_mark_if_unused(inner);
    }

    /// Calls those that have something to be told, on behalf of the thread that watches the head, which
    /// it does as long as this says so.
    pub(crate) fn tell(&self) -> Untold {
        let mut inner = self.lock();
        let mut untold = Untold::default();
        // Of a state that has gone there is no news: who slept has been woken to see that.
        let is_idle = inner.interests.is_empty() && !inner.waits.has_crowd();
        if is_idle || inner.gone {
            inner.watched = false;
            self.lower_mark_if_unused(&inner);
            return untold;
        }
        let mapping = self.mapping();
        mapping.mapped().header().raise_once(Notice::WAITERS);
        // ORDERING: SeqCst after `raise`: see `Header::notice`.
        let head = mapping.mapped().header().head.load(Ordering::SeqCst);
        let head = Head::from_raw(head);
        let stirs = inner.waits.stir(mapping.mapped().header(), head);
        let calls = inner.take_due(head.generation(), Some(&mut untold.later));
        // Who was told comes again, most likely, and then finds the head watched. If not, the next
        // commit wakes in vain, once.
        let is_wanted = !calls.is_empty() || inner.interests.values().any(|k| !k.has_news);
        inner.watched = is_wanted || inner.waits.has_crowd();
        if inner.watched {
            untold.watch = Some((head, mapping.clone()));
        }
        self.lower_mark_if_unused(&inner);
        drop(inner);
        calls.into_iter().for_each(Poller::call);
        if stirs && wake_crowd(mapping.mapped().header()) {
            untold.crowd = Some(mapping);
        }
        untold
    }

    /// After a commit of the daemon's own: tells those few who wait for it without the detour.
    /// Returns whether others wait, who must be woken.
    pub(super) fn tell_few(&self, inner: &mut Inner, newest: Generation) -> (Pollers, bool) {
        // Of many not even a look is taken here: a write shall not cost what others wait for.
        if inner.interests.len() > FEW {
            return (Pollers::new(), true);
        }
        let calls = inner.take_due(newest, None);
        self.lower_mark_if_unused(inner);
        (
            calls,
            !inner.interests.is_empty() || !inner.waits.is_empty(),
        )
    }

    /// Calls everybody who polls or reads, whatever is new: something else is.
    pub(crate) fn stir(&self) {
        let mut inner = self.lock();
        let calls = inner.take_all(|purpose| matches!(purpose, Purpose::Poll | Purpose::Read));
        self.lower_mark_if_unused(&inner);
        drop(inner);
        calls.into_iter().for_each(Poller::call);
    }

    /// Whether anything is waited for, be it there already and only its time still to come. Whoever
    /// watches heads may have been asked to look again since it did.
    pub(crate) fn is_waited_for(&self) -> bool {
        let inner = self.lock();
        inner.watched || !inner.gone && (!inner.interests.is_empty() || inner.waits.has_crowd())
    }

    pub(super) fn lower_mark_if_unused(&self, inner: &Inner) {
        let is_used = inner.watched
            || !inner.waits.is_empty()
            || inner.interests.values().any(|kept| !kept.has_news);
        if !is_used {
            self.mapping().mapped().header().lower(Notice::WAITERS);
        }
    }
}

impl Inner {
    /// Takes out who has to be told now, and how long the first of the others
    /// has to wait for what is there already. Who cannot see to those `later` leaves them to whoever
    /// watches the head.
    fn take_due(
        &mut self,
        newest: Generation,
        mut later: Option<&mut Option<Duration>>,
    ) -> Pollers {
        let mut due = SmallVec::<[_; 4]>::new();
        for (key, kept) in &mut self.interests {
            match kept.due(newest) {
                Due::Now => due.push(*key),
                Due::NotYet => kept.has_news = false,
                Due::In(left) => {
                    if let Some(later) = later.as_deref_mut() {
                        kept.has_news = true;
                        *later = Some(later.map_or(left, |later| later.min(left)));
                    }
                }
            }
        }
        let taken = due.iter().filter_map(|key| self.interests.remove(key));
        taken.map(|kept| kept.call).collect()
    }

    /// How many interests are programs'.
    pub(super) fn programs_interested(&self) -> usize {
        let own = |(_, purpose): &&(u64, Purpose)| {
            !matches!(
                purpose,
                Purpose::Deadline | Purpose::Announce(_) | Purpose::Flush
            )
        };
        self.interests.keys().filter(own).count()
    }

    /// Takes out everybody who waits for one of these.
    pub(super) fn take_all(&mut self, which: impl Fn(Purpose) -> bool) -> Pollers {
        let taken = self
            .interests
            .extract_if(.., |(_, purpose), _| which(*purpose));
        taken.map(|(_, kept)| kept.call).collect()
    }
}
