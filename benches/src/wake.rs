//! What waking costs: until a reader that sleeps holds a value, and for the writer.
//!
//! Each way of waiting stands beside the barest program that waits by the same means. Readers are
//! processes of their own, on the writer's processor or on another.

mod asleep;
mod board;
mod cost;
mod latency;
mod waiter;
mod ways;

use crate::bare_fuse::BareMount;
use crate::case::Case;
use crate::place::{pin, processors};
use crate::setup::{Result, Setup};

pub(crate) use cost::wait_in_crowd;
pub(crate) use waiter::wait_as_told;
pub(crate) use ways::Way;

/// All cases.
pub(crate) fn run(blocks: usize) -> Result<Vec<Case>> {
    // Before this thread is bound to one of them.
    let processors = processors().min(2);
    pin(0);
    let mut cases = Vec::new();
    for reader in 0..processors {
        // Who serves files is beside the reader: it is the reader's requests that it answers.
        let setup = Setup::start_on(Some(reader))?;
        let bare = BareMount::start_on(reader)?;
        for way in Way::ALL {
            // Who spins on the writer's processor sees the value when its time slice is over.
            if way != Way::Spin || reader != 0 {
                cases.extend(latency::measure(way, &setup, &bare, reader, blocks)?);
            }
        }
    }
    cases.extend(cost::measure(processors - 1, blocks)?);
    Ok(cases)
}
