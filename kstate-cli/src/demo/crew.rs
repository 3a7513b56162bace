//! The demo's processes, seen from the demo: started, listened to, told to stop, and never left
//! behind.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::part::PartArguments;
use super::place::Place;
use super::report::{Message, Report};
use super::role::Role;

/// How long a process may take to end once it is told to.
const TIME_TO_END: Duration = Duration::from_secs(10);

/// A process of the demo.
#[derive(Debug)]
pub(super) struct Member {
    role: Role,
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<ChildStdout>,
    errors: Lines<ChildStderr>,
    state: MemberState,
    report: Report,
    said: Vec<String>,
    is_told_to_stop: bool,
    end: Option<ExitStatus>,
}

/// How far a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MemberState {
    /// Started.
    Starting,
    /// At work, and how.
    Ready(String),
    /// Came to its end as it was told to.
    Done,
    /// Cannot go on, and why.
    Failed(String),
}

impl Member {
    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn state(&self) -> &MemberState {
        &self.state
    }

    /// The last it told of its work.
    pub(super) fn report(&self) -> &Report {
        &self.report
    }

    /// Whether the process is there no more.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// How it died, in a few words, where that was not its task.
    pub(super) fn death(&self) -> Option<Death> {
        let end = self.end?;
        let by_signal = end.signal();
        let name = by_signal.and_then(|signal| Signal::try_from(signal).ok());
        let how = match (&self.state, by_signal) {
            (MemberState::Done, None) => return None,
            (MemberState::Failed(why), _) => why.clone(),
            (_, Some(number)) => match name {
                Some(signal) => format!("killed by {signal}"),
                None => format!("killed by signal {number}"),
            },
            // The daemon ends by SIGTERM and has nothing to report.
            (_, None) if self.role == Role::Daemon && self.is_told_to_stop && end.success() => {
                return None;
            }
            (_, None) => match self.said.last() {
                Some(said) => said.clone(),
                None => format!("ended with {end}"),
            },
        };
        let was_killed = name == Some(Signal::SIGKILL);
        Some(Death {
            role: self.role,
            pid: self.pid(),
            how,
            was_killed,
        })
    }

    /// Tells it to come to its end.
    fn stop(&mut self) {
        self.is_told_to_stop = true;
        self.input = None;
        if self.role == Role::Daemon {
            self.signal(Signal::SIGTERM);
        }
    }

