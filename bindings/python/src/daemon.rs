//! A daemon where there is none: the package carries one with it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use kstate::Host;
use pyo3::prelude::*;

use crate::error::raised;
use crate::input::duration;
use crate::mount::PyMount;

/// Sees to it that a daemon serves ``directory``, or the place where states are looked for, and gives that mount.
///
/// In the latter case this process does so from then on whenever it needs a daemon and finds none, as it does from the
/// beginning with ``KSTATE_EMBED=1`` in its environment. The daemon is a process of its own: it serves all
/// programs that come, outlives each of them, and ends when nobody has used a state for ``stays`` seconds, of which there may be ``inf``. If it
/// is killed, the next program that needs one starts another, which takes all states over.
///
/// ``program`` is run in place of the daemon of this package; it takes the arguments of ``kstatefs``.
///
/// >>> kstate.start_daemon(kstate.Mount().path).path == kstate.Mount().path  # one serves there already
/// True
///
/// Raises :class:`Error` with ``errno`` ``ENOTCONN`` if it did not mount, and its own words.
#[pyfunction]
#[pyo3(signature = (directory = None, *, stays = 10.0, program = None))]
pub(crate) fn start_daemon(
    py: Python<'_>,
    directory: Option<PathBuf>,
    stays: f64,
    program: Option<PathBuf>,
) -> PyResult<PyMount> {
    let mut host = Host::new().stays(duration(stays, "stays")?);
    if let Some(program) = program {
        host = host.program(program);
    }
    let started = py.detach(|| match directory {
        Some(directory) => host.start_at(directory),
        None => {
            let started = host.start();
            host.where_absent();
            started
        }
    });
    started.map(PyMount::of).map_err(raised)
}

/// Has `program`, with arguments in front of those of ``kstatefs``, run where this process is to start a daemon.
#[pyfunction]
pub(crate) fn _carry_daemon(program: PathBuf, arguments: Vec<OsString>) {
    let host = Host::new().program(program);
    arguments
        .into_iter()
        .fold(host, Host::argument)
        .by_default();
}

/// Is the daemon: does what ``kstatefs`` does with these arguments, its name the first, and says whether that is well.
#[pyfunction]
pub(crate) fn _serve(py: Python<'_>, arguments: Vec<OsString>) -> bool {
    py.detach(|| kstatefs::command::run(arguments) == ExitCode::SUCCESS)
}
