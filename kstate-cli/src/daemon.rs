//! Noticing that the daemon has died, in commands that go on by what they have mapped.

use std::io::{self, ErrorKind};
use std::thread;
use std::time::Duration;

use kstate::{Bytes, Mount, MountError, Reader};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Calls `then` when the daemon of the state that `reader` reads has gone, a few seconds later at
/// most.
///
/// The state's own descriptor tells, and not the path, where another daemon may have taken its
/// place. The look is a thread's own, so that a daemon that does not answer holds nobody up.
///
/// # Errors
///
/// The kernel refuses a thread.
///
/// # Cost
///
/// Two FUSE requests every two seconds.
pub(crate) fn when_it_dies(
    mount: &Mount,
    reader: Reader<Bytes>,
    then: impl FnOnce(MountError) + Send + 'static,
) -> io::Result<()> {
    let death = death(mount);
    thread::Builder::new()
        .name("daemon-watch".into())
        .spawn(move || {
            loop {
                thread::sleep(LOOK_EVERY);
                if reader.info().is_err_and(|error| has_died(&error)) {
                    return then(death);
                }
            }
        })?;
    Ok(())
}

/// Whether a request failed because nobody serves the file system any more.
pub(crate) fn has_died(error: &io::Error) -> bool {
    // One that was under way when the daemon died is aborted, later ones find no connection.
    matches!(
        error.kind(),
        ErrorKind::NotConnected | ErrorKind::ConnectionAborted
    )
}

/// The error that says so.
pub(crate) fn death(mount: &Mount) -> MountError {
    MountError::DaemonDied {
        path: mount.path().to_owned(),
    }
}
