//! A file in memory that notes what is done to it, and fails when told to.

use std::cell::RefCell;
use std::io;

use kstatefs::persist::Medium;

use crate::history::Fault;

/// What the disk may have heard of.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// The file is that long, in bytes.
    Allocate(usize),
    /// Bytes that came to be in the kernel's memory.
    Write { offset: usize, bytes: Vec<u8> },
    /// A sync that succeeded.
    Sync,
    /// One that did not.
    FailedSync,
}

/// The file as the kernel's memory has it.
#[derive(Debug, Default)]
pub(crate) struct Recorder(RefCell<Inner>);

#[derive(Debug, Default)]
struct Inner {
    memory: Vec<u8>,
    operations: Vec<Operation>,
    fault: Option<Fault>,
}

impl Recorder {
    /// A file that holds `memory`.
    pub(crate) fn with(memory: Vec<u8>) -> Self {
        Self(RefCell::new(Inner {
            memory,
            ..Inner::default()
        }))
    }

    /// What is read there.
    pub(crate) fn memory(&self) -> Vec<u8> {
        self.0.borrow().memory.clone()
    }

    /// Everything that was done.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.0.borrow().operations.clone()
    }

    /// How much that is.
    pub(crate) fn done(&self) -> usize {
        self.0.borrow().operations.len()
    }

    /// Has one of the next writes and syncs fail, or none.
    pub(crate) fn fail(&self, fault: Option<Fault>) {
        self.0.borrow_mut().fault = fault;
    }
}

impl Inner {
    /// The fault of this write or sync, if it has one.
    fn strikes(&mut self) -> Option<Fault> {
        let fault = self.fault.as_mut()?;
        match fault.at.checked_sub(1) {
            Some(left) => {
                fault.at = left;
                None
            }
            None => self.fault.take(),
        }
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.memory.len() < end {
            self.memory.resize(end, 0);
        }
        self.memory[offset..end].copy_from_slice(bytes);
        self.operations.push(Operation::Write {
            offset,
            bytes: bytes.to_vec(),
        });
    }
}

impl Medium for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.borrow().memory.len() as u64)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        let length = inner.memory.len().max(usize::try_from(len).unwrap());
        inner.memory.resize(length, 0);
        inner.operations.push(Operation::Allocate(length));
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.0.borrow();
        let from = usize::try_from(offset).unwrap().min(inner.memory.len());
        let read = buffer.len().min(inner.memory.len() - from);
        buffer[..read].copy_from_slice(&inner.memory[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        let offset = usize::try_from(offset).unwrap();
        match inner.strikes() {
            None => inner.write(bytes, offset),
            Some(fault) => {
                inner.write(&bytes[..fault.written.min(bytes.len())], offset);
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        let fails = inner.strikes().is_some();
        inner.operations.push(match fails {
            true => Operation::FailedSync,
            false => Operation::Sync,
        });
        match fails {
            true => Err(io::Error::other("the disk is gone")),
            false => Ok(()),
        }
    }
}
