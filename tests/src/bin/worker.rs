//! A process of a test: publishes, reads, waits or counts, says so, and ends with its input.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Parser, Subcommand};
use kstate::{Generation, Mount, Stamping, State, Waited};
use kstate_tests::{Checked, checked, number_of};

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
    /// Waits for each change and prints the number of the newest value
    Wait,
    /// Publishes and reads a million times with every system call forbidden, then says how many
    /// page faults it took
    Silent,
    /// Publishes once, then replaces itself by this program so many times, which do the same, and
    /// stays until its input ends
    Exec { times: u64 },
    /// Forks while it holds a claim; the child publishes too and stays when the parent is killed
    ForkAndHold,
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
        Role::Wait => wait(&subscribe.typed()?),
        Role::Silent => {
            let other = mount
                .subscribe(format!("{}.other", cli.name))
                .write()
                .typed()?;
            silent(&other, &subscribe.write().typed()?)
        }
        Role::Exec { times } => publish_and_exec(cli, &subscribe.write().typed()?, times),
        Role::ForkAndHold => fork_and_hold(&subscribe.write().typed()?),
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
    let _ = state.wait(state.generation(), Some(Duration::from_nanos(1)))?;
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
    let _ = state.wait(seen, Some(Duration::from_nanos(1)))?;
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
            Waited::TimedOut | Waited::Interrupted => {}
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

fn fork_and_hold(state: &State<Checked>) -> Result {
    state.publish(&checked(1))?;
    #[expect(unsafe_code, reason = "fork(2)")]
    // SAFETY: this process has a single thread.
    let forked = unsafe { nix::unistd::fork() }?;
    match forked {
        nix::unistd::ForkResult::Parent { child } => {
            // The child has claimed and published when it writes its line.
            let _ = child;
            until_input_ends()
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
