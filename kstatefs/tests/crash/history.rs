//! What is done to a file, and what may be found of it whenever power fails.

use std::time::Duration;

use kstate_sys::name::StateName;
use kstatefs::persist::{FileError, Image, StateFile};

use crate::disk::Disk;
use crate::recorder::{Operation, Recorder};

/// One of the writes and syncs of a step fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// How many go well before.
    pub(crate) at: usize,
    /// If it is a write: how many bytes are written all the same.
    pub(crate) written: usize,
}

/// A version has the next generation each time, and a value of `length` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// The file is made.
    Initialise { fault: Option<Fault> },
    /// A version is saved.
    Save { length: usize, fault: Option<Fault> },
    /// The daemon ends, and another one finds what the kernel's memory has.
    Restart,
    /// It makes sure of what it found.
    Settle,
}

/// Where writes are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Torn {
    AtEachByte,
    /// At one byte in so many.
    Here(usize),
}

/// What was done to the file, and what was said of it.
#[derive(Debug, Default)]
pub(crate) struct History {
    operations: Vec<Operation>,
    /// Each version, with how many operations there were when it was first given.
    given: Vec<(usize, Image)>,
    /// Each generation that was said to be kept, with how many operations there were then.
    kept: Vec<(usize, u64)>,
}

/// The contents of a version follow from its generation.
pub(crate) fn version(generation: u64, length: usize) -> Image {
    let value =
        (0..length as u64).map(|at| (generation * 31 + at * (generation | 1)).to_le_bytes()[0]);
    Image {
        name: StateName::new("robot.gps").unwrap(),
        generation,
        ceiling: generation + 1000,
        clean: generation.is_multiple_of(2),
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        capacity: 4096,
        layout: None,
        linger: Duration::from_secs(generation),
        deadline: None,
        announce: 0,
        within: Duration::ZERO,
        time: Some(Duration::from_nanos(generation)),
        value: value.collect(),
    }
}

impl History {
    pub(crate) fn run(steps: impl IntoIterator<Item = Step>) -> Self {
        let recorder = Recorder::default();
        let mut history = Self::default();
        let mut file: Option<StateFile<&Recorder>> = None;
        for step in steps {
            match step {
                Step::Initialise { fault } => {
                    let image = history.give(&recorder, 10);
                    recorder.fail(fault);
                    file = StateFile::initialise(&recorder, &image).ok();
                    assert_eq!(file.is_some(), fault.is_none());
                    history.keep(&recorder, file.as_ref().map(|_| image.generation));
                }
                Step::Save { length, fault } => {
                    let image = history.give(&recorder, length);
                    recorder.fail(fault);
                    let saved = file.as_mut().unwrap().save(&image);
                    history.keep(&recorder, saved.ok().map(|_| image.generation));
                }
                Step::Restart | Step::Settle => {
                    let (mut again, found) = StateFile::recover(&recorder).unwrap();
                    assert!(
                        history.allows(recorder.done(), &Ok(found.clone())),
                        "{found:?}"
                    );
                    if matches!(step, Step::Settle) {
                        recorder.fail(None);
                        again.settle().unwrap();
                        history.keep(&recorder, Some(found.generation));
                    }
                    file = Some(again);
                }
            }
            recorder.fail(None);
        }
        history.operations = recorder.operations();
        history
    }

    fn give(&mut self, recorder: &Recorder, length: usize) -> Image {
        let image = version(self.given.len() as u64 + 1, length);
        self.given.push((recorder.done(), image.clone()));
        image
    }

    fn keep(&mut self, recorder: &Recorder, generation: Option<u64>) {
        self.kept
            .extend(generation.map(|generation| (recorder.done(), generation)));
    }

    /// Whether this may be recovered after that many operations.
    fn allows(&self, done: usize, found: &Result<Image, FileError>) -> bool {
        let kept = self.kept.iter().filter(|(at, _)| *at <= done);
        let kept = kept.map(|(_, generation)| *generation).max();
        let mut given = self.given.iter().filter(|(at, _)| *at <= done);
        match found {
            Ok(image) => {
                given.any(|(_, given)| given == image)
                    && kept.is_none_or(|kept| image.generation >= kept)
            }
            Err(_) => kept.is_none(),
        }
    }

    /// Has power fail after each operation and within each write. Returns how often it did.
    pub(crate) fn check(&self, torn: Torn) -> usize {
        let every = match torn {
            Torn::AtEachByte => 1,
            Torn::Here(every) => every,
        };
        let mut crashes = 0;
        let mut disk = Disk::with(&[]);
        for done in 0..=self.operations.len() {
            disk.images(|image| {
                crashes += 1;
                self.look(done, image);
                self.go_on(done, image);
            });
            let Some(operation) = self.operations.get(done) else {
                break;
            };
            if let Operation::Write { offset, bytes } = operation {
                disk.cuts(*offset, bytes, every, |image| {
                    crashes += 1;
                    self.look(done, image);
                });
            }
            disk.apply(operation);
        }
        crashes
    }

    fn look(&self, done: usize, image: &[u8]) -> Option<Image> {
        let recorder = Recorder::with(image.to_vec());
        let found = StateFile::recover(&recorder).map(|(_, found)| found);
        assert!(
            self.allows(done, &found),
            "after {done} operations of {:?} what is kept is {:?}, and found is {found:?}",
            self.shape(),
            self.kept,
        );
        assert_eq!(recorder.done(), 0, "recovery has written");
        found.ok()
    }

    /// Saves to what was recovered, with power failing a second time: nothing is lost by that either.
    fn go_on(&self, done: usize, image: &[u8]) {
        let recorder = Recorder::with(image.to_vec());
        let Ok((mut file, found)) = StateFile::recover(&recorder) else {
            return;
        };
        let next = version(200, 4096);
        file.save(&next).unwrap();
        let mut disk = Disk::with(image);
        for operation in recorder.operations() {
            disk.apply(&operation);
            disk.images(|image| {
                let (_, again) = StateFile::recover(&Recorder::with(image.to_vec())).unwrap();
                assert!(
                    again == found || again == next,
                    "after {done} operations: {again:?}"
                );
            });
        }
        let (_, last) = StateFile::recover(&recorder).unwrap();
        assert_eq!(last, next);
    }

    /// The operations without their bytes.
    fn shape(&self) -> Vec<String> {
        let shape = |operation: &Operation| match operation {
            Operation::Write { offset, bytes } => format!("{} at {offset}", bytes.len()),
            operation => format!("{operation:?}"),
        };
        self.operations.iter().map(shape).collect()
    }
}
