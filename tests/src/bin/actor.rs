#![expect(unsafe_code, reason = "forks, and touches pages by pointer")]
//! A process that does what it is told over a socket, one line at a time, and answers each with a line.
//!
//! It knows three states: two numbers and some bytes. Values are hexadecimal, transactions
//! have numbers. A fork is one more such process, with a connection of its own.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kstate::{
    AddError, Bytes, CommitError, CommitManyError, Content, Many, ManyOutcome, Mount, Outcome,
    PublishError, RawTransaction, ReadError, State, TouchError, Transaction, Trapping,
};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Bytes that the third state has room for.
const CAPACITY: u32 = 32;

/// A process that does what it is told
#[derive(Parser, Debug)]
struct Cli {
    mount: PathBuf,
    socket: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("actor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result {
    // SAFETY: nobody waits for forked children here.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mount = Mount::at(&cli.mount)?;
    let mut actor = Actor::default();
    let mut stream = connect(cli)?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match line.trim_end() {
            "fork" => {
                // SAFETY: no other thread of this process holds a lock: they wait for touches.
                match unsafe { libc::fork() } {
                    0 => {
                        stream = connect(cli)?;
                        continue;
                    }
                    child => child.to_string(),
                }
            }
            line => actor.answer(&mount, line)?,
        };
        writeln!(stream.get_mut(), "{answer}")?;
    }
}

fn connect(cli: &Cli) -> Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(&cli.socket)?;
    writeln!(stream, "{}", std::process::id())?;
    Ok(BufReader::new(stream))
}

/// What a state is about, as the lines have it.
trait Value: Content {
    fn of(bytes: &[u8]) -> Self::Owned;
    fn bytes_of(value: &Self::Owned) -> &[u8];
}

impl Value for u64 {
    fn of(bytes: &[u8]) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(bytes);
        Self::from_ne_bytes(word)
    }

    fn bytes_of(value: &u64) -> &[u8] {
        kstate::zerocopy::IntoBytes::as_bytes(value)
    }
}

impl Value for Bytes {
    fn of(bytes: &[u8]) -> Vec<u8> {
        bytes.to_owned()
    }

    fn bytes_of(value: &Vec<u8>) -> &[u8] {
        value
    }
}

/// The three states, for as long as no transaction is open.
#[derive(Clone, Copy, Debug)]
struct Handles {
    a: &'static State<u64>,
    b: &'static State<u64>,
    c: &'static State<Bytes>,
}

/// Does the same to a state of either kind.
macro_rules! with {
    ($handles:expr, $index:expr, |$state:ident| $work:expr) => {
        match $index {
            0 => {
                let $state = $handles.a;
                $work
            }
            1 => {
                let $state = $handles.b;
                $work
            }
            _ => {
                let $state = $handles.c;
                $work
            }
        }
    };
}

#[derive(Default)]
struct Actor {
    // Dropped before the handles they borrow, which `close` sees to.
    singles: BTreeMap<u32, Box<dyn Single>>,
    several: BTreeMap<u32, Many<'static>>,
    handles: Option<Handles>,
}

/// A transaction on one state, whatever of.
trait Single {
    fn get(&mut self) -> Result<Vec<u8>>;
    fn slice(&mut self) -> Result<Vec<u8>>;
    fn write(&mut self, value: &[u8]) -> Result;
    fn set(&mut self, value: &[u8]) -> Result;
    fn touch_mut(&mut self) -> Result;
    fn set_length(&mut self, length: usize);
    fn told(&self) -> (u64, bool, bool, bool);
    fn commit(self: Box<Self>) -> std::result::Result<Outcome, CommitError>;
}

