//! A process that ends with the test that started it.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::deadline::{PATIENCE, eventually};

/// A child with piped standard streams; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts `command`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped above"));
        Self {
            child,
            input,
            output,
        }
    }

    /// Its process id.
    ///
    /// # Panics
    ///
    /// Never: the kernel's process ids are small.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id is an i32"))
    }

    /// The next line it prints, without the end of line; empty at the end of its output.
    ///
    /// # Panics
    ///
    /// When it prints nothing for as long as [`PATIENCE`], or what is no text.
    #[track_caller]
    pub fn line(&mut self) -> String {
        if self.output.buffer().is_empty() {
            let mut fds = [PollFd::new(
                self.output.get_ref().as_fd(),
                PollFlags::POLLIN,
            )];
            let timeout = PollTimeout::try_from(PATIENCE).expect("some seconds");
            let ready = poll(&mut fds, timeout).expect("its output is open");
            assert!(ready == 1, "it has printed nothing for {PATIENCE:?}");
        }
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line of text");
        line.truncate(line.trim_end().len());
        line
    }

    /// Reads lines until it prints `expected`.
    ///
    /// # Panics
    ///
    /// When its output ends before that, or pauses as long as [`PATIENCE`].
    #[track_caller]
    pub fn lines_until(&mut self, expected: &str) {
        loop {
            match self.line() {
                line if line == expected => return,
                line => assert!(!line.is_empty(), "its output ended before `{expected}`"),
            }
        }
    }

    /// Reads lines until one has `words` in it.
    ///
    /// # Panics
    ///
    /// As [`lines_until`](Self::lines_until).
    #[track_caller]
    pub fn lines_until_contains(&mut self, words: &str) {
        loop {
            let line = self.line();
            if line.contains(words) {
                return;
            }
            assert!(
                !line.is_empty(),
                "its output ended before one with `{words}`"
            );
        }
    }

    /// Sends it a line.
    ///
    /// # Panics
    ///
    /// When it no longer reads.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input is open");
        // In one: what reads the line and becomes another program leaves nothing of it to that.
        let line = format!("{line}\n");
        input.write_all(line.as_bytes()).expect("it reads");
    }

    /// Stops it, and waits until none of its threads runs any more: the signal alone does not.
    ///
    /// # Panics
    ///
    /// When it has been waited for, or goes on.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.pid());
        eventually("all its threads are stopped", || {
            let mut tasks = std::fs::read_dir(&tasks).expect("it lives");
            let stopped = tasks.all(|task| {
                let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
                // The state is the first field behind the name, which may have anything in it.
                stat.is_ok_and(|stat| {
                    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
                    state == Some("T")
                })
            });
            stopped.then_some(())
        });
    }

    /// Closes its input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// When it has been waited for.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it has not been waited for");
    }

    /// Whether it has ended, and how.
    ///
    /// # Panics
    ///
    /// When it cannot be waited for.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    /// Waits for its end, with patience.
    ///
    /// # Panics
    ///
    /// When it does not end.
    #[track_caller]
    pub fn finish(&mut self) -> ExitStatus {
        eventually("the process ends", || self.ended())
    }
}

/// What `child` printed, once it has ended.
///
/// # Panics
///
/// When it does not end, after killing it.
#[track_caller]
pub fn output_of(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().expect("our own child").is_none() {
        if start.elapsed() > PATIENCE {
            // It may have ended in between: then there is nothing to do.
            let _ = child.kill();
            let output = child.wait_with_output();
            panic!("after {PATIENCE:?} it has not ended: {output:?}");
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    child.wait_with_output().expect("its output")
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // It may have ended in between: then there is nothing to do.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
