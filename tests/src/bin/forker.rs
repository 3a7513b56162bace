#![expect(unsafe_code, reason = "forks, and touches pages where that is deadly")]
//! A process that forks: with transactions open, beside threads that are inside the library, by
//! `fork`, `clone` and `vfork`. What came of it is printed; a child that finds something wrong says
//! it as well.

#[path = "forker/views.rs"]
mod views;

use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use kstate::{
    Bytes, CommitError, Mount, RawTransaction, ReadError, State, TransactManyError, Trapping,
};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Bytes of the states of raw transactions.
const LENGTH: usize = 64;

/// How long a child may take, in seconds.
const PATIENCE_S: u32 = 15;

/// A process that forks
#[derive(Parser, Debug)]
struct Cli {
    mount: PathBuf,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand, Clone, Debug)]
enum Role {
    /// Forks with raw transactions open: one touched, one not
    Raw {
        #[arg(long)]
        by: Way,
        #[arg(long)]
        trapping: Trap,
    },
    /// Runs other programs with raw transactions open
    Exec {
        #[arg(long)]
        trapping: Trap,
    },
    /// Forks with a claim, a wait mark and a record; the child has its own, and does as it is told
    /// by lines
    Stay {
        #[arg(long)]
        by: Way,
        /// The parent drops its handles as soon as it has forked
        #[arg(long)]
        drop: bool,
    },
    /// Looks through views in a child as in its parent, by snapshots, waits and live pages
    Views {
        #[arg(long)]
        by: Way,
    },
    /// Has so many live pages of views
    Pages { pages: u64 },
    /// Forks so many times while other threads are inside the library
    Beside { times: u32 },
}

/// How a child is made.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum Way {
    /// fork(3), with the C library's handlers
    Fork,
    /// clone(2), which nobody is told of
    Clone,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Trap {
    Thread,
    Signal,
    Kernel,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result {
    let mount = Mount::at(&cli.mount)?;
    match cli.role {
        Role::Raw { by, trapping } => raw(&mount, by, trapping.into()),
        Role::Exec { trapping } => exec(&mount, trapping.into()),
        Role::Stay { by, drop } => stay(&mount, by, drop),
        Role::Views { by } => views::views(&mount, by),
        Role::Pages { pages } => views::pages(&mount, pages),
        Role::Beside { times } => beside(&cli.mount, times),
    }
}

impl From<Trap> for Trapping {
    fn from(trap: Trap) -> Self {
        match trap {
            Trap::Thread => Self::Thread,
            Trap::Signal => Self::Signal,
            Trap::Kernel => Self::Kernel,
        }
    }
}

/// Runs `child` in a child, which ends with it, with status 0 if it was right.
fn fork(by: Way, child: impl FnOnce() -> Result) -> Result<Pid> {
    let number = match by {
        // SAFETY: what the child calls is the library, which is under test here, and the allocator,
        // which glibc lets a forked child use.
        Way::Fork => unsafe { libc::fork() },
        Way::Clone => {
            let none = 0_usize;
            // SAFETY: as above, except that nobody tidies the allocator up: no other thread of this
            // process is in it, as the only one sleeps.
            let number = unsafe {
                libc::syscall(
                    libc::SYS_clone,
                    libc::c_long::from(libc::SIGCHLD),
                    none,
                    none,
                    none,
                    none,
                )
            };
            i32::try_from(number)?
        }
    };
    match number {
        -1 => Err(std::io::Error::last_os_error().into()),
        0 => {
            // SAFETY: takes a number; the signal ends a child that hangs.
            unsafe { libc::alarm(PATIENCE_S) };
            let status = match child() {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("child: {error}");
                    1
                }
            };
            // SAFETY: ends the child without running what is its parent's.
            unsafe { libc::_exit(status) }
        }
        child => Ok(Pid::from_raw(child)),
    }
}

fn join(child: Pid) -> Result {
    match waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        status => Err(format!("a child ended with {status:?}").into()),
    }
}

fn ensure(right: bool, what: &str) -> Result {
    match right {
        true => Ok(()),
        false => Err(what.into()),
    }
}

fn table(mount: &Mount, name: &str, fill: u8) -> Result<State<Bytes>> {
    let capacity = u32::try_from(LENGTH)?;
    let state = mount.subscribe(name).write().capacity(capacity).bytes()?;
    state.publish(&[fill; LENGTH])?;
    Ok(state)
}

/// The first byte behind a pointer.
fn first(at: *const u8) -> u8 {
    // SAFETY: the page of a raw transaction; where there is none, dying is what is tested.
    unsafe { at.read_volatile() }
}

/// Writes the first byte behind the pointer.
fn set_first(at: *mut u8, to: u8) {
    // SAFETY: as in `first`.
    unsafe { at.write_volatile(to) };
}

