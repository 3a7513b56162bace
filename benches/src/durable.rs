//! What it costs to keep a state in a file: nothing where its writer does not wait for that, and beside bare
//! fdatasync(2) where it does.

mod steps;

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use kstate::{Durability, Stamping, State};
use tempfile::TempDir;

use crate::alternate::{alternate, alternate_single};
use crate::case::Case;
use crate::place::pin;
use crate::setup::{Result, Setup};

/// Bytes of a small value.
const SMALL: usize = 64;
/// What a save of a small value writes.
const BLOCK: usize = 4096;
/// Durable commits timed for each block that is asked for, in each round of writers.
const DURABLE_A_BLOCK: usize = 2;
/// So many commit durably at once.
const WRITERS: [usize; 3] = [1, 4, 16];
/// How long commits are made for counting what they write.
const COUNTED: Duration = Duration::from_secs(1);
/// Between two of them: 10 kHz.
const PERIOD: Duration = Duration::from_micros(100);

/// A directory on a disk, for files of states and of the limit.
struct Disk(TempDir);

impl Disk {
    fn new(directory: Option<&Path>) -> Result<Self> {
        let directory = directory.map_or_else(std::env::temp_dir, PathBuf::from);
        let made = tempfile::Builder::new()
            .prefix("kstate-bench-")
            .tempdir_in(directory)?;
        Ok(Self(made))
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        Ok(self.0.path().canonicalize()?.join(name))
    }

    /// A file with its blocks allocated and written, as a state's has them.
    fn bare(&self, name: &str) -> Result<File> {
        let file = File::create_new(self.path(name)?)?;
        file.write_all_at(&vec![0; 4 * BLOCK], 0)?;
        file.sync_all()?;
        Ok(file)
    }
}

/// All cases.
pub(crate) fn run(blocks: usize, directory: Option<&Path>) -> Result<Vec<Case>> {
    pin(0);
    let (setup, disk) = (Setup::start()?, Disk::new(directory)?);
    let mut cases = background::<8>(&setup, &disk, blocks)?;
    cases.extend(background::<512>(&setup, &disk, blocks)?);
    crate::place::unpin();
    for writers in WRITERS {
        cases.push(durable(&setup, &disk, writers, blocks * DURABLE_A_BLOCK)?);
    }
    Ok(cases)
}

/// A state, kept in a file if a durability is given.
fn state<const WORDS: usize>(
    setup: &Setup,
    disk: &Disk,
    name: &str,
    durability: Option<Durability>,
) -> Result<State<[u64; WORDS]>> {
    let name = format!("durable.{name}.{WORDS}");
    let state = setup.state::<WORDS>(&name)?;
    state.publish(&[1; WORDS])?;
    if let Some(durability) = durability {
        state.set_persistent(disk.path(&name)?)?;
        state.set_durability(durability)?;
    }
    Ok(state)
}

/// Publishing beside publishing to a state without a file, on the same processor. The daemon has the other.
fn background<const WORDS: usize>(setup: &Setup, disk: &Disk, blocks: usize) -> Result<Vec<Case>> {
    let transient = state::<WORDS>(setup, disk, "transient", None)?;
    let bytes = WORDS * 8;
    let mut cases = Vec::new();
    for (name, durability) in [
        (
            "within a second",
            Durability::Within(Duration::from_secs(1)),
        ),
        (
            "within 50 ms",
            Durability::Within(Duration::from_millis(50)),
        ),
        ("each commit", Durability::Each),
    ] {
        let kept = state::<WORDS>(setup, disk, &name.replace(' ', "-"), Some(durability))?;
        let publish = |state: &State<[u64; WORDS]>, count| {
            for _ in 0..count {
                publish_one(state);
            }
        };
        let (ours, limit) = alternate(
            blocks,
            |count| publish(&kept, count),
            |count| publish(&transient, count),
        );
        let title = format!("publish {bytes} B, in its file {name}, beside without");
        cases.push(Case::new(title, ours, limit));
        let each = matches!(durability, Durability::Each);
        steps::compare(
            &format!("publish {bytes} B, {name}"),
            &kept,
            &transient,
            each,
        )?;
        written(setup, &format!("{bytes} B, {name}"), &kept)?;
        drop(kept);
    }
    Ok(cases)
}

