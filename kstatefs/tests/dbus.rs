//! Announcing on D-Bus, on a bus of the test's own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kstatefs::{Config, Server};
use tempfile::TempDir;
use zbus::MatchRule;
use zbus::blocking::connection::Builder;
use zbus::blocking::{Connection, MessageIterator};

/// How long anything may take that ought to take no time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Name, generation, length, time and process.
type Body = (String, u64, u32, u64, u32);

/// A bus that nothing else uses; it ends with the test.
struct Bus(Child);

impl Bus {
    fn address(directory: &Path) -> String {
        format!("unix:path={}", directory.join("bus").display())
    }

    #[track_caller]
    fn start(directory: &Path) -> Self {
        let _ = std::fs::remove_file(directory.join("bus"));
        let address = Self::address(directory);
        let config = directory.join("bus.conf");
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
             <busconfig><type>session</type><listen>{address}</listen>\n\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\n\
             <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut bus = Command::new("dbus-daemon");
        bus.args(["--nofork", "--print-address=1", "--config-file"]);
        let bus = bus.arg(&config).stdout(Stdio::piped()).spawn();
        let mut bus = Self(bus.expect("dbus-daemon, as in the package dbus-daemon"));
        // It prints its address once it listens.
        let mut line = String::new();
        let output = bus.0.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert!(line.starts_with(&address), "{line}");
        bus
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Who listens to a bus. What comes is read by a thread of its own, so that it can be waited for with patience.
struct Listener {
    signals: std::sync::mpsc::Receiver<Body>,
    _connection: Connection,
}

impl Listener {
    fn on(address: &str) -> Self {
        let connection = Builder::address(address).unwrap();
        let connection = connection.method_timeout(PATIENCE).build().unwrap();
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .interface("org.kstate.State")
            .unwrap()
            .member("Committed")
            .unwrap()
            .path("/org/kstate")
            .unwrap()
            .build();
        let messages = MessageIterator::for_match_rule(rule, &connection, Some(10_000)).unwrap();
        let (sender, signals) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for message in messages.map_while(Result::ok) {
                let body: Body = message.body().deserialize().unwrap();
                if sender.send(body).is_err() {
                    return;
                }
            }
        });
        Self {
            signals,
            _connection: connection,
        }
    }

    #[track_caller]
    fn next(&self) -> Body {
        self.signals.recv_timeout(PATIENCE).expect("a signal")
    }
}

/// A file system of this process's; unmounted however the test ends.
struct Serving {
    server: Option<Server>,
    path: PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.server.take().map(Server::stop) {
            eprintln!("{error}");
        }
    }
}

fn serve(directory: &Path) -> Serving {
    let mount = directory.join("mount");
    std::fs::create_dir(&mount).unwrap();
    let mut config = Config::new(mount);
    config.dbus = Some(Bus::address(directory).parse().unwrap());
    config.handle_signals = false;
    let server = Server::start(config).unwrap();
    Serving {
        path: server.mounted().path.clone(),
        server: Some(server),
    }
}

/// By another process: this one serves the file system, and a call of its own could wait for itself.
#[track_caller]
fn shell(script: &str, path: &Path) -> String {
    let mut shell = Command::new("bash");
    let output = shell.args(["-c", script, "bash"]).arg(path).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

const ANNOUNCE: &str = "python3 -Ic 'import os, sys
os.setxattr(sys.argv[1], \"user.kstate.announce\", b\"dbus\")' \"$1\"";

fn place() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("kstate-test-dbus-").tempdir().unwrap()
}

fn dropped(server: &Serving, cause: &str) -> u64 {
    let path = server.path.join(".kstate/metrics");
    let text = shell("cat \"$1\"", &path);
    let name = format!("kstate_announcements_dropped_total{{sink=\"dbus\",cause=\"{cause}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_commit_is_a_signal_with_name_and_record() {
    let directory = place();
    let _bus = Bus::start(directory.path());
    let listener = Listener::on(&Bus::address(directory.path()));
    let server = serve(directory.path());
    // D-Bus carries any name as text.
    let path = server.path.join("front_door-1");
    let begin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    shell("exec 3<>\"$1\"; chmod +t \"$1\"", &path);
    shell(ANNOUNCE, &path);
    let pid = shell("echo -n open > \"$1\"; echo $$", &path);
    let (name, generation, length, time_ns, writer) = listener.next();
    assert_eq!((name.as_str(), generation, length), ("front_door-1", 1, 4));
    assert_eq!(writer.to_string(), pid);
    let slack = Duration::from_millis(10);
    let range = begin.saturating_sub(slack)..begin + PATIENCE;
    assert!(range.contains(&Duration::from_nanos(time_ns)));
    // Many at once, and the last one always.
    shell("for i in {1..2000}; do echo $i > \"$1\"; done", &path);
    let mut last = 1;
    while last < 2001 {
        let (_, generation, ..) = listener.next();
        assert!(generation > last);
        last = generation;
    }
}

#[test]
fn a_bus_that_is_not_there_is_counted_and_connected_to_later() {
    let directory = place();
    let server = serve(directory.path());
    let path = server.path.join("door");
    shell("exec 3<>\"$1\"; chmod +t \"$1\"", &path);
    shell(ANNOUNCE, &path);
    let await_lost = |cause: &[&str], count: u64| {
        let start = Instant::now();
        let lost = || {
            cause
                .iter()
                .map(|cause| dropped(&server, cause))
                .sum::<u64>()
        };
        while lost() != count {
            assert!(start.elapsed() < PATIENCE, "{count} are lost");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    shell("echo lost > \"$1\"", &path);
    await_lost(&["absent"], 1);
    let mut bus = Bus::start(directory.path());
    let address = Bus::address(directory.path());
    for generation in [2, 4] {
        let listener = Listener::on(&address);
        shell("echo heard > \"$1\"", &path);
        let (name, found, ..) = listener.next();
        assert_eq!((name.as_str(), found), ("door", generation));
        drop(bus);
        // The connection is found broken, or no bus any more.
        shell("echo lost > \"$1\"", &path);
        await_lost(&["absent", "failed"], 1 + generation / 2);
        bus = Bus::start(directory.path());
    }
}
