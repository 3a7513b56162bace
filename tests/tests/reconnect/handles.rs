//! Reading, writing, and what is asked of the daemon.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use kstate::{CommitManyError, Generation, TransactManyError, transact_many};
use kstate_tests::{PATIENCE, eventually};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::{both, writer};

#[test]
fn every_request_of_a_subscription_goes_on_with_the_next_daemon() {
    both(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        state.publish(&1).unwrap();
        let number = state.as_fd().as_raw_fd();
        let daemon = daemon.kill_and_restart();
        let info = state.info().unwrap();
        assert_eq!((info.generation, info.writers), (Generation(1), 1));
        assert_eq!(info.state_id, state.state_id());
        assert_eq!(state.as_fd().as_raw_fd(), number);
        let daemon = daemon.kill_and_restart();
        let other = state.try_clone().unwrap();
        other.publish(&2).unwrap();
        let daemon = daemon.kill_and_restart();
        state.set_capacity(100).unwrap();
        let daemon = daemon.kill_and_restart();
        state.acknowledge(Generation(2)).unwrap();
        let daemon = daemon.kill_and_restart();
        let live = state.live().unwrap();
        assert_eq!(live.load(), Some((Generation(2), 2)));
        state.publish(&3).unwrap();
        assert_eq!(live.load(), Some((Generation(3), 3)));
        let fresh = writer(&daemon.library(), "x");
        assert_eq!(fresh.snapshot().unwrap().value, 3);
        fresh.publish(&4).unwrap();
        assert_eq!(other.snapshot().unwrap().value, 4);
        drop((state, other, live));
        eventually("their slots are given back", || {
            (fresh.info().unwrap().writers == 1).then_some(())
        });
    });
}

#[test]
fn a_handle_that_asks_nothing_keeps_its_slots() {
    both(|daemon| {
        let state = writer(&daemon.library(), "x");
        state.publish(&1).unwrap();
        let daemon = daemon.kill_and_restart();
        let mount = daemon.library();
        let others: Vec<_> = (0..20).map(|_| writer(&mount, "x")).collect();
        for round in 0..200 {
            state.publish(&round).unwrap();
            assert_eq!(others[0].snapshot().unwrap().value, round);
            for other in &others {
                other.publish(&(round + 1000)).unwrap();
            }
            assert_eq!(state.snapshot().unwrap().value, round + 1000);
        }
    });
}

#[test]
fn a_state_that_grows_is_mapped_anew_by_handles_of_before() {
    both(|daemon| {
        let mount = daemon.library();
        let old = mount.subscribe("x").write().capacity(64).bytes().unwrap();
        old.publish(b"short").unwrap();
        let daemon = daemon.kill_and_restart();
        let new = daemon
            .library()
            .subscribe("x")
            .write()
            .capacity(4000)
            .bytes()
            .unwrap();
        let long = vec![7; 4000];
        new.publish(&long).unwrap();
        assert_eq!(old.snapshot().unwrap().value, long);
        old.publish(&long[1..]).unwrap();
        assert_eq!(new.snapshot().unwrap().value, long[1..]);
    });
}

#[test]
fn several_states_are_committed_with_handles_of_before_and_after() {
    both(|daemon| {
        let mount = daemon.library();
        let (from, to) = (writer(&mount, "from"), writer(&mount, "to"));
        let transfer = |from: &kstate::State<u64>, to: &kstate::State<u64>| {
            transact_many(|many| {
                many.add(from)?;
                many.add(to)?;
                *many.get_mut(from)? += 1;
                *many.get_mut(to)? += 2;
                Ok::<(), kstate::TransactManyError<std::convert::Infallible>>(())
            })
            .unwrap();
        };
        transfer(&from, &to);
        let daemon = daemon.kill_and_restart();
        transfer(&from, &to);
        // By the path that the mount was found at before, and by a new one.
        let third = writer(&mount, "from");
        transfer(&third, &to);
        let mount = daemon.library();
        let (new_from, new_to) = (writer(&mount, "from"), writer(&mount, "to"));
        transfer(&new_from, &to);
        transfer(&from, &new_to);
        let now = kstate::cut((&*from, &*new_to)).unwrap();
        assert_eq!((now.0.value, now.1.value), (5, 10));
    });
}

#[test]
fn a_first_commit_of_several_states_takes_a_daemon() {
    both(|mut daemon| {
        let mount = daemon.library();
        let (a, b) = (writer(&mount, "a"), writer(&mount, "b"));
        a.publish(&0).unwrap();
        b.publish(&0).unwrap();
        let add = || {
            transact_many(|many| {
                many.add(&a)?;
                many.add(&b)?;
                *many.get_mut(&a)? += 1;
                *many.get_mut(&b)? += 1;
                Ok::<(), TransactManyError<std::convert::Infallible>>(())
            })
        };
        daemon.kill();
        match add() {
            Err(TransactManyError::Commit(error @ CommitManyError::Record { .. })) => {
                assert_eq!(kstate::Error::from(error).errno(), libc::ENOTCONN);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(a.snapshot().unwrap().value, 0);
        let mut daemon = daemon.kill_and_restart();
        add().unwrap();
        daemon.kill();
        add().unwrap();
        let now = kstate::cut((&*a, &*b)).unwrap();
        assert_eq!((now.0.value, now.1.value), (2, 2));
    });
}

#[test]
fn who_polls_the_descriptor_connects_again_and_polls_on() {
    both(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let seen = state.publish(&1).unwrap();
        let reader = mount.subscribe("x").typed::<u64>().unwrap().reader();
        reader.acknowledge(seen).unwrap();
        let polled = |timeout: Duration| {
            let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(timeout).unwrap()).unwrap();
            fds[0].revents().unwrap()
        };
        assert_eq!(polled(Duration::ZERO), PollFlags::empty());
        let _daemon = daemon.kill_and_restart();
        assert!(polled(PATIENCE).contains(PollFlags::POLLERR));
        assert!(reader.reconnect().unwrap());
        assert!(!reader.reconnect().unwrap());
        // Of the new file nothing is acknowledged.
        assert_eq!(polled(PATIENCE), PollFlags::POLLIN);
        reader.acknowledge(seen).unwrap();
        assert_eq!(polled(Duration::ZERO), PollFlags::empty());
        state.publish(&2).unwrap();
        assert_eq!(polled(PATIENCE), PollFlags::POLLIN);
    });
}

