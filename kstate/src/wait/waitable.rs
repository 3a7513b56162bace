//! What can be waited for.

use std::sync::Arc;

use kstate_sys::region::Generation;

use crate::content::Content;
use crate::reader::{Reader, Untyped};
use crate::snapshot::{ReadError, Snapshot};
use crate::state::State;
use crate::view::{Shown, View};

/// What can be waited for: a [`Reader`] or [`State`], or a [`View`], whatever its content.
pub trait Waitable: sealed::Waitable {}

/// What can be waited for and has a value to look at: a [`Reader`], [`State`] or [`View`].
pub trait Readable: Waitable {
    /// What it is about.
    type Content: Content;

    /// What it shows now.
    #[doc(hidden)]
    fn now(&self) -> Result<Snapshot<<Self::Content as Content>::Owned>, ReadError>;
}

impl<T> Waitable for Reader<T> {}
impl<T: Content> Waitable for State<T> {}
impl<T> Waitable for View<T> {}

impl<T: Content> Readable for Reader<T> {
    type Content = T;

    fn now(&self) -> Result<Snapshot<T::Owned>, ReadError> {
        self.snapshot()
    }
}

impl<T: Content> Readable for State<T> {
    type Content = T;

    fn now(&self) -> Result<Snapshot<T::Owned>, ReadError> {
        self.snapshot()
    }
}

impl<T: Content> Readable for View<T> {
    type Content = T;

    fn now(&self) -> Result<Snapshot<T::Owned>, ReadError> {
        self.snapshot()
    }
}

#[expect(
    private_interfaces,
    reason = "sealed: nobody else calls or implements it"
)]
mod sealed {
    use super::*;

    pub trait Waitable {
        #[doc(hidden)]
        fn untyped(&self) -> &Reader<Untyped>;

        /// What it shows, if that is not always the newest version.
        #[doc(hidden)]
        fn shown(&self) -> Option<&Arc<Shown>> {
            None
        }
    }

    impl<T> Waitable for Reader<T> {
        fn untyped(&self) -> &Reader<Untyped> {
            self.as_of()
        }
    }

    impl<T: Content> Waitable for State<T> {
        fn untyped(&self) -> &Reader<Untyped> {
            (**self).as_of()
        }
    }

    impl<T> Waitable for View<T> {
        fn untyped(&self) -> &Reader<Untyped> {
            self.reader().as_of()
        }

        fn shown(&self) -> Option<&Arc<Shown>> {
            Some(self.shown())
        }
    }
}

/// The untyped reader of what can be waited for.
pub(crate) fn untyped<W: Waitable + ?Sized>(of: &W) -> &Reader<Untyped> {
    sealed::Waitable::untyped(of)
}

/// What it shows, if that is not always the newest version.
pub(crate) fn shown<W: Waitable + ?Sized>(of: &W) -> Option<&Arc<Shown>> {
    sealed::Waitable::shown(of)
}

/// The generation it shows.
pub(super) fn generation<W: Waitable + ?Sized>(of: &W) -> Generation {
    match shown(of) {
        None => untyped(of).generation(),
        Some(shown) => shown.look().generation,
    }
}
