//! The library's errors as Python exceptions; the one file here that knows errno values.

use kstate::{
    CommitError, CommitManyError, Error, HostError, InfoError, MountError, NotifyError, ReadError,
    RemoveError, SubscribeError, TouchError, TransactError, TransactManyError, WaitError,
    WatchError,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyModule, PyType};

/// The module that defines the exceptions.
const MODULE: &str = "kstate._errors";

/// The exception of an error of the library: its class by what went wrong, its `errno` and its sentence.
#[cold]
pub(crate) fn raised(error: impl Into<Error>) -> PyErr {
    let error = error.into();
    raise(class_of(&error), error.errno(), &error.to_string())
}

/// The exception for what a file system call said.
#[cold]
pub(crate) fn raised_io(what: &str, error: &std::io::Error) -> PyErr {
    let code = error.raw_os_error().unwrap_or(libc::EIO);
    raise(by_errno(code), code, &format!("{what}: {error}"))
}

/// The handle was closed.
#[cold]
pub(crate) fn closed(what: &str) -> PyErr {
    raise("Closed", libc::EBADF, &format!("{what} was closed"))
}

/// The transaction has ended.
#[cold]
pub(crate) fn ended(name: &str, how: &str) -> PyErr {
    let text = format!("the transaction on {name} has ended: it was {how}; begin another one");
    raise("Closed", libc::EBADF, &text)
}

/// The transaction is of another kind than the call.
#[cold]
pub(crate) fn not_yours_to_end(name: &str) -> PyErr {
    let text = format!(
        "the transaction on {name} is committed by who runs the function, when it returns; raise an exception or \
         call `abort` to keep it from that"
    );
    raise("Error", libc::EINVAL, &text)
}

/// A thread is in the middle of a call of the same object.
#[cold]
pub(crate) fn in_use(what: &str) -> PyErr {
    let text = format!("{what} is being used by another thread; give each thread one of its own");
    raise("Busy", libc::EBUSY, &text)
}

/// A version or value is not as long as what it is to be.
#[cold]
pub(crate) fn wrong_length(name: &str, found: usize, layout: &str, expected: usize) -> PyErr {
    let text = format!(
        "the newest version of state `{name}` has {found} bytes, {layout} has {expected}; what publishes it does not \
         use this layout"
    );
    raise("WrongLayout", libc::EPROTOTYPE, &text)
}

/// What a transaction came to that others were faster than.
#[cold]
pub(crate) fn conflict(py: Python<'_>, name: &str, base: u64, found: u64) -> PyErr {
    let text = format!(
        "state `{name}` was changed by others first: the transaction began from version {base}, the newest is {found}; \
         nothing was committed, begin again"
    );
    let error = raise("Conflict", libc::EAGAIN, &text);
    let value = error.value(py);
    let noted = value
        .setattr("base", base)
        .and_then(|()| value.setattr("found", found));
    noted.err().unwrap_or(error)
}

/// Others were faster at each attempt.
#[cold]
pub(crate) fn exhausted(py: Python<'_>, error: impl Into<Error>, attempts: u32) -> PyErr {
    let error = error.into();
    let raised = raise("Exhausted", error.errno(), &error.to_string());
    let noted = raised.value(py).setattr("attempts", attempts);
    noted.err().unwrap_or(raised)
}

/// An exception of the class `name`, of [`MODULE`].
#[cold]
fn raise(name: &str, errno: i32, text: &str) -> PyErr {
    static ERRORS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    Python::attach(|py| {
        let module = ERRORS.get_or_try_init(py, || PyModule::import(py, MODULE).map(Bound::unbind));
        let class = module.and_then(|module| {
            let class = module.bind(py).getattr(name)?;
            Ok(class.cast_into::<PyType>()?)
        });
        match class {
            Ok(class) => PyErr::from_type(class, (errno, text.to_owned())),
            Err(error) => error,
        }
    })
}

fn class_of(error: &Error) -> &'static str {
    match error {
        Error::Mount(error)
        | Error::Subscribe(SubscribeError::Mount(error))
        | Error::Remove(RemoveError::Mount(error))
        | Error::Info(InfoError::Mount(error))
        | Error::Host(HostError::Mount(error)) => of_mount(error),
        Error::Host(_) => "NotMounted",
        Error::Subscribe(SubscribeError::Name(_))
        | Error::Remove(RemoveError::Name(_))
        | Error::Info(InfoError::Name(_)) => "InvalidName",
        Error::Read(ReadError::Forked { .. })
        | Error::Commit(CommitError::Forked { .. })
        | Error::Touch(TouchError::Read(ReadError::Forked { .. }))
        | Error::CommitMany(CommitManyError::State(CommitError::Forked { .. }))
        | Error::Transact(TransactError::Commit(CommitError::Forked { .. }))
        | Error::TransactMany(TransactManyError::Commit(CommitManyError::State(
            CommitError::Forked { .. },
        )))
        | Error::Wait(WaitError::Forked { .. })
        | Error::Watch(WatchError::Wait(WaitError::Forked { .. }))
        | Error::Notify(NotifyError::Forked | NotifyError::Wait(WaitError::Forked { .. })) => {
            "Forked"
        }
        Error::Read(ReadError::Damaged { .. } | ReadError::Unstable { .. }) => "Damaged",
        Error::Durable(kstate::DurableError::NotDurable { .. }) => "NotDurable",
        // Of these EOPNOTSUPP says that there is no file; elsewhere, that something else is not to be had.
        Error::Sync(_) | Error::Persist(_) | Error::Durable(_)
            if error.errno() == libc::EOPNOTSUPP =>
        {
            "NotPersistent"
        }
        Error::Commit(_) | Error::Publish(_) if error.errno() == libc::EAGAIN => "Busy",
        _ => by_errno(error.errno()),
    }
}

fn of_mount(error: &MountError) -> &'static str {
    match error {
        MountError::NotMounted { .. } | MountError::NotKstate { .. } | MountError::Host { .. } => {
            "NotMounted"
        }
        MountError::DaemonDied { .. } => "DaemonDied",
        MountError::Denied { .. } => "Denied",
        _ => "Error",
    }
}

fn by_errno(errno: i32) -> &'static str {
    match errno {
        libc::ENOENT => "NotFound",
        libc::ENOTCONN | libc::ECONNABORTED | libc::ECONNRESET => "DaemonDied",
        libc::EACCES | libc::EPERM => "Denied",
        libc::EBADF => "ReadOnly",
        libc::EFBIG | libc::ERANGE => "TooLong",
        libc::EPROTOTYPE => "WrongLayout",
        libc::ESTALE => "Deleted",
        libc::ETIMEDOUT => "Timeout",
        libc::EBUSY => "Busy",
        libc::ENOSPC => "NoSpace",
        _ => "Error",
    }
}
