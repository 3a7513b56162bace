//! What the kernel maps, which takes passthrough.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use kstate_tests::{Running, Setup, open_descriptors};

pub(crate) fn a_mapped_file_shows_the_live_value() {
    let daemon = Setup::default().with("--passthrough=require").start();
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(daemon.file("x"))
        .unwrap();
    file.write_all_at(b"first", 0).unwrap();
    let script = "import mmap,os,sys\n\
        f=os.open(sys.argv[1],os.O_RDONLY)\n\
        m=mmap.mmap(f,0,prot=mmap.PROT_READ)\n\
        print(m[:].decode(),flush=True); input(); print(m[:5].decode(),flush=True)\n";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(daemon.file("x"));
    let mut python = Running::start(&mut python);
    assert_eq!(python.line(), "first");
    file.write_all_at(b"later", 0).unwrap();
    python.say("");
    assert_eq!(python.line(), "later");
    assert!(python.finish().success());
}

pub(crate) fn a_mapped_file_tells_which_version_it_shows() {
    let daemon = Setup::default().with("--passthrough=require").start();
    let mut options = File::options();
    let file = options
        .create_new(true)
        .read(true)
        .write(true)
        .open(daemon.file("x"))
        .unwrap();
    let script = "\
import ctypes, os, sys
f = os.open(sys.argv[1] + '/x', os.O_RDONLY)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
page = os.sysconf('SC_PAGE_SIZE')
at = libc.mmap(None, ctypes.c_size_t(2 * page), 1, 1, f, ctypes.c_long(0))
tag = lambda: ctypes.c_uint64.from_address(at + page + 192).value
while True:
    before = tag()
    length = ctypes.c_uint32.from_address(at + page + 200).value
    value = ctypes.string_at(at, length)
    if before == tag() and not before >> 63: print(before, value.decode(), flush=True)
    if not sys.stdin.readline(): break
";
    file.write_all_at(b"first", 0).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(daemon.mount());
    let mut python = Running::start(&mut command);
    assert_eq!(python.line(), "1 first");
    file.set_len(0).unwrap();
    file.write_all_at(b"2nd", 0).unwrap();
    python.say("");
    assert_eq!(python.line(), "2 2nd");
}

pub(crate) fn with_passthrough_states_cost_the_daemon_no_descriptor() {
    let limit = 200;
    let setup = Setup::default().with("--passthrough=require");
    let mut daemon = setup.descriptors(limit).start();
    let pid = daemon.process().pid();
    let before = open_descriptors(pid);
    let files: Vec<File> = (0..2 * limit)
        .map(|number| File::create_new(daemon.file(&format!("many.{number}"))).unwrap())
        .collect();
    assert_eq!(open_descriptors(pid), before);
    files[0].write_all_at(b"works", 0).unwrap();
    assert_eq!(fs::read(daemon.file("many.0")).unwrap(), b"works");
}
