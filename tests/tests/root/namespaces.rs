//! User namespaces, and the demo that goes there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use kstate_tests::{kstate, kstatefs};

use crate::printed;

pub(crate) fn it_mounts_in_a_user_namespace() {
    let home = tempfile::tempdir().unwrap();
    let script = "
        \"$1\" \"$2\" & daemon=$!
        while [ ! -e \"$2/.kstate/registry\" ]; do
            kill -0 $daemon || exit 1
        done
        exec 3<>\"$2/x\"; echo hello >&3; cat \"$2/x\"
        grep -c \" $2 .*fuse.kstatefs\" /proc/self/mountinfo
        exec 3<&-; kill $daemon; wait $daemon";
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--mount",
        "bash",
        "-c",
        script,
        "script",
    ]);
    let output = command.arg(kstatefs()).arg(home.path()).output().unwrap();
    assert_eq!(printed(&output), "hello\n1\n");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(home.path().to_str().unwrap()),
        "seen outside the namespace"
    );
}

pub(crate) fn the_demo_goes_on_to_a_namespace_where_fusermount_fails() {
    let home = tempfile::tempdir().unwrap();
    let helper = home.path().join("fusermount3");
    fs::write(&helper, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&helper, Permissions::from_mode(0o4755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", home.path().display());
    // Root that may not mount is as good as an ordinary user.
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-sys_admin").arg(kstate());
    command.args(["demo", "--seconds", "1", "--json"]);
    let output = command.env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("user namespace"), "{said}");
}
