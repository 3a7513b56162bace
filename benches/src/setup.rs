//! A file system of the run's own, and processes beside it.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use clap::{Args, ValueEnum};
use kstate::{Bytes, Mount, Stamping, State};
use kstatefs::{Config, Server};
use nix::sys::signal::{SigSet, Signal};
use tempfile::TempDir;

use crate::bare::Ring;
use crate::bare_fuse;
use crate::place::pin;
use crate::value::for_size;
use crate::wake::{self, Way};

/// What may go wrong: said, and the run ends.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A daemon in a process of its own, on a temporary directory.
pub(crate) struct Setup {
    daemon: Option<Child>,
    mount: Mount,
    directory: TempDir,
}

impl Setup {
    pub(crate) fn start() -> Result<Self> {
        Self::start_on(None)
    }

    /// With all threads of the daemon on one processor.
    pub(crate) fn start_on(processor: Option<usize>) -> Result<Self> {
        let (directory, path) = mount_point()?;
        let mut daemon = worker(&Worker {
            role: Role::Daemon,
            path: path.clone(),
            processor,
            ..IDLE
        })?;
        await_line(&mut daemon, "mounted")?;
        let mount = Mount::at(&path)?;
        Ok(Self {
            daemon: Some(daemon),
            mount,
            directory,
        })
    }

    /// A state of so many words that stamps nothing.
    pub(crate) fn state<const WORDS: usize>(&self, name: &str) -> Result<State<[u64; WORDS]>> {
        let state = self.mount.subscribe(name).write().typed::<[u64; WORDS]>()?;
        state.set_stamping(Stamping::Off);
        Ok(state)
    }

    /// A state of bytes that stamps nothing.
    pub(crate) fn bytes(&self, name: &str) -> Result<State<Bytes>> {
        let state = self.mount.subscribe(name).write().bytes()?;
        state.set_stamping(Stamping::Off);
        Ok(state)
    }

    /// Where the file of a state is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mount.path().join(name)
    }

    /// A file for the limit, on the same kind of memory.
    pub(crate) fn bare_file(&self, name: &str) -> Result<File> {
        let path = self.bare_path(name);
        Ok(File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?)
    }

    /// Where that is, or another file for what is shared beside the states.
    pub(crate) fn bare_path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn mount(&self) -> &Mount {
        &self.mount
    }

    /// A process that publishes as fast as it can, to the state and the bare ring of this name in
    /// turn as it is told: see [`Writer`].
    pub(crate) fn writer(&self, name: &str, size: usize, processor: usize) -> Result<Writer> {
        let mut child = worker(&Worker {
            role: Role::Writer,
            path: self.mount.path().to_owned(),
            bare: Some(self.bare_path(name)),
            name: name.to_owned(),
            size,
            processor: Some(processor),
            ..IDLE
        })?;
        await_line(&mut child, "ready")?;
        Ok(Writer { child })
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            end(&mut daemon);
        }
    }
}

/// A directory to mount on, in one that is removed with everything in it.
pub(crate) fn mount_point() -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::Builder::new()
        .prefix("kstate-bench-")
        .tempdir_in("/dev/shm")?;
    let path = directory.path().join("mount");
    std::fs::create_dir(&path)?;
    Ok((directory, path))
}

/// A flat-out writer in a process of its own.
pub(crate) struct Writer {
    child: Child,
}

impl Writer {
    /// Has it publish to the state from now on.
    pub(crate) fn write_ours(&mut self) -> Result<()> {
        self.tell("ours")
    }

    /// Has it publish to the bare ring from now on.
    pub(crate) fn write_bare(&mut self) -> Result<()> {
        self.tell("bare")
    }

