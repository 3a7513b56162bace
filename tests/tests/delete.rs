//! Deleting a state, and what those hold then who had it.

use std::time::Duration;

use kstate::{
    BeginError, ClaimError, CommitError, CommitManyError, CutError, Error, Generation, NotifyError,
    PublishError, ReadError, RemoveError, State, WaitError,
};
use kstate_tests::both_transports;
use nix::sys::signal::Signal;

fn is_deleted(error: &Error) -> bool {
    matches!(
        error,
        Error::Publish(
            PublishError::Deleted { .. } | PublishError::Claim(ClaimError::Deleted { .. })
        ) | Error::Read(ReadError::Deleted { .. })
            | Error::Begin(BeginError::Deleted { .. })
            | Error::Commit(CommitError::Deleted { .. })
            | Error::CommitMany(CommitManyError::State(CommitError::Deleted { .. }))
            | Error::Cut(CutError::Read(ReadError::Deleted { .. }))
            | Error::Wait(WaitError::Deleted { .. })
            | Error::Notify(NotifyError::Wait(WaitError::Deleted { .. }))
    )
}

#[track_caller]
fn refused<T>(done: Result<T, impl Into<Error>>) {
    match done.map_err(Into::into) {
        Ok(_) => panic!("it went on with a deleted state"),
        Err(error) => assert!(is_deleted(&error), "{error:?}"),
    }
}

#[test]
fn every_use_of_a_deleted_state_is_an_error_that_says_so() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state: State<u64> = mount.subscribe("x").write().typed().unwrap();
        let kept: State<u64> = mount.subscribe("kept").write().typed().unwrap();
        let bytes = mount.subscribe("x").write().bytes().unwrap();
        let seen = state.publish(&1).unwrap();
        let view = state.view(Duration::from_millis(1));
        assert_eq!(view.snapshot().unwrap().value, 1);
        let mut begun = state.begin().unwrap();
        begun.set(&2);
        let mut raw = state.begin_raw().unwrap();
        raw.bytes_mut().unwrap()[0] = 2;
        let mut several = kstate::begin_many();
        several.add(&state).unwrap();
        several.add(&kept).unwrap();
        *several.get_mut(&state).unwrap() = 2;
        *several.get_mut(&kept).unwrap() = 2;
        let mut reading = kstate::begin_many();
        reading.add_reading(&*state).unwrap();
        reading.add(&kept).unwrap();
        let read = *reading.get(&state).unwrap();
        *reading.get_mut(&kept).unwrap() = read;
        state.delete().unwrap();
        refused(begun.commit());
        refused(raw.commit());
        refused(several.commit());
        refused(reading.commit());
        assert!(kept.generation().is_never());
        for _ in 0..2 {
            refused(state.publish(&3));
            refused(bytes.publish(b"three"));
            refused(state.snapshot());
            refused(bytes.snapshot());
            refused(bytes.snapshot_into(&mut [0; 8]));
            refused(state.snapshot_into(&mut 0));
            refused(state.begin().map(drop));
            refused(state.begin_raw().map(drop));
            refused(kstate::cut((&*state, &*kept)));
            refused(state.wait(seen, None));
            refused(state.wait(Generation::NEVER, None));
            refused(view.snapshot());
            refused(view.wait(seen, None));
            refused(kstate::Notifier::new().unwrap().add(&state));
            assert!(matches!(state.try_clone(), Err(ClaimError::Deleted { .. })));
            assert!(state.reader().snapshot().is_err());
        }
        let refused = state.delete().unwrap_err();
        assert!(
            matches!(refused, RemoveError::NotFound { .. }),
            "{refused:?}"
        );
        // The name is free, and what is under it has nothing to do with that.
        let other: State<u64> = mount.subscribe("x").write().typed().unwrap();
        other.publish(&9).unwrap();
        assert!(state.delete().is_err() && state.snapshot().is_err());
        assert_eq!(other.snapshot().unwrap().value, 9);
    });
}

#[test]
fn a_state_that_another_process_is_subscribed_to_stays() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state: State<u64> = mount.subscribe("x").write().typed().unwrap();
        let _another_handle_of_this_process = mount.subscribe("x").typed::<u64>().unwrap();
        state.publish(&1).unwrap();
        let mut holder = daemon.worker("x", &["hold"]);
        assert_eq!(holder.line(), "ready");
        let refused = state.delete().unwrap_err();
        assert!(
            matches!(refused, RemoveError::Subscribed { .. }),
            "{refused:?}"
        );
        state.publish(&2).unwrap();
        assert_eq!(state.snapshot().unwrap().value, 2);
        holder.signal(Signal::SIGKILL);
        holder.finish();
        kstate_tests::eventually("it can be deleted", || state.delete().ok());
    });
}

#[test]
fn files_of_a_deleted_state_still_open_read_its_last_value_and_a_persistent_one_keeps_it() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state: State<u64> = mount.subscribe("x").write().typed().unwrap();
        let path = daemon.home().join("file");
        state.set_persistent(&path).unwrap();
        let open = std::fs::File::open(daemon.file("x")).unwrap();
        state.publish(&7).unwrap();
        state.delete().unwrap();
        let mut value = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(&open, &mut value, 0).unwrap();
        assert_eq!(value, 7_u64.to_ne_bytes());
        assert_eq!(open.metadata().unwrap().len(), 8);
        let again: State<u64> = mount.subscribe("x").write().typed().unwrap();
        again.set_persistent(&path).unwrap();
        assert_eq!(again.snapshot().unwrap().value, 7);
    });
}
