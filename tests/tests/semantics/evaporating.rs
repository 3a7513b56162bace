//! That a state goes with its last subscriber, and not before, however that one got and lost its descriptor: by
//! files and by handles of the library.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use kstate_sys::ioctl::call;
use kstate_tests::{Daemon, PATIENCE, Running, Setup, eventually};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::lifetime::evaporates;
use crate::{create, generation, python, start_python};

both_ways!(
    a_state_goes_when_its_last_process_ends,
    a_state_goes_when_its_last_process_is_killed,
    a_child_keeps_the_state_that_its_parent_leaves,
    a_child_keeps_the_state_of_its_parent_that_is_killed,
    a_duplicate_of_a_handles_descriptor_keeps_the_state,
    a_descriptor_passed_on_keeps_the_state_when_its_sender_ends,
    a_program_that_inherits_the_descriptor_keeps_the_state,
    a_state_goes_when_the_program_changes_and_inherits_nothing,
    a_map_alone_keeps_its_value_and_not_the_state,
    time_to_linger_set_in_any_way_counts_from_the_last_close,
    what_the_library_keeps_stays_until_it_is_let_go,
);

/// A process that has `x` open, of either kind, written once, and has said so. It ends with its input.
fn holders(daemon: &Daemon, program: &str, role: &[&str]) -> [Running; 2] {
    let open = "
file = os.open(path, os.O_CREAT | os.O_RDWR)
os.pwrite(file, b'value', 0)
";
    let plain = start_python(&format!("{open}{program}"), &daemon.file("plain"));
    [plain, daemon.worker("library", role)]
}

const NAMES: [&str; 2] = ["plain", "library"];

/// That a state is there still, although it has had its chance to go: another one has gone.
#[track_caller]
fn stays(daemon: &Daemon, name: &str) {
    drop(create(daemon, "other"));
    evaporates(daemon, "other");
    assert!(daemon.file(name).exists(), "{name} has gone");
    assert_eq!(
        crate::generation(daemon, name).min(1),
        1,
        "{name} is another"
    );
}

fn a_state_goes_when_its_last_process_ends(setup: Setup) {
    let daemon = setup.start();
    let program = "print('ready', flush=True); sys.stdin.read()";
    for (mut process, name) in holders(&daemon, program, &["publish-lines"])
        .into_iter()
        .zip(NAMES)
    {
        assert_eq!(process.line(), "ready");
        process.say("1");
        assert!(daemon.file(name).exists());
        process.close_input();
        assert!(process.finish().success());
        evaporates(&daemon, name);
    }
}

fn a_state_goes_when_its_last_process_is_killed(setup: Setup) {
    let daemon = setup.start();
    let program = "print('ready', flush=True); sys.stdin.read()";
    for (mut process, name) in holders(&daemon, program, &["publish"])
        .into_iter()
        .zip(NAMES)
    {
        assert_eq!(process.line(), "ready");
        stays(&daemon, name);
        process.signal(Signal::SIGKILL);
        process.finish();
        evaporates(&daemon, name);
    }
}

/// Says so in a child, which ends with its input; `parent` is what becomes of the parent.
fn forking(parent: &str) -> String {
    format!(
        "
if os.fork() == 0:
    os.pwrite(file, b'child', 0)
    print('child', flush=True)
    sys.stdin.read()
    os._exit(0)
{parent}
"
    )
}

fn a_child_keeps_the_state_that_its_parent_leaves(setup: Setup) {
    let daemon = setup.start();
    let role = ["fork-and-hold", "--leave"];
    let holders = holders(&daemon, &forking("os._exit(0)"), &role);
    for (mut process, name) in holders.into_iter().zip(NAMES) {
        assert!(process.line().starts_with("child"));
        assert!(process.finish().success(), "the parent has ended");
        stays(&daemon, name);
        process.close_input();
        evaporates(&daemon, name);
    }
}

fn a_child_keeps_the_state_of_its_parent_that_is_killed(setup: Setup) {
    let daemon = setup.start();
    let mount = daemon.library();
    let holders = holders(&daemon, &forking("sys.stdin.read()"), &["fork-and-hold"]);
    for (mut process, name) in holders.into_iter().zip(NAMES) {
        assert!(process.line().starts_with("child"));
        process.signal(Signal::SIGKILL);
        process.finish();
        // One open file of theirs both, or a claim each of which one is left.
        eventually("what was the parent's own is free", || {
            (mount.info(name).unwrap().writers == 1).then_some(())
        });
        stays(&daemon, name);
        process.close_input();
        evaporates(&daemon, name);
    }
}

fn a_duplicate_of_a_handles_descriptor_keeps_the_state(setup: Setup) {
    let daemon = setup.start();
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    state.publish(b"1").unwrap();
    let handle = state.try_clone().unwrap();
    let duplicate = state.as_fd().try_clone_to_owned().unwrap();
    drop(state);
    stays(&daemon, "x");
    drop(handle);
    stays(&daemon, "x");
    drop(duplicate);
    evaporates(&daemon, "x");
}

fn a_descriptor_passed_on_keeps_the_state_when_its_sender_ends(setup: Setup) {
    let daemon = setup.start();
    let socket = daemon.home().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let path = socket.to_str().unwrap();
    let program = format!(
        "
there = socket.socket(socket.AF_UNIX)
there.connect('{path}')
socket.send_fds(there, [b'-'], [file])
"
    );
    for name in NAMES {
        // One after the other, so that it is known whose connection is whose.
        let mut sender = match name {
            "plain" => {
                let open = "
file = os.open(path, os.O_CREAT | os.O_RDWR)
os.pwrite(file, b'value', 0)
";
                start_python(&format!("{open}{program}"), &daemon.file(name))
            }
            _ => daemon.worker(name, &["send", path]),
        };
        let received = receive(&listener);
        assert!(sender.finish().success());
        stays(&daemon, name);
        drop(received);
        evaporates(&daemon, name);
    }
}

