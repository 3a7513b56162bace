//! The daemon and the processes beside it: killed, started again, looked at.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use kstate::{CutError, Mount, ReadError, Reader, cut};
use kstate_tests::{
    Board, Checked, Running, attribute, bytes_of, checked, kstatefs, number_of, number_of_bytes,
    open_descriptors, set_attribute, unmount,
};
use kstatefs::config::Passthrough;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::findings::Findings;
use super::note::{Note, STATES};
use super::part::{ADDED, DURABLE, FILED, PAIR, Role};
use super::random::Random;
use super::{Result, leaks};

/// The processes there are at any time.
const CAST: [Role; 12] = [
    Role::Publisher,
    Role::Adder,
    Role::Adder,
    Role::Pair,
    Role::Pair,
    Role::Durable,
    Role::Filer,
    Role::Reader,
    Role::Reader,
    Role::Waiter,
    Role::Notified,
    Role::Poller,
];

/// How long anything may take that ought to take no time.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the others are without what was killed, at most.
const GAP: Duration = Duration::from_millis(60);
/// Between two looks for leaks.
const LEAK_ROUNDS: u64 = 20;
/// More descriptors than so a daemon has no use for here: some for each process, state and file system.
const MOST_DESCRIPTORS: usize = 160;
/// Nor more files: a region and notes for each state, two pages for each record of a process.
const MOST_FILES: usize = 64;

struct Actor {
    role: Role,
    index: usize,
    running: Running,
}

pub(crate) struct Scene {
    passthrough: Passthrough,
    home: TempDir,
    /// For backing files, on a tmpfs.
    backing: TempDir,
    mount: PathBuf,
    daemon: Running,
    board: Board<Note>,
    board_path: PathBuf,
    notes: usize,
    actors: Vec<Actor>,
    readers: Vec<Reader<Checked>>,
    /// By state, what was seen last.
    seen: [u64; STATES.len()],
    random: Random,
    began: Instant,
    pub(crate) findings: Findings,
}

