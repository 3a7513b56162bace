//! The descriptor in poll and in epolls of all kinds, and what is left of it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use kstate::{Change, Event, Notifier};
use kstate_tests::{PATIENCE, both_transports, eventually};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::{every_way, writer};

/// Whether it is readable within `patience`; what a changed state may interrupt is begun again.
fn readable(descriptor: BorrowedFd<'_>, patience: Duration) -> bool {
    loop {
        let mut fds = [PollFd::new(descriptor, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(patience).unwrap()) {
            Ok(ready) => return ready == 1,
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn told(epoll: &Epoll, patience: Duration) -> bool {
    let mut events = [EpollEvent::empty(); 4];
    loop {
        match epoll.wait(&mut events, EpollTimeout::try_from(patience).unwrap()) {
            Ok(ready) => return ready > 0,
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn watching(descriptor: BorrowedFd<'_>, flags: EpollFlags) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(descriptor, EpollEvent::new(flags, 1)).unwrap();
    epoll
}

/// Takes what there is, until the descriptor is quiet; the changes in their order.
fn drain(notifier: &mut Notifier) -> Vec<Event> {
    let mut all = Vec::new();
    eventually("it is quiet", || {
        all.extend(notifier.changed().unwrap());
        (!readable(notifier.as_fd(), Duration::ZERO)).then_some(())
    });
    all
}

#[test]
fn it_is_readable_until_what_there_is_was_taken() {
    every_way(|daemon, mut notifier| {
        let state = writer(&daemon.library(), "x");
        notifier.add(&state).unwrap();
        drain(&mut notifier);
        for number in 1..=20 {
            assert!(!readable(notifier.as_fd(), Duration::ZERO));
            let newest = state.publish(&number).unwrap();
            assert!(readable(notifier.as_fd(), PATIENCE));
            assert!(readable(notifier.as_fd(), Duration::ZERO), "a level");
            let events = drain(&mut notifier);
            assert_eq!(events.len(), 1, "{:?}", notifier.way());
            assert_eq!(events[0].change, Change::To(newest));
        }
    });
}

#[test]
fn an_epoll_tells_of_it_by_level() {
    every_way(|daemon, mut notifier| {
        let state = writer(&daemon.library(), "x");
        notifier.add(&state).unwrap();
        drain(&mut notifier);
        let epoll = watching(notifier.as_fd(), EpollFlags::EPOLLIN);
        for number in 1..=20 {
            state.publish(&number).unwrap();
            assert!(told(&epoll, PATIENCE));
            assert!(told(&epoll, Duration::ZERO));
            assert_eq!(drain(&mut notifier).len(), 1);
            assert!(!told(&epoll, Duration::ZERO), "{:?}", notifier.way());
        }
    });
}

#[test]
fn an_epoll_tells_of_it_by_edge_once_for_what_is_taken_each_time() {
    every_way(|daemon, mut notifier| {
        let state = writer(&daemon.library(), "x");
        notifier.add(&state).unwrap();
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        let epoll = watching(notifier.as_fd(), edge);
        drain(&mut notifier);
        for number in 1..=200 {
            let newest = state.publish(&number).unwrap();
            // Told at least once of what has come, and all of that is taken then.
            eventually("it is told", || {
                assert!(told(&epoll, PATIENCE), "{:?}, {number}", notifier.way());
                let events = drain(&mut notifier);
                events
                    .iter()
                    .any(|event| event.change == Change::To(newest))
                    .then_some(())
            });
        }
    });
}

#[test]
fn an_epoll_in_another_epoll_tells_of_it() {
    every_way(|daemon, mut notifier| {
        let state = writer(&daemon.library(), "x");
        notifier.add(&state).unwrap();
        drain(&mut notifier);
        for flags in [
            EpollFlags::EPOLLIN,
            EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
        ] {
            let inner = watching(notifier.as_fd(), EpollFlags::EPOLLIN);
            let outer = watching(inner.0.as_fd(), flags);
            for number in 0..20 {
                while told(&outer, Duration::ZERO) {}
                state.publish(&number).unwrap();
                assert!(told(&outer, PATIENCE), "{:?}", notifier.way());
                assert!(told(&inner, Duration::ZERO));
                assert_eq!(drain(&mut notifier).len(), 1);
            }
        }
    });
}

#[test]
fn a_mio_loop_follows_many_states_by_it() {
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        let states: Vec<_> = (0..5).map(|n| writer(&mount, &format!("s{n}"))).collect();
        let keys: Vec<_> = states
            .iter()
            .map(|state| notifier.add(state).unwrap())
            .collect();
        let mut poll = Poll::new().unwrap();
        let descriptor = notifier.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&descriptor), Token(7), Interest::READABLE)
            .unwrap();
        drain(&mut notifier);
        let mut events = Events::with_capacity(8);
        for number in 1..=100_usize {
            let at = number % states.len();
            let newest = states[at].publish(&1).unwrap();
            let mut found = Vec::new();
            eventually("it is told", || {
                match poll.poll(&mut events, Some(PATIENCE)) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return None,
                    polled => polled.unwrap(),
                }
                if events.iter().any(|event| event.token() == Token(7)) {
                    found.extend(drain(&mut notifier));
                }
                (!found.is_empty()).then_some(())
            });
            let expected = Event {
                key: keys[at],
                change: Change::To(newest),
            };
            assert_eq!(found, [expected], "{:?}", notifier.way());
        }
    });
}

#[test]
fn one_that_is_dropped_with_waits_in_flight_leaves_nothing() {
    both_transports(|daemon| {
        for way in ["uring", "thread", "files"] {
            let mut child = daemon.waiter("x", &["drop-notifiers", way]);
            assert_eq!(child.line(), "right", "{way}");
            assert!(child.finish().success());
        }
    });
}
