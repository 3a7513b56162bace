//! What `docs/containers.md` says: clients and daemons in namespaces of their own, and under filters
//! of system calls. Only root can run these; run by others, each is listed as left out.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use kstate::Mount;
use kstate_tests::{
    Running, Setup, both_transports, eventually, is_real_root, kstate, kstatefs, output_of,
};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// An ordinary user.
const ALICE: u32 = 64_001;

fn main() {
    let arguments = Arguments::from_args();
    let left_out = !is_real_root();
    if left_out {
        eprintln!("not root of this machine: the tests listed as ignored are left out");
    }
    macro_rules! tests {
        ($($name:ident,)*) => {
            vec![$(Trial::test(stringify!($name), || -> Result<(), Failed> {
                $name();
                Ok(())
            }).with_ignored_flag(left_out)),*]
        };
    }
    let tests = tests![
        a_client_in_namespaces_of_its_own_uses_a_mount_bound_in,
        a_user_namespace_shows_foreign_owners_as_nobody_and_keeps_their_rights,
        a_mount_made_later_comes_in_through_a_slave,
        who_the_daemon_cannot_see_uses_files_but_neither_claims_nor_waits,
        in_a_user_namespace_there_is_no_passthrough,
        without_a_ring_the_daemon_waits_by_futex_waitv,
        without_that_either_it_looks_now_and_then,
        without_userfaultfd_a_transaction_by_pointer_copies,
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

/// Runs a program to its end, in Bash under `wrapper`, with `$1` the mount, `$2` the command
/// `kstate` and `$3` a directory of its own.
fn run(wrapper: &[&str], daemon: &Path, script: &str) -> Output {
    let own = tempfile::tempdir().unwrap();
    fs::set_permissions(own.path(), Permissions::from_mode(0o777)).unwrap();
    let (program, arguments) = wrapper.split_first().unwrap();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(["bash", "-euc", script, "script"]);
    command.arg(daemon).arg(kstate()).arg(own.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    output_of(command.stderr(Stdio::piped()).spawn().unwrap())
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn version(daemon: &Path) -> String {
    fs::read_to_string(daemon.join(".kstate/version")).unwrap()
}

/// As a container has them.
const NAMESPACES: [&str; 7] = [
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--pid",
    "--fork",
    "--mount-proc",
];

/// Every way to use a state that a shell can reach, at `$mount`.
const USE_IT: &str = "
    export KSTATE_MOUNT=$mount
    exec 9>>$mount/x
    echo one >$mount/x
    cat $mount/x
    exec 3<$mount/x@wait; read -r line <&3; echo $line
    (read -r line <&3; echo then $line) &
    until grep -q '\"waiters\":1,' $mount/.kstate/states; do [ -e $mount/x ]; sleep 0.01; done
    echo two >$mount/x; wait $!
    (read -r line <&3; echo and $line) &
    until grep -q '\"waiters\":1,' $mount/.kstate/states; do [ -e $mount/x ]; sleep 0.01; done
    \"$2\" set x $'three\\n'; wait $!
    \"$2\" get x
    exec 4< <(exec \"$2\" watch x) ; watcher=$!; read -r line <&4; set -- $line; echo ${!#}
    kill $watcher
    head -n 1 $mount/.kstate/changes | grep -o '\"state\":\"x\"'";
const USED: &str = "one\none\nthen two\nand three\nthree\nthree\n\"state\":\"x\"\n";

fn a_client_in_namespaces_of_its_own_uses_a_mount_bound_in() {
    both_transports(|daemon| {
        let script = format!("mount --bind \"$1\" \"$3\"; mount=$3\n{USE_IT}");
        let output = run(&NAMESPACES, daemon.mount(), &script);
        assert_eq!(printed(&output), USED, "{output:?}");
        // Nothing of theirs is left.
        eventually("the state has gone", || {
            (!daemon.file("x").exists()).then_some(())
        });
    });
}

fn a_user_namespace_shows_foreign_owners_as_nobody_and_keeps_their_rights() {
    both_transports(|daemon| {
        fs::set_permissions(daemon.home(), Permissions::from_mode(0o755)).unwrap();
        let _roots = File::create(daemon.file("roots")).unwrap();
        fs::set_permissions(daemon.file("roots"), Permissions::from_mode(0o640)).unwrap();
        let hers = File::create(daemon.file("hers")).unwrap();
        chown(daemon.file("hers"), Some(ALICE), Some(ALICE)).unwrap();
        let ids = [format!("--reuid={ALICE}"), format!("--regid={ALICE}")];
        let wrapper = ["setpriv", &ids[0], &ids[1], "--clear-groups"];
        let wrapper = [&wrapper[..], &NAMESPACES[..4]].concat();
        let script = "
            stat -c '%u %n' \"$1/roots\" \"$1/hers\" | sed 's,/.*/,,'
            cat \"$1/roots\" 2>/dev/null || echo refused
            echo x >\"$1/hers\" && cat \"$1/hers\"";
        let output = run(&wrapper, daemon.mount(), script);
        assert_eq!(printed(&output), "65534 roots\n0 hers\nrefused\nx\n");
        drop(hers);
    });
}

/// A directory that is mounted on itself, shared with what is bound to it; unmounted when dropped.
struct SharedDirectory(tempfile::TempDir);

impl SharedDirectory {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (none, path): (Option<&Path>, _) = (None, home.path());
        mount(Some(path), path, none, MsFlags::MS_BIND, none).unwrap();
        let this = Self(home);
        mount(none, this.0.path(), none, MsFlags::MS_SHARED, none).unwrap();
        this
    }
}

impl Drop for SharedDirectory {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

fn a_mount_made_later_comes_in_through_a_slave() {
    let shared = SharedDirectory::new();
    let directory = shared.0.path().join("kstate");
    fs::create_dir(&directory).unwrap();
    let script = "echo ready; read -r line; cat \"$0/.kstate/version\"; read -r line; \
                  [ -e \"$0/.kstate\" ] || echo gone";
    let mut container = Command::new("unshare");
    container.args(["--mount", "--propagation=slave", "bash", "-c", script]);
    let mut container = Running::start(container.arg(&directory));
    assert_eq!(container.line(), "ready");
    let mut daemon = Running::start(Command::new(kstatefs()).arg(&directory));
    eventually("it is mounted", || Mount::at(&directory).ok());
    container.say("");
    assert!(container.line().starts_with("version "));
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.finish().success());
    container.say("");
    container.lines_until("gone");
}

/// Unmounts what a daemon has left, however the test ends.
struct Unmounting<'a>(&'a Path);

impl Drop for Unmounting<'_> {
    fn drop(&mut self) {
        kstate_tests::unmount(self.0);
    }
}

fn who_the_daemon_cannot_see_uses_files_but_neither_claims_nor_waits() {
    let home = tempfile::tempdir().unwrap();
    for transport in ["auto", "off"] {
        // Dropped after the daemon.
        let _unmount = Unmounting(home.path());
        // The daemon is the one in a namespace of its own; the mount is seen outside.
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]);
        command
            .arg(kstatefs())
            .arg(format!("--passthrough={transport}"));
        let mut daemon = Running::start(command.arg(home.path()));
        eventually("it is mounted", || Mount::at(home.path()).ok());
        let script = "
            export KSTATE_MOUNT=$1 LC_ALL=C
            exec 9>>$1/x
            echo one >$1/x
            cat $1/x
            \"$2\" get x
            cat $1/x@wait 2>&1 || true
            cat $1/.kstate/changes 2>&1 || true
            \"$2\" set x two 2>&1 | grep -o 'pid namespace'
            python3 -c \"
import os, select, sys
state, poll = os.open('$1/x', os.O_RDONLY), select.poll()
poll.register(state, select.POLLIN)
os.read(state, 99)
os.system('echo two >$1/x')
print(len(poll.poll(20000)), os.pread(state, 99, 0))\"";
        let output = run(&["env"], home.path(), script);
        // The first process of its namespace, as a container's is: nothing would end it by default.
        let unshare = daemon.pid();
        let child = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
        let child = Pid::from_raw(child.unwrap().trim().parse().unwrap());
        kill(child, Signal::SIGTERM).unwrap();
        let ended = daemon.finish();
        assert!(ended.success());
        let at = home.path().display();
        let refused = "Operation not supported";
        // What is there already is given; to wait for more is refused.
        let present = "{\"event\":\"present\",\"state\":\"x\",";
        let said = printed(&output);
        let (stream, lines): (Vec<_>, Vec<_>) =
            said.lines().partition(|line| line.starts_with('{'));
        assert!(
            stream.len() == 1 && stream[0].starts_with(present),
            "{said}"
        );
        let expected = format!(
            "one\none\none\ncat: {at}/x@wait: {refused}\ncat: {at}/.kstate/changes: {refused}\n\
             pid namespace\n1 b'two\\n'"
        );
        assert_eq!(lines.join("\n"), expected);
    }
}