    fn signal(&self, signal: Signal) {
        if self.end.is_none()
            && let Ok(pid) = i32::try_from(self.child.id())
        {
            // It was not waited for yet, so the number is still its own.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Takes in what it said, and notices its end.
    fn listen(&mut self) -> io::Result<()> {
        let end = match self.end {
            None => self.child.try_wait()?,
            end => end,
        };
        // Only then, so that the last it said is not missed.
        self.take_lines()?;
        self.end = end;
        Ok(())
    }

    fn take_lines(&mut self) -> io::Result<()> {
        for line in self.output.read()? {
            match serde_json::from_str(&line) {
                Ok(Message::Ready(how)) => self.state = MemberState::Ready(how),
                Ok(Message::Progress(report)) => self.report = report,
                Ok(Message::Done(report)) => {
                    self.report = report;
                    self.state = MemberState::Done;
                }
                Ok(Message::Failed(why)) => self.state = MemberState::Failed(why),
                Err(_) => self.said.push(line),
            }
        }
        self.said.extend(self.errors.read()?);
        Ok(())
    }
}

/// A process that is there no more, though it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) role: Role,
    pub(super) pid: u32,
    /// In a few words.
    pub(super) how: String,
    /// Whether somebody killed it, rather than that it failed.
    pub(super) was_killed: bool,
}

/// All processes of the demo.
///
/// Whatever is still running when this is dropped is killed; the daemon is first asked to unmount.
#[derive(Debug)]
pub(super) struct Crew {
    members: Vec<Member>,
    directory: PathBuf,
    run: PathBuf,
    backing: Option<PathBuf>,
    rate: u32,
}

impl Crew {
    /// Nobody yet. They will meet in `place`, and publish `rate` times a second.
    pub(super) fn at(place: &Place, rate: u32) -> Self {
        let (directory, backing) = (place.directory(), place.backing().map(Path::to_owned));
        Self {
            members: Vec::new(),
            directory,
            run: place.run(),
            backing,
            rate,
        }
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of that role.
    pub(super) fn member(&self, role: Role) -> Option<&Member> {
        self.members.iter().find(|member| member.role == role)
    }

    /// Starts a process: this program again, with the hidden subcommand.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(super) fn start(&mut self, role: Role) -> io::Result<()> {
        let arguments = PartArguments {
            role,
            directory: self.directory.clone(),
            rate: self.rate,
            parent: Pid::this().as_raw(),
            backing: self.backing.clone(),
        };
        let mut child = Command::new("/proc/self/exe")
            .arg0("kstate")
            .args(arguments.to_arguments())
            // Where the daemon puts its socket.
            .env("XDG_RUNTIME_DIR", &self.run)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the demo, which then tells them one after the other.
            .process_group(0)
            .spawn()?;
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io::Error::other("a process without standard streams"));
        };
        let input = child.stdin.take();
        self.members.push(Member {
            role,
            child,
            input,
            output: Lines::of(output)?,
            errors: Lines::of(errors)?,
            state: MemberState::Starting,
            report: Report::default(),
            said: Vec::new(),
            is_told_to_stop: false,
            end: None,
        });
        Ok(())
    }

    /// Listens until somebody says something, `also` becomes readable, or the time is up.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(super) fn listen(&mut self, also: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
        let mut polled = vec![PollFd::new(also, PollFlags::POLLIN)];
        for member in &self.members {
            polled.extend(member.output.polled());
            polled.extend(member.errors.polled());
        }
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.members.iter_mut().try_for_each(Member::listen)
    }

    /// Tells the members of which `which` holds to come to their end, and listens until they have.
    /// Who has not in time is killed.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(super) fn stop(&mut self, which: impl Fn(Role) -> bool) -> io::Result<()> {
        let deadline = Instant::now() + TIME_TO_END;
        for member in self.members.iter_mut().filter(|member| which(member.role)) {
            member.stop();
        }
        let is_there = |member: &Member| which(member.role) && !member.has_ended();
        while self.members.iter().any(is_there) {
            if Instant::now() >= deadline {
                for member in self.members.iter_mut().filter(|member| is_there(member)) {
                    member.signal(Signal::SIGKILL);
                    member.state = MemberState::Failed("did not end when told to".into());
                }
            }
            // Nothing but time is waited for beside them: a second Ctrl-C changes nothing.
            let (never, _open) = io::pipe()?;
            self.listen(never.as_fd(), Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Forgets members that have ended, to start them again in another way.
    pub(super) fn forget_ended(&mut self) {
        self.members.retain(|member| !member.has_ended());
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &mut self.members {
            if member.role != Role::Daemon {
                member.signal(Signal::SIGKILL);
            }
        }
        // An error means that the kernel refuses to poll: then there is only killing.
        if self.stop(|_| true).is_err() {
            for member in &mut self.members {
                member.signal(Signal::SIGKILL);
                let _ = member.child.wait();
            }
        }
    }
}

/// Lines as they come out of a pipe, without waiting for them.
#[derive(Debug)]
struct Lines<P> {
    pipe: P,
    partial: Vec<u8>,
    has_ended: bool,
}

impl<P: Read + AsFd> Lines<P> {
    fn of(pipe: P) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
        fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self {
            pipe,
            partial: Vec::new(),
            has_ended: false,
        })
    }

    fn polled(&self) -> Option<PollFd<'_>> {
        (!self.has_ended).then(|| PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN))
    }

    /// The lines that are there. What is not UTF-8 is replaced.
    fn read(&mut self) -> io::Result<Vec<String>> {
        let mut buffer = [0; 4096];
        while !self.has_ended {
            match self.pipe.read(&mut buffer) {
                Ok(0) => self.has_ended = true,
                Ok(length) => self.partial.extend(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut lines = Vec::new();
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_come_whole_and_without_waiting() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut lines = Lines::of(reader).unwrap();
        assert_eq!(lines.read().unwrap(), [] as [&str; 0]);
        writer.write_all(b"one\ntw").unwrap();
        assert_eq!(lines.read().unwrap(), ["one"]);
        writer.write_all(b"o\n\nthr").unwrap();
        drop(writer);
        assert_eq!(lines.read().unwrap(), ["two", ""]);
        assert!(lines.has_ended && lines.polled().is_none());
    }
}
