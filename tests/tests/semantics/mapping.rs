//! Mapping a state's file: with passthrough the live value, without it nothing.

use std::os::unix::fs::FileExt;

use kstate_tests::{Daemon, Setup};

use crate::{create, python, start_python, value};

both_ways!(
    a_map_has_the_rights_of_its_descriptor_and_runs_no_code,
    a_shared_map_shows_the_live_value_or_is_refused,
    a_private_map_shows_the_live_value_until_stored_to_or_is_killed,
    a_store_is_no_commit_and_the_next_commit_overwrites_it,
);

/// Whether the daemon uses passthrough. Tickets for its socket say nothing of that: files are handed in there as well.
fn passes_through(daemon: &Daemon) -> bool {
    let version = std::fs::read_to_string(daemon.file(".kstate/version")).unwrap();
    version.lines().any(|line| line == "transport passthrough")
}

/// Maps in a child, so that what kills it is only told. `show` is a copy of the beginning.
const MAPPING: &str = "
page = os.sysconf('SC_PAGE_SIZE')
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
R, RW, RX = 1, 3, 5
SHARED, PRIVATE = 1, 2
def at(file, protection, sharing):
    found = libc.mmap(None, page, protection, sharing, file, 0)
    if found == ctypes.c_void_p(-1).value: raise OSError(ctypes.get_errno(), 'mmap')
    return found
def show(map): return ctypes.string_at(map, 8).rstrip(b'\\0').decode()
def alone(work):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try: work()
        except OSError as error: print(errno.errorcode[error.errno])
        sys.stdout.flush()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status: print('signal', -status)
both = os.open(path, os.O_RDWR)
";

fn mapping(program: &str) -> String {
    format!("{MAPPING}{program}")
}

fn a_map_has_the_rights_of_its_descriptor_and_runs_no_code(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"value", 0).unwrap();
    let program = mapping(
        "
reading = os.open(path, os.O_RDONLY)
writing = os.open(path, os.O_WRONLY)
for file in reading, both, writing:
    for sharing in SHARED, PRIVATE:
        tried = [said(lambda: at(file, protection, sharing)) for protection in (R, RW, RX)]
        print(*['ok' if type(done) is int else done for done in tried])
",
    );
    let shared = match passes_through(&daemon) {
        true => ["ok EACCES EPERM", "ok ok EPERM"],
        false => ["ENODEV EACCES EPERM", "ENODEV ENODEV EPERM"],
    };
    let (private, none) = ("ok ok EPERM", "EACCES EACCES EACCES");
    let expected = [shared[0], private, shared[1], private, none, none, ""];
    assert_eq!(python(&program, &daemon.file("x")), expected.join("\n"));
}

fn a_shared_map_shows_the_live_value_or_is_refused(setup: Setup) {
    let daemon = setup.start();
    let keep = create(&daemon, "x");
    keep.write_all_at(b"first", 0).unwrap();
    let program = mapping(
        "
def work():
    map = at(both, R, SHARED)
    print(show(map))
    replace(b'2nd')
    print(show(map))
    os.close(both)
    replace(b'third')
    print(show(map))
alone(work)
",
    );
    let expected = match passes_through(&daemon) {
        true => "first\n2nd\nthird\n",
        false => "ENODEV\n",
    };
    assert_eq!(python(&program, &daemon.file("x")), expected);
}

fn a_private_map_shows_the_live_value_until_stored_to_or_is_killed(setup: Setup) {
    let daemon = setup.start();
    let keep = create(&daemon, "x");
    keep.write_all_at(b"first", 0).unwrap();
    let program = mapping(
        "
def work():
    map = at(both, RW, PRIVATE)
    print(show(map))
    replace(b'2nd')
    print(show(map))
    ctypes.memset(map, ord('-'), 1)
    replace(b'third')
    print(show(map), os.pread(both, 8, 0).decode())
alone(work)
",
    );
    // Without passthrough the first touch is SIGBUS.
    let expected = match passes_through(&daemon) {
        true => "first\n2nd\n-nd third\n",
        false => "signal 7\n",
    };
    assert_eq!(python(&program, &daemon.file("x")), expected);
}

fn a_store_is_no_commit_and_the_next_commit_overwrites_it(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"first", 0).unwrap();
    if !passes_through(&daemon) {
        // What is refused is in the tests above.
        return;
    }
    let program = mapping(
        "
map = at(both, RW, SHARED)
ctypes.memset(map, ord('-'), 2)
call('msync', ctypes.c_void_p(map), ctypes.c_size_t(page), 4)
generation = os.getxattr(path, 'user.kstate.generation').decode()
print(show(map), os.pread(both, 8, 0).decode(), generation, flush=True)
input()
print(show(map))
",
    );
    let mut python = start_python(&program, &daemon.file("x"));
    assert_eq!(python.line(), "--rst first 1");
    file.write_all_at(b"!", 4).unwrap();
    python.say("");
    assert_eq!(python.line(), "firs!");
    assert_eq!(value(&daemon, "x"), b"firs!");
}