    fn tell(&mut self, what: &str) -> Result<()> {
        let input = self
            .child
            .stdin
            .as_mut()
            .ok_or("the writer's input is closed")?;
        writeln!(input, "{what}")?;
        await_line(&mut self.child, what)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// What a process of a measurement is to be.
#[derive(Args, Clone, Debug)]
pub(crate) struct Worker {
    #[arg(long, value_enum)]
    pub(crate) role: Role,
    #[arg(long)]
    pub(crate) path: PathBuf,
    #[arg(long)]
    pub(crate) bare: Option<PathBuf>,
    #[arg(long)]
    pub(crate) board: Option<PathBuf>,
    #[arg(long, value_enum)]
    pub(crate) way: Option<Way>,
    /// The number of a descriptor that is inherited.
    #[arg(long)]
    pub(crate) descriptor: Option<RawFd>,
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    #[arg(long, default_value_t = 0)]
    pub(crate) size: usize,
    #[arg(long)]
    pub(crate) processor: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Role {
    Daemon,
    /// Serves the limit of files.
    BareFuse,
    Writer,
    /// Waits for one value after another as it is told.
    Waiter,
    /// Waits in many threads for the same.
    Crowd,
}

pub(crate) const IDLE: Worker = Worker {
    role: Role::Daemon,
    path: PathBuf::new(),
    bare: None,
    board: None,
    way: None,
    descriptor: None,
    name: String::new(),
    size: 0,
    processor: None,
};

pub(crate) fn worker(what: &Worker) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["worker", "--role", &name_of(&what.role), "--path"])
        .arg(&what.path);
    if let Some(bare) = &what.bare {
        command.arg("--bare").arg(bare);
    }
    if let Some(board) = &what.board {
        command.arg("--board").arg(board);
    }
    if let Some(way) = &what.way {
        command.args(["--way", &name_of(way)]);
    }
    if let Some(descriptor) = what.descriptor {
        command.args(["--descriptor", &descriptor.to_string()]);
    }
    command.args(["--name", &what.name, "--size", &what.size.to_string()]);
    if let Some(processor) = what.processor {
        command.args(["--processor", &processor.to_string()]);
    }
    Ok(command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?)
}

/// As it is called on the command line.
pub(crate) fn name_of(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

pub(crate) fn await_line(child: &mut Child, expected: &str) -> Result<()> {
    let output = child.stdout.as_mut().ok_or("its output is closed")?;
    // Byte by byte: a buffer would swallow the answer to the next question.
    let mut line = Vec::new();
    let mut byte = [0];
    while output.read(&mut byte)? == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    if line != expected.as_bytes() {
        return Err(format!("a process said `{}`, not `{expected}`", line.escape_ascii()).into());
    }
    Ok(())
}

/// Closes its input, which ends it, and waits.
pub(crate) fn end(child: &mut Child) {
    drop(child.stdin.take());
    if let Err(error) = child.wait() {
        eprintln!("a process was not waited for: {error}");
    }
}

/// The main of a worker process.
pub(crate) fn work(worker: &Worker) -> ExitCode {
    if let Some(processor) = worker.processor {
        pin(processor);
    }
    let done = match worker.role {
        Role::Daemon => be_daemon(&worker.path),
        Role::BareFuse => bare_fuse::serve(worker),
        Role::Writer => for_size!(worker.size, be_writer, worker),
        Role::Waiter => wake::wait_as_told(worker),
        Role::Crowd => wake::wait_in_crowd(worker),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kstate-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn be_daemon(path: &Path) -> Result<()> {
    keep_mounted_until_told()?;
    let mut config = Config::new(path);
    config.handle_signals = false;
    let server = Server::start(config)?;
    println!("mounted");
    await_end()?;
    server.stop()?;
    leave(path);
    Ok(())
}

/// A signal to the whole group, such as Ctrl-C, must not end a process that has mounted: it sees
/// that its parent has gone, and unmounts. Before any thread is started, which inherits this.
pub(crate) fn keep_mounted_until_told() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    Ok(signals.thread_block()?)
}

/// Returns when whoever started this process has ended, however that happened, or says so.
pub(crate) fn await_end() -> io::Result<()> {
    io::stdin().read_to_end(&mut Vec::new()).map(|_| ())
}

/// Ends this process, whatever it is at, when whoever started it has ended or says so.
pub(crate) fn end_when_told() {
    std::thread::spawn(|| {
        // An input that cannot be read says nothing more either.
        let _ = await_end();
        std::process::exit(0);
    });
}

/// Removes the mount point and, if it is empty then, the directory around it, which nobody else
/// does where the parent was killed.
pub(crate) fn leave(mount_point: &Path) {
    let around = mount_point.parent();
    for directory in [Some(mount_point), around].into_iter().flatten() {
        // Of a parent that lives, the directory is removed with what is in it.
        let _ = std::fs::remove_dir(directory);
    }
}

fn be_writer<const WORDS: usize>(worker: &Worker) -> Result<()> {
    use std::sync::atomic::{AtomicU8, Ordering};
    static TARGET: AtomicU8 = AtomicU8::new(0);
    static WRITTEN: AtomicU8 = AtomicU8::new(0);
    let state = Mount::at(&worker.path)?.subscribe(&worker.name).write();
    let state = state.typed::<[u64; WORDS]>()?;
    state.set_stamping(Stamping::Off);
    let bare = worker.bare.as_ref().ok_or("--bare is missing")?;
    let bare = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(bare)?;
    let bare = Ring::<[u64; WORDS]>::open(&bare)?;
    std::thread::spawn(|| {
        for line in io::stdin().lock().lines() {
            let target = match line.as_deref() {
                Ok("ours") => 1,
                Ok("bare") => 2,
                _ => break,
            };
            TARGET.store(target, Ordering::Relaxed);
            // Answered once something was written there.
            while WRITTEN.load(Ordering::Relaxed) != target {
                std::thread::yield_now();
            }
            if let Ok(line) = line {
                println!("{line}");
            }
        }
        TARGET.store(3, Ordering::Relaxed);
    });
    println!("ready");
    let mut value = [0_u64; WORDS];
    loop {
        value[0] = value[0].wrapping_add(1);
        let target = TARGET.load(Ordering::Relaxed);
        match target {
            0 => std::hint::spin_loop(),
            1 => {
                state.publish(&value)?;
            }
            2 => bare.publish(&value),
            _ => return Ok(()),
        }
        WRITTEN.store(target, Ordering::Relaxed);
    }
}
