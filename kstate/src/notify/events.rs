//! What a notifier has found.

use std::fmt;
use std::ops::Deref;

use super::{Event, Notifier};

/// What has happened to states: a slice of [`Event`]s.
///
/// Waiting for what comes next begins when this is dropped, so that who looks at the states first is
/// not held up by it. So drop it before you wait on the descriptor: the borrow checker sees to that unless you
/// have the descriptor's bare number. A program that leaks it has to call [`Notifier::changed`] again
/// before it waits.
pub struct Events<'n> {
    notifier: &'n mut Notifier,
}

impl<'n> Events<'n> {
    pub(super) fn of(notifier: &'n mut Notifier) -> Self {
        Self { notifier }
    }
}

impl Deref for Events<'_> {
    type Target = [Event];

    fn deref(&self) -> &[Event] {
        &self.notifier.events
    }
}

impl Drop for Events<'_> {
    fn drop(&mut self) {
        self.notifier.settle();
    }
}

impl<'n> IntoIterator for Events<'n> {
    type Item = Event;
    type IntoIter = IntoIter<'n>;

    fn into_iter(self) -> IntoIter<'n> {
        IntoIter {
            events: self,
            next: 0,
        }
    }
}

impl<'e> IntoIterator for &'e Events<'_> {
    type Item = &'e Event;
    type IntoIter = std::slice::Iter<'e, Event>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<const N: usize> PartialEq<[Event; N]> for Events<'_> {
    fn eq(&self, other: &[Event; N]) -> bool {
        **self == *other
    }
}

impl fmt::Debug for Events<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// The events one by one. Waiting for what comes next begins when this is dropped.
#[derive(Debug)]
pub struct IntoIter<'n> {
    events: Events<'n>,
    next: usize,
}

impl Iterator for IntoIter<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let event = self.events.get(self.next).copied();
        self.next += usize::from(event.is_some());
        event
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.events.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for IntoIter<'_> {}
