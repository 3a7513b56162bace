//! What a process of the soak does until its input ends, or it is killed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use kstate::{
    Generation, Many, Mount, Outcome, Reader, State, TransactManyError, Trapping, Waited,
};
use kstate_tests::{Checked, checked, number_of};

use super::Result;
use super::board::Entry;
use super::random::Random;
use super::{hostile, victim};

/// The state in which everybody counts.
pub(crate) const COUNT: &str = "soak.count";
/// The one that is published as fast as can be.
pub(crate) const FAST: &str = "soak.fast";
/// The one that is published with pauses, to be waited for.
pub(crate) const PACED: &str = "soak.paced";
/// Accounts whose sum stays.
pub(crate) const BANK: &str = "soak.account";
/// How many there are.
pub(crate) const ACCOUNTS: usize = 5;
/// What is in each at first.
pub(crate) const EACH: i64 = 1000;

/// What a process is for.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Adds one to the counter, by transactions
    Counter,
    /// The same by pointer, in each way to trap the first touch
    Raw,
    /// Publishes checked values as fast as it can
    Publisher,
    /// Reads them and checks each
    Reader,
    /// Publishes checked values with pauses
    Pacer,
    /// Waits for each of these
    Waiter,
    /// Moves money between two accounts
    Teller,
    /// Sums up all accounts as of one moment
    Auditor,
    /// Writes any words over states it may write, and over its record
    Vandal,
    /// Reads these states
    BadReader,
    /// Waits for them
    BadWaiter,
    /// Publishes to them and changes them, by value and by pointer
    BadWriter,
    /// Moves money between good accounts in transactions that write a bad state as well
    BadTeller,
    /// Takes cuts of good and bad states
    BadAuditor,
    /// Reads the files of good and bad states, and asks about them
    Asker,
}

impl Role {
    /// What it is called.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Raised when the input has ended.
static STOP: AtomicBool = AtomicBool::new(false);

pub(crate) fn goes_on() -> bool {
    !STOP.load(Ordering::Relaxed)
}

/// Does what `role` says until the input ends.
pub(crate) fn play(role: Role, mount: &Path, entry: &Entry) -> Result {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        STOP.store(true, Ordering::Relaxed);
    });
    if role == Role::Vandal {
        return hostile::scribble(mount, entry);
    }
    let mount = Mount::at(mount)?;
    match role {
        Role::Counter => count(&mount.subscribe(COUNT).write().typed()?, entry),
        Role::Raw => count_raw(&mount.subscribe(COUNT).write().typed()?, entry),
        Role::Publisher => publish(&mount.subscribe(FAST).write().typed()?, entry),
        Role::Reader => read(&mount.subscribe(FAST).typed()?.reader(), entry),
        Role::Pacer => pace(&mount.subscribe(PACED).write().typed()?, entry),
        Role::Waiter => wait(&mount.subscribe(PACED).typed()?.reader(), entry),
        Role::Teller => transfer(&accounts(&mount, BANK, ACCOUNTS)?, entry),
        Role::Auditor => audit(&readers(&mount, BANK, ACCOUNTS)?, entry),
        Role::BadReader => victim::read(&mount, entry),
        Role::BadWaiter => victim::wait(&mount, entry),
        Role::BadWriter => victim::write(&mount, entry),
        Role::BadTeller => victim::transfer(&mount, entry),
        Role::BadAuditor => victim::audit(&mount, entry),
        Role::Asker => victim::ask(&mount, entry),
        Role::Vandal => Ok(()),
    }
}

fn count(counter: &State<u64>, entry: &Entry) -> Result {
    while goes_on() {
        entry.begin();
        let done = entry.timed(|| counter.transact(|count| *count += 1))?;
        entry.did(1);
        Entry::add(&entry.conflicts, u64::from(done.attempts) - 1);
    }
    Ok(())
}

