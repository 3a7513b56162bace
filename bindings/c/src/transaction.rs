#![expect(unsafe_code, reason = "exported, and writes where programs say")]
//! Transactions as programs have them.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use crate::boundary::{answer, answer_or, quietly};
use crate::commit::{Durable, commit};
use crate::failure::{Failure, Outcome};
use crate::handle::{Handle, Ids, State, Transaction};
use crate::member::{Access, Member};
use crate::page::Page;
use crate::shared::Shared;
use crate::state::{WRITE, permissions};

/// The numbers of transactions.
static IDS: Ids = Ids::new();

/// As many states as a transaction can have; a program that adds more has lost count.
const MOST: usize = kstate_sys::region::MAX_WRITTEN;

/// What is kept for a handle of a transaction.
pub(crate) struct TransactionEntry {
    pub(crate) id: u32,
    active: Option<Active>,
    /// A page for the next transaction that reads.
    spare: Option<Page>,
    /// It was made with its transaction, and goes with it.
    goes_with_it: bool,
}

/// A transaction under way.
pub(crate) struct Active {
    pub(crate) permissions: u32,
    pub(crate) first: Member,
    /// Those that were added to it.
    pub(crate) others: Vec<Member>,
}

impl Active {
    pub(crate) fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        core::iter::once(&mut self.first).chain(&mut self.others)
    }

    /// The state that is meant, the first if none is said.
    fn member(&mut self, state: Handle<State>) -> Outcome<&mut Member> {
        if state.is_null() {
            return Ok(&mut self.first);
        }
        let wanted = state.shared()?.reader().state_id();
        let mut members = self.members();
        let found = members.find(|member| member.shared.reader().state_id() == wanted);
        found.ok_or(Failure::plain(
            libc::EINVAL,
            c"the state is not in the transaction",
        ))
    }

    /// Whether there is anything to be committed.
    fn is_for_writing(&mut self) -> bool {
        self.members()
            .any(|member| matches!(member.access, Access::Write(_)))
    }

    /// All of them.
    pub(crate) fn into_members(self) -> impl Iterator<Item = Member> {
        core::iter::once(self.first).chain(self.others)
    }

    /// Throws away what was written; a page of a copy, to be used again.
    fn end(self) -> Option<Page> {
        self.into_members().map(Member::end).fold(None, Option::or)
    }
}

impl Drop for TransactionEntry {
    fn drop(&mut self) {
        if let Some(active) = self.active.take() {
            active.end();
        }
    }
}

impl TransactionEntry {
    fn new(goes_with_it: bool) -> Self {
        Self {
            id: IDS.next(),
            active: None,
            spare: None,
            goes_with_it,
        }
    }

    #[inline]
    pub(crate) fn active(&mut self) -> Outcome<&mut Active> {
        self.active.as_mut().ok_or(Failure::INACTIVE)
    }

    #[inline]
    fn start(&mut self, shared: &Arc<Shared>, permissions: u32) -> Outcome<()> {
        let first = self.member(shared, permissions)?;
        self.active = Some(Active {
            permissions,
            first,
            others: Vec::new(),
        });
        Ok(())
    }

    #[inline]
    fn member(&mut self, shared: &Arc<Shared>, permissions: u32) -> Outcome<Member> {
        match (permissions & WRITE != 0, shared.is_writable()) {
            (false, _) => Member::to_read(shared, self.spare.take()),
            (true, true) => Member::to_write(shared),
            (true, false) => Err(Failure::plain(
                libc::EINVAL,
                c"the state was subscribed to for reading; no transaction can write to it",
            )),
        }
    }

    /// Takes the transaction out, to be ended.
    fn end(&mut self) -> Outcome<Active> {
        self.active.take().ok_or(Failure::INACTIVE)
    }
}

impl Failure {
    const INACTIVE: Self = Self::plain(libc::EINVAL, c"the transaction is not active");
}

impl Handle<Transaction> {
    /// A handle of a transaction that is under way, and goes with it.
    pub(crate) fn begun(shared: &Arc<Shared>, permissions: u32) -> Outcome<Self> {
        let mut entry = TransactionEntry::new(true);
        entry.start(shared, permissions)?;
        Self::new(entry)
    }

    pub(crate) fn abort(self) -> Outcome<()> {
        self.with(|entry| {
            entry.spare = entry.end()?.end().or(entry.spare.take());
            Ok(())
        })
    }

    pub(crate) fn commit(self, durable: Durable) -> Outcome<()> {
        self.with(|entry| {
            if !entry.active()?.is_for_writing() {
                return Err(Failure::plain(
                    libc::EPERM,
                    c"the transaction is for reading; abort it",
                ));
            }
            let (page, done) = commit(entry.end()?, durable);
            entry.spare = page.or(entry.spare.take());
            done
        })
    }

    /// Where the page of its first state is.
    pub(crate) fn pointer(self) -> Outcome<*mut c_void> {
        self.with(|entry| entry.active()?.first.pointer())
    }

