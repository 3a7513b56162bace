//! The waiters' processes: started, stopped, ended, killed, replaced.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use kstate_tests::{Board, Running};
use nix::sys::signal::Signal;

use super::Result;
use super::kind::Kind;
use super::note::{Note, STATES};
use super::random::Random;

/// Waiters in one process at most.
const TOGETHER: usize = 4;
/// How long a process is stopped at most.
const LONGEST_STOP: Duration = Duration::from_millis(300);
/// How long one may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A waiter, or what it has left on the board.
#[derive(Clone, Copy)]
pub(crate) struct Waiter {
    pub(crate) kind: Kind,
    pub(crate) note: &'static Note,
}

/// A process with some waiters.
struct Team {
    waiters: Vec<Waiter>,
    running: Running,
    /// Since when it can be at the last version: it was started or continued then.
    since: Instant,
    stopped_until: Option<Instant>,
    /// Asked to end then.
    asked: Option<Instant>,
}

/// All of them.
pub(crate) struct Crew {
    mount: PathBuf,
    path: PathBuf,
    board: Board<Note>,
    /// Notes that are taken.
    taken: usize,
    teams: Vec<Team>,
    /// Those that are not there any more.
    pub(crate) left: Vec<Waiter>,
    pub(crate) random: Random,
    pub(crate) started: u64,
    pub(crate) kills: u64,
    pub(crate) ends: u64,
    pub(crate) stops: u64,
    /// Processes that ended by themselves, did not begin or did not end.
    pub(crate) wrong: Vec<String>,
}

impl Crew {
    pub(crate) fn new(mount: PathBuf, path: PathBuf, board: Board<Note>) -> Self {
        Self {
            mount,
            path,
            board,
            taken: 0,
            teams: Vec::new(),
            left: Vec::new(),
            random: Random::of_this_process(),
            started: 0,
            kills: 0,
            ends: 0,
            stops: 0,
            wrong: Vec::new(),
        }
    }

    /// A note that nobody has.
    pub(crate) fn note(&mut self) -> Result<(usize, &'static Note)> {
        let index = self.taken;
        let note = self.board.entry(index).ok_or("the board is full")?;
        self.taken += 1;
        Ok((index, note))
    }

