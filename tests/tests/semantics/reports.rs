//! What is told of the mount as text: `version`, `states`, `metrics` in `.kstate`; what a request is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;

use kstate_sys::abi::{ABI_VERSION, page_size};
use kstate_tests::{Daemon, PATIENCE, Setup, eventually};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde_json::{Value, json};

use crate::polling::readable;
use crate::{create, errno, in_control, python, replace, start_python};

both_ways!(
    the_version_says_what_serves_and_how,
    every_state_is_a_line_of_json,
    reports_are_read_anew_from_their_beginning,
    a_user_has_64_reports_open,
    reports_cannot_be_changed,
    metrics_are_text_that_prometheus_reads,
    commits_conflicts_reads_and_subscribers_are_counted,
    totals_keep_those_of_states_that_have_gone,
    a_wake_is_counted_when_somebody_waits,
    a_read_and_a_write_are_a_request_each,
    waiting_costs_requests_only_when_something_changes,
);

fn report(daemon: &Daemon, name: &str) -> String {
    fs::read_to_string(daemon.file(".kstate").join(name)).unwrap()
}

/// What each metric is, by its name with its labels.
#[track_caller]
fn metrics(daemon: &Daemon) -> BTreeMap<String, u64> {
    let text = report(daemon, "metrics");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    samples.map(sample).collect()
}

fn requests(daemon: &Daemon, kind: &str) -> u64 {
    metrics(daemon)[&format!("kstate_requests_total{{request=\"{kind}\"}}")]
}

fn of_x(metric: &str) -> String {
    format!("kstate_state_{metric}{{state=\"x\"}}")
}

