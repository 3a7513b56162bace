//! Between the program and this library: no panic crosses it, in whichever way it came about.

use std::any::Any;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Failure, Outcome};

/// For calls that answer 0 or a negative errno.
#[inline]
pub(crate) fn answer(work: impl FnOnce() -> Outcome<()>) -> c_int {
    match caught(work) {
        Ok(()) => 0,
        Err(failure) => failure.answer(),
    }
}

/// For calls that answer something else, and `otherwise` with `errno` set.
#[inline]
pub(crate) fn answer_or<R>(otherwise: R, work: impl FnOnce() -> Outcome<R>) -> R {
    match caught(work) {
        Ok(done) => done,
        Err(failure) => {
            failure.set_errno();
            otherwise
        }
    }
}

/// For calls that say nothing of a failure.
#[inline]
pub(crate) fn quietly<R>(otherwise: R, work: impl FnOnce() -> Outcome<R>) -> R {
    caught(work).unwrap_or(otherwise)
}

/// What ends, when this is dropped, without a panic that gets out.
pub(crate) struct Quiet<T>(Option<T>);

impl<T> Quiet<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// It, which is there until the end.
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }

    /// It, to be changed.
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()
    }
}

impl<T> Drop for Quiet<T> {
    fn drop(&mut self) {
        quietly((), || {
            drop(self.0.take());
            Ok(())
        });
    }
}

#[inline]
fn caught<R>(work: impl FnOnce() -> Outcome<R>) -> Outcome<R> {
    keep_silent();
    // Handles are behind locks that let go in unwinding, and what is behind them is whole again at each call's end.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done,
        Err(payload) => Err(Failure::Panic(message(&*payload))),
    }
}

/// Has panics say nothing on standard error: they are answered as failures, with what they have to say.
#[inline]
fn keep_silent() {
    static IS_SET: AtomicBool = AtomicBool::new(false);
    if !IS_SET.load(Ordering::Relaxed) {
        take_over_hook(&IS_SET);
    }
}

#[cold]
fn take_over_hook(is_set: &AtomicBool) {
    // The standard library here is this library's own copy: no hook but its own is replaced.
    if !is_set.swap(true, Ordering::Relaxed) && !cfg!(test) {
        std::panic::set_hook(Box::new(|_| {}));
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a word".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer() {
        assert_eq!(answer(|| panic!("on purpose")), -libc::ENOTRECOVERABLE);
        assert_eq!(answer_or(7, || panic!("{}", "on purpose")), 7);
        assert_eq!(quietly(7, || std::panic::panic_any(1)), 7);
        assert_eq!(answer(|| Err(Failure::Conflict)), -libc::EPERM);
        assert_eq!(answer(|| Ok(())), 0);
    }
}
