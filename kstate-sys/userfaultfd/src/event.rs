//! Events read from a userfaultfd.

#![expect(
    unsafe_code,
    reason = "takes ownership of the descriptor in a fork event"
)]

use crate::error::{Error, Result};
use crate::raw;
use crate::uffd::Uffd;
use libc::c_void;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr::with_exposed_provenance_mut;

/// Whether a fault was a read or a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadWrite {
    /// The page was read.
    Read,
    /// The page was written.
    Write,
}

/// Why a page faulted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// There is no page yet: fill it with [`Uffd::copy`] or [`Uffd::zeropage`].
    Missing,
    /// The page is write-protected and was written: [`Uffd::remove_write_protection`].
    WriteProtected,
    /// The page exists in the file but is not mapped here yet: [`Uffd::continue_mapping`].
    Minor,
}

/// What happened to a registered range. Only [`Event::Pagefault`] comes unasked; the others need
/// their `EVENT_` feature.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A thread touched a page and waits until it is filled and woken.
    Pagefault {
        /// Why the page faulted.
        kind: FaultKind,
        /// How it was touched.
        rw: ReadWrite,
        /// The page's first byte; the very byte with
        /// [`FeatureFlags::EXACT_ADDRESS`](crate::FeatureFlags::EXACT_ADDRESS).
        addr: *mut c_void,
        /// The waiting thread, with [`FeatureFlags::THREAD_ID`](crate::FeatureFlags::THREAD_ID).
        thread_id: Option<libc::pid_t>,
    },
    /// The process forked.
    Fork {
        /// Answers for the child's copy of the ranges, with the features of the parent's.
        uffd: Uffd,
    },
    /// A range was moved by `mremap(2)`.
    Remap {
        /// Where it was.
        from: *mut c_void,
        /// Where it is.
        to: *mut c_void,
        /// Its length in bytes.
        len: usize,
    },
    /// The pages of a range were dropped by `madvise(2)`; its next touch faults again.
    Remove {
        /// The first byte.
        start: *mut c_void,
        /// One past the last byte.
        end: *mut c_void,
    },
    /// A range was unmapped.
    Unmap {
        /// The first byte.
        start: *mut c_void,
        /// One past the last byte.
        end: *mut c_void,
    },
}

impl Event {
    /// Takes a message apart that `from` has just yielded.
    pub(crate) fn from_uffd_msg(msg: &raw::uffd_msg, from: &Uffd) -> Result<Event> {
        let [first, second, third] = msg.arg;
        match msg.event {
            raw::UFFD_EVENT_PAGEFAULT => Ok(Event::Pagefault {
                kind: if first & raw::UFFD_PAGEFAULT_FLAG_WP != 0 {
                    FaultKind::WriteProtected
                } else if first & raw::UFFD_PAGEFAULT_FLAG_MINOR != 0 {
                    FaultKind::Minor
                } else {
                    FaultKind::Missing
                },
                rw: if first & raw::UFFD_PAGEFAULT_FLAG_WRITE == 0 {
                    ReadWrite::Read
                } else {
                    ReadWrite::Write
                },
                addr: pointer(second)?,
                thread_id: Some(first_half(third)).filter(|&id| id != 0),
            }),
            raw::UFFD_EVENT_FORK => {
                let fd: RawFd = first_half(first);
                // SAFETY: the kernel installed this descriptor for the reader of this message
                // (userfaultfd(2), UFFD_EVENT_FORK), and each message is read once: nobody else
                // owns it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                Ok(Event::Fork {
                    uffd: from.for_child(fd),
                })
            }
            raw::UFFD_EVENT_REMAP => Ok(Event::Remap {
                from: pointer(first)?,
                to: pointer(second)?,
                len: address(third)?,
            }),
            raw::UFFD_EVENT_REMOVE => Ok(Event::Remove {
                start: pointer(first)?,
                end: pointer(second)?,
            }),
            raw::UFFD_EVENT_UNMAP => Ok(Event::Unmap {
                start: pointer(first)?,
                end: pointer(second)?,
            }),
            unknown => Err(Error::UnrecognizedEvent(unknown)),
        }
    }
}

/// The 32-bit member at the start of a union of 64-bit words, on either byte order.
fn first_half(word: u64) -> i32 {
    let [a, b, c, d, ..] = word.to_ne_bytes();
    i32::from_ne_bytes([a, b, c, d])
}

fn address(word: u64) -> Result<usize> {
    usize::try_from(word).map_err(|_| Error::SystemError {
        call: "read(userfaultfd)",
        errno: nix::errno::Errno::EOVERFLOW,
    })
}

fn pointer(word: u64) -> Result<*mut c_void> {
    // The provenance was exposed when the range was registered.
    address(word).map(with_exposed_provenance_mut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_words_are_taken_from_the_front() {
        let mut bytes = [0u8; 8];
        bytes[..4].copy_from_slice(&4711i32.to_ne_bytes());
        assert_eq!(first_half(u64::from_ne_bytes(bytes)), 4711);
    }
}
