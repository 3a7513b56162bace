//! What only root can test: other users, a full tmpfs, namespaces. Run by anybody else, each is
//! listed as left out.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod calls;
mod confined;
mod epoch;
mod full;
mod mapping;
mod mounting;
mod namespaces;
mod persisting;
mod processes;
mod readers;
mod restart;
mod rights;
mod socket;
mod takeover;
mod told;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use kstate_tests::{Daemon, User, is_real_root};
use libtest_mimic::{Arguments, Trial};

/// Who owns what the tests are about.
const ALICE: User = User::alone(64_001);
/// Who has nothing to do with it.
const BOB: User = User::alone(64_002);
/// In the group of what is Alice's, first of all.
const CAROL: User = User {
    uid: 64_003,
    gid: ALICE.gid,
    groups: &[],
};
/// In it, among others.
const DAVE: User = User {
    uid: 64_004,
    gid: 64_004,
    groups: &[64_100, ALICE.gid],
};
const ROOT: User = User::alone(0);

const EVERYBODY: [(&str, User); 5] = [
    ("owner", ALICE),
    ("member", CAROL),
    ("member among others", DAVE),
    ("stranger", BOB),
    ("root", ROOT),
];

/// Those worth a look; in some of them the owner may less than others.
const MODES: [u32; 9] = [
    0o600, 0o640, 0o620, 0o644, 0o660, 0o000, 0o604, 0o066, 0o004,
];

/// What somebody may do with a file of Alice's and her group.
#[derive(Clone, Copy, Debug)]
struct May {
    read: bool,
    write: bool,
    own: bool,
    root: bool,
}

impl May {
    /// By the rules of path_resolution(7).
    fn of(user: User, mode: u32) -> Self {
        let root = user == ROOT;
        let own = user.uid == ALICE.uid;
        let member = user.gid == ALICE.gid || user.groups.contains(&ALICE.gid);
        let bits = match () {
            () if root => 0o7,
            () if own => mode >> 6,
            () if member => mode >> 3,
            () => mode,
        };
        Self {
            read: bits & 4 != 0,
            write: bits & 2 != 0,
            own: own || root,
            root,
        }
    }
}

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
            only_the_owner_sets_a_deadline,
            only_the_owner_chooses_where_a_state_is_announced,
            a_private_mount_is_closed_to_others,
            a_layout_recorded_before_the_first_version_is_compared,
        }
        calls {
            every_call_says_what_the_mode_says,
            the_library_subscribes_as_the_mode_says,
        }
        confined {
            it_serves_with_no_more_rights_than_its_unit_has,
            each_right_of_the_unit_is_needed,
        }
        full {
            a_full_tmpfs_is_enospc_at_subscribe,
            a_full_tmpfs_refuses_plain_writes_and_keeps_the_old_value,
            room_for_the_header_but_not_the_live_page,
            a_hole_in_a_full_tmpfs_kills_nobody,
        }
        epoch {
            who_sleeps_begins_again_in_another_epoch,
        }
        restart {
            states_are_as_they_were_behind_a_daemon_that_was_killed,
            programs_without_the_library_open_their_files_again,
            a_daemon_that_is_killed_again_and_again_leaves_nothing_behind,
            groups_of_the_dead_are_free_again_and_those_of_the_living_are_not,
            a_group_of_before_is_held_through_a_new_file,
            commits_of_several_states_cut_short_with_the_daemon_are_settled,
            a_state_goes_whose_subscribers_died_with_the_daemon_and_stays_for_a_silent_one,
            who_waited_is_woken_by_a_commit_behind_the_restart,
            of_two_daemons_started_at_once_one_serves_and_the_other_says_so,
            a_daemon_takes_the_place_of_one_that_serves,
            a_daemon_elsewhere_leaves_the_states_of_a_dead_one_alone,
            a_daemon_killed_while_it_takes_over_loses_nothing,
            a_daemon_takes_over_on_a_full_tmpfs,
            undoing_a_dead_mount_gives_its_states_up,
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
        persisting {
            a_file_is_opened_with_the_rights_of_who_asks,
            all_groups_of_who_asks_count,
            root_gives_a_users_state_a_file_that_is_the_users,
            a_users_file_is_opened_as_the_user_when_it_mounts,
            a_full_disk_is_told_counted_and_got_over,
            a_user_has_no_power_over_the_daemon_that_opens_for_him,
            what_is_written_in_a_file_does_not_say_whose_its_state_is,
            a_state_that_is_given_away_takes_its_file_along,
            a_listed_name_is_its_owners_while_its_file_is_away,
        }
        processes {
            another_user_finds_no_way_through_proc,
        }
        readers {
            a_reader_changes_nothing_through_his_map,
            ioctls_do_what_the_descriptor_and_the_owner_may,
            a_waiter_moved_away_by_a_reader_looks_by_itself,
            the_same_user_without_passthrough_may_write_what_it_may_read,
        }
        socket {
            a_ticket_is_good_once_for_who_asked,
            a_ticket_is_for_what_its_file_may,
            tickets_expire_and_who_keeps_silent_is_hung_up_on,
            with_passthrough_no_ticket_is_good_for_a_region,
            those_who_may_enter_the_mount_reach_its_socket,
        }
        takeover {
            a_ledger_cut_short_is_believed_up_to_there,
            a_damaged_ledger_is_set_aside,
            what_another_version_has_left_is_not_given_up,
            what_does_not_say_whose_it_is_is_left_alone,
            what_somebody_holds_is_waited_for_and_never_given_up,
            who_cannot_take_the_place_of_a_daemon_does_not_end_it,
            a_server_is_asked_to_leave_before_it_waits_for_that,
            states_stay_where_a_takeover_fails,
            a_daemon_shares_no_map_of_a_region_with_what_it_splits_off,
        }
        told {
            nobody_is_told_of_states_that_he_may_not_read,
            an_open_stream_tells_no_more_of_a_state_that_is_closed_to_its_reader,
            a_state_opened_again_to_the_reader_of_a_stream_is_present,
            what_is_passed_on_tells_what_its_opener_may_read,
            records_of_commits_are_their_owners,
            what_any_directory_shows_is_shown,
        }
    };
    let trials = trials.into_iter();
    let trials = trials.map(|trial| trial.with_ignored_flag(left_out));
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// Runs a Python program as a user, with the mount as its first argument.
fn python_as(user: User, daemon: &Daemon, program: &str) -> Output {
    let mut command = Command::new("python3");
    command
        .args(["-I", "-c", program])
        .arg(daemon.mount())
        .uid(user.uid)
        .gid(user.gid);
    command.output().unwrap()
}

/// A Python program of a user's with what `prelude.py` has.
fn prepared(user: User, daemon: &Daemon, program: &str) -> Command {
    let mut command = Command::new("python3");
    let program = format!("{}{program}", include_str!("prelude.py"));
    command.args(["-I", "-c", &program]).arg(daemon.mount());
    command.arg(kstate_sys::ioctl::TICKET.to_string());
    command.uid(user.uid).gid(user.gid);
    command
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Lets other users search the directories above the mount.
fn open_home(daemon: &Daemon) {
    fs::set_permissions(daemon.home(), Permissions::from_mode(0o755)).unwrap();
}

/// Creates a state that is another user's, and keeps it.
fn create_for(daemon: &Daemon, name: &str, owner: User) -> File {
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true);
    let file = options.open(daemon.file(name)).unwrap();
    std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid)).unwrap();
    file
}

fn set_mode(daemon: &Daemon, name: &str, mode: u32) {
    fs::set_permissions(daemon.file(name), Permissions::from_mode(mode)).unwrap();
}
