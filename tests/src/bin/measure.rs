//! What has no pass or fail but a figure: memory a state, the cost of waiting, subscribe time.
//!
//! Each figure is compared with its bound; over it the exit code is 1.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use kstate::{Mount, State};
use kstate_tests::{Daemon, Running, Setup};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measure what a mount costs
#[derive(Parser, Debug)]
#[command(after_help = "\
Examples:
  cargo run --release -p kstate-tests --bin measure -- memory
  cargo run --release -p kstate-tests --bin measure -- idle --watchers 1000 --seconds 30")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// Memory of a small state, of a page-sized one, and of many small ones with a writer each
    Memory {
        /// How many small states
        #[arg(long, default_value_t = 10_000)]
        states: u32,
    },
    /// Processor time of the daemon and of many waiting watchers, with nothing happening
    Idle {
        /// How many watchers, in processes of a hundred threads
        #[arg(long, default_value_t = 1000)]
        watchers: u32,
        /// For how long
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// How long subscribing takes
    Subscribe {
        /// How many times
        #[arg(long, default_value_t = 2000)]
        times: u32,
    },
    /// Threads that wait, for `idle`
    #[command(hide = true)]
    Watchers {
        mount: std::path::PathBuf,
        count: u32,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().what {
        What::Memory { states } => memory(states),
        What::Idle { watchers, seconds } => idle(watchers, Duration::from_secs(seconds)),
        What::Subscribe { times } => subscribe(times),
        What::Watchers { mount, count } => watch(&mount, count).map(|()| json!({})),
    };
    match done {
        Ok(figures) => {
            if figures != json!({}) {
                println!("{figures:#}");
            }
            let over = figures["over"]
                .as_array()
                .is_some_and(|over| !over.is_empty());
            if over {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            }
        }
        Err(error) => {
            eprintln!("measure: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Adds `over`, the names of the figures beyond their bounds.
fn judged(mut figures: Value, bounds: &[(&str, f64)]) -> Value {
    let beyond =
        |&&(name, bound): &&(&str, f64)| figures[name].as_f64().is_none_or(|figure| figure > bound);
    let over: Vec<&str> = bounds
        .iter()
        .filter(beyond)
        .map(|(name, _)| *name)
        .collect();
    figures["over"] = json!(over);
    figures
}

fn memory(states: u32) -> Result<Value> {
    let shelf = tempfile::tempdir_in("/dev/shm")?;
    let backing = format!("--backing={}", shelf.path().display());
    let mut daemon = Setup::default().with(backing).start();
    let mount = Mount::at(daemon.mount())?;
    let page = u64::from(kstate_sys::abi::page_size());
    let pages = || -> Result<u64> { Ok(backing_bytes(shelf.path())? / page) };
    let empty = pages()?;
    let small = mount.subscribe("small").write().typed::<[u64; 8]>()?;
    small.publish(&[1; 8])?;
    let with_small = pages()?;
    let large = mount.subscribe("large").write().typed::<[u64; 512]>()?;
    large.publish(&[1; 512])?;
    let with_large = pages()?;
    drop((small, large));
    let daemon_before = resident_bytes(&mut daemon)?;
    let own_before = own_resident_bytes()?;
    let backing_before = backing_bytes(shelf.path())?;
    let start = Instant::now();
    let mut writers: Vec<State<[u64; 8]>> = Vec::new();
    for number in 0..states {
        let state = mount
            .subscribe(format!("many.{number}"))
            .write()
            .typed::<[u64; 8]>()?;
        state.publish(&[u64::from(number); 8])?;
        writers.push(state);
    }
    let took = start.elapsed();
    let mega = |bytes: u64| bytes as f64 / 1e6;
    let backing = mega(backing_bytes(shelf.path())? - backing_before);
    let daemon_grew = mega(resident_bytes(&mut daemon)?.saturating_sub(daemon_before));
    let own_grew = mega(own_resident_bytes()?.saturating_sub(own_before));
    let tables = mega(page_table_bytes("self")?)
        + mega(page_table_bytes(&daemon.process().pid().to_string())?);
    let figures = json!({
        "small_state_pages": with_small - empty,
        "page_state_pages": with_large - with_small,
        "states": states,
        "backing_mb": backing,
        "daemon_private_mb": daemon_grew,
        "writer_private_mb": own_grew,
        "page_tables_mb": tables,
        "all_mb": backing + daemon_grew + own_grew + tables,
        "create_and_publish_us": took.as_secs_f64() * 1e6 / f64::from(states),
    });
    drop(writers);
    let all = 130.0 * f64::from(states.max(1)) / 10_000.0 + 5.0;
    let all = if states == 10_000 { 130.0 } else { all };
    Ok(judged(
        figures,
        &[
            ("small_state_pages", 3.0),
            ("page_state_pages", 8.0),
            ("all_mb", all),
        ],
    ))
}

fn idle(watchers: u32, duration: Duration) -> Result<Value> {
    let mut daemon = Daemon::start();
    let mount = Mount::at(daemon.mount())?;
    let state = mount.subscribe("watched").write().typed::<u64>()?;
    state.publish(&1)?;
    let a_process = 100;
    let mut processes = Vec::new();
    for first in (0..watchers).step_by(a_process) {
        let count = (watchers - first).min(u32::try_from(a_process)?);
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("watchers")
            .arg(daemon.mount())
            .arg(count.to_string());
        processes.push(Running::start(&mut command));
    }
    for process in &mut processes {
        if process.line() != "waiting" {
            return Err("a watcher does not wait".into());
        }
    }
    let pids: Vec<String> = processes
        .iter()
        .map(Running::pid)
        .chain([daemon.process().pid()])
        .map(|pid| pid.to_string())
        .collect();
    let before = pids
        .iter()
        .map(|pid| processor_seconds(pid))
        .sum::<Result<f64>>()?;
    let start = Instant::now();
    std::thread::sleep(duration);
    let after = pids
        .iter()
        .map(|pid| processor_seconds(pid))
        .sum::<Result<f64>>()?;
    let share = (after - before) / start.elapsed().as_secs_f64();
    let waiters = state.info()?.waiters;
    let figures = json!({
        "watchers": watchers,
        "processes_waiting": waiters,
        "seconds": duration.as_secs(),
        "core_percent": share * 100.0,
    });
    Ok(judged(figures, &[("core_percent", 0.5)]))
}

/// `count` threads of this process, each a watcher with a subscription of its own.
fn watch(mount: &Path, count: u32) -> Result<()> {
    let mount = Mount::at(mount)?;
    for _ in 0..count {
        let state = mount.subscribe("watched").typed::<u64>()?.reader();
        let mut watch = state.watch().since(state.generation());
        // Registered before it is said to be waiting.
        let _ = watch.next(Some(Duration::from_millis(1)))?;
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || while let Ok(_change) = watch.next(None) {})?;
    }
    println!("waiting");
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())?;
    Ok(())
}

fn subscribe(times: u32) -> Result<Value> {
    let daemon = Daemon::start();
    let mount = Mount::at(daemon.mount())?;
    let keep = mount.subscribe("x").write().typed::<u64>()?;
    keep.publish(&1)?;
    let time = |work: &mut dyn FnMut() -> Result<()>| -> Result<Value> {
        let mut samples = Vec::new();
        for _ in 0..times {
            let start = Instant::now();
            work()?;
            samples.push(start.elapsed().as_secs_f64() * 1e6);
        }
        samples.sort_by(f64::total_cmp);
        let at = |percent: usize| samples[samples.len() * percent / 100];
        Ok(json!({ "p50": at(50), "p99": at(99) }))
    };
    let path = daemon.file("x");
    let open = time(&mut || {
        drop(fs::File::open(&path)?);
        Ok(())
    })?;
    let read = time(&mut || {
        drop(mount.subscribe("x").typed::<u64>()?);
        Ok(())
    })?;
    let write = time(&mut || {
        mount.subscribe("x").write().typed::<u64>()?.publish(&1)?;
        Ok(())
    })?;
    Ok(json!({
        "open_and_close_us": open,
        "subscribe_and_drop_us": read,
        "subscribe_publish_drop_us": write,
    }))
}

/// What is allocated in a directory and those below it.
fn backing_bytes(directory: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let found = entry.metadata()?;
        total += match found.is_dir() {
            true => backing_bytes(&entry.path())?,
            false => found.blocks() * 512,
        };
    }
    Ok(total)
}

/// Private memory of the daemon: shared pages are the regions, counted once already.
fn resident_bytes(daemon: &mut Daemon) -> Result<u64> {
    private_bytes(&daemon.process().pid().to_string())
}

fn own_resident_bytes() -> Result<u64> {
    private_bytes("self")
}

fn private_bytes(process: &str) -> Result<u64> {
    status_bytes(process, "RssAnon:")
}

fn page_table_bytes(process: &str) -> Result<u64> {
    status_bytes(process, "VmPTE:")
}

fn status_bytes(process: &str, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kilobytes = line.ok_or_else(|| format!("no {field} in the status of {process}"))?;
    Ok(kilobytes.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// User and system time of a process so far.
fn processor_seconds(pid: &str) -> Result<f64> {
    // Nanoseconds of all its threads, where utime and stime of stat count ticks of 10 ms.
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        total += text.split(' ').next().unwrap_or("0").parse::<u64>()?;
    }
    Ok(total as f64 / 1e9)
}
