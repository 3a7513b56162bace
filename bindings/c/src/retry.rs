#![expect(
    unsafe_code,
    reason = "exported, and calls a function of the program's"
)]
//! Transactions by a function of the program's, which is called again where others come first.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use kstate::{Attempts, Retry};

use crate::boundary::{Quiet, answer, quietly};
use crate::commit::Durable;
use crate::failure::{Failure, Outcome};
use crate::handle::{Handle, State, Transaction};
use crate::shared::Shared;

/// `kstate_transaction_fn` of the header. It may throw, if it is C++.
type Function = unsafe extern "C-unwind" fn(Handle<Transaction>, *mut c_void) -> c_int;
/// `kstate_transact_fn`.
type FunctionWithData =
    unsafe extern "C-unwind" fn(Handle<Transaction>, *mut c_void, *mut c_void) -> c_int;

/// Aborts the transaction, unless it was committed, in whatever way this is left.
struct Ending(Handle<Transaction>);

impl Drop for Ending {
    fn drop(&mut self) {
        // It tells the daemon of what it gives back.
        quietly((), || {
            drop(self.0.end());
            Ok(())
        });
    }
}

/// What came of one attempt.
enum Attempt {
    /// It is over, with this answer.
    Over(c_int),
    /// Somebody else committed first.
    Conflict,
}

/// # Safety
///
/// `change` may be called with a transaction and a pointer to its page.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn kstate_transaction_using_fn(
    state: Handle<State>,
    change: Option<Function>,
    retry: bool,
) -> c_int {
    let Some(change) = change else {
        return no_function();
    };
    let attempts = if retry { 0 } else { 1 };
    // SAFETY: by the contract above.
    run(state, attempts, |transaction, page| unsafe {
        change(transaction, page)
    })
}

/// # Safety
///
/// `change` may be called with a transaction, a pointer to its page and `data`.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn kstate_transact(
    state: Handle<State>,
    change: Option<FunctionWithData>,
    data: *mut c_void,
    attempts: u32,
) -> c_int {
    let Some(change) = change else {
        return no_function();
    };
    // SAFETY: by the contract above.
    run(state, attempts, |transaction, page| unsafe {
        change(transaction, page, data)
    })
}

fn no_function() -> c_int {
    Failure::plain(libc::EINVAL, c"the function is NULL").answer()
}

/// Runs `change` until what it did is committed, `most` times at most; as often as is usual for 0.
fn run(
    state: Handle<State>,
    most: u32,
    mut change: impl FnMut(Handle<Transaction>, *mut c_void) -> c_int,
) -> c_int {
    let mut shared = None;
    let refused = answer(|| {
        shared = Some(state.with_subscribed(|s| Ok((s.shared.clone(), s.permissions)))?);
        Ok(())
    });
    let Some((shared, permissions)) = shared else {
        return refused;
    };
    // The first attempt is by the handle itself, which is mostly all.
    match attempt(&shared, permissions, &mut change) {
        Attempt::Over(done) => return done,
        Attempt::Conflict if most == 1 => return Failure::Conflict.answer(),
        Attempt::Conflict => {}
    }
    // Those behind it are by one of their own: others use that one meanwhile, and a turn is a handle's.
    let mut own = None;
    let refused = answer(|| {
        own = Some(Quiet::new(Arc::new(shared.duplicate()?)));
        Ok(())
    });
    let Some(own) = own.as_ref().and_then(Quiet::get) else {
        return refused;
    };
    let usual = Retry::new();
    let retry = if most == 0 {
        usual
    } else {
        usual.attempts(most)
    };
    let mut pauses = None;
    let refused = answer(|| {
        pauses = Some(Quiet::new(own.attempts(&retry)?));
        Ok(())
    });
    let Some(pauses) = &mut pauses else {
        return refused;
    };
    loop {
        if !quietly(false, || Ok(pauses.get_mut().is_some_and(Attempts::again))) {
            return Failure::Conflict.answer();
        }
        if let Attempt::Over(done) = attempt(own, permissions, &mut change) {
            return done;
        }
    }
}

fn attempt(
    shared: &Arc<Shared>,
    permissions: u32,
    change: &mut impl FnMut(Handle<Transaction>, *mut c_void) -> c_int,
) -> Attempt {
    let mut begun = None;
    let refused = answer(|| {
        let transaction = Ending(Handle::begun(shared, permissions)?);
        let page = transaction.0.pointer()?;
        begun = Some((transaction, page));
        Ok(())
    });
    let Some((transaction, page)) = begun else {
        return Attempt::Over(refused);
    };
    // Outside of all that catches panics: an exception of the program's goes through, and `Ending` aborts.
    let said = change(transaction.0, page);
    if said != 0 {
        return Attempt::Over(said);
    }
    let mut is_conflict = false;
    let done = answer(|| match transaction.0.commit(Durable::No) {
        Err(Failure::Conflict) => {
            is_conflict = true;
            Ok(())
        }
        // Of a state that is only read nothing is committed.
        Err(Failure::Plain(libc::EPERM, _)) => Ok(()),
        done => done,
    });
    match is_conflict {
        true => Attempt::Conflict,
        false => Attempt::Over(done),
    }
}

impl Shared {
    /// Attempts by this subscription, which nobody else has.
    ///
    /// # Errors
    ///
    /// Those of [`Shared::using`].
    fn attempts(&self, retry: &Retry) -> Outcome<Attempts<'_>> {
        let using = self.using()?;
        let attempts = using.attempts(retry);
        // SAFETY: it borrows what `self` has, which is there for as long as `self` is borrowed, and only what every thread may
        // use at once: the reading side and, for a turn, the number of the group. It is used between two
        // attempts of the one thread that knows of `self`, when nobody is using it.
        Ok(unsafe { core::mem::transmute::<Attempts<'_>, Attempts<'_>>(attempts) })
    }
}
