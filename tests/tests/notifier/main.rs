//! The descriptor that is readable when one of many states has changed: what it tells, in which loops it
//! goes, what it survives.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod descriptor;
mod elsewhere;
mod telling;