/// A transaction on each state, of which the first one's page is written by pointer.
fn open<'s>(
    touched: &'s State<Bytes>,
    untouched: &'s State<Bytes>,
    trapping: Trapping,
) -> Result<[RawTransaction<'s, Bytes>; 2]> {
    touched.set_trapping(trapping);
    untouched.set_trapping(trapping);
    let (mut first_tx, second_tx) = (touched.begin_raw()?, untouched.begin_raw()?);
    ensure(first_tx.trapping() == trapping, "another way to trap")?;
    ensure(
        first(first_tx.as_ptr()) == 1,
        "a touch shows another value than the base",
    )?;
    set_first(first_tx.as_mut_ptr(), 11);
    Ok([first_tx, second_tx])
}

/// Both still commit, and the second one shows its base at the first touch.
fn finish(transactions: [RawTransaction<'_, Bytes>; 2]) -> Result {
    let [touched, mut untouched] = transactions;
    ensure(first(untouched.as_ptr()) == 2, "a late touch shows no base")?;
    set_first(untouched.as_mut_ptr(), 22);
    ensure(
        touched.commit()?.is_committed(),
        "the touched one conflicts",
    )?;
    ensure(
        untouched.commit()?.is_committed(),
        "the untouched one conflicts",
    )
}

fn raw(mount: &Mount, by: Way, trapping: Trapping) -> Result {
    let (a, b, c) = (
        table(mount, "a", 1)?,
        table(mount, "b", 2)?,
        table(mount, "c", 3)?,
    );
    let counter = mount.subscribe("n").write().typed::<u64>()?;
    let mut transactions = open(&a, &b, trapping)?;
    let addresses = transactions
        .each_mut()
        .map(|transaction| transaction.as_mut_ptr());
    let mut parents = Some(transactions);
    let child = fork(by, || {
        ensure(a.snapshot()?.value == [1; LENGTH], "the child reads")?;
        die_of_parents(by, addresses)?;
        let Some([mut touched, mut untouched]) = parents.take() else {
            return Ok(());
        };
        let forked = |error: &ReadError| matches!(error, ReadError::Forked { .. });
        ensure(
            touched.touch().as_ref().is_err_and(forked),
            "the child touched its parent's",
        )?;
        ensure(
            untouched.touch_mut().as_ref().is_err_and(forked),
            "the child filled its parent's",
        )?;
        for transaction in [touched, untouched] {
            let refused = transaction.commit();
            ensure(
                matches!(refused, Err(CommitError::Forked { .. })),
                &format!("the child's commit of its parent's gave {refused:?}"),
            )?;
        }
        counter.transact(|value| *value += 1)?;
        c.set_trapping(trapping);
        let mut own = c.begin_raw()?;
        ensure(first(own.as_ptr()) == 3, "the child's own page")?;
        ensure(own.trapping() == trapping, "the child traps another way")?;
        set_first(own.as_mut_ptr(), 33);
        ensure(own.commit()?.is_committed(), "the child's own commit")?;
        // On a state that its parent has a transaction open on, too.
        let mut own = b.begin_raw()?;
        ensure(first(own.as_ptr()) == 2, "a page of the parent's state")?;
        own.abort();
        die_of_parents(by, addresses)
    })?;
    join(child)?;
    if let Some(transactions) = parents {
        finish(transactions)?;
    }
    ensure(counter.snapshot()?.value == 1, "the child's count")?;
    ensure(c.snapshot()?.value[0] == 33, "the child's raw commit")?;
    ensure(
        (a.snapshot()?.value[0], b.snapshot()?.value[0]) == (11, 22),
        "the parent's commits",
    )?;
    say("right")
}

/// Touches the parent's pages in children of their own.
fn die_of_parents(by: Way, addresses: [*mut u8; 2]) -> Result {
    for address in addresses {
        for write in [false, true] {
            let victim = fork(by, || {
                match write {
                    false => ensure(first(address) == 0, "it shows no zeros")?,
                    true => set_first(address, 0),
                }
                Err("a touch of the parent's page went through".into())
            })?;
            let status = waitpid(victim, None)?;
            ensure(
                matches!(status, WaitStatus::Signaled(_, Signal::SIGSEGV, _)),
                &format!("a touch of the parent's page came to {status:?}"),
            )?;
        }
    }
    Ok(())
}

fn exec(mount: &Mount, trapping: Trapping) -> Result {
    use std::os::unix::process::CommandExt;
    let (a, b) = (table(mount, "a", 1)?, table(mount, "b", 2)?);
    let transactions = open(&a, &b, trapping)?;
    // vfork or its like, and, with something to do in between, fork.
    ensure(Command::new("true").status()?.success(), "spawned")?;
    let mut forked = Command::new("true");
    // SAFETY: the closure does nothing.
    unsafe { forked.pre_exec(|| Ok(())) };
    ensure(forked.status()?.success(), "forked and replaced")?;
    vfork_and_exec()?;
    finish(transactions)?;
    // Whoever answers touches is still there.
    let mut again = a.begin_raw()?;
    ensure(first(again.as_ptr()) == 11, "a touch after all that")?;
    say("right")
}

/// What vfork(2) is, on a stack of its own: the memory is shared, and the parent stands still until
/// the child has replaced itself.
fn vfork_and_exec() -> Result {
    extern "C" fn replace(_: *mut libc::c_void) -> i32 {
        let path = c"/bin/true".as_ptr();
        let arguments = [path, std::ptr::null()];
        // SAFETY: two strings, ended as execv(3) wants them.
        unsafe { libc::execv(path, arguments.as_ptr()) };
        127
    }
    let mut stack = vec![0_u128; 4096];
    let end = stack.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child has a stack of its own, which stays until it has left this memory.
    let child = unsafe { libc::clone(replace, end.cast(), flags, std::ptr::null_mut()) };
    ensure(child > 0, "vfork")?;
    join(Pid::from_raw(child))
}

/// What the child and its parent both have in [`stay`].
struct Handles {
    x: State<u64>,
    y: State<u64>,
}

impl Handles {
    /// Claims groups, sets the wait mark, takes a record.
    fn use_all(&self) -> Result {
        self.both(1)?;
        let seen = self.x.generation();
        let _ = self.x.wait(seen, Some(Duration::from_millis(1)))?;
        Ok(())
    }

    fn both(&self, by: u64) -> Result {
        kstate::transact_many(|tx| {
            tx.add(&self.x)?;
            tx.add(&self.y)?;
            *tx.get_mut(&self.x)? += by;
            *tx.get_mut(&self.y)? += by;
            Ok::<_, TransactManyError>(())
        })?;
        Ok(())
    }
}

fn stay(mount: &Mount, by: Way, drop_handles: bool) -> Result {
    let handles = Handles {
        x: mount.subscribe("x").write().typed()?,
        y: mount.subscribe("y").write().typed()?,
    };
    handles.use_all()?;
    let mut copied = Some(handles);
    let child = fork(by, || {
        let Some(handles) = copied.take() else {
            return Ok(());
        };
        handles.use_all()?;
        say(&format!("child {}", std::process::id()))?;
        for line in stdin().lock().lines() {
            handles.both(line?.parse()?)?;
            let (x, y) = kstate::cut((&*handles.x, &*handles.y))?;
            say(&format!("{} {}", x.value, y.value))?;
        }
        // What is the child's goes back, and not what was its parent's.
        drop(handles);
        Ok(())
    })?;
    let kept = copied.filter(|_| !drop_handles);
    join(child)?;
    let Some(handles) = kept else {
        return say("dropped");
    };
    handles.use_all()?;
    let (x, y) = kstate::cut((&*handles.x, &*handles.y))?;
    say(&format!("parent {} {}", x.value, y.value))
}

/// All that there is to do with the library, from the beginning to the end.
fn everything(mount: &std::path::Path, name: &str) -> Result {
    let mount = Mount::at(mount)?;
    let subscribe = |part: &str| mount.subscribe(format!("{name}.{part}")).write();
    let handles = Handles {
        x: subscribe("x").typed()?,
        y: subscribe("y").typed()?,
    };
    handles.use_all()?;
    let table = subscribe("t").capacity(64).bytes()?;
    table.publish(&[7; LENGTH])?;
    let mut raw = table.begin_raw()?;
    ensure(first(raw.as_ptr()) == 7, "a raw page")?;
    set_first(raw.as_mut_ptr(), 8);
    ensure(!raw.commit()?.is_conflict(), "a raw commit")?;
    handles.x.transact(|value| *value += 1)?;
    Ok(())
}

fn beside(mount: &std::path::Path, times: u32) -> Result {
    let at = Mount::at(mount)?;
    let shared = Handles {
        x: at.subscribe("s.x").write().typed()?,
        y: at.subscribe("s.y").write().typed()?,
    };
    shared.use_all()?;
    // Beside two who commit the same states, a reader has their records to look at.
    let (one, two) = (
        Handles {
            x: shared.x.try_clone()?,
            y: shared.y.try_clone()?,
        },
        shared,
    );
    let mine = Handles {
        x: one.x.try_clone()?,
        y: one.y.try_clone()?,
    };
    let stop = AtomicBool::new(false);
    let stop = &stop;
    let failed = std::thread::scope(|scope| {
        let again = |work: &dyn Fn() -> Result| {
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = work() {
                    eprintln!("beside: {error}");
                    return false;
                }
            }
            true
        };
        let mut threads = Vec::new();
        for handles in [one, two] {
            threads.push(scope.spawn(move || again(&|| handles.both(1))));
        }
        threads.push(scope.spawn(move || again(&|| everything(mount, "thread"))));
        threads.push(scope.spawn(move || {
            again(&|| {
                let at = Mount::at(mount)?;
                at.subscribe("s.x").typed::<u64>()?;
                Ok(())
            })
        }));
        let forked = (0..times).try_for_each(|_| {
            let child = fork(Way::Fork, || {
                mine.x.snapshot()?;
                mine.both(1)?;
                everything(mount, "child")?;
                Ok(())
            });
            join(child?)
        });
        stop.store(true, Ordering::Relaxed);
        let right = threads.into_iter().all(|t| t.join().unwrap_or(false));
        forked.and_then(|()| ensure(right, "a thread failed"))
    });
    failed?;
    say("right")
}

fn say(line: &str) -> Result {
    let mut output = stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}
