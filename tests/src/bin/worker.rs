//! A process of a test: publishes, reads, waits or counts, says so, and ends with its input.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Parser, Subcommand};
use kstate::{Generation, Mount, Stamping, State, Waited};
use kstate_sys::ioctl;
use kstate_tests::{Checked, checked, number_of};

#[path = "worker/letting_go.rs"]
mod letting_go;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A process of a test
#[derive(Parser, Debug)]
struct Cli {
    mount: PathBuf,
    name: String,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand, Clone, Debug)]
enum Role {
    /// Adds one to a counter so many times, by transactions; prints how many attempts it took
    Increment { times: u64 },
    /// Publishes checked values as fast as it can until its input ends; prints how many
    Publish,
    /// Publishes one checked value for each line of input, and repeats the line
    PublishLines,
    /// Takes so many snapshots; prints how many were torn and how many went back in time
    Check { reads: u64 },
    /// Subscribes for reading and stays until its input ends
    Hold,
    /// Asks for a turn of so many microseconds until it is given one, prints how long it is, and
    /// stays until its input ends
    HoldTurn { microseconds: u32 },
    /// Waits for each change and prints the number of the newest value
    Wait,
    /// Publishes and reads a million times with every system call forbidden, then says how many
    /// page faults it took
    Silent,
    /// Publishes once, then replaces itself by this program so many times, which do the same, and
    /// stays until its input ends
    Exec { times: u64 },
    /// Moves amounts between so many accounts, named after the state, until its input ends; prints
    /// how often
    Transfer {
        accounts: u32,
        /// Adds the accounts to each transaction in the other order
        #[arg(long)]
        reverse: bool,
    },
    /// Takes cuts of so many accounts until its input ends; prints how many there were and how many
    /// did not sum up to the amount there is
    Audit { accounts: u32, amount: i64 },
    /// Begins a transaction over both of two accounts, forks, and has the child try to commit it and
    /// then one of its own
    ForkAndTransfer,
    /// Forks while it holds a claim; the child publishes too and stays when the parent is killed
    ForkAndHold {
        /// The parent ends once it has forked
        #[arg(long)]
        leave: bool,
    },
    /// Publishes once, and at a line of input replaces itself by a program that stays until its input ends
    Become {
        /// Which has the descriptor of the handle, too
        #[arg(long)]
        inherit: bool,
    },
    /// Publishes once, sends the descriptor of its handle to who listens there, and ends
    Send { socket: PathBuf },
    /// Publishes once and closes its descriptor, so that the map is all there is; at a line of input says
    /// what it reads there, and why it cannot publish
    MapOnly,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result {
    let mount = Mount::at(&cli.mount)?;
    match cli.role {
        Role::Transfer { accounts, reverse } => {
            return bank::transfer(&bank::open(&mount, &cli.name, accounts, true)?, reverse);
        }
        Role::Audit { accounts, amount } => {
            return bank::audit(&bank::open(&mount, &cli.name, accounts, false)?, amount);
        }
        Role::ForkAndTransfer => {
            return bank::fork_and_transfer(&bank::open(&mount, &cli.name, 2, true)?);
        }
        _ => {}
    }
    let subscribe = mount.subscribe(&cli.name);
    match cli.role {
        Role::Increment { times } => increment(&subscribe.write().typed()?, times),
        Role::Publish => publish(&subscribe.write().typed()?),
        Role::PublishLines => publish_lines(&subscribe.write().typed()?),
        Role::Check { reads } => check(&subscribe.typed()?, reads),
        Role::Hold => {
            let _state = subscribe.bytes()?;
            say("ready")?;
            until_input_ends()
        }
        Role::HoldTurn { microseconds } => hold_turn(&subscribe.write().bytes()?, microseconds),
        Role::Wait => wait(&subscribe.typed()?),
        Role::Silent => {
            let other = mount
                .subscribe(format!("{}.other", cli.name))
                .write()
                .typed()?;
            silent(&other, &subscribe.write().typed()?)
        }
        Role::Exec { times } => publish_and_exec(cli, &subscribe.write().typed()?, times),
        Role::ForkAndHold { leave } => fork_and_hold(&subscribe.write().typed()?, leave),
        Role::Become { inherit } => letting_go::into_another(&subscribe.write().typed()?, inherit),
        Role::Send { ref socket } => letting_go::send(&subscribe.write().typed()?, socket),
        Role::MapOnly => letting_go::map_only(&subscribe.write().typed()?),
        Role::Transfer { .. } | Role::Audit { .. } | Role::ForkAndTransfer => Ok(()),
    }
}

fn hold_turn(state: &State<kstate::Bytes>, microseconds: u32) -> Result {
    loop {
        for group in 1..=255 {
            let mut turn = ioctl::Turn {
                group,
                microseconds,
            };
            // Of a group of another process it is an error.
            let asked = ioctl::call::turn(state, &mut turn);
            if asked.is_ok() && turn.microseconds > 0 {
                say(&turn.microseconds.to_string())?;
                return until_input_ends();
            }
        }
    }
}

fn increment(counter: &State<u64>, times: u64) -> Result {
    say("ready")?;
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    let mut attempts = 0_u64;
    for _ in 0..times {
        attempts += u64::from(counter.transact(|value| *value += 1)?.attempts);
    }
    say(&attempts.to_string())
}

fn publish(state: &State<Checked>) -> Result {
    static STOP: AtomicBool = AtomicBool::new(false);
    let mut number = state.snapshot()?.value[0] + 1;
    state.publish(&checked(number))?;
    say("ready")?;
    std::thread::spawn(|| {
        let _ = until_input_ends();
        STOP.store(true, Ordering::Relaxed);
    });
    while !STOP.load(Ordering::Relaxed) {
        number += 1;
        state.publish(&checked(number))?;
    }
    say(&number.to_string())
}

fn publish_and_exec(cli: &Cli, state: &State<Checked>, times: u64) -> Result {
    use std::os::unix::process::CommandExt;
    state.publish(&checked(times))?;
    // Noticed by the daemon as well, and not taken back.
    let _ = state.wait(state.generation(), Some(Duration::from_millis(1)))?;
    let Some(left) = times.checked_sub(1) else {
        say("ready")?;
        return until_input_ends();
    };
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command
        .arg(&cli.mount)
        .arg(&cli.name)
        .arg("exec")
        .arg(left.to_string());
    Err(command.exec().into())
}

fn publish_lines(state: &State<Checked>) -> Result {
    let mut number = 0;
    say("ready")?;
    for line in stdin().lock().lines() {
        let line = line?;
        number += 1;
        state.publish(&checked(number))?;
        say(&line)?;
    }
    Ok(())
}

fn check(state: &State<Checked>, reads: u64) -> Result {
    say("ready")?;
    let (mut torn, mut backwards) = (0_u64, 0_u64);
    let mut newest = Generation::NEVER;
    for _ in 0..reads {
        let snapshot = state.snapshot()?;
        let never = snapshot.generation().is_never();
        if !never && number_of(&snapshot.value).is_none() {
            torn += 1;
        }
        if snapshot.generation() < newest {
            backwards += 1;
        }
        newest = snapshot.generation();
    }
    say(&format!("torn {torn} backwards {backwards}"))
}

fn wait(state: &State<Checked>) -> Result {
    let mut seen = state.generation();
    // A first wait registers, so that the line below is true.
    let _ = state.wait(seen, Some(Duration::from_millis(1)))?;
    say("ready")?;
    loop {
        match state.wait(seen, None)? {
            Waited::Changed(_) => {
                let snapshot = state.snapshot()?;
                seen = snapshot.generation();
                match number_of(&snapshot.value) {
                    Some(number) => say(&number.to_string())?,
                    None => say("torn")?,
                }
            }
            Waited::Overdue(_) | Waited::TimedOut | Waited::Interrupted => {}
        }
    }
}

fn silent(other: &State<Checked>, state: &State<Checked>) -> Result {
    // The program's own pages, by another state: of the one measured nothing was touched yet.
    for state in [other, state] {
        state.set_stamping(Stamping::CommitTime);
    }
    other.publish(&checked(1))?;
    let _ = number_of(&other.snapshot()?.value);
    page_faults()?;
    forbid::all_but_usage_and_end()?;
    let before = page_faults()?;
    let mut whole = 0_u64;
    for number in 0..1_000_000 {
        if state.publish(&checked(number)).is_err() {
            forbid::end(101);
        }
        match state.snapshot() {
            Ok(snapshot) => whole += u64::from(number_of(&snapshot.value).is_some()),
            Err(_) => forbid::end(102),
        }
    }
    let faults = page_faults()? - before;
    if whole != 1_000_000 {
        forbid::end(103);
    }
    forbid::end(if faults == 0 { 0 } else { 104 });
}

fn fork_and_hold(state: &State<Checked>, leave: bool) -> Result {
    state.publish(&checked(1))?;
    #[expect(unsafe_code, reason = "fork(2)")]
    // SAFETY: this process has a single thread.
    let forked = unsafe { nix::unistd::fork() }?;
    match forked {
        nix::unistd::ForkResult::Parent { child } => {
            // The child has claimed and published when it writes its line.
            let _ = child;
            match leave {
                true => Ok(()),
                false => until_input_ends(),
            }
        }
        nix::unistd::ForkResult::Child => {
            state.publish(&checked(2))?;
            say(&format!("child {}", std::process::id()))?;
            until_input_ends()
        }
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

fn page_faults() -> Result<i64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(usage.minor_page_faults() + usage.major_page_faults())
}

/// Accounts whose sum stays.
mod bank {
    use std::sync::atomic::{AtomicBool, Ordering};

    use kstate::{Mount, Reader, State, TransactManyError};

    use super::{Result, say, until_input_ends};

    pub(super) fn open(
        mount: &Mount,
        prefix: &str,
        accounts: u32,
        write: bool,
    ) -> Result<Vec<State<i64>>> {
        let account = |number| {
            let subscribe = mount.subscribe(format!("{prefix}.{number}")).existing();
            match write {
                true => subscribe.write().typed(),
                false => subscribe.typed(),
            }
        };
        Ok((0..accounts)
            .map(account)
            .collect::<std::result::Result<_, _>>()?)
    }

    /// A thread that ends with the input.
    fn stop_with_input() -> &'static AtomicBool {
        static STOP: AtomicBool = AtomicBool::new(false);
        std::thread::spawn(|| {
            let _ = until_input_ends();
            STOP.store(true, Ordering::Relaxed);
        });
        &STOP
    }

    pub(super) fn transfer(accounts: &[State<i64>], reverse: bool) -> Result {
        let stop = stop_with_input();
        let mut random = u64::from(std::process::id()) << 32 | 1;
        let mut done = 0_u64;
        say("ready")?;
        while !stop.load(Ordering::Relaxed) {
            let mut next = |bound: usize| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                usize::try_from(random >> 33).unwrap_or(0) % bound
            };
            let from = next(accounts.len());
            let to = (from + 1 + next(accounts.len() - 1)) % accounts.len();
            let amount = i64::try_from(next(100))?;
            let (mut first, mut second) = (from.min(to), from.max(to));
            if reverse {
                (first, second) = (second, first);
            }
            kstate::transact_many(|tx| {
                tx.add(&accounts[first])?;
                tx.add(&accounts[second])?;
                *tx.get_mut(&accounts[from])? -= amount;
                *tx.get_mut(&accounts[to])? += amount;
                Ok::<_, TransactManyError>(())
            })?;
            done += 1;
        }
        say(&done.to_string())
    }