impl<T: Value> Single for Transaction<'static, T> {
    fn get(&mut self) -> Result<Vec<u8>> {
        Ok(T::bytes_of(self.get()?).to_owned())
    }

    fn slice(&mut self) -> Result<Vec<u8>> {
        Single::get(self)
    }

    fn write(&mut self, value: &[u8]) -> Result {
        *self.get_mut()? = T::of(value);
        Ok(())
    }

    fn set(&mut self, value: &[u8]) -> Result {
        Self::set(self, T::of(value).borrow());
        Ok(())
    }

    fn touch_mut(&mut self) -> Result {
        self.get_mut()?;
        Ok(())
    }

    fn set_length(&mut self, _length: usize) {}

    fn told(&self) -> (u64, bool, bool, bool) {
        (
            self.base().0,
            self.validate(),
            self.is_doomed(),
            self.is_dirty(),
        )
    }

    fn commit(self: Box<Self>) -> std::result::Result<Outcome, CommitError> {
        Self::commit(*self)
    }
}

impl<T: Value> Single for RawTransaction<'static, T> {
    /// By pointer, byte by byte.
    fn get(&mut self) -> Result<Vec<u8>> {
        let start = self.as_ptr();
        // The length follows from the touch.
        let mut bytes = vec![read(start)];
        bytes.extend((1..self.length()).map(|at| read(start.wrapping_add(at))));
        bytes.truncate(self.length());
        Ok(bytes)
    }

    fn slice(&mut self) -> Result<Vec<u8>> {
        Ok(self.bytes()?.to_owned())
    }

    /// By pointer, and nothing but that.
    fn write(&mut self, value: &[u8]) -> Result {
        let start = self.as_mut_ptr();
        for (at, byte) in value.iter().enumerate() {
            // SAFETY: within the page, which is this transaction's.
            unsafe { start.wrapping_add(at).write_volatile(*byte) };
        }
        Ok(())
    }

    fn set(&mut self, value: &[u8]) -> Result {
        self.bytes_mut()?[..value.len()].copy_from_slice(value);
        Ok(())
    }

    fn touch_mut(&mut self) -> Result {
        Ok(Self::touch_mut(self)?)
    }

    fn set_length(&mut self, length: usize) {
        Self::set_length(self, length);
    }

    fn told(&self) -> (u64, bool, bool, bool) {
        (
            self.base().0,
            self.validate(),
            self.is_doomed(),
            self.is_dirty(),
        )
    }

    fn commit(self: Box<Self>) -> std::result::Result<Outcome, CommitError> {
        Self::commit(*self)
    }
}

fn read(at: *const u8) -> u8 {
    // SAFETY: within the page of a transaction of this process.
    unsafe { at.read_volatile() }
}

impl Actor {
    /// What there is to answer to `line`; an error is one of the test, not of the library.
    fn answer(&mut self, mount: &Mount, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let answered = match words[..] {
            ["open", prefix] => self.open(mount, prefix),
            ["close"] => {
                self.close();
                Ok(String::from("ok"))
            }
            ["quit"] => std::process::exit(0),
            [verb, ref rest @ ..] => self.obey(verb, rest),
            [] => Err("nothing to do".into()),
        };
        answered.or_else(|error| said(error.as_ref()).ok_or(error))
    }

    fn open(&mut self, mount: &Mount, prefix: &str) -> Result<String> {
        let subscribe = |part: &str| mount.subscribe(format!("{prefix}.{part}")).write();
        self.handles = Some(Handles {
            a: Box::leak(Box::new(subscribe("a").typed()?)),
            b: Box::leak(Box::new(subscribe("b").typed()?)),
            c: Box::leak(Box::new(subscribe("c").capacity(CAPACITY).bytes()?)),
        });
        Ok(String::from("ok"))
    }

    fn close(&mut self) {
        self.singles.clear();
        self.several.clear();
        fn free<T: Content>(state: &'static State<T>) {
            // SAFETY: from a box, in `open`; all transactions are gone, and the handles were taken.
            drop(unsafe { Box::from_raw(std::ptr::from_ref(state).cast_mut()) });
        }
        if let Some(handles) = self.handles.take() {
            free(handles.a);
            free(handles.b);
            free(handles.c);
        }
    }

