//! A process of a test that waits, says of what and when it was woken, and ends with the state.

use std::io::{Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use kstate::{
    Change, Generation, Interrupt, Mount, Notifier, NotifyBy, NotifyError, State, Wait, WaitError,
    Waited,
};
use kstate_sys::ioctl::place;
use kstate_tests::{Ended, Kind, PATIENCE, Sleeper, begin_wait, eventually, open_descriptors};
use nix::sys::wait::WaitStatus;
use nix::unistd::{ForkResult, Pid};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A process of a test that waits
#[derive(Parser, Debug)]
struct Cli {
    mount: PathBuf,
    name: String,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand, Clone, Debug)]
enum Role {
    /// Prints the generation of each version it is woken for, until the state is deleted
    Follow { by: By },
    /// Waits in every way for what comes, and for what does not until it is interrupted, with the state
    /// and another one named NAME.other
    Waits,
    /// Asks for a mark for so many milliseconds and stays until its input ends
    Mark { milliseconds: u32 },
    /// Forks; parent and child wait through the same open file, the child for two versions, the parent
    /// for three
    ForkWait,
    /// Forks with a notifier; parent and child go on with it, the child until version 3, the parent until
    /// version 4
    ForkNotifier { by: By },
    /// Drops notifiers with waits in flight, and counts what is left of them
    DropNotifiers { by: By },
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum By {
    Change,
    Watch,
    /// The first way that works, which is printed
    Notifier,
    Uring,
    Thread,
    Files,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waiter: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result {
    let mount = Mount::at(&cli.mount)?;
    let subscribe = || mount.subscribe(&cli.name).typed::<u64>();
    match cli.role {
        Role::Follow { by: By::Change } => follow(&subscribe()?),
        Role::Follow { by: By::Watch } => watch(&subscribe()?),
        Role::Follow { by } => listen(&subscribe()?, by),
        Role::Waits => waits(&mount, &cli.name),
        Role::Mark { milliseconds } => {
            let state = subscribe()?;
            begin_wait(&state, place::HEAD, milliseconds);
            say("ready")?;
            until_input_ends()
        }
        Role::ForkWait => fork_wait(&subscribe()?),
        Role::ForkNotifier { by } => fork_notifier(&subscribe()?, by),
        Role::DropNotifiers { by } => drop_notifiers(&mount, by),
    }
}

fn follow(state: &State<u64>) -> Result {
    let mut seen = state.generation();
    // A first wait sets the mark, so that the line below is true.
    let _ = state.wait(seen, Some(Duration::from_millis(1)))?;
    say("ready")?;
    loop {
        match state.wait(seen, None) {
            Ok(Waited::Changed(generation)) => {
                seen = generation;
                say(&generation.to_string())?;
            }
            Ok(_) => {}
            Err(WaitError::Deleted { .. }) => return say("deleted"),
            Err(error) => return Err(error.into()),
        }
    }
}

fn watch(state: &State<u64>) -> Result {
    let mut watch = state.watch().since(state.generation());
    watch.next(Some(Duration::from_millis(1)))?;
    say("ready")?;
    loop {
        if let Some(snapshot) = watch.next(None)? {
            say(&snapshot.generation().to_string())?;
        }
    }
}

fn notifier(by: By) -> std::result::Result<Notifier, NotifyError> {
    match by {
        By::Uring => Notifier::by(NotifyBy::Uring),
        By::Thread => Notifier::by(NotifyBy::Thread),
        By::Files => Notifier::by(NotifyBy::Files),
        By::Notifier | By::Change | By::Watch => Notifier::new(),
    }
}

fn listen(state: &State<u64>, by: By) -> Result {
    let mut notifier = notifier(by)?;
    notifier.add_since(state, state.generation())?;
    say(&format!("ready {:?}", notifier.way()))?;
    loop {
        for event in notifier.wait(None)? {
            match event.change {
                Change::To(generation) => say(&generation.to_string())?,
                Change::Deleted => return say("deleted"),
                other => say(&format!("{other:?}"))?,
            }
        }
    }
}

fn waits(mount: &Mount, name: &str) -> Result {
    let (state, other) = (
        mount.subscribe(name).write().typed::<u64>()?,
        mount
            .subscribe(format!("{name}.other"))
            .write()
            .typed::<u64>()?,
    );
    for kind in Kind::ALL {
        let interrupt = Interrupt::new();
        let ended = |raise: bool| -> Result<Ended> {
            let theirs = (mount.path().to_owned(), name.to_owned(), interrupt.clone());
            let waiting = Sleeper::start(move || {
                let (mount, name, interrupt) = theirs;
                let mount = Mount::at(mount).map_err(|error| error.to_string())?;
                let waited = kind.wait(&mount, &name, &interrupt, PATIENCE);
                waited.map_err(|error| error.to_string())
            });
            waiting.await_asleep();
            let absent = match (raise, kind) {
                (true, _) => {
                    interrupt.raise();
                    None
                }
                (false, Kind::There) => Some(
                    mount
                        .subscribe(format!("{name}.absent"))
                        .write()
                        .typed::<u64>()?,
                ),
                (false, _) => {
                    state.publish(&(state.snapshot()?.value + 1))?;
                    None
                }
            };
            let start = Instant::now();
            let ended = waiting.join()?;
            drop(absent);
            ensure(start.elapsed() < Duration::from_secs(1), "it is late")?;
            Ok(ended)
        };
        // Its rate lets nothing come for an hour.
        if kind != Kind::Paced {
            ensure(
                ended(false)? == Ended::Come,
                &format!("{kind:?} of what comes"),
            )?;
        }
        let interrupted = ended(true)? == Ended::Interrupted;
        ensure(interrupted, &format!("{kind:?} interrupted"))?;
    }
    let short = Wait::new().timeout(Duration::from_millis(20));
    let seen = [
        (&state as _, state.generation()),
        (&other as _, other.generation()),
    ];
    let (_, waited) = short.for_any(&seen)?;
    ensure(waited == Waited::TimedOut, "any of two that do not change")?;
    say("right")
}

/// Runs `parent` here and `child` in a child, each with what both have.
fn fork<T>(both: T, parent: impl FnOnce(T) -> Result, child: impl FnOnce(T) -> Result) -> Result {
    #![expect(unsafe_code, reason = "fork(2)")]
    // SAFETY: what the child calls is the library, which allows that, and the allocator, which glibc
    // lets a forked child use.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => {
            parent(both)?;
            match nix::sys::wait::waitpid(child, None)? {
                WaitStatus::Exited(_, 0) => Ok(()),
                status => Err(format!("the child ended with {status:?}").into()),
            }
        }
        ForkResult::Child => {
            let done = child(both);
            if let Err(error) = &done {
                eprintln!("child: {error}");
            }
            std::process::exit(i32::from(done.is_err()))
        }
    }
}

