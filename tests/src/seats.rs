//! Who sleeps on `head` and who in the crowd, as the daemon says.

use std::os::fd::AsFd;

use kstate::{Bytes, Mount, Reader};
use kstate_sys::ioctl::{Wait, call, place};

/// Asks for a place to sleep at the state open as `file`, for so many milliseconds, 0 for as long as it is
/// open; what was given.
///
/// # Panics
///
/// When none is.
#[track_caller]
pub fn begin_wait(file: impl AsFd, place: u32, milliseconds: u32) -> Wait {
    let mut wait = Wait {
        place,
        milliseconds,
    };
    call::wait_begin(file, &mut wait).expect("a place to sleep");
    wait
}

/// Takes all seats at a state, which it has as long as the readers are there: who waits now is in
/// the crowd.
///
/// # Panics
///
/// When there is no such state.
#[track_caller]
pub fn take_seats(mount: &Mount, name: &str) -> Vec<Reader<Bytes>> {
    let mut seats = Vec::new();
    loop {
        let state = mount
            .subscribe(name)
            .existing()
            .bytes()
            .expect("it is there");
        let reader = state.reader();
        if begin_wait(&reader, place::HEAD, 0).place == place::CROWD {
            return seats;
        }
        seats.push(reader);
    }
}
