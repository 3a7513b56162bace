//! How many instructions the hot paths take: counted by callgrind, the same on a noisy machine as on a quiet one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, ValueEnum};
use kstate::{Mount, State};
use serde::{Deserialize, Serialize};

use crate::setup::{Result, Setup, name_of};

const FILE: &str = include_str!("../instructions.toml");
/// A count may differ by so much from its pin.
const TOLERANCE: f64 = 0.05;
/// Each path is taken so often, behind once that does not count.
const ROUNDS: u32 = 1000;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hot {
    Snapshot64,
    Snapshot4096,
    Publish64,
    Publish4096,
    Commit64,
    Commit4096,
    Generation,
    CommitTwo,
    CutTwo,
}

/// A path taken under callgrind.
#[derive(Args, Clone, Debug)]
pub(crate) struct Taken {
    #[arg(long, value_enum)]
    hot: Hot,
    #[arg(long)]
    mount: PathBuf,
}

/// A count beside its pin.
#[derive(Debug, Serialize)]
pub(crate) struct Count {
    path: String,
    instructions: f64,
    pinned: f64,
    change: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    instructions: std::collections::BTreeMap<String, f64>,
}

impl Count {
    fn is_off(&self) -> bool {
        self.change.abs() > TOLERANCE
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            instructions,
            pinned,
            change,
        } = self;
        let percent = change * 100.0;
        write!(
            f,
            "{path:<16} {instructions:>8.1} {pinned:>8.1} {percent:>+7.1} %"
        )
    }
}

/// Counts all, shows them, and says whether each is as it is pinned.
pub(crate) fn run(json: bool) -> Result<bool> {
    let pins: File = toml::from_str(FILE)?;
    let setup = Setup::start()?;
    let mut counts = Vec::new();
    for hot in Hot::value_variants() {
        let path = name_of(hot);
        let pinned = pins.instructions.get(&path).copied();
        let pinned = pinned.ok_or_else(|| format!("no count is pinned for `{path}`"))?;
        let instructions = count(*hot, setup.mount().path())?;
        counts.push(Count {
            path,
            instructions,
            pinned,
            change: instructions / pinned - 1.0,
        });
    }
    if counts.len() != pins.instructions.len() {
        return Err("a count is pinned that is of no path".into());
    }
    match json {
        true => println!("{}", serde_json::to_string_pretty(&counts)?),
        false => counts.iter().for_each(|count| println!("{count}")),
    }
    for count in counts.iter().filter(|count| count.is_off()) {
        eprintln!("not as pinned in benches/instructions.toml: {count}");
    }
    Ok(!counts.iter().any(Count::is_off))
}

/// Instructions of one round of a path.
fn count(hot: Hot, mount: &Path) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args([
        "--tool=callgrind",
        "--quiet",
        "--collect-atstart=no",
        "--toggle-collect=*counted_rounds*",
    ]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    valgrind
        .arg(std::env::current_exe()?)
        .args(["taken", "--hot", &name_of(&hot), "--mount"]);
    let output = valgrind.arg(mount).output();
    let output =
        output.map_err(|error| format!("valgrind, as in the package valgrind: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let counted = std::fs::read_to_string(out)?;
    let total = counted
        .lines()
        .find_map(|line| line.strip_prefix("summary: "));
    let total: f64 = total
        .ok_or("callgrind has counted nothing")?
        .trim()
        .parse()?;
    Ok(total / f64::from(ROUNDS))
}

/// The main of a process under callgrind.
pub(crate) fn take(taken: &Taken) -> ExitCode {
    match take_rounds(taken) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kstate-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn take_rounds(taken: &Taken) -> Result<()> {
    let mount = Mount::at(&taken.mount)?;
    let name = name_of(&taken.hot);
    match taken.hot {
        Hot::Snapshot64 => snapshot::<8>(&mount, &name),
        Hot::Snapshot4096 => snapshot::<512>(&mount, &name),
        Hot::Publish64 => publish::<8>(&mount, &name),
        Hot::Publish4096 => publish::<512>(&mount, &name),
        Hot::Commit64 => commit::<8>(&mount, &name),
        Hot::Commit4096 => commit::<512>(&mount, &name),
        Hot::Generation => {
            let state = state::<8>(&mount, &name)?;
            hot_rounds(|| state.changed_since(kstate::Generation::NEVER));
            Ok(())
        }
        Hot::CommitTwo => {
            let (one, two) = (
                state::<8>(&mount, &name)?,
                state::<8>(&mount, &format!("{name}.two"))?,
            );
            hot_rounds(|| {
                let mut tx = kstate::begin_many();
                let added = tx.add(&one).is_ok() && tx.add(&two).is_ok();
                let set = tx.set(&one, &[7; 8]).is_ok() && tx.set(&two, &[7; 8]).is_ok();
                added && set && tx.commit().is_ok_and(|outcome| outcome.is_committed())
            });
            Ok(())
        }
        Hot::CutTwo => {
            let (one, two) = (
                state::<8>(&mount, &name)?,
                state::<8>(&mount, &format!("{name}.two"))?,
            );
            let readers = [one.reader(), two.reader()];
            hot_rounds(|| kstate::cut(&readers[..]).is_ok());
            Ok(())
        }
    }
}

/// A state of so many words, with a value; without commit times, which take as many instructions as the machine's clock.
fn state<const WORDS: usize>(mount: &Mount, name: &str) -> Result<State<[u64; WORDS]>> {
    let state = mount.subscribe(name).write().typed::<[u64; WORDS]>()?;
    state.set_stamping(kstate::Stamping::Off);
    state.publish(&[7; WORDS])?;
    Ok(state)
}

fn snapshot<const WORDS: usize>(mount: &Mount, name: &str) -> Result<()> {
    let reader = state::<WORDS>(mount, name)?.reader();
    let mut value = [0; WORDS];
    hot_rounds(|| reader.snapshot_into(&mut value).is_ok());
    Ok(())
}

fn publish<const WORDS: usize>(mount: &Mount, name: &str) -> Result<()> {
    let state = state::<WORDS>(mount, name)?;
    let value = [8; WORDS];
    hot_rounds(|| state.publish(std::hint::black_box(&value)).is_ok());
    Ok(())
}

fn commit<const WORDS: usize>(mount: &Mount, name: &str) -> Result<()> {
    let state = state::<WORDS>(mount, name)?;
    hot_rounds(|| {
        let Ok(mut tx) = state.begin() else {
            return false;
        };
        let changed = tx
            .get_mut()
            .map(|value| value[0] = value[0].wrapping_add(1));
        changed.is_ok() && tx.commit().is_ok_and(|outcome| outcome.is_committed())
    });
    Ok(())
}

/// Once that makes what is made once, and then so often that what is around it does not count.
fn hot_rounds(mut round: impl FnMut() -> bool) {
    assert!(round(), "the path is taken");
    assert!(counted_rounds(&mut round), "the path is taken each time");
}

/// What callgrind counts, by this name.
#[inline(never)]
fn counted_rounds(round: &mut impl FnMut() -> bool) -> bool {
    (0..ROUNDS).all(|_| std::hint::black_box(round()))
}