fn in_a_user_namespace_there_is_no_passthrough() {
    let home = tempfile::tempdir().unwrap();
    let daemon = kstatefs();
    let script = format!(
        "daemon={}
        $daemon --passthrough=require $3 2>&1 && exit 1
        $daemon $3 & pid=$!
        while [ ! -e $3/.kstate/version ]; do kill -0 $pid; done
        grep transport $3/.kstate/version
        mount=$3 {USE_IT}
        exec 9>&- 3>&- 4>&-; kill $pid; wait $pid",
        daemon.display()
    );
    let said = printed(&run(&NAMESPACES, home.path(), &script));
    assert!(said.contains("passes no maps through here"), "{said}");
    let rest = said.lines().skip(1).map(|line| format!("{line}\n"));
    assert_eq!(
        rest.collect::<String>(),
        format!("transport socket\n{USED}")
    );
}

/// What filters answer: Docker's EPERM, Podman's ENOSYS.
const ANSWERS: [i32; 2] = [libc::EPERM, libc::ENOSYS];

const RING: [libc::c_long; 3] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Under a filter with each of these answers.
fn without_calls(calls: &[libc::c_long], answers: &[i32]) {
    for errno in answers {
        let daemon = Setup::default().refusing(calls, *errno).start();
        assert!(version(daemon.mount()).contains("notify futex_waitv"));
        let script = format!("mount=$1\n{USE_IT}");
        let output = run(&["env"], daemon.mount(), &script);
        assert_eq!(printed(&output), USED, "{errno}");
    }
}

fn without_a_ring_the_daemon_waits_by_futex_waitv() {
    without_calls(&RING, &ANSWERS);
}

fn without_that_either_it_looks_now_and_then() {
    let calls = [&RING[..], &[libc::SYS_futex_waitv]].concat();
    without_calls(&calls, &ANSWERS);
}

fn without_userfaultfd_a_transaction_by_pointer_copies() {
    for errno in ANSWERS {
        let mut command = Command::new(kstate());
        kstate_tests::refuse(&mut command, &[libc::SYS_userfaultfd], errno);
        // The device is another way to the same, and is root's.
        command.arg("doctor").uid(ALICE).gid(ALICE);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let first = said.lines().find(|line| line.contains("first access"));
        assert!(first.is_some_and(|line| line.contains("copied")), "{said}");
    }
}
