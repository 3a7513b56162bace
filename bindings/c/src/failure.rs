//! What is answered when something cannot be done: a negative errno, and a sentence for who asks.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};

use kstate::Error;

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The call itself was wrong, or the kernel refused what it takes.
    Plain(c_int, &'static CStr),
    /// Somebody else committed first: said without a word of its own, because it is no accident.
    Conflict,
    /// The library's.
    Library(Box<Error>),
    /// A panic was caught: an error of this library's authors.
    Panic(String),
}

/// What calls end with inside.
pub(crate) type Outcome<R> = Result<R, Failure>;

thread_local! {
    /// The last failure of this thread.
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
    /// Its text, once that was asked for.
    static TEXT: RefCell<CString> = RefCell::default();
}

impl Failure {
    /// What came in is no handle, or not any more.
    pub(crate) const NO_HANDLE: Self = Self::plain(
        libc::EINVAL,
        c"this is no handle of that kind, or it was freed",
    );

    /// No page could be had.
    pub(crate) const NO_MEMORY: Self = Self::plain(libc::ENOMEM, c"no memory for a page");
    /// A forked child's call about what its parent has.
    pub(crate) const PARENTS: Self = Self::plain(
        libc::ESTALE,
        c"this is of the process that began it; begin again in the forked child",
    );

    pub(crate) const fn plain(errno: c_int, text: &'static CStr) -> Self {
        Self::Plain(errno, text)
    }

    /// As it is answered, but for the sign.
    pub(crate) fn errno(&self) -> c_int {
        match self {
            Self::Plain(errno, _) => *errno,
            Self::Conflict => libc::EPERM,
            Self::Library(error) => error.errno(),
            Self::Panic(_) => libc::ENOTRECOVERABLE,
        }
    }

    /// Kept as this thread's last one; its negative errno.
    #[cold]
    pub(crate) fn answer(self) -> c_int {
        let errno = self.errno();
        // A thread that is ending has no last failure any more.
        let _ = LAST.try_with(|last| last.replace(Some(self)));
        -errno
    }

    /// As [`answer`](Self::answer), where the answer is no number: `errno` says it.
    #[cold]
    pub(crate) fn set_errno(self) {
        let errno = -self.answer();
        set_errno(errno);
    }

    fn text(&self) -> CString {
        let text = match self {
            Self::Plain(_, text) => return CString::from(*text),
            Self::Conflict => "somebody else committed first; begin again".to_owned(),
            Self::Library(error) => error.to_string(),
            Self::Panic(message) => {
                format!("libkstate failed, which is an error of its own: {message}")
            }
        };
        // Up to a byte of zero, of which there is none.
        CString::new(text.replace('\0', "?")).unwrap_or_default()
    }
}

impl<E: Into<Error>> From<E> for Failure {
    #[cold]
    fn from(error: E) -> Self {
        Self::Library(Box::new(error.into()))
    }
}

#[expect(unsafe_code, reason = "errno is a place in memory")]
fn set_errno(errno: c_int) {
    // SAFETY: asks where it is.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: this thread's own.
    unsafe { place.write(errno) };
}

/// What the last call of this thread that failed had to say; empty if none has. Good until the next call of this
/// function in this thread.
#[expect(unsafe_code, reason = "exported")]
#[unsafe(no_mangle)]
extern "C" fn kstate_last_error() -> *const c_char {
    let text = LAST.try_with(|last| last.borrow().as_ref().map(Failure::text));
    let Ok(Some(text)) = text else {
        return c"".as_ptr();
    };
    let kept = TEXT.try_with(|place| {
        let mut place = place.borrow_mut();
        *place = text;
        place.as_ptr()
    });
    kept.unwrap_or(c"".as_ptr())
}

/// What an answer means here, be it negative or not.
#[expect(unsafe_code, reason = "exported")]
#[unsafe(no_mangle)]
extern "C" fn kstate_strerror(error: c_int) -> *const c_char {
    let text = match error.checked_abs().unwrap_or(0) {
        0 => c"done",
        libc::EPERM => c"somebody else committed first, or the transaction is for reading",
        libc::ENOENT => c"there is no such state, or no kstate file system is mounted",
        libc::EINTR => c"the wait was interrupted",
        libc::E2BIG => c"more states than a transaction can have",
        libc::EBADF => c"the state was subscribed to for reading",
        libc::EAGAIN => c"undecided at the moment; try again",
        libc::ENOMEM => c"no memory, or too many handles",
        libc::EACCES => c"the mode bits of the state or of the mount do not allow it",
        libc::EBUSY => c"other processes are subscribed, or the file is another state's",
        libc::EEXIST => c"it is there already: the state in the transaction, or another file",
        libc::EXDEV => c"of another mount, or a file on the mount itself",
        libc::EINVAL => c"an argument is wrong, or the handle is not in the state for this",
        libc::EFBIG => c"more bytes than the state has room for, or than a page",
        libc::ENOSPC => c"the daemon's memory is used up",
        libc::ERANGE => c"the buffer is too short for the value",
        libc::ESTALE => c"the state was deleted, or the transaction is a parent process's",
        libc::EOPNOTSUPP => c"not possible here, or the state is not persistent",
        libc::ENOTCONN => c"the daemon has died, or does not start",
        libc::ECONNRESET => {
            c"the daemon has died, and the one in its place does not know its states"
        }
        libc::ETIMEDOUT => c"nothing happened for as long as was allowed",
        libc::EUSERS => c"the state has as many writers as it can have",
        libc::ENOTRECOVERABLE => c"libkstate failed, which is an error of its own",
        // SAFETY: any number will do; the text is of the C library's for known ones, and of this thread else.
        other => return unsafe { libc::strerror(other) },
    };
    text.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        #[expect(unsafe_code, reason = "reads a string of C")]
        // SAFETY: a string, good until the next call.
        let text = unsafe { CStr::from_ptr(kstate_last_error()) };
        text.to_string_lossy().into_owned()
    }

    #[test]
    fn the_last_failure_of_a_thread_is_its_own() {
        assert_eq!(last(), "");
        let error = kstate::StateName::new("").unwrap_err();
        let answer = Failure::from(kstate::SubscribeError::from(error)).answer();
        assert_eq!(answer, -libc::EINVAL);
        assert!(last().contains("robot.gps"), "{}", last());
        std::thread::spawn(|| assert_eq!(last(), ""))
            .join()
            .unwrap();
        assert_eq!(Failure::Conflict.answer(), -libc::EPERM);
        assert!(last().contains("first"));
        Failure::Panic("a\0b".into()).set_errno();
        assert_eq!(
            std::io::Error::last_os_error().raw_os_error(),
            Some(libc::ENOTRECOVERABLE)
        );
        assert!(last().ends_with("a?b"));
    }

    #[test]
    fn every_number_has_a_text() {
        for error in [
            i32::MIN,
            -200,
            -libc::EPERM,
            0,
            libc::ESTALE,
            17,
            4096,
            i32::MAX,
        ] {
            assert!(!kstate_strerror(error).is_null());
        }
        assert_eq!(kstate_strerror(libc::EPERM), kstate_strerror(-libc::EPERM));
    }
}
