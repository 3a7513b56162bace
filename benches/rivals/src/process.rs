//! Processes of a run, spoken to in lines.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::poll::{PollFd, PollFlags, poll};

use crate::Result;

/// Longer than any scene, in milliseconds.
const PATIENCE: u16 = 60_000;

/// A process of this program in another role; ended when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it with those arguments.
    pub(crate) fn start(arguments: &[&str], mount: &Path) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            // What the C library looks for.
            .env(kstate::MOUNT_VARIABLE, mount)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("its output is closed")?;
        Ok(Self {
            child,
            output: BufReader::new(output),
        })
    }

    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().ok_or("its input is closed")?;
        Ok(writeln!(input, "{line}")?)
    }

    pub(crate) fn hear(&mut self) -> Result<String> {
        if self.output.buffer().is_empty() {
            let output = self.output.get_ref().as_fd();
            let mut wanted = [PollFd::new(output, PollFlags::POLLIN)];
            if poll(&mut wanted, PATIENCE)? == 0 {
                self.kill()?;
                return Err("a process said nothing for a minute, and was killed".into());
            }
        }
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("a process has ended".into()),
            _ => Ok(line),
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if let Err(error) = self.child.wait() {
            eprintln!("a process was not waited for: {error}");
        }
    }
}
