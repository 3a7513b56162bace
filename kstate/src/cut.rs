//! Several states as of one moment.

use std::time::{Duration, Instant};

use kstate_sys::name::StateName;
use kstate_sys::region::{self, Decision, Head};
use smallvec::SmallVec;

use crate::content::Content;
use crate::reader::Reader;
use crate::snapshot::{ReadError, Snapshot};

/// How long a cut is tried for. Beside writers that leave no time between commits for two looks
/// and the copies between them there may be none.
const PATIENCE: Duration = Duration::from_secs(1);
/// Attempts between two looks at the clock.
const ATTEMPTS_AT_ONCE: u32 = 64;

/// Why no cut was taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// One of the states cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The states kept changing.
    #[error(
        "the states of a cut, `{name}` the last of them, kept changing for {waited:?}; read fewer \
         at once, or have their writers leave time between commits"
    )]
    Unstable {
        /// The state that changed at the last attempt.
        name: StateName,
        /// How long it was tried.
        waited: Duration,
    },
}

/// Copies several states as of one moment: what is returned were the newest versions of all of
/// them at one time during the call. Of commits of several states it shows all or nothing, and it
/// agrees with other cuts on what came first.
///
/// The argument is a tuple of references to handles, or a slice of handles of one type.
///
/// ```no_run
/// let from = kstate::subscribe("bank.alice").typed::<i64>()?;
/// let to = kstate::subscribe("bank.bob").typed::<i64>()?;
/// let (from, to) = kstate::cut((&*from, &*to))?;
/// println!("{} in all", from.value + to.value);
/// # Ok::<(), kstate::Error>(())
/// ```
///
/// # Errors
///
/// [`CutError`].
///
/// # Cost
///
/// One copy and two looks a state, again if one of them changed meanwhile; no system call.
pub fn cut<C: Cut>(states: C) -> Result<C::Values, CutError> {
    let mut start = None;
    loop {
        let mut changed = 0;
        for _ in 0..ATTEMPTS_AT_ONCE {
            match states.attempt()? {
                Ok(values) => return Ok(values),
                Err(index) => changed = index,
            }
            core::hint::spin_loop();
        }
        let start = *start.get_or_insert_with(Instant::now);
        if start.elapsed() > PATIENCE {
            return Err(CutError::Unstable {
                name: states.name(changed).clone(),
                waited: start.elapsed(),
            });
        }
    }
}

/// What a cut can be taken of: tuples of references to [`Reader`]s, and slices of them.
pub trait Cut: sealed::Attempt {}

impl<C: sealed::Attempt> Cut for C {}

mod sealed {
    use super::{ReadError, StateName};

    pub trait Attempt {
        /// A snapshot of each.
        type Values;

        /// Looks, copies, and looks again; the index of a state that changed.
        fn attempt(&self) -> Result<Result<Self::Values, usize>, ReadError>;

        fn name(&self, index: usize) -> &StateName;
    }
}

/// How a state stood, and its value as of then.
type Copied<T> = (Head, Snapshot<<T as Content>::Owned>);

/// A state's part in an attempt.
#[inline]
fn copy<T: Content>(reader: &Reader<T>) -> Result<Option<Copied<T>>, ReadError> {
    let head = match reader.newest() {
        Some(head) => head,
        None => reader.look()?.head,
    };
    let snapshot = T::snapshot_at(reader, head)?;
    Ok(snapshot.map(|snapshot| (head, snapshot)))
}

/// Whether the state stands as it did when `before` counted.
#[inline]
fn stands<T>(reader: &Reader<T>, before: Head) -> Result<bool, ReadError> {
    match reader.newest() {
        Some(head) => Ok(head == before),
        None => stands_beside_an_intent(reader, before),
    }
}

#[cold]
fn stands_beside_an_intent<T>(reader: &Reader<T>, before: Head) -> Result<bool, ReadError> {
    let again = reader.look()?;
    if let Some((commit, Decision::Checking)) = again.intent {
        // It is decided in a moment, unless its owner was stopped.
        reader.subscription().urge(commit);
    }
    Ok(again.head == before && again.may_be_cut())
}

macro_rules! tuples {
    ($($reader:ident $type:ident $index:tt),+) => {
        impl<$($type: Content),+> sealed::Attempt for ($(&Reader<$type>,)+) {
            type Values = ($(Snapshot<$type::Owned>,)+);

            fn attempt(&self) -> Result<Result<Self::Values, usize>, ReadError> {
                let ($($reader,)+) = *self;
                let copies = ($(match copy($reader)? {
                    Some(copy) => copy,
                    None => return Ok(Err($index)),
                },)+);
                region::cut_fence();
                $(if !stands($reader, copies.$index.0)? {
                    return Ok(Err($index));
                })+
                Ok(Ok(($(copies.$index.1,)+)))
            }

            fn name(&self, index: usize) -> &StateName {
                let names = [$(self.$index.name()),+];
                names[index.min(names.len() - 1)]
            }
        }
    };
}

tuples!(a A 0, b B 1);
tuples!(a A 0, b B 1, c C 2);
tuples!(a A 0, b B 1, c C 2, d D 3);
tuples!(a A 0, b B 1, c C 2, d D 3, e E 4);
tuples!(a A 0, b B 1, c C 2, d D 3, e E 4, f F 5);
tuples!(a A 0, b B 1, c C 2, d D 3, e E 4, f F 5, g G 6);
tuples!(a A 0, b B 1, c C 2, d D 3, e E 4, f F 5, g G 6, h H 7);

impl<T: Content> sealed::Attempt for &[Reader<T>] {
    type Values = Vec<Snapshot<T::Owned>>;

    fn attempt(&self) -> Result<Result<Self::Values, usize>, ReadError> {
        let mut looks: SmallVec<[Head; 16]> = SmallVec::new();
        let mut values = Vec::with_capacity(self.len());
        for (index, reader) in self.iter().enumerate() {
            let Some((head, snapshot)) = copy(reader)? else {
                return Ok(Err(index));
            };
            looks.push(head);
            values.push(snapshot);
        }
        region::cut_fence();
        for (index, (reader, before)) in self.iter().zip(&looks).enumerate() {
            if !stands(reader, *before)? {
                return Ok(Err(index));
            }
        }
        Ok(Ok(values))
    }

    fn name(&self, index: usize) -> &StateName {
        self[index].name()
    }
}
