#![expect(unsafe_code, reason = "maps a region without the library")]
//! A transfer between two accounts that stops itself at a step, by the protocol's own code. Needs
//! passthrough.

use std::cell::Cell;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;

use kstate_sys::abi::{Class, Geometry, O_LIBRARY};
use kstate_sys::clock::Ticks;
use kstate_sys::ioctl::{self, call};
use kstate_sys::region::{
    self, Decision, Group, Head, Header, IntentList, IntentRef, Mapped, Memory, Payload, Record,
    Recorded, Round, SeveralError, Slot, SlotMeta, StatusWord, Write, Writer,
};
use nix::sys::signal::{Signal, raise};

use super::{Result, say};

/// Counts down to where the process stops itself; before each thing the protocol does.
struct Steps(Cell<Option<u32>>);

impl Steps {
    fn step(&self) {
        match self.0.get() {
            Some(0) => {
                self.0.set(None);
                // Goes on when it is continued, and is a step like any other if it cannot.
                let _ = raise(Signal::SIGSTOP);
            }
            left => self.0.set(left.map(|left| left - 1)),
        }
    }
}

struct Stepping<'a> {
    mapped: Mapped<'static>,
    steps: &'a Steps,
}

impl Memory for Stepping<'_> {
    fn header(&self) -> &Header {
        self.steps.step();
        self.mapped.header()
    }

    fn slot(&self, slot: Slot) -> &SlotMeta {
        self.steps.step();
        self.mapped.slot(slot)
    }

    fn payload(&self, slot: Slot, class: Class) -> Option<Payload<'_>> {
        self.steps.step();
        self.mapped.payload(slot, class)
    }

    fn live(&self) -> Payload<'_> {
        self.mapped.live()
    }

    fn status(&self, record: u32) -> Recorded {
        self.mapped.status(record)
    }

    fn slot_bytes(&self, class: Class) -> usize {
        self.mapped.slot_bytes(class)
    }
}

struct Own<'a> {
    number: u32,
    status: &'static StatusWord,
    list: &'static IntentList,
    steps: &'a Steps,
}

impl Record for Own<'_> {
    fn number(&self) -> u32 {
        self.number
    }

    fn status(&self) -> &StatusWord {
        self.steps.step();
        self.status
    }

    fn list(&self) -> &IntentList {
        self.steps.step();
        self.list
    }
}

/// Maps a file for the life of the process.
fn map(path: &Path, length: usize) -> Result<(File, NonNull<u8>)> {
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .custom_flags(O_LIBRARY)
        .open(path)?;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    match start == libc::MAP_FAILED {
        true => Err(std::io::Error::last_os_error().into()),
        false => Ok((file, NonNull::new(start.cast()).ok_or("mapped at 0")?)),
    }
}

struct Account {
    file: File,
    id: u64,
    mapped: Mapped<'static>,
    writer: Writer,
}

impl Account {
    fn open(mount: &Path, name: &str) -> Result<Self> {
        let geometry = Geometry::of_this_machine();
        let length = geometry.mapped_len(Class::B64);
        let (file, start) = map(&mount.join(name), length)?;
        let mut terms = ioctl::Subscribe::default();
        call::subscribe(&file, &mut terms)?;
        let mut claim = ioctl::Claim::default();
        call::claim(&file, &mut claim)?;
        // SAFETY: mapped so far, page aligned, writable, never unmapped.
        let mapped = unsafe { Mapped::new(start, length, geometry) }?;
        let group = Group(u8::try_from(claim.group)?);
        let writer = Writer::claimed(&mapped, group, Class::B64);
        Ok(Self {
            file,
            id: terms.state_id,
            mapped,
            writer,
        })
    }

    /// The newest value; `None` while a commit of somebody else is undecided.
    fn read(&self) -> Option<(Head, i64)> {
        let mut bytes = [MaybeUninit::new(0_u8); 8];
        let version = region::read(&self.mapped, &mut bytes).ok()?;
        // SAFETY: initialised from the start.
        let bytes = bytes.map(|byte| unsafe { byte.assume_init() });
        Some((version.head, i64::from_ne_bytes(bytes)))
    }
}

pub(super) fn transfer(mount: &Path, prefix: &str, stop_at: u32) -> Result {
    let steps = Steps(Cell::new(Some(stop_at)));
    let registry = File::open(mount.join(".kstate/registry"))?;
    let mut number = 0;
    call::record(&registry, &mut number)?;
    let (_, status) = map(&mount.join(ioctl::record_file(number)), 4096)?;
    let (_, list) = map(&mount.join(ioctl::record_list_file(number)), 4096)?;
    let own = Own {
        number,
        // SAFETY: a page that begins with it, never unmapped; any bytes are a value.
        status: unsafe { status.cast().as_ref() },
        // SAFETY: as above.
        list: unsafe { list.cast().as_ref() },
        steps: &steps,
    };
    let mut from = Account::open(mount, &format!("{prefix}.0"))?;
    let mut to = Account::open(mount, &format!("{prefix}.1"))?;
    say("ready")?;
    let mut last = (Round(0), Decision::Aborted);
    loop {
        let (Some((first, less)), Some((second, more))) = (from.read(), to.read()) else {
            std::thread::yield_now();
            continue;
        };
        let memories = [from.mapped, to.mapped].map(|mapped| Stepping {
            mapped,
            steps: &steps,
        });
        let bytes = [(less - 1).to_ne_bytes(), (more + 1).to_ne_bytes()];
        let write = |at: usize, state, writer, base| Write {
            memory: &memories[at],
            state,
            writer,
            base,
            bytes: &bytes[at],
            time: Ticks::NONE,
        };
        let mut writes = [
            write(0, from.id, &mut from.writer, first),
            write(1, to.id, &mut to.writer, second),
        ];
        let done = region::commit_several(&own, last, &mut writes, &[]);
        match done {
            Ok(()) => return say("done"),
            Err(SeveralError::Killed) => {
                let commit = IntentRef::new(number, own.status.load().round());
                call::settle(&from.file, &mut ioctl::Settle::new(commit.raw(), 0))?;
            }
            Err(_) => {}
        }
        let status = own.status.load();
        last = (status.round(), status.decision());
    }
}
