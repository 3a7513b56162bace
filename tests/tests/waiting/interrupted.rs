//! Waits that are ended by other threads, by signals and from signal handlers.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kstate::{Generation, Interrupt, Wait, Waited};
use kstate_tests::{Daemon, Ended, Kind, PATIENCE, Sleeper, both_transports, take_seats};
use nix::sys::signal::{Signal, raise};

use crate::{AT_ONCE, writer};

/// States for all kinds of waits.
fn with_states(test: impl Fn(&Daemon)) {
    both_transports(|daemon| {
        let mount = daemon.library();
        let (x, other) = (writer(&mount, "x"), writer(&mount, "x.other"));
        x.publish(&1).unwrap();
        test(daemon);
        drop((x, other));
    });
}

/// One that waits for what does not come, in a thread.
fn waiting(daemon: &Daemon, kind: Kind, interrupt: &Interrupt) -> Sleeper<Ended> {
    let theirs = (daemon.library(), interrupt.clone());
    Sleeper::start(move || {
        let (mount, interrupt) = theirs;
        kind.wait(&mount, "x", &interrupt, PATIENCE).unwrap()
    })
}

#[test]
fn a_wait_that_begins_interrupted_ends_at_once() {
    with_states(|daemon| {
        let mount = daemon.library();
        let interrupt = Interrupt::new();
        interrupt.raise();
        for kind in Kind::ALL {
            let start = Instant::now();
            let ended = kind.wait(&mount, "x", &interrupt, PATIENCE).unwrap();
            assert_eq!(ended, Ended::Interrupted, "{kind:?}");
            assert!(start.elapsed() < AT_ONCE, "{kind:?}");
        }
        assert_eq!(crate::waiters(&mount, "x"), 0);
    });
}

#[test]
fn another_thread_ends_each_kind_of_wait_and_clearing_lets_it_wait_again() {
    with_states(|daemon| {
        let interrupt = Interrupt::new();
        for crowded in [false, true] {
            let _taken = crowded.then(|| take_seats(&daemon.library(), "x"));
            for kind in Kind::ALL {
                let sleeping = waiting(daemon, kind, &interrupt);
                sleeping.await_asleep();
                let start = Instant::now();
                interrupt.raise();
                assert_eq!(sleeping.join(), Ended::Interrupted, "{kind:?}");
                assert!(start.elapsed() < AT_ONCE, "{kind:?}");
                interrupt.clear();
                let short = Duration::from_millis(10);
                let ended = kind.wait(&daemon.library(), "x", &interrupt, short);
                assert_eq!(ended.unwrap(), Ended::TimedOut, "{kind:?}");
            }
        }
    });
}

#[test]
fn one_interrupt_ends_the_waits_of_many_threads() {
    with_states(|daemon| {
        let interrupt = Interrupt::new();
        let sleeping: Vec<_> = Kind::ALL
            .iter()
            .chain(&Kind::ALL)
            .map(|kind| waiting(daemon, *kind, &interrupt))
            .collect();
        sleeping.iter().for_each(Sleeper::await_asleep);
        let start = Instant::now();
        interrupt.raise();
        for sleeping in sleeping {
            assert_eq!(sleeping.join(), Ended::Interrupted);
        }
        assert!(start.elapsed() < AT_ONCE);
    });
}

#[test]
fn none_that_comes_at_any_moment_is_missed() {
    with_states(|daemon| {
        for round in 0..200_u64 {
            let interrupt = Interrupt::new();
            let kind = Kind::ALL[usize::try_from(round).unwrap() % Kind::ALL.len()];
            let waiting = waiting(daemon, kind, &interrupt);
            let start = Instant::now();
            let moment = Duration::from_micros(round * 37 % 500);
            while start.elapsed() < moment {
                std::hint::spin_loop();
            }
            interrupt.raise();
            assert_eq!(waiting.join(), Ended::Interrupted, "{kind:?}");
        }
    });
}

#[test]
fn what_has_come_is_told_of_even_if_interrupted() {
    let daemon = Daemon::start();
    let state = writer(&daemon.library(), "x");
    let newest = state.publish(&1).unwrap();
    let interrupt = Interrupt::new();
    interrupt.raise();
    let wait = Wait::new().interrupted_by(&interrupt);
    assert_eq!(
        wait.for_change(&state, Generation::NEVER).unwrap(),
        Waited::Changed(newest)
    );
    assert_eq!(
        wait.for_change(&state, newest).unwrap(),
        Waited::Interrupted
    );
}

/// What the handler of `SIGUSR1` raises.
static RAISED: OnceLock<Interrupt> = OnceLock::new();

extern "C" fn raise_interrupt(_: i32) {
    if let Some(interrupt) = RAISED.get() {
        interrupt.raise();
    }
}

/// Has `SIGUSR1` raise an interrupt. System calls that can be restarted are.
fn on_signal() -> &'static Interrupt {
    #![expect(unsafe_code, reason = "sigaction(2)")]
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    let handler = SigHandler::Handler(raise_interrupt);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    let interrupt = RAISED.get_or_init(Interrupt::new);
    // SAFETY: the handler stores a word and calls futex(2).
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    interrupt
}

/// Sends it to one thread of this process.
fn signal(thread: nix::unistd::Pid) {
    #![expect(unsafe_code, reason = "tgkill(2) has no wrapper in nix")]
    // SAFETY: takes three numbers.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            std::process::id(),
            thread.as_raw(),
            libc::SIGUSR1,
        )
    };
    assert_eq!(sent, 0);
}

#[test]
fn a_signal_handler_ends_waits_of_its_thread_and_of_others() {
    let interrupt = on_signal();
    with_states(|daemon| {
        for kind in Kind::ALL {
            interrupt.clear();
            // One that comes before the wait, when a signal alone would be lost.
            let mount = daemon.library();
            raise(Signal::SIGUSR1).unwrap();
            let ended = kind.wait(&mount, "x", interrupt, PATIENCE).unwrap();
            assert_eq!(ended, Ended::Interrupted, "before {kind:?}");
            for in_another in [false, true] {
                interrupt.clear();
                let sleeping = waiting(daemon, kind, interrupt);
                sleeping.await_asleep();
                let start = Instant::now();
                match in_another {
                    true => raise(Signal::SIGUSR1).unwrap(),
                    false => signal(sleeping.thread()),
                }
                assert_eq!(sleeping.join(), Ended::Interrupted, "{kind:?}");
                assert!(start.elapsed() < AT_ONCE, "{kind:?}");
            }
        }
        interrupt.clear();
    });
}

#[test]
fn where_the_kernel_sleeps_on_one_word_only_all_of_it_still_works() {
    with_states(|daemon| {
        for errno in [libc::ENOSYS, libc::EPERM] {
            let mut child = daemon.waiter_refused("x", &["waits"], &[libc::SYS_futex_waitv], errno);
            assert_eq!(child.line(), "right");
            assert!(child.finish().success());
        }
    });
}
