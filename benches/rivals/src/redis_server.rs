//! A Redis server for the run: on a Unix socket, keeping nothing on disk.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server; ended when dropped.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    /// From the start until it answered.
    pub(crate) started_in: Duration,
    pub(crate) version: String,
}

impl RedisServer {
    /// Starts the one of this machine, or says why there is none.
    pub(crate) fn start(directory: &Path, install: bool) -> Result<Self, String> {
        let program = match find() {
            Some(program) => program,
            None if install => {
                install_package()?;
                find().ok_or("redis-server was installed and is not found")?
            }
            None => {
                return Err("redis-server is missing here; `run --install` as root gets it".into());
            }
        };
        let socket = directory.join("redis.sock");
        let start = Instant::now();
        let child = Command::new(&program)
            .arg("--port")
            .arg("0")
            .arg("--unixsocket")
            .arg(&socket)
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server does not start: {error}"))?;
        let mut server = Self {
            child,
            started_in: Duration::ZERO,
            version: version(&program),
        };
        while !answers(&socket) {
            if start.elapsed() > PATIENCE {
                return Err("redis-server does not answer".into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        server.started_in = start.elapsed();
        Ok(server)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It keeps nothing, so there is nothing to be saved.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("redis-server was not ended: {error}");
        }
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join("redis-server"))
        .find(|program| program.is_file())
}

fn version(program: &Path) -> String {
    let said = Command::new(program).arg("--version").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let said = said.unwrap_or_default();
    let version = said
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="));
    version.unwrap_or("?").to_owned()
}

fn answers(socket: &Path) -> bool {
    let Ok(client) = redis::Client::open(format!("redis+unix://{}", socket.display())) else {
        return false;
    };
    let connection = client.get_connection();
    connection.is_ok_and(|mut connection| redis::cmd("PING").exec(&mut connection).is_ok())
}

/// By the package manager, without the service that would come with it.
fn install_package() -> Result<(), String> {
    let done = Command::new("apt-get")
        .args([
            "install",
            "--yes",
            "--no-install-recommends",
            "redis-server",
        ])
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The package's script does not start what this forbids.
        .env("RUNLEVEL", "1")
        .stdout(Stdio::null())
        .status();
    match done {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("apt-get install redis-server: {status}")),
        Err(error) => Err(format!("apt-get cannot be run: {error}")),
    }
}
