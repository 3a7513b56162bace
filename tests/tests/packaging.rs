//! What is in `packaging/`: that systemd knows each word of it, and that the daemon does, too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kstate_tests::{Running, ServiceManager, Unit, kstatefs, output_of, unmount};
use nix::sys::signal::Signal;

const SYSTEM: &str = include_str!("../../packaging/systemd/system/kstate.service");
const USER: &str = include_str!("../../packaging/systemd/user/kstate.service");
const TMPFILES: &str = include_str!("../../packaging/tmpfiles.d/kstate.conf");

/// Keys that may be used, by section and by the manual page that has them.
const KNOWN: [(&str, &str, &[&str]); 7] = [
    (
        "Unit",
        "systemd.unit(5)",
        &[
            "After",
            "Description",
            "Documentation",
            "StartLimitBurst",
            "StartLimitIntervalSec",
            "Wants",
        ],
    ),
    ("Install", "systemd.unit(5)", &["WantedBy"]),
    (
        "Service",
        "systemd.service(5)",
        &[
            "ExecStart",
            "ExecStartPre",
            "NotifyAccess",
            "Restart",
            "RestartPreventExitStatus",
            "RestartSec",
            "TimeoutStopSec",
            "Type",
            "WatchdogSec",
        ],
    ),
    ("Service", "systemd.kill(5)", &["KillMode"]),
    (
        "Service",
        "systemd.resource-control(5)",
        &["DeviceAllow", "DevicePolicy"],
    ),
    (
        "Service",
        "systemd.exec(5)",
        &[
            "KeyringMode",
            "LimitNOFILE",
            "OOMScoreAdjust",
            "StateDirectory",
            "StateDirectoryMode",
        ],
    ),
    // What takes rights away, all of it in systemd.exec(5).
    ("Service", "restrictions", &RESTRICTIONS),
];

/// Of these, for a user's manager, most imply `NoNewPrivileges=`, with which fusermount3 mounts nothing.
const RESTRICTIONS: [&str; 10] = [
    "CapabilityBoundingSet",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "SystemCallArchitectures",
    "SystemCallErrorNumber",
];

/// The one more whose value is a set.
const FILTER: &str = "SystemCallFilter";