    pub(super) fn audit(accounts: &[State<i64>], amount: i64) -> Result {
        let stop = stop_with_input();
        let readers: Vec<Reader<i64>> = accounts.iter().map(State::reader).collect();
        let (mut cuts, mut wrong) = (0_u64, 0_u64);
        say("ready")?;
        while !stop.load(Ordering::Relaxed) {
            let cut = kstate::cut(&readers[..])?;
            cuts += 1;
            wrong += u64::from(cut.iter().map(|account| account.value).sum::<i64>() != amount);
        }
        say(&format!("{cuts} {wrong}"))
    }

    pub(super) fn fork_and_transfer(accounts: &[State<i64>]) -> Result {
        let [from, to] = accounts else {
            return Err("two accounts".into());
        };
        let begin = || -> Result<kstate::Many<'_>> {
            let mut tx = kstate::begin_many();
            tx.add(from)?;
            tx.add(to)?;
            *tx.get_mut(from)? -= 1;
            *tx.get_mut(to)? += 1;
            Ok(tx)
        };
        // So that the parent has a record.
        let committed = begin()?.commit()?.is_committed();
        let parents = begin()?;
        #[expect(unsafe_code, reason = "fork(2)")]
        // SAFETY: this process has a single thread.
        let forked = unsafe { nix::unistd::fork() }?;
        match forked {
            nix::unistd::ForkResult::Parent { child } => {
                nix::sys::wait::waitpid(child, None)?;
                let lost = parents.commit()?.is_conflict();
                say(&format!("parent {committed} {lost}"))?;
                until_input_ends()
            }
            nix::unistd::ForkResult::Child => {
                let refused = parents.commit().is_err();
                let own = begin()?.commit()?.is_committed();
                say(&format!("child {refused} {own}"))
            }
        }
    }
}

/// A seccomp filter that ends the process at any system call but two.
mod forbid {
    #![expect(unsafe_code, reason = "installs a seccomp filter")]

    use super::Result;

    /// From here on `getrusage` and `exit_group` are allowed; anything else is SIGSYS.
    pub(super) fn all_but_usage_and_end() -> Result {
        let call = |number: i64| u32::try_from(number);
        let load = u16::try_from(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS)?;
        let equal = u16::try_from(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K)?;
        let answer = u16::try_from(libc::BPF_RET | libc::BPF_K)?;
        let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        let mut program = [
            // The number is the first word of seccomp_data.
            step(load, 0, 0, 0),
            step(equal, 2, 0, call(libc::SYS_getrusage)?),
            step(equal, 1, 0, call(libc::SYS_exit_group)?),
            step(answer, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
            step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog {
            len: 5,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: takes integers only.
        let alone = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: `filter` names a program of five steps that outlives the call.
        let installed = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            )
        };
        if alone != 0 || installed != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(())
    }

    /// Ends the process without running anything else.
    pub(super) fn end(code: i32) -> ! {
        // SAFETY: ends the process; allowed by the filter.
        unsafe { libc::_exit(code) }
    }
}
