//! Reading, and waiting for what there is to read.

use std::time::{Duration, Instant};

use super::client::{Client, Kind, Open};
use super::errors::allow;
use super::input::Input;
use super::told::check_report;
use super::waiting::{Reader, Waiting};
use crate::blocked::Given;
use crate::errno::Errno;
use crate::fs::Shared;
use crate::inode::{Node, Report};
use crate::timer::Look;

/// Reads that wait at one file at the same time.
const MOST_WAITING: usize = 3;

/// For what other threads of the daemon do at once.
const SOON: Duration = Duration::from_secs(10);

impl Client {
    pub(super) fn read(&mut self, shared: &Shared, input: &mut Input<'_>) {
        let Some(open) = self.any(input).filter(|open| open.read) else {
            return;
        };
        let (offset, size) = (input.number(), input.small_number());
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        match open.kind {
            Kind::Report(report) => self.read_report(shared, &open, report, offset, size),
            // The kernel asks for nothing less.
            _ if open.opened.stream => self.read_on(shared, &open, size.max(1), input.one_in(8)),
            _ => {
                let allowed: &[i32] = match open.kind {
                    Kind::Directory => &[libc::EISDIR],
                    _ => &[],
                };
                let read = shared.read(open.file(), offset, size);
                match allow("read", read, allowed, self.world.scribbled.get()) {
                    Some(Given::Bytes(bytes)) => assert!(bytes.len() <= size.min(4096)),
                    Some(Given::NotYet) => panic!("{open:?} lets nobody wait"),
                    None => {}
                }
            }
        }
    }

    fn read_report(&self, shared: &Shared, open: &Open, report: Report, offset: u64, size: usize) {
        let read = |offset, size| match shared.read(open.file(), offset, size) {
            Ok(Given::Bytes(bytes)) => bytes,
            other => panic!("{other:?} of {open:?}"),
        };
        let whole = read(0, usize::MAX);
        check_report(report, &whole, &self.person.readable(shared));
        if offset > 0 {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let rest = whole.get(start..).unwrap_or_default();
            assert_eq!(read(offset, size), rest[..rest.len().min(size)]);
        }
    }

    /// Of what has no offsets; waits where there is nothing, unless it was opened so that it does not.
    fn read_on(&mut self, shared: &Shared, open: &Open, size: usize, may_wait: bool) {
        self.take_answers(shared);
        let waiting = self.waiting_at(open).count();
        if waiting == MOST_WAITING {
            return;
        }
        // One that goes around those who wait would get what comes after their bytes.
        if waiting > 0 {
            self.wait(shared, open, size);
            return;
        }
        let allowed: &[i32] = match open.kind {
            Kind::View => &[libc::ETIMEDOUT],
            _ => &[],
        };
        let read = shared.read(open.file(), 0, size);
        match allow("read", read, allowed, self.world.scribbled.get()) {
            Some(Given::Bytes(bytes)) => self.check_bytes(shared, open, &bytes, size, true),
            Some(Given::NotYet) => {
                if open.kind == Kind::Changes {
                    let mut told = open.told.borrow_mut();
                    told.drained(shared, &self.world, &self.person);
                }
                if !may_wait {
                    self.wait(shared, open, size);
                }
            }
            None => {}
        }
    }

    fn wait(&mut self, shared: &Shared, open: &Open, size: usize) {
        let tid = match self.caller.tid {
            0 => 0,
            _ => self.reader.get_or_insert_with(Reader::start).tid,
        };
        let (waiting, read) = Waiting::new(open.file(), size, tid);
        self.waiting.push(waiting);
        shared.block(open.file(), read);
        self.take_answers(shared);
    }

    fn check_bytes(&self, shared: &Shared, open: &Open, bytes: &[u8], size: usize, at_once: bool) {
        assert!(bytes.len() <= size);
        match Node::from_ino(open.opened.ino) {
            Node::Changes(_) => {
                let (world, person) = (&self.world, &self.person);
                let mut told = open.told.borrow_mut();
                told.read(bytes, at_once, shared, world, person, &self.ever);
            }
            Node::View(ino, _) => {
                let is_there = shared.states().iter().any(|state| state.ino() == ino);
                let may_end = !is_there || self.world.scribbled.get();
                assert!(!bytes.is_empty() || may_end, "an end of {open:?}");
            }
            other => panic!("{other:?} was read on"),
        }
    }

