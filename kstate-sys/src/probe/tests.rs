//! The probe, tried as root, as an ordinary user, beside other threads and under a filter that
//! kills.

#![expect(
    unsafe_code,
    reason = "a seccomp filter and a signal disposition have no safe wrapper"
)]

use super::*;
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

const ALONE: &str = "KSTATE_PROBE_ALONE";
const NOBODY: u32 = 65534;

#[test]
fn names_are_kebab_case_and_used_once() {
    let names: BTreeSet<_> = Feature::ALL.iter().map(|feature| feature.name()).collect();
    assert_eq!(names.len(), Feature::ALL.len());
    for name in names {
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
            "{name}"
        );
    }
}

#[test]
fn every_feature_is_reported_in_its_place() {
    let report = probe();
    assert_eq!(report.iter().count(), Feature::ALL.len());
    for &feature in Feature::ALL {
        let found = report.get(feature);
        assert_eq!((found.feature, found.name), (feature, feature.name()));
        assert!(
            !found.detail.is_empty() && !found.consequence.is_empty(),
            "{found:?}"
        );
        assert!(!found.is_available() || found.advice.is_none(), "{found:?}");
        let _ = writeln!(
            std::io::stdout(),
            "{:?} {feature}: {} -> {} [{}]",
            found.status,
            found.detail,
            found.consequence,
            found.advice.unwrap_or("-"),
        );
    }
}

#[test]
fn threads_may_probe_at_once() {
    let status = |report: &Report| report.iter().map(|found| found.status).collect::<Vec<_>>();
    let alone = status(&probe());
    std::thread::scope(|scope| {
        let probing: Vec<_> = (0..4).map(|_| scope.spawn(|| status(&probe()))).collect();
        for thread in probing {
            assert_eq!(thread.join().unwrap(), alone);
        }
    });
}

/// The calls that the probe must not make without trying them on a child first.
#[test]
fn filter_that_kills_is_reported_and_survived() {
    let calls = [
        (libc::SYS_io_uring_setup, Feature::IoUring),
        (libc::SYS_futex_waitv, Feature::FutexWaitv),
        (libc::SYS_pidfd_open, Feature::PidfdOpen),
        (libc::SYS_memfd_create, Feature::MemfdSealing),
        (libc::SYS_userfaultfd, Feature::Userfaultfd),
    ];
    for (call, feature) in calls {
        // A filter binds the thread that installs it, and ends with it.
        let thread = std::thread::spawn(move || {
            kill_for(call);
            (probe_one(feature), probe_one(Feature::SeccompUnfiltered))
        });
        let (found, seccomp) = thread.join().unwrap();
        assert_eq!(found.status, Status::Unavailable, "{found:?}");
        assert!(found.detail.contains("seccomp filter kills"), "{found:?}");
        assert_eq!(seccomp.status, Status::Unavailable, "{seccomp:?}");
    }
}

/// Has the kernel kill the process for `call`, from this thread.
fn kill_for(call: libc::c_long) {
    let instruction = |code: u32, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: 0,
        jf,
        k,
    };
    let mut filter = [
        // The call's number is the first word of struct seccomp_data.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            call.try_into().unwrap(),
        ),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            libc::SECCOMP_RET_KILL_PROCESS,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the option takes plain numbers.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(set, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `program` and its four instructions are alive throughout.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// What a probe could leave behind: descriptors, mounts, children, mappings.
fn belongings() -> [Vec<String>; 4] {
    let names = |directory: &str| {
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let lines = |file: &str| -> Vec<String> {
        std::fs::read_to_string(file)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let children = names("/proc/self/task")
        .iter()
        .flat_map(|task| lines(&format!("/proc/self/task/{task}/children")))
        .collect();
    let shared = lines("/proc/self/maps")
        .into_iter()
        .filter(|map| map.contains("memfd"))
        .collect();
    [
        names("/proc/self/fd"),
        lines("/proc/self/mountinfo"),
        children,
        shared,
    ]
}

#[test]
fn nothing_is_left_behind_by_root_or_an_ordinary_user() {
    // SAFETY: geteuid takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    if std::env::var_os(ALONE).is_none() {
        // Other tests of this process open and close things meanwhile: do it in another.
        for as_user in if user == 0 {
            vec![0, NOBODY]
        } else {
            vec![user]
        } {
            let mut command = Command::new("/proc/self/exe");
            command
                .args([
                    "--exact",
                    "probe::tests::nothing_is_left_behind_by_root_or_an_ordinary_user",
                ])
                .args(["--nocapture", "--test-threads=1"])
                .env(ALONE, "1")
                .stderr(Stdio::inherit());
            if as_user != user {
                command.uid(as_user).gid(as_user);
            }
            let child = match command.output() {
                // Root of a namespace that has no other user: an ordinary user itself.
                Err(error) if as_user != user && error.raw_os_error() == Some(libc::EINVAL) => {
                    continue;
                }
                child => child.unwrap(),
            };
            let said = String::from_utf8_lossy(&child.stdout);
            assert!(child.status.success(), "as user {as_user}:\n{said}");
            assert!(
                said.contains(&format!("probed as user {as_user}")),
                "{said}"
            );
            print!("{said}");
        }
        return;
    }
    let first = probe();
    let before = belongings();
    let second = probe();
    // A program that ignores SIGCHLD has its children collected by the kernel; not ours.
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let third = probe();
    assert_eq!(before, belongings());
    for feature in Feature::ALL {
        assert_eq!(
            first.get(*feature).status,
            second.get(*feature).status,
            "{feature}"
        );
        assert_eq!(
            first.get(*feature).status,
            third.get(*feature).status,
            "{feature}"
        );
    }
    println!("probed as user {user}");
    for found in &second {
        println!("  {:?} {}: {}", found.status, found.name, found.detail);
    }
}
