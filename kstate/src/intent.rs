//! Meeting a commit of several states on one of them.

use std::time::{Duration, Instant};

use kstate_sys::fork::Lock;
use kstate_sys::ioctl::{self, call, settled};
use kstate_sys::region::{
    self, Decision, Generation, Head, IntentRef, Memory, Standing, WithRecords,
};

use crate::reader::Reader;
use crate::records::Records;
use crate::snapshot::ReadError;
use crate::subscription::Subscription;
use crate::writing::Writing;

/// A region with what decides commits of several states.
pub(crate) type Region<'a> = WithRecords<'a, Records>;

/// How long a commit may be in the way before the daemon is asked to settle it.
const PATIENCE: Duration = Duration::from_millis(1);

/// The commit that is in the way, and since when.
#[derive(Debug, Default)]
pub(crate) struct Met(Lock<Option<(IntentRef, Instant)>>);

impl Subscription {
    /// Notes that `commit` is in the way and, if it has been for long, has the daemon settle it: a
    /// committer may have been stopped.
    #[cold]
    pub(crate) fn urge(&self, commit: IntentRef) {
        let mut met = self.met().0.lock();
        let now = Instant::now();
        match *met {
            Some((known, since)) if known == commit => {
                if now.duration_since(since) < PATIENCE {
                    return;
                }
            }
            _ => {
                *met = Some((commit, now));
                return;
            }
        }
        *met = Some((commit, now));
        drop(met);
        // Without a daemon nobody settles: the commit stays in the way, which is what callers see.
        let _ = self.settle(commit);
    }

    /// Asks the daemon to settle `commit`; whether it has.
    pub(crate) fn settle(&self, commit: IntentRef) -> std::io::Result<bool> {
        let mut argument = ioctl::Settle::new(commit.raw(), 0);
        self.request(|descriptor| {
            argument = ioctl::Settle::new(commit.raw(), 0);
            call::settle(descriptor, &mut argument)
        })?;
        Ok(argument.outcome == settled::DONE)
    }
}

impl<T> Reader<T> {
    /// The region with what decides commits of several states.
    pub(crate) fn region(&self) -> Region<'_> {
        Region::new(self.memory_copied(), self.subscription().records())
    }

    /// The newest head, unless a commit of several states is under way there.
    #[inline]
    pub(crate) fn newest(&self) -> Option<Head> {
        // Without records an intent is what cannot be resolved.
        region::newest(self.memory()).ok()
    }

    /// How the newest version stands.
    #[inline]
    pub(crate) fn look(&self) -> Result<Standing, ReadError> {
        match region::look(self.memory()) {
            Ok(standing) => Ok(standing),
            // There is an intent, which takes the record to resolve.
            Err(_) => self.retry_grown(|region| region::look(region)),
        }
    }

    /// The generation that counts, given that an intent was met. One that cannot be resolved counts
    /// as not committed.
    #[cold]
    #[inline(never)]
    pub(crate) fn resolved_generation(&self, found: Head) -> Generation {
        let standing = self.look();
        standing.map_or(found.generation(), |standing| standing.head.generation())
    }
}

impl Writing {
    /// What a writer does who was kept off by an intent: finishes a commit that is committed, has
    /// one settled that stays. `true` if it is worth trying again at once.
    #[cold]
    #[inline(never)]
    pub(crate) fn meet(&self) -> bool {
        let Ok(standing) = self.reader().look() else {
            return false;
        };
        match standing.intent {
            None => true,
            Some((_, Decision::Committed)) => {
                if standing.finish(self.reader().memory()) {
                    self.pay_for_another();
                }
                true
            }
            Some((commit, _)) => {
                self.reader().subscription().urge(commit);
                false
            }
        }
    }

    /// What the commit owes that was just finished here for its owner.
    fn pay_for_another(&self) {
        let notice = self.reader().memory().header().notice();
        if notice.is_none() {
            return;
        }
        // The live page is locked in the name of a group of one's own.
        self.settle_own(notice);
    }
}
