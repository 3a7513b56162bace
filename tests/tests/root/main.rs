//! What only root can test: other users, a full tmpfs, namespaces. Run by anybody else, each is
//! listed as left out.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod full;
mod mapping;
mod mounting;
mod namespaces;
mod rights;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use kstate_tests::{Daemon, is_real_root};
use libtest_mimic::{Arguments, Trial};

/// Two ordinary users.
const ALICE: u32 = 64_001;
const BOB: u32 = 64_002;

/// A trial of each function, by its name.
macro_rules! trials {
    ($($file:ident { $($name:ident,)+ })+) => {
        vec![$($(Trial::test(stringify!($name), || {
            $file::$name();
            Ok(())
        })),+),+]
    };
}

fn main() {
    let arguments = Arguments::from_args();
    let left_out = !is_real_root();
    if left_out {
        eprintln!("not root of this machine: the tests listed as ignored are left out");
    }
    let trials = trials! {
        rights {
            another_user_may_only_what_the_mode_says,
            an_owner_changes_the_mode_but_gives_nothing_away,
            another_user_without_passthrough,
            a_reader_cannot_write_by_any_call,
            only_the_owner_deletes,
            a_private_mount_is_closed_to_others,
            a_layout_recorded_before_the_first_version_is_compared,
        }
        full {
            a_full_tmpfs_is_enospc_at_subscribe,
            a_full_tmpfs_refuses_plain_writes_and_keeps_the_old_value,
            room_for_the_header_but_not_the_live_page,
            a_hole_in_a_full_tmpfs_kills_nobody,
        }
        mapping {
            a_mapped_file_shows_the_live_value,
            a_mapped_file_tells_which_version_it_shows,
            with_passthrough_states_cost_the_daemon_no_descriptor,
        }
        mounting {
            a_covered_mount_is_said_to_be_left_behind,
            a_mount_that_was_moved_is_unmounted_where_it_is,
            a_device_closed_to_the_user_is_said_to_be,
        }
        namespaces {
            it_mounts_in_a_user_namespace,
            the_demo_goes_on_to_a_namespace_where_fusermount_fails,
        }
    };
    let trials = trials.into_iter();
    let trials = trials.map(|trial| trial.with_ignored_flag(left_out));
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// Runs a Python program as a user, with the mount as its first argument.
fn python_as(uid: u32, daemon: &Daemon, program: &str) -> Output {
    let mut command = Command::new("python3");
    command
        .args(["-I", "-c", program])
        .arg(daemon.mount())
        .uid(uid)
        .gid(uid);
    command.output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Lets other users search the directories above the mount.
fn open_home(daemon: &Daemon) {
    fs::set_permissions(daemon.home(), Permissions::from_mode(0o755)).unwrap();
}