fn units() -> [(&'static str, Unit); 2] {
    [("system", Unit::parse(SYSTEM)), ("user", Unit::parse(USER))]
}

#[test]
fn every_key_of_the_units_is_one_of_its_section_in_a_manual_page() {
    for (which, unit) in units() {
        for setting in unit.settings() {
            let known = KNOWN.iter().any(|(section, _, keys)| {
                *section == setting.section && keys.contains(&setting.key.as_str())
            });
            let filter = setting.section == "Service" && setting.key == FILTER;
            assert!(known || filter, "{which}: {setting:?}");
        }
    }
}

/// systemd.exec(5) says of each of these that it makes a mount namespace, or of the last ones that they imply one that does.
#[test]
fn no_key_gives_the_unit_a_mount_namespace_of_its_own() {
    let begins = [
        "Private",
        "Protect",
        "Root",
        "Mount",
        "Bind",
        "TemporaryFile",
    ];
    let ends = ["Paths", "Images", "Image", "Directories"];
    let others = [
        "DynamicUser",
        "ProcSubset",
        "ExtensionImages",
        "RuntimeDirectory",
    ];
    for (which, unit) in units() {
        for setting in unit.settings() {
            let key = setting.key.as_str();
            let bad = begins.iter().any(|begin| key.starts_with(begin))
                || ends.iter().any(|end| key.ends_with(end))
                || others.contains(&key);
            assert!(!bad, "{which}: {setting:?}");
            // `StateDirectory=a:b` makes a link, which takes one.
            assert!(
                key != "StateDirectory" || !setting.value.contains(':'),
                "{which}"
            );
        }
    }
}

#[test]
fn nothing_unmounts_what_a_killed_daemon_leaves_or_ends_what_it_left_running() {
    for (which, unit) in units() {
        assert_eq!(unit.value("KillMode"), "process", "{which}");
        assert_eq!(unit.value("Restart"), "on-failure", "{which}");
        assert_eq!(unit.value("Type"), "notify", "{which}");
        assert_eq!(unit.value("NotifyAccess"), "main", "{which}");
        let stops = |key: &str| key.starts_with("ExecStop");
        assert!(!unit.settings().iter().any(|s| stops(&s.key)), "{which}");
    }
}

#[test]
fn a_users_unit_lets_fusermount_gain_its_privileges() {
    let unit = Unit::parse(USER);
    for setting in unit.settings() {
        let key = setting.key.as_str();
        assert!(!RESTRICTIONS.contains(&key) && key != FILTER, "{setting:?}");
    }
}

/// A unit's command line as systemd would make it, of the daemon under test and in a directory of the test's.
fn command(unit: &Unit, home: &Path) -> (Command, PathBuf) {
    let mount = home.join("kstate");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let words = unit.words("ExecStart").into_iter().map(|word| {
        word.replace("${STATE_DIRECTORY}", &text(&home.join("lib")))
            .replace("%t/kstate", &text(&mount))
            .replace("/run/kstate", &text(&mount))
    });
    let words: Vec<_> = words.collect();
    assert_eq!(words[0], "/usr/bin/kstatefs");
    let mut command = Command::new(kstatefs());
    command.args(&words[1..]);
    (command, mount)
}

#[test]
fn the_daemon_runs_as_each_unit_starts_it() {
    for (which, unit) in units() {
        let home = tempfile::tempdir().unwrap();
        let (mut command, mount) = command(&unit, home.path());
        std::fs::create_dir(&mount).unwrap();
        std::fs::create_dir(home.path().join("lib")).unwrap();
        let manager = ServiceManager::at_path(home.path());
        command.env("NOTIFY_SOCKET", &manager.name);
        let mut daemon = Running::start(&mut command);
        let told = manager.told();
        let listed = home.path().join("lib/manifest").exists();
        daemon.signal(Signal::SIGTERM);
        let status = daemon.finish();
        unmount(&mount);
        assert!(told.has("READY=1"), "{which}: {told:?}");
        assert!(listed, "{which}");
        assert!(status.success(), "{which}");
    }
}

/// Runs a program of systemd's; none where it is not there.
fn systemd(program: &str, arguments: &[&str], home: &Path) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(arguments).env("XDG_RUNTIME_DIR", home);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn() {
        Ok(child) => Some(output_of(child)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("there is no {program} here: it is not asked");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    for (which, text) in [("system", SYSTEM), ("user", USER)] {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("kstate.service");
        let daemon = kstatefs();
        let text = text.replace("/usr/bin/kstatefs", daemon.to_str().unwrap());
        std::fs::write(&file, text).unwrap();
        let manager = format!("--{which}");
        let arguments = [&manager, "verify", file.to_str().unwrap()];
        let Some(output) = systemd("systemd-analyze", &arguments, home.path()) else {
            return;
        };
        assert!(output.status.success(), "{which}: {output:?}");
        assert!(output.stderr.is_empty(), "{which}: {output:?}");
    }
}

/// tmpfiles.d(5): type, path, mode, user, group, age, argument.
#[test]
fn the_mount_point_is_made_for_everybody_to_enter() {
    let lines = TMPFILES.lines().filter(|line| !line.starts_with('#'));
    let lines: Vec<Vec<_>> = lines
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines, [["d", "/run/kstate", "0755", "root", "root", "-"]]);
    assert!(
        Unit::parse(SYSTEM)
            .value("ExecStart")
            .ends_with(" /run/kstate")
    );
    let home = tempfile::tempdir().unwrap();
    let (rule, root) = (home.path().join("kstate.conf"), home.path().join("root"));
    // Only root may give it to root.
    let own = |user: bool| match user {
        true => nix::unistd::geteuid().to_string(),
        false => nix::unistd::getegid().to_string(),
    };
    let line = format!("d /run/kstate 0755 {} {} -\n", own(true), own(false));
    let text = match nix::unistd::geteuid().is_root() {
        true => TMPFILES,
        false => line.as_str(),
    };
    std::fs::write(&rule, text).unwrap();
    std::fs::create_dir(&root).unwrap();
    let at = format!("--root={}", root.display());
    let arguments = ["--create", at.as_str(), rule.to_str().unwrap()];
    if let Some(output) = systemd("systemd-tmpfiles", &arguments, home.path()) {
        use std::os::unix::fs::PermissionsExt;
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        let made = std::fs::metadata(root.join("run/kstate")).unwrap();
        assert_eq!(made.permissions().mode() & 0o7777, 0o755);
    }
}