    fn waiting_at(&self, open: &Open) -> impl Iterator<Item = &Waiting> {
        let file = open.file();
        self.waiting.iter().filter(move |read| read.file == file)
    }

    /// Looks at the answers that have come, in the order that they were waited for.
    pub(super) fn take_answers(&mut self, shared: &Shared) {
        let mut left = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            // What came for a later one while this was looked at is looked at next time.
            let is_behind = left.iter().any(|read: &Waiting| read.file == waiting.file);
            let answer = (!is_behind).then(|| waiting.answer()).flatten();
            match answer {
                Some(answer) => self.check_answer(shared, &waiting, answer),
                None => left.push(waiting),
            }
        }
        self.waiting = left;
    }

    fn check_answer(&self, shared: &Shared, waiting: &Waiting, answer: Result<Vec<u8>, Errno>) {
        let open = self.open.iter().find(|open| open.file() == waiting.file);
        let open = open.expect("not closed while it is read");
        match answer {
            Ok(bytes) => self.check_bytes(shared, open, &bytes, waiting.size, false),
            Err(Errno::EINTR) => assert!(waiting.is_over, "nobody ended {waiting:?}"),
            Err(Errno::EOPNOTSUPP) => assert!(!waiting.is_seen),
            Err(Errno::ETIMEDOUT) => assert_eq!(open.kind, Kind::View),
            Err(Errno::EIO) => assert!(self.world.scribbled.get() && open.kind == Kind::View),
            Err(error) => panic!("{waiting:?} of {open:?} is {error:?}"),
        }
    }

    /// Has all reads of a file answered, as the kernel does before it closes one: first those that
    /// there is something for, then the others by what ends who made them.
    pub(super) fn end_reads(&mut self, shared: &Shared, open: &Open) {
        // It is looked up by their answers.
        self.open.push(open.clone());
        self.expect_answers(shared, open);
        if self.waiting_at(open).next().is_some() {
            self.end_reader();
            let deadline = Instant::now() + SOON;
            while self.waiting_at(open).next().is_some() {
                shared.look(Look::Signals);
                self.take_answers(shared);
                assert!(Instant::now() < deadline, "not let go: {self:?}");
            }
        }
        self.open.pop();
    }

    fn end_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.end();
        }
        for waiting in &mut self.waiting {
            waiting.is_over = true;
        }
    }

    /// Who waits where there is something gets it soon.
    pub(super) fn expect_answers(&mut self, shared: &Shared, open: &Open) {
        let deadline = Instant::now() + SOON;
        loop {
            self.take_answers(shared);
            if self.waiting_at(open).next().is_none() {
                return;
            }
            // Whoever writes over a region wakes nobody.
            let found = shared.poll(open.file(), None);
            let found = allow("poll", found, &[], self.world.scribbled.get());
            let has_news = found.is_some_and(|found| found.readable || found.overdue);
            if self.world.scribbled.get() || !has_news {
                return;
            }
            assert!(Instant::now() < deadline, "not told: {open:?} {self:?}");
            if let Node::View(ino, view) = Node::from_ino(open.opened.ino)
                && !view.period().is_zero()
            {
                shared.look(Look::Views(ino));
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Reads a stream of changes to its end.
    pub(super) fn drain(&mut self, shared: &Shared, open: &Open) {
        self.end_reads(shared, open);
        self.open.push(open.clone());
        loop {
            match shared.read(open.file(), 0, 300) {
                Ok(Given::Bytes(bytes)) => self.check_bytes(shared, open, &bytes, 300, true),
                Ok(Given::NotYet) => break,
                Err(error) => panic!("{error:?} of {open:?}"),
            }
        }
        self.open.pop();
        let mut told = open.told.borrow_mut();
        told.drained(shared, &self.world, &self.person);
    }

    /// Who follows all changes is told of the newest version of each state, however it was committed.
    pub(super) fn expect_current(&mut self, shared: &Shared) {
        let deadline = Instant::now() + SOON;
        for open in self.open.clone() {
            loop {
                self.drain(shared, &open);
                let told = open.told.borrow();
                // Whoever writes over a region wakes nobody.
                if self.world.scribbled.get() || told.is_current(shared, &self.person) {
                    break;
                }
                drop(told);
                assert!(Instant::now() < deadline, "not told: {open:?} {self:?}");
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}