impl Scene {
    pub(crate) fn start(passthrough: Passthrough) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("kstate-kills-").tempdir()?;
        let backing = tempfile::Builder::new()
            .prefix("kstate-kills-")
            .tempdir_in("/dev/shm")?;
        let mount = home.path().canonicalize()?.join("mount");
        fs::create_dir(&mount)?;
        let board_path = home.path().join("board");
        // One for each process there will ever be.
        let board = Board::create(&board_path, 1 << 17)?;
        let daemon = start_daemon(&home, &backing, &mount, passthrough)?;
        let mut scene = Self {
            passthrough,
            home,
            backing,
            mount,
            daemon,
            board,
            board_path,
            notes: 0,
            actors: Vec::new(),
            readers: Vec::new(),
            seen: [0; STATES.len()],
            random: Random::of_this_process(),
            began: Instant::now(),
            findings: Findings::default(),
        };
        scene.await_daemon(Instant::now())?;
        scene.prepare()?;
        for role in CAST {
            let actor = scene.actor(role)?;
            scene.actors.push(actor);
        }
        scene.await_progress()?;
        Ok(scene)
    }

    /// Makes the states, each with its first version.
    fn prepare(&mut self) -> Result {
        let mount = Mount::at(&self.mount)?;
        for name in STATES {
            let state = mount.subscribe(name).keep().write().typed::<Checked>()?;
            state.publish(&checked(1))?;
            self.readers.push(mount.subscribe(name).typed()?.reader());
        }
        for state in [ADDED, DURABLE] {
            let file = self.file_of(state);
            let path = self.mount.join(STATES[state]);
            set_attribute(&path, "persistent", file.as_os_str().as_encoded_bytes())?;
            set_attribute(&path, "durability", b"50ms")?;
        }
        let version = fs::read_to_string(self.mount.join(".kstate/version"))?;
        self.findings.passthrough = version.contains("transport passthrough");
        Ok(())
    }

    fn file_of(&self, state: usize) -> PathBuf {
        let home = self.mount.parent().map(PathBuf::from).unwrap_or_default();
        home.join(STATES[state])
    }

    fn actor(&mut self, role: Role) -> Result<Actor> {
        let index = self.notes;
        self.notes += 1;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--mount").arg(&self.mount);
        command.arg("--board").arg(&self.board_path);
        command.args(["--index", &index.to_string(), "--role", role.name()]);
        // An interrupt from the terminal is the soak's alone.
        command.process_group(0);
        Ok(Actor {
            role,
            index,
            running: Running::start(&mut command),
        })
    }

    /// Kills one, or the daemon, or the daemon and then one; starts them again; looks at everything.
    pub(crate) fn round(&mut self, round: u64) -> Result {
        // The daemon every third time.
        let is_daemon = self.random.below(3) == 0;
        if is_daemon {
            self.daemon.signal(Signal::SIGKILL);
            self.daemon.finish();
            *self.findings.kills.entry("daemon").or_default() += 1;
        }
        if !is_daemon || self.random.below(3) == 0 {
            self.kill_one()?;
        }
        let gap = self.random.time(GAP);
        std::thread::sleep(gap);
        if is_daemon {
            // What is mapped is there without a daemon.
            self.look(false)?;
            self.start_again()?;
        }
        self.await_progress()?;
        self.look(true)?;
        if round % LEAK_ROUNDS == LEAK_ROUNDS - 1 {
            self.look_for_leaks()?;
        }
        Ok(())
    }

    fn kill_one(&mut self) -> Result {
        let which = self.random.below(self.actors.len());
        let role = self.actors[which].role;
        self.actors[which].running.signal(Signal::SIGKILL);
        self.actors[which].running.finish();
        *self.findings.kills.entry(role.name()).or_default() += 1;
        let next = self.actor(role)?;
        let dead = std::mem::replace(&mut self.actors[which], next);
        self.count(dead.index)
    }

    /// Counts what a process has done that has ended.
    fn count(&mut self, index: usize) -> Result {
        let note = self.board.entry(index).ok_or("the board is full")?;
        let [torn, backwards, alone] = note.counts();
        self.findings.torn += torn;
        self.findings.backwards += backwards;
        self.findings.alone += alone;
        self.findings.reads += note.done();
        Ok(())
    }

    fn start_again(&mut self) -> Result {
        while self.random.below(8) == 0 {
            let mut daemon =
                start_daemon(&self.home, &self.backing, &self.mount, self.passthrough)?;
            let before = self.random.time(Duration::from_millis(30));
            std::thread::sleep(before);
            daemon.signal(Signal::SIGKILL);
            daemon.finish();
            self.findings.kills_in_takeover += 1;
        }
        let began = Instant::now();
        self.daemon = start_daemon(&self.home, &self.backing, &self.mount, self.passthrough)?;
        self.await_daemon(began)
    }

    fn await_daemon(&mut self, began: Instant) -> Result {
        while Mount::at(&self.mount).is_err() {
            if let Some(status) = self.daemon.ended() {
                return Err(format!("the daemon ended: {status}").into());
            }
            if began.elapsed() > PATIENCE {
                return Err("no daemon serves the mount".into());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        let took = began.elapsed();
        self.findings.longest_takeover = self.findings.longest_takeover.max(took);
        Ok(())
    }

    /// Waits until each process has done something more.
    fn await_progress(&mut self) -> Result {
        let began = Instant::now();
        let done =
            |board: &Board<Note>, actor: &Actor| board.entry(actor.index).map_or(0, Note::done);
        let before: Vec<u64> = self.actors.iter().map(|a| done(&self.board, a)).collect();
        for (which, before) in before.into_iter().enumerate() {
            loop {
                let actor = &mut self.actors[which];
                if done(&self.board, actor) > before {
                    break;
                }
                let name = actor.role.name();
                if let Some(status) = actor.running.ended() {
                    self.findings.wrong.push(format!("{name} ended: {status}"));
                    self.actors[which] = self.actor(self.actors[which].role)?;
                    break;
                }
                if began.elapsed() > PATIENCE {
                    self.findings
                        .stuck
                        .push(format!("{name} does nothing for {PATIENCE:?}"));
                    break;
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        let took = began.elapsed();
        self.findings.longest_standstill = self.findings.longest_standstill.max(took);
        Ok(())
    }

    /// By state, the newest generation that a commit has returned.
    fn committed(&self) -> [u64; STATES.len()] {
        let mut committed = [1; STATES.len()];
        for note in (0..self.notes).filter_map(|index| self.board.entry(index)) {
            for (state, newest) in committed.iter_mut().enumerate() {
                *newest = note.committed(state).max(*newest);
            }
        }
        committed
    }

    /// Looks at all states by the library, and by their files if there is a daemon.
    fn look(&mut self, by_files: bool) -> Result {
        let committed = self.committed();
        for (state, floor) in committed.into_iter().enumerate() {
            let now = match self.readers[state].snapshot() {
                // A committer was killed in the middle, and nobody is there to settle that.
                Err(ReadError::Undecided { .. }) if !by_files => continue,
                now => now?,
            };
            let generation = now.generation().0;
            self.compare(
                state,
                "the library",
                floor,
                generation,
                number_of(&now.value),
            );
            if by_files {
                let value = fs::read(self.mount.join(STATES[state]))?;
                let number = number_of_bytes(&value);
                self.compare(state, "its file", floor, number.unwrap_or(0), number);
            }
            self.seen[state] = self.seen[state].max(generation);
        }
        match cut((&self.readers[PAIR[0]], &self.readers[PAIR[1]])) {
            Err(CutError::Read(ReadError::Undecided { .. })) if !by_files => {}
            pair => {
                let (a, b) = pair?;
                self.findings.torn += u64::from(a.value != b.value);
            }
        }
        self.findings.looks += 1;
        Ok(())
    }

    fn compare(&mut self, state: usize, by: &str, floor: u64, found: u64, number: Option<u64>) {
        let name = STATES[state];
        if found < floor {
            let what = format!("{name} by {by}: {found} after {floor} was committed");
            self.findings.lost.push(what);
        }
        if number != Some(found) {
            self.findings.torn += 1;
        }
        if found < self.seen[state] {
            self.findings.backwards += 1;
        }
    }

    fn look_for_leaks(&mut self) -> Result {
        let began = Instant::now();
        while let Some(leak) = self.leak()? {
            if began.elapsed() > PATIENCE {
                self.findings.leaks.push(leak);
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What there is more of than there ought to be.
    fn leak(&self) -> Result<Option<String>> {
        let writers = [1, 2, 2, 2, 1, 1];
        for (name, expected) in STATES.iter().zip(writers) {
            let found: u64 = attribute(&self.mount.join(name), "writers")?.parse()?;
            if found != expected {
                return Ok(Some(format!(
                    "{name} has {found} writers instead of {expected}"
                )));
            }
        }
        let mounts = leaks::mounts_at(&self.mount)?;
        let daemons = leaks::daemons_of(&self.mount)?.len();
        let (directories, files) = leaks::in_backing(self.backing.path())?;
        let descriptors = open_descriptors(self.daemon.pid());
        // Without passthrough another process holds memory across the daemon's death.
        let most_daemons = 1 + usize::from(!self.findings.passthrough);
        let intents = fs::read_dir(self.mount.join(".kstate/intents"))?.count();
        Ok(match () {
            () if mounts != 1 => Some(format!("{mounts} mounts")),
            () if daemons > most_daemons => Some(format!("{daemons} processes of the daemon")),
            () if directories != 1 => Some(format!("{directories} directories of daemons")),
            () if files > MOST_FILES => Some(format!("{files} files in the daemon's directory")),
            () if descriptors > MOST_DESCRIPTORS => Some(format!("{descriptors} descriptors")),
            () if intents > 2 * 2 => Some(format!("{intents} pages of records")),
            () => None,
        })
    }

    /// Ends everything, and looks whether anything is left.
    pub(crate) fn end(mut self) -> Result<Findings> {
        self.look_for_leaks()?;
        for actor in &mut self.actors {
            actor.running.signal(Signal::SIGKILL);
            actor.running.finish();
        }
        let indexes: Vec<usize> = self.actors.iter().map(|actor| actor.index).collect();
        for index in indexes {
            self.count(index)?;
        }
        self.look(true)?;
        let last = self.seen;
        let durable = (0..self.notes).filter_map(|index| self.board.entry(index));
        self.findings.durable = durable.map(Note::durable_upto).max().unwrap_or(0);
        for (name, generation) in STATES.iter().zip(last) {
            self.findings.commits.insert(name, generation);
        }
        self.readers.clear();
        self.daemon.signal(Signal::SIGTERM);
        self.daemon.finish();
        for state in [ADDED, DURABLE] {
            let file = File::open(self.file_of(state))?;
            let (_, image) = kstatefs::persist::StateFile::recover(file)?;
            let whole = bytes_of(image.generation, size_of::<Checked>()) == image.value;
            if !whole || !image.clean || image.generation != last[state] {
                let name = STATES[state];
                let (clean, found) = (image.clean, image.generation);
                let what = format!("the file of {name} has {found} (clean: {clean})");
                self.findings.lost.push(what);
            }
        }
        let began = Instant::now();
        let left = loop {
            let daemons = leaks::daemons_of(&self.mount)?.len();
            let mounts = leaks::mounts_at(&self.mount)?;
            let (directories, _) = leaks::in_backing(self.backing.path())?;
            if daemons + mounts + directories == 0 {
                break None;
            }
            if began.elapsed() > PATIENCE {
                break Some(format!(
                    "at the end: {daemons} processes, {mounts} mounts, {directories} directories"
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.findings.leaks.extend(left);
        self.findings.seconds = self.began.elapsed().as_secs_f64();
        debug_assert!(FILED < STATES.len());
        Ok(std::mem::take(&mut self.findings))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if self.daemon.ended().is_none() {
            self.daemon.signal(Signal::SIGTERM);
            self.daemon.finish();
        }
        unmount(&self.mount);
    }
}

fn start_daemon(
    home: &TempDir,
    backing: &TempDir,
    mount: &PathBuf,
    passthrough: Passthrough,
) -> Result<Running> {
    let mut command = Command::new(kstatefs());
    command.arg(format!("--backing={}", backing.path().display()));
    command.arg(format!(
        "--manifest={}",
        home.path().join("manifest").display()
    ));
    command.arg(kstate_tests::passthrough(passthrough));
    command.arg(mount).process_group(0);
    Ok(Running::start(&mut command))
}
