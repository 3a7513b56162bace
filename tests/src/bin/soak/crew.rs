//! The processes of a soak: started, placed, stopped, killed, and watched for one that gets no further.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use kstate_tests::Running;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::Result;
use super::board::{Board, Entry};
use super::part::Role;
use super::random::Random;

/// How long a process may get no further while it has the processor now and then.
pub(crate) const STUCK: Duration = Duration::from_secs(15);
/// How late a waiter may be.
const LATE: Duration = Duration::from_secs(5);
/// How long a process is stopped at most.
const LONGEST_STOP: Duration = Duration::from_millis(25);

/// Where the processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Placement {
    /// Wherever the kernel puts them.
    Across,
    /// All on one processor.
    OneCore,
}

/// A process, or what it has left on the board.
struct Member {
    role: Role,
    entry: &'static Entry,
    running: Option<Running>,
    /// It goes on then.
    stopped_until: Option<Instant>,
    /// When it was last seen to have got further, with what, and what its writers had done by then.
    further: (Instant, u64, u64),
}

/// What is wrong with the processes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wrong {
    /// Processes that got no further while what they wait for did.
    pub(crate) stuck: Vec<String>,
    /// Processes that ended by themselves.
    pub(crate) ended: Vec<String>,
    /// Processes that did not end when they were asked to.
    pub(crate) hung: Vec<String>,
}

/// What processes of one role have done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    pub(crate) done: u64,
    pub(crate) conflicts: u64,
    pub(crate) longest: Duration,
}

/// All of them.
pub(crate) struct Crew {
    mount: PathBuf,
    board: PathBuf,
    entries: Board,
    members: Vec<Member>,
    placement: Placement,
    pub(crate) random: Random,
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    pub(crate) wrong: Wrong,
}

impl Crew {
    pub(crate) fn new(mount: PathBuf, board: PathBuf, entries: Board) -> Self {
        Self {
            mount,
            board,
            entries,
            members: Vec::new(),
            placement: Placement::Across,
            random: Random::of_this_process(),
            kills: 0,
            stops: 0,
            wrong: Wrong::default(),
        }
    }

    pub(crate) fn start(&mut self, role: Role) -> Result {
        let index = self.members.len();
        let entry = self.entries.entry(index).ok_or("the board is full")?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("--mount")
            .arg(&self.mount)
            .arg("--board")
            .arg(&self.board)
            .args(["--entry", &index.to_string(), "--role", &role.name()])
            // An interrupt from the terminal is this process's alone.
            .process_group(0);
        let running = Running::start(&mut command);
        place(running.pid(), self.placement);
        self.members.push(Member {
            role,
            entry,
            running: Some(running),
            stopped_until: None,
            further: (Instant::now(), 0, 0),
        });
        Ok(())
    }

    fn running(&self) -> Vec<usize> {
        let all = 0..self.members.len();
        all.filter(|index| self.members[*index].running.is_some())
            .collect()
    }

    /// How many processes there have been.
    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn place(&mut self, placement: Placement) {
        self.placement = placement;
        for member in &self.members {
            if let Some(running) = &member.running {
                place(running.pid(), placement);
            }
        }
    }

    /// Stops a process for a while.
    pub(crate) fn stop_one(&mut self) {
        let running = self.running();
        if running.is_empty() {
            return;
        }
        let chosen = running[self.random.below(running.len())];
        let until = Instant::now() + self.random.time(LONGEST_STOP);
        let member = &mut self.members[chosen];
        if let (Some(running), None) = (&member.running, member.stopped_until) {
            running.signal(Signal::SIGSTOP);
            member.stopped_until = Some(until);
            self.stops += 1;
        }
    }

    /// Has those go on that were stopped for long enough, or all.
    pub(crate) fn go_on(&mut self, all: bool) {
        for member in &mut self.members {
            let is_time = |until: Instant| all || Instant::now() >= until;
            if let (Some(running), true) =
                (&member.running, member.stopped_until.is_some_and(is_time))
            {
                running.signal(Signal::SIGCONT);
                member.stopped_until = None;
                member.further.0 = Instant::now();
            }
        }
    }

