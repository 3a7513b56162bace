//! Subscribing: what the flags of `open(2)` do.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};

use kstate_tests::{Running, Setup, eventually};

use crate::{create, errno, python_with, start_python, value};

both_ways!(
    opening_with_o_creat_creates_and_the_last_close_evaporates,
    states_come_and_go_in_several_processes_at_a_time,
    o_creat_opens_a_state_that_is_there_as_it_is,
    exclusive_creation_fails_where_the_state_exists,
    flags_that_say_how_to_find_a_file_are_the_kernels,
    an_o_path_descriptor_is_no_subscription,
);

fn opening_with_o_creat_creates_and_the_last_close_evaporates(setup: Setup) {
    let daemon = setup.start();
    let absent = File::open(daemon.file("x")).unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    let file = create(&daemon, "x");
    assert!(daemon.file("x").exists());
    let again = File::open(daemon.file("x")).unwrap();
    drop(file);
    let x = daemon.file("x");
    assert!(x.exists(), "another descriptor is still open");
    drop(again);
    eventually("the state evaporates", || (!x.exists()).then_some(()));
}

fn states_come_and_go_in_several_processes_at_a_time(setup: Setup) {
    let daemon = setup.start();
    let program = "
for i in range(3000):
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))
print('done')
";
    let processes: Vec<_> = (0..3)
        .map(|number| {
            let path = daemon.file(&format!("own{number}"));
            Running::start(&mut python_with(program, &path))
        })
        .collect();
    for mut process in processes {
        assert_eq!(process.line(), "done");
    }
}

fn o_creat_opens_a_state_that_is_there_as_it_is(setup: Setup) {
    let daemon = setup.start();
    let mut file = create(&daemon, "x");
    file.write_all(b"kept").unwrap();
    file.set_permissions(Permissions::from_mode(0o640)).unwrap();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o666);
    let again = options.open(daemon.file("x")).unwrap();
    assert_eq!(again.metadata().unwrap().mode() & 0o7777, 0o640);
    assert_eq!(value(&daemon, "x"), b"kept");
}

fn exclusive_creation_fails_where_the_state_exists(setup: Setup) {
    let daemon = setup.start();
    let _file = create(&daemon, "x");
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let again = options.open(daemon.file("x"));
    assert_eq!(errno(again), libc::EEXIST);
    let file = options.open(daemon.file("y")).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
}

fn flags_that_say_how_to_find_a_file_are_the_kernels(setup: Setup) {
    let daemon = setup.start();
    let mut file = create(&daemon, "x");
    file.write_all(b"value").unwrap();
    let open = |flags: i32| {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags);
        options.open(daemon.file("x"))
    };
    for flags in [
        libc::O_NOFOLLOW,
        libc::O_NOATIME,
        libc::O_NONBLOCK,
        libc::O_SYNC,
        libc::O_DSYNC,
        libc::O_NOCTTY,
    ] {
        let mut text = String::new();
        open(flags).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "value", "{flags:o}");
    }
    assert_eq!(errno(open(libc::O_DIRECTORY)), libc::ENOTDIR);
    let beneath = File::open(daemon.file("x").join("y"));
    assert_eq!(errno(beneath), libc::ENOTDIR);
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    assert_eq!(errno(options.open(daemon.mount())), libc::EISDIR);
    let unnamed = options.custom_flags(libc::O_TMPFILE).open(daemon.mount());
    assert_eq!(errno(unnamed), libc::EOPNOTSUPP);
}

fn an_o_path_descriptor_is_no_subscription(setup: Setup) {
    let daemon = setup.start();
    let mut file = create(&daemon, "x");
    file.write_all(b"value").unwrap();
    let program = "
place = os.open(path, os.O_PATH)
def reopen():
    file = os.open('/proc/self/fd/%d' % place, os.O_RDONLY)
    subscribers = os.getxattr(path, 'user.kstate.subscribers').decode()
    print(os.read(file, 99).decode(), subscribers, flush=True)
    os.close(file)
print(os.getxattr(path, 'user.kstate.subscribers').decode(), os.fstat(place).st_size)
print(said(lambda: os.read(place, 99)))
reopen()
input()
print(said(reopen))
";
    let mut python = start_python(program, &daemon.file("x"));
    assert_eq!(python.line(), "1 5");
    assert_eq!(python.line(), "EBADF");
    assert_eq!(python.line(), "value 2");
    drop(file);
    let x = daemon.file("x");
    eventually("the state evaporates", || (!x.exists()).then_some(()));
    python.say("");
    assert_eq!(python.line(), "ESTALE");
}