#[inline(always)]
fn publish_one<const WORDS: usize>(state: &State<[u64; WORDS]>) {
    match state.publish(black_box(&[7; WORDS])) {
        Ok(generation) => {
            black_box(generation);
        }
        Err(error) => panic!("{error}"),
    }
}

/// Tells what 10 000 commits a second write to the medium.
fn written<const WORDS: usize>(
    setup: &Setup,
    title: &str,
    state: &State<[u64; WORDS]>,
) -> Result<()> {
    let bytes = || -> Result<u64> { bytes_written(&setup.path(state.name().as_str())) };
    let (before, began) = (bytes()?, Instant::now());
    let mut commits = 0_u32;
    while began.elapsed() < COUNTED {
        publish_one(state);
        commits += 1;
        while began.elapsed() < PERIOD * commits {
            std::hint::spin_loop();
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let written = (bytes()? - before) as f64;
    eprintln!(
        "{title}: {:.0} commits a second write {:.1} KiB a second, {:.2} GiB a day",
        f64::from(commits) / seconds,
        written / seconds / 1024.0,
        written / seconds * 86_400.0 / f64::from(1 << 30),
    );
    Ok(())
}

fn bytes_written(state: &Path) -> Result<u64> {
    let states = std::fs::read_to_string(state.with_file_name(".kstate/states"))?;
    let name = state
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or("no text")?;
    for line in states.lines() {
        let told: serde_json::Value = serde_json::from_str(line)?;
        if told["state"] == name {
            return told["flushed_bytes"]
                .as_u64()
                .ok_or_else(|| "no figure".into());
        }
    }
    Err("no such state".into())
}

/// Commits that return when they are on the medium, of so many writers of one state, beside as many threads
/// that write and sync a file each. Times are those of one commit of one writer.
fn durable(setup: &Setup, disk: &Disk, writers: usize, times: usize) -> Result<Case> {
    let name = format!("durable.{writers}");
    let keeper = setup.state::<8>(&name)?;
    keeper.publish(&[1; 8])?;
    keeper.set_persistent(disk.path(&name)?)?;
    keeper.set_durability(Durability::Within(Duration::from_secs(3600)))?;
    let states: Vec<_> = (0..writers)
        .map(|_| setup.state::<8>(&name))
        .collect::<Result<_>>()?;
    for state in &states {
        state.set_stamping(Stamping::Off);
    }
    let bare: Vec<_> = (0..writers)
        .map(|writer| disk.bare(&format!("bare.{writers}.{writer}")))
        .collect::<Result<_>>()?;
    let mut states = states;
    // Rounds in turn; in each, every writer commits as often as it takes to be timed.
    let rounds = (times / 20).max(3);
    let each = 20_u32;
    let ours = || -> Result<f64> {
        let began = Instant::now();
        thread::scope(|scope| {
            for state in &mut states {
                scope.spawn(move || {
                    for _ in 0..each {
                        if let Err(error) = state.publish_durable(&[7; 8]) {
                            panic!("{error}");
                        }
                    }
                });
            }
        });
        Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(each))
    };
    let limit = || -> Result<f64> {
        let block = [7; BLOCK];
        let began = Instant::now();
        thread::scope(|scope| {
            for file in &bare {
                scope.spawn(move || {
                    for round in 0..each {
                        let offset = u64::from(round % 2) * 2 * BLOCK as u64;
                        let written = file.write_all_at(&block, offset);
                        if let Err(error) = written.and_then(|()| file.sync_data()) {
                            panic!("{error}");
                        }
                    }
                });
            }
        });
        Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(each))
    };
    let (ours, limit) = alternate_single(rounds, ours, limit)?;
    let a_second = |ns: f64| 1e9 / ns * f64::from(u32::try_from(writers).unwrap_or(1));
    eprintln!(
        "durable {SMALL} B, {writers} at once: {:.0} commits a second, beside {:.0} of bare fdatasync",
        a_second(ours.p50),
        a_second(limit.p50)
    );
    let title = format!("durable {SMALL} B, {writers} at once, beside fdatasync");
    Ok(Case::new(title, ours, limit))
}