    fn obey(&mut self, verb: &str, rest: &[&str]) -> Result<String> {
        let handles = self.handles.ok_or("nothing is open")?;
        let ok = || Ok(String::from("ok"));
        match (verb, rest) {
            ("publish", [state, value]) => with!(handles, number(state)?, |state| {
                publish(state, &bytes(value)?)
            }),
            ("snapshot", [state]) => with!(handles, number(state)?, |state| snapshot(state)),
            ("begin", [tx, state, how]) => {
                let single = with!(handles, number(state)?, |state| begin(state, how)?);
                let base = single.told().0;
                self.singles.insert(number(tx)?, single);
                Ok(base.to_string())
            }
            ("get", [tx]) => Ok(hex(&self.single(tx)?.get()?)),
            ("slice", [tx]) => Ok(hex(&self.single(tx)?.slice()?)),
            ("write", [tx, value]) => self.single(tx)?.write(&bytes(value)?).and_then(|()| ok()),
            ("set", [tx, value]) => self.single(tx)?.set(&bytes(value)?).and_then(|()| ok()),
            ("touch-mut", [tx]) => self.single(tx)?.touch_mut().and_then(|()| ok()),
            ("length", [tx, length]) => {
                let length = usize::try_from(number(length)?)?;
                self.single(tx)?.set_length(length);
                ok()
            }
            ("ask", [tx]) => {
                let (base, valid, doomed, dirty) = self.single(tx)?.told();
                Ok(format!("{base} {valid} {doomed} {dirty}"))
            }
            ("commit", [tx]) => {
                let single = self.singles.remove(&number(tx)?);
                Ok(match single.ok_or("no such transaction")?.commit()? {
                    Outcome::Committed { generation } => format!("committed {}", generation.0),
                    Outcome::Unchanged { base } => format!("unchanged {}", base.0),
                    Outcome::Conflict { base, found } => {
                        format!("conflict {} {}", base.0, found.0)
                    }
                })
            }
            ("drop", [tx]) => {
                self.singles.remove(&number(tx)?);
                self.several.remove(&number(tx)?);
                ok()
            }
            ("cut", []) => {
                let (a, b, c) = kstate::cut((&**handles.a, &**handles.b, &**handles.c))?;
                let mut answer = String::new();
                for (generation, value) in [
                    (a.generation(), u64::bytes_of(&a.value)),
                    (b.generation(), u64::bytes_of(&b.value)),
                    (c.generation(), Bytes::bytes_of(&c.value)),
                ] {
                    write!(answer, "{} {} ", generation.0, hex(value))?;
                }
                answer.truncate(answer.trim_end().len());
                Ok(answer)
            }
            ("many", [tx]) => {
                self.several.insert(number(tx)?, kstate::begin_many());
                ok()
            }
            ("m-commit", [tx]) => {
                let several = self.several.remove(&number(tx)?);
                Ok(match several.ok_or("no such transaction")?.commit()? {
                    ManyOutcome::Committed { generations } => {
                        let mut answer = String::from("committed");
                        for generation in generations.iter() {
                            write!(answer, " {}", generation.0)?;
                        }
                        answer
                    }
                    ManyOutcome::Unchanged => String::from("unchanged"),
                    ManyOutcome::Conflict { name, base, found } => {
                        let part = name.as_str().rsplit('.').next().unwrap_or_default();
                        format!("conflict {part} {} {}", base.0, found.0)
                    }
                })
            }
            ("m-ask", [tx]) => {
                let several = self.several(tx)?;
                Ok(format!("{} {}", several.validate(), several.is_doomed()))
            }
            (_, [tx, state, rest @ ..]) => {
                let several = self.several(tx)?;
                with!(handles, number(state)?, |state| with_member(
                    several, state, verb, rest
                ))
            }
            _ => Err(format!("what is {verb}?").into()),
        }
    }