    /// Lets the handle go, if it was made with its transaction and that has ended.
    fn let_go(self) {
        let is_over = self.with(|entry| Ok(entry.goes_with_it && entry.active.is_none()));
        if is_over.unwrap_or(false) {
            drop(self.end());
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn kstate_new_transaction() -> Handle<Transaction> {
    answer_or(Handle::NULL, || Handle::new(TransactionEntry::new(false)))
}

/// # Safety
///
/// `transaction` is null or points to a handle.
#[unsafe(no_mangle)]
unsafe extern "C" fn kstate_free_transaction(transaction: *mut Handle<Transaction>) {
    // SAFETY: by the contract above.
    unsafe { Handle::free(transaction) }
}

#[unsafe(no_mangle)]
extern "C" fn kstate_start_transaction(
    transaction: Handle<Transaction>,
    state: Handle<State>,
    given: u32,
) -> c_int {
    answer(|| {
        transaction.with(|entry| {
            if entry.active.is_some() {
                return Err(Failure::plain(
                    libc::EINVAL,
                    c"the transaction is active already",
                ));
            }
            let permissions = permissions(given)?;
            entry.start(&state.shared()?, permissions)
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_begin(state: Handle<State>) -> Handle<Transaction> {
    answer_or(Handle::NULL, || {
        let (shared, permissions) = state.with_subscribed(|subscribed| {
            Ok((subscribed.shared.clone(), subscribed.permissions))
        })?;
        Handle::begun(&shared, permissions)
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_add_state(
    transaction: Handle<Transaction>,
    state: Handle<State>,
    given: u32,
) -> c_int {
    answer(|| {
        transaction.with(|entry| {
            entry.active()?;
            let (permissions, shared) = (permissions(given)?, state.shared()?);
            let number = shared.reader().state_id();
            let active = entry.active()?;
            if active
                .members()
                .any(|member| member.shared.reader().state_id() == number)
            {
                return Err(Failure::plain(
                    libc::EEXIST,
                    c"the state is in the transaction already",
                ));
            }
            if active.others.len() + 1 >= MOST {
                return Err(Failure::plain(
                    libc::E2BIG,
                    c"the transaction has as many states as it can have",
                ));
            }
            let member = entry.member(&shared, permissions)?;
            entry.active()?.others.push(member);
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_abort_transaction(transaction: Handle<Transaction>) -> c_int {
    answer(|| transaction.abort())
}

#[unsafe(no_mangle)]
extern "C" fn kstate_abort(transaction: Handle<Transaction>) -> c_int {
    answer(|| {
        let done = transaction.abort();
        transaction.let_go();
        done
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_commit_transaction(transaction: Handle<Transaction>) -> c_int {
    answer(|| transaction.commit(Durable::No))
}

#[unsafe(no_mangle)]
extern "C" fn kstate_commit(transaction: Handle<Transaction>) -> c_int {
    answer(|| {
        let done = transaction.commit(Durable::No);
        transaction.let_go();
        done
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_commit_durable(transaction: Handle<Transaction>) -> c_int {
    answer(|| {
        let done = transaction.commit(Durable::Yes);
        transaction.let_go();
        done
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_validate_transaction(transaction: Handle<Transaction>) -> c_int {
    answer(|| {
        transaction.with(|entry| {
            for member in entry.active()?.members() {
                if !member.is_current()? {
                    return Err(Failure::Conflict);
                }
            }
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_transaction_is_active(transaction: Handle<Transaction>) -> bool {
    quietly(false, || {
        transaction.with(|entry| Ok(entry.active.is_some()))
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_transaction_name(transaction: Handle<Transaction>) -> *const c_char {
    // It stays where it is for as long as the transaction is active.
    quietly(core::ptr::null(), || {
        transaction.with(|entry| Ok(entry.active()?.first.shared.name().as_ptr()))
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_transaction_permissions(transaction: Handle<Transaction>) -> u32 {
    quietly(0, || {
        transaction.with(|entry| Ok(entry.active()?.permissions))
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_transaction_id(transaction: Handle<Transaction>) -> u32 {
    quietly(0, || transaction.with(|entry| Ok(entry.id)))
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_transaction_ptr(transaction: Handle<Transaction>) -> *mut c_void {
    answer_or(core::ptr::null_mut(), || transaction.pointer())
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_member_ptr(
    transaction: Handle<Transaction>,
    state: Handle<State>,
) -> *mut c_void {
    answer_or(core::ptr::null_mut(), || {
        transaction.with(|entry| entry.active()?.member(state)?.pointer())
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_length(transaction: Handle<Transaction>, state: Handle<State>) -> isize {
    let length = || {
        transaction.with(|entry| {
            let length = entry.active()?.member(state)?.length()?;
            Ok(isize::try_from(length).unwrap_or(isize::MAX))
        })
    };
    let mut found = 0;
    let refused = answer(|| {
        found = length()?;
        Ok(())
    });
    match refused {
        0 => found,
        errno => errno as isize,
    }
}

#[unsafe(no_mangle)]
extern "C" fn kstate_set_length(
    transaction: Handle<Transaction>,
    state: Handle<State>,
    length: usize,
) -> c_int {
    answer(|| transaction.with(|entry| entry.active()?.member(state)?.set_length(length)))
}
