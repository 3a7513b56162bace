//! The extension module of the Python package `kstate`, over the library of the same name.
//!
//! A value that the library gives is one object here, and what waits does so without the interpreter's lock. What Python
//! programs see is in `python/kstate/_kstate.pyi`; `docs/python.md` is for their authors.

mod codec;
mod cut;
mod daemon;
mod durable;
mod error;
mod handles;
mod held;
mod held_many;
mod info;
mod input;
mod live;
mod many;
mod members;
mod mount;
mod notifier;
mod page;
mod part;
mod pinned;
mod retry;
mod since;
mod snapshot;
mod state;
mod subscribe;
mod transaction;
mod turn;
mod view;
mod wait;
mod watch;

use pyo3::prelude::*;

/// Live state shared between processes: the part of the package that is compiled.
#[pymodule(gil_used = true)]
mod _kstate {
    /// Of the package and the library.
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "as Python spells it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    use crate::{
        cut::{_check_policy, _transact_many, bare, cut, transaction},
        daemon::{_carry_daemon, _serve, start_daemon},
        info::PyInfo,
        live::PyLive,
        many::PyMany,
        mount::PyMount,
        notifier::{PyChange, PyNotifier},
        snapshot::PySnapshot,
        state::PyState,
        subscribe::subscribe,
        transaction::PyTransaction,
        view::PyView,
        watch::PyWatch,
    };
}