#[test]
fn a_forked_child_connects_for_itself_and_leaves_its_parents_slots_alone() {
    both(|daemon| {
        let state = writer(&daemon.library(), "x");
        state.publish(&1).unwrap();
        let daemon = daemon.kill_and_restart();
        #[expect(unsafe_code, reason = "forks, which has no safe wrapper")]
        // SAFETY: the child asks by ioctl, allocates, which glibc lets a forked child do, and leaves by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let right = state.info().is_ok() && state.publish(&2).is_ok();
            #[expect(unsafe_code, reason = "ends the child without unwinding")]
            // SAFETY: ends the process at once.
            unsafe {
                libc::_exit(i32::from(!right))
            }
        }
        let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).unwrap();
        assert!(
            matches!(ended, nix::sys::wait::WaitStatus::Exited(_, 0)),
            "{ended:?}"
        );
        assert_eq!(state.snapshot().unwrap().value, 2);
        // Of the parent's slots the daemon hears now.
        let mount = daemon.library();
        eventually("the child's slots are free", || {
            (mount.info("x").unwrap().writers == 1).then_some(())
        });
        assert_eq!(state.info().unwrap().writers, 1);
        state.publish(&3).unwrap();
        assert_eq!(state.snapshot().unwrap().value, 3);
    });
}

#[test]
fn a_raw_transaction_and_a_turn_go_on() {
    both(|daemon| {
        let state = writer(&daemon.library(), "x");
        state.publish(&1).unwrap();
        let mut begun = state.begin_raw().unwrap();
        begun.bytes_mut().unwrap()[0] = 2;
        let _daemon = daemon.kill_and_restart();
        assert!(begun.commit().unwrap().is_committed());
        state.transact(|value| *value += 1).unwrap();
        assert_eq!(state.snapshot().unwrap().value, 3);
    });
}

#[test]
fn one_handle_that_asks_keeps_the_state_for_others_of_the_process() {
    both(|daemon| {
        let mount = daemon.library();
        let silent = writer(&mount, "x");
        silent.publish(&1).unwrap();
        let asks = mount.subscribe("x").typed::<u64>().unwrap();
        let daemon = daemon.kill_and_restart();
        assert_eq!(asks.info().unwrap().subscribers, 2);
        drop(asks);
        silent.publish(&2).unwrap();
        let other = daemon.library().subscribe("x").existing();
        assert_eq!(other.typed::<u64>().unwrap().snapshot().unwrap().value, 2);
    });
}

#[test]
fn a_handle_that_comes_and_goes_leaves_the_state_to_one_that_asks_nothing() {
    both(|mut daemon| {
        let silent = writer(&daemon.library(), "x");
        silent.publish(&1).unwrap();
        // It is there for as long as states are that nobody is known to come for.
        let mut gone = daemon.worker("gone", &["hold"]);
        assert_eq!(gone.line(), "ready");
        daemon.kill();
        gone.signal(Signal::SIGKILL);
        gone.finish();
        let daemon = daemon.kill_and_restart();
        let mount = daemon.library();
        drop(writer(&mount, "x"));
        assert_eq!(
            std::fs::read(daemon.file("x")).unwrap(),
            1_u64.to_ne_bytes()
        );
        assert_eq!(mount.info("x").unwrap().generation, Generation(1));
        let is_there = |name: &str| daemon.file(name).exists();
        eventually("nobody has come", || (!is_there("gone")).then_some(()));
        silent.publish(&2).unwrap();
        assert!(is_there("x"));
        drop(silent);
        eventually("it goes with the last", || (!is_there("x")).then_some(()));
    });
}

#[test]
fn a_state_is_not_deleted_under_others_that_ask_nothing() {
    both(|daemon| {
        let mut holder = daemon.worker("x", &["hold"]);
        assert_eq!(holder.line(), "ready");
        let daemon = daemon.kill_and_restart();
        let removed = std::fs::remove_file(daemon.file("x")).unwrap_err();
        assert_eq!(removed.raw_os_error(), Some(libc::EBUSY));
        holder.signal(Signal::SIGKILL);
        holder.finish();
        eventually("it can be deleted", || {
            std::fs::remove_file(daemon.file("x")).ok()
        });
    });
}

#[test]
fn slots_that_no_handle_knows_of_are_free_again_when_all_have_come_back() {
    both(|daemon| {
        let mount = daemon.library();
        let (state, other) = (writer(&mount, "x"), writer(&mount, "x"));
        // As when a daemon dies before its answer is there.
        let mut claim = kstate_sys::ioctl::Claim::default();
        kstate_sys::ioctl::call::claim(&state, &mut claim).unwrap();
        assert_eq!(state.info().unwrap().writers, 3);
        let _daemon = daemon.kill_and_restart();
        assert_eq!(state.info().unwrap().writers, 2);
        for number in 1..10 {
            state.publish(&number).unwrap();
            other.publish(&(number + 100)).unwrap();
            assert_eq!(state.snapshot().unwrap().value, number + 100);
        }
    });
}
