//! Committing what a transaction has changed: all of it, or nothing.

use std::sync::Arc;

use kstate::{AddError, BeginError, Bytes, Generation, Many, ManyOutcome, Reader};

use crate::failure::{Failure, Outcome};
use crate::member::{Access, Member, Writing};
use crate::page::Page;
use crate::shared::{Shared, Using};
use crate::transaction::Active;

/// Whether a commit returns only when what it made is in the states' files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    No,
    Yes,
}

/// Commits, and ends the transaction in any case: with what came of it, and a page to be used again.
#[inline]
pub(crate) fn commit(active: Active, durable: Durable) -> (Option<Page>, Outcome<()>) {
    match active.others.is_empty() {
        true => match active.first.access {
            Access::Write(writing) => (None, commit_one(writing, &active.first.shared, durable)),
            // Asked for before.
            Access::Read(_) => (active.first.end(), Ok(())),
        },
        false => commit_all(active.into_members().collect(), durable),
    }
}

#[inline]
fn commit_one(mut writing: Writing, shared: &Arc<Shared>, durable: Durable) -> Outcome<()> {
    let using = shared.using()?;
    let raw = writing.take(&using);
    let outcome = match durable {
        Durable::No => raw.commit()?,
        Durable::Yes => raw.commit_durable()?,
    };
    match outcome.is_conflict() {
        true => Err(Failure::Conflict),
        false => Ok(()),
    }
}

#[cold]
fn commit_all(mut members: Vec<Member>, durable: Durable) -> (Option<Page>, Outcome<()>) {
    // Each thread takes them in this order.
    members.sort_by_key(|member| Arc::as_ptr(&member.shared).addr());
    let shared: Vec<_> = members.iter().map(|member| member.shared.clone()).collect();
    let using: Outcome<Vec<_>> = shared.iter().map(|shared| shared.using()).collect();
    let done = using.and_then(|using| attempt(&mut members, &using, durable));
    let pages = members.into_iter().map(Member::end);
    (pages.fold(None, Option::or), done)
}

fn attempt(members: &mut [Member], using: &[Using<'_>], durable: Durable) -> Outcome<()> {
    let mut many = kstate::begin_many();
    for (member, using) in members.iter_mut().zip(using) {
        match &mut member.access {
            Access::Read(reading) if reading.is_read => {
                expect(&mut many, using, reading.generation)?;
            }
            Access::Read(_) => {}
            Access::Write(writing) => {
                let base = writing.base(using);
                if writing.is_dirty(using)? {
                    unless_changed(using, base, || many.add(&**using))?;
                    many.set(using, writing.bytes(using)?)?;
                } else if writing.is_touched(using) {
                    expect(&mut many, using, base)?;
                }
            }
        }
    }
    let outcome = match durable {
        Durable::No => many.commit()?,
        Durable::Yes => many.commit_durable()?,
    };
    match outcome {
        ManyOutcome::Conflict { .. } => Err(Failure::Conflict),
        _ => Ok(()),
    }
}

/// Has the commit fail unless the state, which was read as of `base`, is as it was.
fn expect<'s>(many: &mut Many<'s>, reader: &'s Reader<Bytes>, base: Generation) -> Outcome<()> {
    unless_changed(reader, base, || many.add_reading(reader))?;
    // What is not looked at is not compared.
    many.get(reader)?;
    Ok(())
}

/// Adds a state to the library's transaction as of `base`: generations only grow, so if the newest one is that before and
/// behind, it is what was added.
fn unless_changed(
    reader: &Reader<Bytes>,
    base: Generation,
    add: impl FnOnce() -> Result<(), AddError>,
) -> Outcome<()> {
    if reader.changed_since(base) {
        return Err(Failure::Conflict);
    }
    match add() {
        // Somebody else's commit is under way.
        Err(AddError::Begin(BeginError::Undecided { .. })) => return Err(Failure::Conflict),
        added => added?,
    }
    match reader.changed_since(base) {
        true => Err(Failure::Conflict),
        false => Ok(()),
    }
}