fn the_version_says_what_serves_and_how(setup: Setup) {
    let without = format!("{setup:?}").contains("passthrough=off");
    for notify in ["auto", "futex"] {
        let setup = setup.clone().with(format!("--notify-by={notify}"));
        let daemon = setup.start();
        let text = report(&daemon, "version");
        let said: BTreeMap<_, _> = text.lines().map(|l| l.split_once(' ').unwrap()).collect();
        assert_eq!(said.len(), 5, "{text}");
        assert_eq!(said["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(said["abi"], ABI_VERSION.to_string());
        assert_eq!(said["page"], page_size().to_string());
        match without {
            true => assert_eq!(said["transport"], "socket"),
            false => assert!(["passthrough", "socket"].contains(&said["transport"])),
        }
        match notify {
            "futex" => assert_eq!(said["notify"], "futex_waitv"),
            _ => assert!(["io_uring", "futex_waitv"].contains(&said["notify"])),
        }
    }
}

kstate::layout! {
    /// Something that has a layout.
    struct Position { x: f64, y: f64 }
}

fn every_state_is_a_line_of_json(setup: Setup) {
    let daemon = setup.start();
    assert_eq!(report(&daemon, "states"), "");
    let _b = create(&daemon, "b");
    let library = daemon.library();
    let subscribe = library.subscribe("a").mode(0o640).keep();
    let subscribe = subscribe.linger(std::time::Duration::from_secs(2));
    let a = subscribe.write().typed::<Position>().unwrap();
    a.publish(&Position { x: 1.0, y: 2.0 }).unwrap();
    let text = report(&daemon, "states");
    let states: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let [a, b] = &states[..] else {
        panic!("{text}")
    };
    for (key, value) in [
        ("state", json!("a")),
        ("generation", json!(1)),
        ("length", json!(16)),
        ("mode", json!("1640")),
        ("subscribers", json!(1)),
        ("writers", json!(1)),
        ("waiters", json!(0)),
        ("linger_ns", json!(2_000_000_000)),
        ("kept", json!(true)),
        ("deadline_ns", Value::Null),
        ("overdue", json!(false)),
    ] {
        assert_eq!(a[key], value, "{key} of {a}");
    }
    assert!(a["modified_ns"].is_u64() && a["layout"].is_string());
    assert_eq!(a["layout_id"].as_str().unwrap().len(), 16);
    let unwritten = (&b["state"], &b["generation"], &b["age_ns"], &b["layout"]);
    assert_eq!(
        unwritten,
        (&json!("b"), &json!(0), &Value::Null, &Value::Null)
    );
    assert_eq!(a.as_object().unwrap().len(), b.as_object().unwrap().len());
    let ids = python(
        "print(os.stat(path + '/a').st_ino, os.stat(path + '/b').st_ino)",
        daemon.mount(),
    );
    assert_eq!(ids, format!("{} {}\n", a["id"], b["id"]));
}

fn reports_are_read_anew_from_their_beginning(setup: Setup) {
    let daemon = setup.start();
    let _x = create(&daemon, "x");
    let file = File::open(daemon.file(".kstate/states")).unwrap();
    let from = |offset| {
        let mut bytes = [0; 4096];
        let length = file.read_at(&mut bytes, offset).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let before = from(0);
    assert_eq!(before.lines().count(), 1);
    let _y = create(&daemon, "y");
    assert_eq!(from(5), before[5..]);
    assert_eq!(from(4000), "");
    assert_eq!(from(0).lines().count(), 2);
    assert!(readable(&file, std::time::Duration::ZERO));
    assert_eq!(file.metadata().unwrap().len(), 0);
    // Longer than any buffer.
    let files: Vec<_> = (0..500)
        .map(|n| create(&daemon, &format!("many.{n}")))
        .collect();
    assert_eq!(report(&daemon, "states").lines().count(), 502);
    let mut buffered = std::io::BufReader::with_capacity(100, &file);
    let mut text = String::new();
    buffered.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), 502);
    drop(files);
}

fn a_user_has_64_reports_open(setup: Setup) {
    let daemon = setup.start();
    let open = || File::open(daemon.file(".kstate/states"));
    let mut files: Vec<_> = (0..64).map(|_| open().unwrap()).collect();
    assert_eq!(errno(open()), libc::ENFILE);
    files.pop();
    kstate_tests::eventually("one is closed", || open().ok());
}

fn reports_cannot_be_changed(setup: Setup) {
    let daemon = setup.start();
    for name in ["version", "states", "metrics"] {
        let file = daemon.file(".kstate").join(name);
        let program = "
print(*[said(work) for work in (
    lambda: os.open(path, os.O_WRONLY), lambda: os.open(path, os.O_RDWR | os.O_CREAT),
    lambda: os.unlink(path), lambda: os.chmod(path, 0o600), lambda: os.rename(path, path + '2'),
    lambda: os.open(path + '2', os.O_RDWR | os.O_CREAT), lambda: os.stat(path + '@4hz'))])
print(oct(stat.S_IMODE(os.stat(path).st_mode)), os.listxattr(path))
";
        let no = in_control("EPERM");
        let expected = format!("EACCES EACCES {no} EPERM {no} {no} ENOENT\n0o444 []\n");
        assert_eq!(python(program, &file), expected, "{name}");
    }
}

fn metrics_are_text_that_prometheus_reads(setup: Setup) {
    let daemon = setup.start();
    let _states = ["x", "a.b-c_d"].map(|name| create(&daemon, name));
    let text = report(&daemon, "metrics");
    assert!(text.ends_with('\n'));
    let (mut kinds, mut family) = (BTreeMap::new(), String::new());
    let mut samples = std::collections::BTreeSet::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(!help.is_empty());
            let kind = lines.next().unwrap().strip_prefix("# TYPE ").unwrap();
            let kind = kind.strip_prefix(name).unwrap().trim();
            assert!(["counter", "gauge"].contains(&kind), "{kind}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            assert!(
                kinds.insert(name.to_owned(), kind).is_none(),
                "{name} twice"
            );
            family = name.to_owned();
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(samples.insert(name), "{name} twice");
        let bare = name.split('{').next().unwrap();
        assert_eq!(bare, family, "a sample is behind its family's head");
        assert!(
            bare.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        );
        if let Some(label) = name.strip_prefix(bare).filter(|label| !label.is_empty()) {
            let label = label
                .strip_prefix('{')
                .unwrap()
                .strip_suffix("\"}")
                .unwrap();
            let (key, of) = label.split_once("=\"").unwrap();
            assert!(["state", "request"].contains(&key) && !of.contains(['"', '\\']));
        }
        value.parse::<u64>().unwrap();
    }
    for name in [
        "commits_total",
        "conflicts_total",
        "reads_total",
        "wakes_total",
        "subscribers",
    ] {
        assert!(kinds.contains_key(&format!("kstate_{name}")));
        for state in ["x", "a.b-c_d"] {
            let name = format!("kstate_state_{name}{{state=\"{state}\"}}");
            assert!(samples.contains(name.as_str()), "{name}");
        }
    }
}