fn count_raw(counter: &State<u64>, entry: &Entry) -> Result {
    let mut random = Random::of_this_process();
    let ways = [
        Trapping::Thread,
        Trapping::Signal,
        Trapping::Kernel,
        Trapping::Software,
    ];
    while goes_on() {
        let trapping = ways[random.below(ways.len())];
        counter.set_trapping(trapping);
        for _ in 0..100 {
            match entry.timed(|| try_to_count(counter, entry)) {
                Ok(true) => entry.did(1),
                Ok(false) => Entry::add(&entry.conflicts, 1),
                // Not every user may have it.
                Err(kstate::Error::Begin(kstate::BeginError::Trap { .. })) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn try_to_count(counter: &State<u64>, entry: &Entry) -> std::result::Result<bool, kstate::Error> {
    #![expect(
        unsafe_code,
        reason = "writes through the pointer of a raw transaction"
    )]
    let mut tx = counter.begin_raw()?;
    let value = tx.as_mut_ptr().cast::<u64>();
    // SAFETY: good until the transaction ends, at the start of a page, and there are eight bytes.
    let old = unsafe { value.read() };
    // SAFETY: as above.
    unsafe { value.write(old + 1) };
    entry.begin();
    Ok(matches!(tx.commit()?, Outcome::Committed { .. }))
}

fn publish(state: &State<Checked>, entry: &Entry) -> Result {
    let mut number = u64::from(std::process::id()) << 32;
    while goes_on() {
        entry.timed(|| -> Result {
            for _ in 0..64 {
                number += 1;
                state.publish(&checked(number))?;
            }
            Ok(())
        })?;
        entry.did(64);
    }
    Ok(())
}

/// Notes what is wrong with a snapshot.
pub(crate) fn check(
    entry: &Entry,
    generation: Generation,
    value: &Checked,
    newest: &mut Generation,
) {
    if !generation.is_never() && number_of(value).is_none() {
        Entry::add(&entry.torn, 1);
    }
    if generation < *newest {
        Entry::add(&entry.backwards, 1);
    }
    *newest = generation;
}

fn read(reader: &Reader<Checked>, entry: &Entry) -> Result {
    let mut newest = Generation::NEVER;
    while goes_on() {
        entry.timed(|| -> Result {
            for _ in 0..64 {
                let snapshot = reader.snapshot()?;
                check(entry, snapshot.generation(), &snapshot.value, &mut newest);
            }
            Ok(())
        })?;
        entry.did(64);
    }
    Ok(())
}

fn pace(state: &State<Checked>, entry: &Entry) -> Result {
    let mut random = Random::of_this_process();
    while goes_on() {
        state.publish(&checked(random.next()))?;
        entry.did(1);
        std::thread::park_timeout(random.time(Duration::from_millis(5)));
    }
    Ok(())
}

fn wait(reader: &Reader<Checked>, entry: &Entry) -> Result {
    let mut newest = Generation::NEVER;
    while goes_on() {
        let start = Instant::now();
        match reader.wait(newest, Some(Duration::from_secs(1)))? {
            Waited::Changed(_) => {
                let snapshot = reader.snapshot()?;
                // How late it is, if it was slept for.
                let late = snapshot.age().unwrap_or_default().min(start.elapsed());
                entry.took(late);
                check(entry, snapshot.generation(), &snapshot.value, &mut newest);
                entry.did(1);
            }
            Waited::Overdue(_) | Waited::TimedOut | Waited::Interrupted => {}
        }
    }
    Ok(())
}

/// Accounts to be written.
pub(crate) fn accounts(mount: &Mount, prefix: &str, count: usize) -> Result<Vec<State<i64>>> {
    let open = |number| {
        let subscribe = mount.subscribe(format!("{prefix}.{number}"));
        subscribe.existing().write().typed()
    };
    Ok((0..count)
        .map(open)
        .collect::<std::result::Result<_, _>>()?)
}

/// Accounts to be read.
pub(crate) fn readers(mount: &Mount, prefix: &str, count: usize) -> Result<Vec<Reader<i64>>> {
    let open = |number| -> Result<Reader<i64>> {
        let subscribe = mount.subscribe(format!("{prefix}.{number}"));
        Ok(subscribe.existing().typed()?.reader())
    };
    (0..count).map(open).collect()
}

/// Moves an amount between two of `accounts` within `tx`.
pub(crate) fn move_some<'s>(
    tx: &mut Many<'s>,
    accounts: &'s [State<i64>],
    random: &mut Random,
) -> std::result::Result<(), TransactManyError> {
    let from = random.below(accounts.len());
    let to = (from + 1 + random.below(accounts.len() - 1)) % accounts.len();
    let amount = i64::try_from(random.below(100)).unwrap_or(1);
    tx.add(&accounts[from])?;
    tx.add(&accounts[to])?;
    *tx.get_mut(&accounts[from])? -= amount;
    *tx.get_mut(&accounts[to])? += amount;
    Ok(())
}

fn transfer(accounts: &[State<i64>], entry: &Entry) -> Result {
    let mut random = Random::of_this_process();
    while goes_on() {
        entry.begin();
        let done =
            entry.timed(|| kstate::transact_many(|tx| move_some(tx, accounts, &mut random)))?;
        entry.did(1);
        Entry::add(&entry.conflicts, u64::from(done.attempts) - 1);
    }
    Ok(())
}

/// Whether no money has come or gone.
pub(crate) fn sums_up(accounts: &[kstate::Snapshot<i64>]) -> bool {
    let sum: i64 = accounts.iter().map(|account| account.value).sum();
    i64::try_from(accounts.len()).is_ok_and(|count| sum == EACH * count)
}

fn audit(accounts: &[Reader<i64>], entry: &Entry) -> Result {
    while goes_on() {
        match entry.timed(|| kstate::cut(accounts)) {
            Ok(cut) => {
                Entry::add(&entry.torn, u64::from(!sums_up(&cut)));
                entry.did(1);
            }
            // Beside writers that leave no time there may be none.
            Err(kstate::CutError::Unstable { .. }) => Entry::add(&entry.conflicts, 1),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