fn receive(listener: &UnixListener) -> OwnedFd {
    let (there, _) = listener.accept().unwrap();
    there.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut byte, mut room) = ([0], nix::cmsg_space!(RawFd));
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(there.as_raw_fd(), &mut parts, Some(&mut room), flags).unwrap();
    let Some(ControlMessageOwned::ScmRights(sent)) = message.cmsgs().unwrap().next() else {
        panic!("a descriptor was sent");
    };
    #[expect(unsafe_code, reason = "nix returns a bare number")]
    // SAFETY: a new descriptor that nobody else owns.
    unsafe {
        OwnedFd::from_raw_fd(sent[0])
    }
}

/// Replaces itself at a line by a program that says so and ends with its input.
fn becoming(inherit: &str) -> String {
    format!(
        "
os.set_inheritable(file, {inherit})
print('ready', flush=True)
sys.stdin.buffer.raw.read(9)
os.execvp('sh', ['sh', '-c', 'echo another; read -r line'])
"
    )
}

fn a_program_that_inherits_the_descriptor_keeps_the_state(setup: Setup) {
    let daemon = setup.start();
    let role = ["become", "--inherit"];
    let holders = holders(&daemon, &becoming("True"), &role);
    for (mut process, name) in holders.into_iter().zip(NAMES) {
        assert_eq!(process.line(), "ready");
        process.say("go");
        assert_eq!(process.line(), "another");
        stays(&daemon, name);
        process.close_input();
        process.finish();
        evaporates(&daemon, name);
    }
}

fn a_state_goes_when_the_program_changes_and_inherits_nothing(setup: Setup) {
    let daemon = setup.start();
    let holders = holders(&daemon, &becoming("False"), &["become"]);
    for (mut process, name) in holders.into_iter().zip(NAMES) {
        assert_eq!(process.line(), "ready");
        stays(&daemon, name);
        process.say("go");
        assert_eq!(process.line(), "another");
        evaporates(&daemon, name);
        assert!(process.ended().is_none(), "the process lives on");
    }
}

fn a_map_alone_keeps_its_value_and_not_the_state(setup: Setup) {
    let daemon = setup.start();
    let mut worker = daemon.worker("library", &["map-only"]);
    assert_eq!(worker.line(), "ready");
    evaporates(&daemon, "library");
    worker.say("go");
    assert_eq!(worker.line(), "Some(1) deleted");
    let file = create(&daemon, "plain");
    file.write_all_at(b"value", 0).unwrap();
    #[expect(unsafe_code, reason = "maps a file")]
    // SAFETY: nobody makes the file shorter, and what is compared is copied first.
    let map = unsafe { memmap2::MmapOptions::new().len(4096).map(&file) };
    drop(file);
    evaporates(&daemon, "plain");
    let version = std::fs::read_to_string(daemon.file(".kstate/version")).unwrap();
    match map {
        Ok(map) => assert_eq!(map[..6].to_vec(), b"value\0"),
        // A file cannot be mapped there, and nothing outlives its descriptor.
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
            assert!(version.contains("transport socket"), "{version}");
        }
    }
}

fn time_to_linger_set_in_any_way_counts_from_the_last_close(setup: Setup) {
    const LINGER: Duration = Duration::from_millis(600);
    let daemon = setup.start();
    let by_attribute = || {
        let file = create(&daemon, "x");
        let program = "os.setxattr(path, 'user.kstate.linger', b'600ms')";
        python(program, &daemon.file("x"));
        OwnedFd::from(file)
    };
    let by_ioctl = || {
        let file = create(&daemon, "x");
        call::set_linger(&file, 600).unwrap();
        OwnedFd::from(file)
    };
    let by_library = || {
        let mount = daemon.library();
        let state = mount.subscribe("x").linger(LINGER).bytes().unwrap();
        state.as_fd().try_clone_to_owned().unwrap()
    };
    for open in [
        &by_attribute as &dyn Fn() -> OwnedFd,
        &by_ioctl,
        &by_library,
    ] {
        let first = open();
        let closed = Instant::now();
        drop(first);
        // Another subscriber meanwhile begins the time anew, whenever in it that is.
        let second = create(&daemon, "x");
        assert!(
            closed.elapsed() < LINGER,
            "the machine is too slow for this"
        );
        eventually("the first time is over", || {
            (closed.elapsed() > LINGER + LINGER / 10).then_some(())
        });
        assert!(daemon.file("x").exists());
        let closed = Instant::now();
        drop(second);
        evaporates(&daemon, "x");
        assert!(closed.elapsed() >= LINGER, "{:?}", closed.elapsed());
    }
}

fn what_the_library_keeps_stays_until_it_is_let_go(setup: Setup) {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    let daemon = setup.start();
    let mount = daemon.library();
    let state = mount.subscribe("x").write().keep().bytes().unwrap();
    state.publish(b"kept").unwrap();
    drop(state);
    stays(&daemon, "x");
    assert_eq!(generation(&daemon, "x"), 1);
    std::fs::set_permissions(daemon.file("x"), Permissions::from_mode(0o644)).unwrap();
    evaporates(&daemon, "x");
}