fn commits_conflicts_reads_and_subscribers_are_counted(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    replace(&daemon, "x", b"1");
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    state.publish(b"2").unwrap();
    for _ in 0..3 {
        file.read_exact_at(&mut [0; 1], 0).unwrap();
    }
    state.publish(b"3").unwrap();
    assert_eq!(errno(file.write_at(b"4", 0)), libc::ESTALE);
    let mut transaction = state.begin().unwrap();
    transaction.set(b"5");
    replace(&daemon, "x", b"6");
    assert!(transaction.commit().unwrap().is_conflict());
    // A close is told to the daemon behind the caller's back.
    let found = eventually("its subscribers are those two", || {
        Some(metrics(&daemon)).filter(|found| found["kstate_subscribers"] == 2)
    });
    for (metric, count) in [
        ("commits_total", 4),
        ("conflicts_total", 2),
        ("reads_total", 3),
        ("subscribers", 2),
        ("writers", 2),
        ("waiters", 0),
    ] {
        assert_eq!(found[&of_x(metric)], count, "{metric}");
        assert_eq!(found[&format!("kstate_{metric}")], count, "{metric} in all");
    }
    assert_eq!(found["kstate_states"], 1);
}

fn totals_keep_those_of_states_that_have_gone(setup: Setup) {
    let daemon = setup.start();
    for (round, name) in (1_u64..).zip(["x", "y", "x"]) {
        let file = create(&daemon, name);
        file.write_all_at(b"1", 0).unwrap();
        file.read_exact_at(&mut [0; 1], 0).unwrap();
        match round {
            1 => fs::remove_file(daemon.file(name)).unwrap(),
            _ => drop(file),
        }
        let found = eventually("it has gone", || {
            Some(metrics(&daemon)).filter(|found| found["kstate_states"] == 0)
        });
        assert_eq!(found["kstate_commits_total"], round);
        assert_eq!(found["kstate_reads_total"], round);
        assert_eq!(found["kstate_subscribers"], 0);
        assert!(!found.contains_key(&of_x("commits_total")));
    }
}

fn a_wake_is_counted_when_somebody_waits(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    state.publish(b"1").unwrap();
    assert_eq!(metrics(&daemon)["kstate_wakes_total"], 0);
    let program = "print(os.read(view := os.open(path + '@wait', os.O_RDONLY), 9), flush=True)
print(os.read(view, 9), flush=True)";
    let mut python = start_python(program, &daemon.file("x"));
    assert_eq!(python.line(), "b'1'");
    eventually("it waits", || {
        (metrics(&daemon)["kstate_waiters"] == 1).then_some(())
    });
    state.publish(b"2").unwrap();
    assert_eq!(python.line(), "b'2'");
    assert_eq!(metrics(&daemon)["kstate_wakes_total"], 1);
}

fn a_read_and_a_write_are_a_request_each(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let view = File::open(daemon.file("x@4hz")).unwrap();
    let before = ["read", "write"].map(|kind| requests(&daemon, kind));
    for _ in 0..100 {
        file.write_all_at(&[1; 4096], 0).unwrap();
        file.read_exact_at(&mut [0; 4096], 0).unwrap();
        view.read_exact_at(&mut [0; 4096], 0).unwrap();
    }
    let after = ["read", "write"].map(|kind| requests(&daemon, kind));
    assert_eq!(after[1] - before[1], 100);
    // Reading the metrics is some reads as well.
    let reads = after[0] - before[0];
    assert!((200..240).contains(&reads), "{reads}");
}

fn waiting_costs_requests_only_when_something_changes(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    for name in ["x", "x@1ms", "x@wait"] {
        let mut file = File::open(daemon.file(name)).unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        epoll
            .add(&file, EpollEvent::new(EpollFlags::EPOLLIN, 1))
            .unwrap();
        let mut wait = |milliseconds: u16| {
            let found = epoll
                .wait(&mut [EpollEvent::empty()], milliseconds)
                .unwrap();
            if found == 1 {
                match name {
                    "x@wait" => file.read_exact(&mut [0; 1]).unwrap(),
                    _ => file.read_exact_at(&mut [0; 1], 0).unwrap(),
                }
            }
            found
        };
        let patience = u16::try_from(PATIENCE.as_millis()).unwrap();
        state.publish(b"0").unwrap();
        assert_eq!(wait(patience), 1);
        let before = requests(&daemon, "poll");
        for _ in 0..50 {
            state.publish(b"1").unwrap();
            assert_eq!(wait(patience), 1);
        }
        let polls = requests(&daemon, "poll") - before;
        assert!(polls <= 50 * 8, "{polls} by {name}");
        assert_eq!(wait(0), 0);
        let before = requests(&daemon, "poll");
        assert_eq!(wait(500), 0);
        // Who begins to wait asks once more, whether to wait.
        let polls = requests(&daemon, "poll") - before;
        assert!(polls <= 2, "{polls} by {name}");
    }
}