fn fork_wait(state: &State<u64>) -> Result {
    let seen = state.generation();
    let _ = state.wait(seen, Some(Duration::from_millis(1)))?;
    let go_on = |who: &str, times: usize| -> Result {
        let mut seen = seen;
        let _ = state.wait(seen, Some(Duration::from_millis(1)))?;
        say(&format!("{who} ready"))?;
        for _ in 0..times {
            let wait = Wait::new().timeout(PATIENCE);
            let Waited::Changed(newest) = wait.for_change(state, seen)? else {
                return Err(format!("{who} was not woken").into());
            };
            seen = newest;
            say(&format!("{who} {newest}"))?;
        }
        Ok(())
    };
    fork((), |()| go_on("parent", 3), |()| go_on("child", 2))
}

fn fork_notifier(state: &State<u64>, by: By) -> Result {
    let mut notifier = notifier(by)?;
    notifier.add_since(state, state.generation())?;
    notifier.changed()?;
    let go_on = |who: &str, notifier: &mut Notifier, last: u64| -> Result {
        // The child's own is made here.
        notifier.changed()?;
        say(&format!("{who} ready {:?}", notifier.way()))?;
        loop {
            let events = notifier.wait(Some(PATIENCE))?;
            if events.is_empty() {
                return Err(format!("{who} was not told").into());
            }
            for event in events {
                let Change::To(newest) = event.change else {
                    return Err(format!("{who} was told {event:?}").into());
                };
                say(&format!("{who} {newest}"))?;
                if newest >= Generation(last) {
                    return Ok(());
                }
            }
        }
    };
    fork(
        notifier,
        |mut notifier| go_on("parent", &mut notifier, 4),
        |mut notifier| go_on("child", &mut notifier, 3),
    )
}

fn drop_notifiers(mount: &Mount, by: By) -> Result {
    let states: Vec<State<u64>> = (0..20)
        .map(|number| mount.subscribe(format!("s{number}")).write().typed())
        .collect::<std::result::Result<_, _>>()?;
    for state in &states {
        state.publish(&0)?;
    }
    let before = (open_descriptors(Pid::this()), serving_threads()?);
    for round in 0..5 {
        let mut notifier = notifier(by)?;
        for state in &states {
            let reader = mount.subscribe(state.name()).typed::<u64>()?;
            notifier.add_since(&reader, state.generation())?;
        }
        if round % 2 == 0 {
            // Some have told already, some have not yet.
            states[round].publish(&1)?;
            let told = !notifier.wait(Some(PATIENCE))?.is_empty();
            ensure(told, "nothing was told")?;
            states[round + 1].publish(&1)?;
        }
        drop(notifier);
    }
    eventually("all that was opened is closed", || {
        let now = (open_descriptors(Pid::this()), serving_threads().ok()?);
        (now == before).then_some(())
    });
    for state in &states {
        eventually("nobody waits", || {
            (state.info().ok()?.waiters == 0).then_some(())
        });
    }
    say("right")
}

/// Threads of this process that serve notifiers.
fn serving_threads() -> Result<usize> {
    // One may end in between.
    let tasks = std::fs::read_dir("/proc/self/task")?.flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    Ok(names.filter(|name| name.trim() == "kstate-notify").count())
}

fn ensure(right: bool, what: &str) -> Result {
    match right {
        true => Ok(()),
        false => Err(what.into()),
    }
}

fn say(line: &str) -> Result {
    let mut output = stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}

fn until_input_ends() -> Result {
    std::io::copy(&mut stdin().lock(), &mut std::io::sink())?;
    Ok(())
}
