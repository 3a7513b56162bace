//! The daemon's supply of descriptors, the last of which are kept for what takes a moment.
//!
//! Without passthrough each state holds one, and each process that writes or waits. Were these given
//! all there are, the first write to a state that has long been open could not open its region.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::resource::{Resource, getrlimit};

/// How many are kept, of a supply of four times as many at least. Each thread that answers requests
/// needs one or two.
const RESERVE: u64 = 32;

/// `descriptor` again, which is going to stay open.
///
/// # Errors
///
/// `EMFILE` when it is one of the last; it is closed then.
pub(crate) fn keep(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    match is_of_the_last(&descriptor) {
        true => Err(io::Error::from_raw_os_error(libc::EMFILE)),
        false => Ok(descriptor),
    }
}

/// Whether no more than the reserve was left when it was opened: the kernel gives the lowest number
/// that is free.
pub(crate) fn is_of_the_last(descriptor: impl AsFd) -> bool {
    let number = u64::try_from(descriptor.as_fd().as_raw_fd()).unwrap_or(0);
    getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(limit, _)| number >= first_reserved(limit))
}

fn first_reserved(limit: u64) -> u64 {
    limit - RESERVE.min(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_supply_has_a_small_reserve() {
        assert_eq!(first_reserved(40), 30);
        assert_eq!(first_reserved(20_000), 19_968);
        assert_eq!(first_reserved(u64::MAX), u64::MAX - 32);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(keep(file.into()).is_ok());
    }
}