    /// Kills a process, now and then one that was stopped before, and starts another in its place.
    pub(crate) fn kill_one(&mut self) -> Result {
        let running = self.running();
        if running.is_empty() {
            return Ok(());
        }
        let chosen = running[self.random.below(running.len())];
        let stop_first = self.random.below(3) == 0;
        let pause = self.random.time(LONGEST_STOP);
        let member = &mut self.members[chosen];
        let Some(mut running) = member.running.take() else {
            return Ok(());
        };
        if stop_first {
            running.signal(Signal::SIGSTOP);
            std::thread::park_timeout(pause);
        }
        if running.ended().is_none() {
            running.signal(Signal::SIGKILL);
        }
        running.finish();
        self.kills += 1;
        let role = member.role;
        self.start(role)
    }

    /// Looks for processes that have ended or get no further.
    pub(crate) fn watch(&mut self) -> Result {
        let now = Instant::now();
        let paced = self.work(Role::Pacer);
        let mut again = Vec::new();
        for member in &mut self.members {
            let Some(running) = &mut member.running else {
                continue;
            };
            if let Some(status) = running.ended() {
                let what = format!("{} ended: {status}", member.role.name());
                self.wrong.ended.push(what);
                member.running = None;
                again.push(member.role);
                continue;
            }
            let done = member.entry.done();
            let (since, before, writers) = member.further;
            // Who waits gets no further than who is waited for.
            let is_idle = member.role == Role::Waiter && paced.done < writers + 100;
            if done != before || member.stopped_until.is_some() {
                member.further = (now, done, paced.done);
            } else if !is_idle && now.duration_since(since) > STUCK {
                let what = format!("{} got no further than {done}", member.role.name());
                self.wrong.stuck.push(what);
                member.further = (now, done, paced.done);
            }
        }
        // Not for ever: this many have shown what is to be shown.
        if self.wrong.ended.len() > 100 {
            return Ok(());
        }
        again.into_iter().try_for_each(|role| self.start(role))
    }

    /// Asks all to end, and sees to it that they do.
    pub(crate) fn finish(&mut self) {
        self.go_on(true);
        for member in &mut self.members {
            if let Some(running) = &mut member.running {
                running.close_input();
            }
        }
        let start = Instant::now();
        while !self.running().is_empty() && start.elapsed() < STUCK {
            for member in &mut self.members {
                let Some(status) = member.running.as_mut().and_then(Running::ended) else {
                    continue;
                };
                member.running = None;
                if !status.success() {
                    let what = format!("{} ended: {status}", member.role.name());
                    self.wrong.ended.push(what);
                }
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        for member in &mut self.members {
            if member.running.take().is_some() {
                self.wrong.hung.push(member.role.name());
            }
        }
    }

    /// What all of a role have done so far. The longest times are not among it.
    pub(crate) fn work(&self, role: Role) -> Work {
        let mut work = Work::default();
        for entry in self.entries_of(role) {
            work.done += entry.done();
            work.conflicts += entry.conflicts.load(std::sync::atomic::Ordering::Relaxed);
        }
        work
    }

    /// What each role has done so far, with the longest time since this was last asked.
    pub(crate) fn all_work(&mut self) -> BTreeMap<Role, Work> {
        let mut all = BTreeMap::<Role, Work>::new();
        for member in &self.members {
            let longest = Duration::from_nanos(member.entry.take_longest());
            if member.role == Role::Waiter && longest > LATE {
                let what = format!("waiter was {longest:?} late");
                self.wrong.stuck.push(what);
            }
            let work = all.entry(member.role).or_default();
            work.longest = work.longest.max(longest);
        }
        for (role, work) in &mut all {
            let done = self.work(*role);
            (work.done, work.conflicts) = (done.done, done.conflicts);
        }
        all
    }

    pub(crate) fn entries_of(&self, role: Role) -> impl Iterator<Item = &'static Entry> {
        let members = self.members.iter();
        members
            .filter(move |member| member.role == role)
            .map(|member| member.entry)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &'static Entry> {
        self.members.iter().map(|member| member.entry)
    }
}

/// Puts all threads of a process where they belong.
fn place(pid: Pid, placement: Placement) {
    let Ok(all) = nix::sched::sched_getaffinity(Pid::from_raw(0)) else {
        return;
    };
    let mut set = all;
    if placement == Placement::OneCore {
        let first = (0..CpuSet::count()).find(|at| all.is_set(*at) == Ok(true));
        set = CpuSet::new();
        if set.set(first.unwrap_or(0)).is_err() {
            return;
        }
    }
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return;
    };
    for thread in threads.flatten() {
        let id = thread.file_name().to_str().and_then(|id| id.parse().ok());
        if let Some(id) = id {
            // It may have ended in between.
            let _ = sched_setaffinity(Pid::from_raw(id), &set);
        }
    }
}