    /// A process of this program in a part.
    pub(crate) fn process(&self, part: &[String]) -> Result<Running> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--mount").arg(&self.mount);
        command.arg("--board").arg(&self.path).args(part);
        // An interrupt from the terminal is the soak's alone.
        command.process_group(0);
        Ok(Running::start(&mut command))
    }

    /// Starts waiters of these kinds, some together in a process.
    pub(crate) fn start_all(&mut self, mut kinds: Vec<Kind>) -> Result {
        while !kinds.is_empty() {
            let together = (1 + self.random.below(TOGETHER)).min(kinds.len());
            let team = (0..together)
                .map(|_| kinds.swap_remove(self.random.below(kinds.len())))
                .collect();
            self.start(team)?;
        }
        Ok(())
    }

    fn start(&mut self, kinds: Vec<Kind>) -> Result {
        let mut part = Vec::new();
        let mut waiters = Vec::new();
        for kind in kinds {
            let (index, note) = self.note()?;
            part.extend(["--waiter".into(), format!("{index}:{}", kind.name())]);
            waiters.push(Waiter { kind, note });
        }
        // Waiters of one process through one handle, or each through its own.
        if self.random.below(2) == 0 {
            part.push("--share".into());
        }
        self.started += 1;
        self.teams.push(Team {
            waiters,
            running: self.process(&part)?,
            since: Instant::now(),
            stopped_until: None,
            asked: None,
        });
        Ok(())
    }

    /// Kills, ends, stops or leaves alone one of them.
    pub(crate) fn disturb(&mut self) -> Result {
        let chosen = self.random.below(self.teams.len());
        let team = &mut self.teams[chosen];
        if team.asked.is_some() {
            return Ok(());
        }
        match self.random.below(10) {
            0..=2 => {
                let mut team = self.teams.swap_remove(chosen);
                if let Some(status) = team.running.ended() {
                    self.wrong.push(format!("{} ended: {status}", names(&team)));
                } else {
                    team.running.signal(Signal::SIGKILL);
                    team.running.finish();
                    self.kills += 1;
                }
                return self.replace(&team);
            }
            3..=4 => {
                // One that is stopped would not hear of it.
                if team.stopped_until.is_none() {
                    team.running.close_input();
                    team.asked = Some(Instant::now());
                    self.ends += 1;
                }
            }
            _ => {
                let until = Instant::now() + self.random.time(LONGEST_STOP);
                if team.stopped_until.is_none() && team.running.ended().is_none() {
                    team.running.signal(Signal::SIGSTOP);
                    team.stopped_until = Some(until);
                    self.stops += 1;
                }
            }
        }
        Ok(())
    }

    fn replace(&mut self, team: &Team) -> Result {
        self.left.extend(&team.waiters);
        self.start(team.waiters.iter().map(|waiter| waiter.kind).collect())
    }

    /// Has those go on whose time has come, or all, and replaces those that have ended.
    pub(crate) fn look(&mut self, all: bool) -> Result {
        let now = Instant::now();
        let mut at = 0;
        while at < self.teams.len() {
            let team = &mut self.teams[at];
            if team.stopped_until.is_some_and(|until| all || now >= until) {
                team.running.signal(Signal::SIGCONT);
                team.stopped_until = None;
                team.since = now;
            }
            let ended = team.running.ended();
            let is_late = |since: Instant| now.duration_since(since) > PATIENCE;
            let wrong = match ended {
                Some(status) if team.asked.is_none() || !status.success() => {
                    Some(format!("ended: {status}"))
                }
                None if team.asked.is_some_and(is_late) => Some("did not end".to_owned()),
                _ => None,
            };
            let is_wrong = wrong.is_some();
            if let Some(wrong) = wrong {
                let wrong = format!("{} {wrong}", names(team));
                self.wrong.push(wrong);
            }
            if ended.is_some() || is_wrong {
                let team = self.teams.swap_remove(at);
                // Not for ever: so many have shown what there is to be shown.
                if self.wrong.len() < 100 {
                    self.replace(&team)?;
                }
                continue;
            }
            at += 1;
        }
        Ok(())
    }

    /// Those who ought to be at the last version: neither stopped, nor going to end, nor yet to begin.
    /// Who does not begin in time is wrong.
    pub(crate) fn awake(&mut self) -> Vec<(Instant, Waiter)> {
        let mut awake = Vec::new();
        for team in &mut self.teams {
            if team.stopped_until.is_some() || team.asked.is_some() {
                continue;
            }
            let is_late = team.since.elapsed() > PATIENCE;
            for waiter in &team.waiters {
                match waiter.note.is_ready() {
                    true => awake.push((team.since, *waiter)),
                    false if is_late => {
                        let wrong = format!("{} did not begin", waiter.kind.name());
                        self.wrong.push(wrong);
                    }
                    false => {}
                }
            }
        }
        awake
    }

    /// Whether all that are there have begun.
    pub(crate) fn have_all_begun(&self) -> bool {
        let mut waiters = self.teams.iter().flat_map(|team| &team.waiters);
        waiters.all(|waiter| waiter.note.is_ready())
    }

    /// Asks all to end, and sees to it that they do.
    pub(crate) fn finish(&mut self) {
        for mut team in std::mem::take(&mut self.teams) {
            self.left.extend(&team.waiters);
            if team.stopped_until.is_some() {
                team.running.signal(Signal::SIGCONT);
            }
            team.running.close_input();
            let start = Instant::now();
            while team.running.ended().is_none() && start.elapsed() < PATIENCE {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            let wrong = match team.running.ended() {
                Some(status) if status.success() => continue,
                Some(status) => format!("{} ended: {status}", names(&team)),
                None => format!("{} did not end", names(&team)),
            };
            self.wrong.push(wrong);
        }
    }
}

fn names(team: &Team) -> String {
    let names = team.waiters.iter().map(|waiter| waiter.kind.name());
    names.collect::<Vec<_>>().join("+")
}

/// Those of `waiters` that are not at the last version.
pub(crate) fn behind(
    waiters: &[(Instant, Waiter)],
    newest: [u64; STATES],
) -> Vec<(Instant, Waiter)> {
    let is_behind = |waiter: &Waiter| {
        (0..waiter.kind.follows()).any(|state| waiter.note.seen(state) < newest[state])
    };
    let behind = waiters.iter().filter(|(_, waiter)| is_behind(waiter));
    behind.copied().collect()
}