    fn single(&mut self, tx: &str) -> Result<&mut (dyn Single + 'static)> {
        let single = self.singles.get_mut(&number(tx)?);
        Ok(single.ok_or("no such transaction")?.as_mut())
    }

    fn several(&mut self, tx: &str) -> Result<&mut Many<'static>> {
        let several = self.several.get_mut(&number(tx)?);
        Ok(several.ok_or("no such transaction")?)
    }
}

fn publish<T: Value>(state: &State<T>, value: &[u8]) -> Result<String> {
    Ok(state.publish(T::of(value).borrow())?.0.to_string())
}

fn snapshot<T: Value>(state: &State<T>) -> Result<String> {
    let snapshot = state.snapshot()?;
    let value = hex(T::bytes_of(&snapshot.value));
    Ok(format!("{} {value}", snapshot.generation().0))
}

fn begin<T: Value>(state: &'static State<T>, how: &str) -> Result<Box<dyn Single>> {
    let trapping = match how {
        "soft" => return Ok(Box::new(state.begin()?)),
        "software" => Trapping::Software,
        "thread" => Trapping::Thread,
        "signal" => Trapping::Signal,
        "kernel" => Trapping::Kernel,
        _ => return Err("begin how?".into()),
    };
    state.set_trapping(trapping);
    let raw = state.begin_raw()?;
    match raw.trapping() == trapping {
        true => Ok(Box::new(raw)),
        false => Err("pages are trapped another way".into()),
    }
}

fn with_member<T: Value>(
    several: &mut Many<'static>,
    state: &'static State<T>,
    verb: &str,
    rest: &[&str],
) -> Result<String> {
    match (verb, rest) {
        ("add", []) => several.add(state)?,
        ("add-reading", []) => several.add_reading(state)?,
        ("m-get", []) => return Ok(hex(T::bytes_of(several.get(state)?))),
        ("m-write", [value]) => *several.get_mut(state)? = T::of(&bytes(value)?),
        ("m-set", [value]) => several.set(state, T::of(&bytes(value)?).borrow())?,
        _ => return Err(format!("what is {verb}?").into()),
    }
    Ok(String::from("ok"))
}

/// What the reference has a word for.
fn said(error: &(dyn Error + 'static)) -> Option<String> {
    let read = |error: &ReadError| matches!(error, ReadError::Forked { .. }).then_some("forked");
    let commit = |error: &CommitError| match error {
        CommitError::Forked { .. } => Some("forked"),
        CommitError::TooLong { .. } => Some("too-long"),
        _ => None,
    };
    let word = if let Some(error) = error.downcast_ref::<ReadError>() {
        read(error)
    } else if let Some(error) = error.downcast_ref::<CommitError>() {
        commit(error)
    } else if let Some(CommitManyError::State(error)) = error.downcast_ref() {
        commit(error)
    } else if let Some(TouchError::Read(error)) = error.downcast_ref() {
        read(error)
    } else if let Some(TouchError::NotAdded { .. }) = error.downcast_ref() {
        Some("not-added")
    } else if let Some(AddError::Twice { .. }) = error.downcast_ref() {
        Some("twice")
    } else if let Some(PublishError::TooLong { .. }) = error.downcast_ref() {
        Some("too-long")
    } else {
        None
    };
    // What nobody expects is an answer as well, and shown.
    Some(word.map_or_else(|| format!("error: {error}"), String::from))
}

fn number(word: &str) -> Result<u32> {
    Ok(word.parse()?)
}

/// `-` is no bytes.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    match text.is_empty() {
        true => String::from("-"),
        false => text,
    }
}

fn bytes(word: &str) -> Result<Vec<u8>> {
    let digits = word.trim_start_matches('-');
    let pairs = (0..digits.len()).step_by(2);
    Ok(pairs
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16))
        .collect::<std::result::Result<_, _>>()?)
}
