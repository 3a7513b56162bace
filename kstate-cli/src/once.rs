//! Publishing one value and leaving: what `set` and `import` do.

use std::borrow::Cow;
use std::io::{self, Read};

use kstate::{Bytes, Info, Mount, Reader};
use serde_json::json;

use crate::cli::Context;
use crate::error::CommandError;
use crate::keeping::{self, KeepingArguments};
use crate::output;

/// Publishes to the state `name`, creating it if it is not there, the value that `value` makes of the
/// state and what is known of it; and tells where it has gone again.
///
/// # Errors
///
/// Whatever is refused. Nothing was published then, unless it is how long the state is to live.
pub(crate) fn publish<'v>(
    context: &Context,
    mount: &Mount,
    name: &str,
    keeping: &KeepingArguments,
    value: impl FnOnce(&Reader<Bytes>, &Info) -> Result<Cow<'v, [u8]>, CommandError>,
) -> Result<(), CommandError> {
    let state = keeping.apply(mount.subscribe(name).write()).bytes()?;
    let found = keeping::last_look(mount, &state)?;
    keeping.check(mount, name, &found)?;
    let value = value(&state, &found)?;
    let generation = state.publish(&value)?;
    // A writer no more, but subscribed: a deadline set now counts from here.
    let reader = state.reader();
    drop(state);
    keeping.settle(mount, name)?;
    let info = keeping::last_look(mount, &reader)?;
    drop(reader);
    let gone = keeping::goes_with_its_publisher(&info);
    if context.json() {
        output::json_line(
            &mut io::stdout().lock(),
            &json!({
                "name": name,
                "generation": generation.0,
                "length": value.len(),
                "gone": gone,
            }),
        )?;
    }
    if gone {
        keeping::tell_that_it_has_gone(name);
    }
    Ok(())
}

/// Reads standard input, up to `most` bytes and one further, which tells that there is more.
///
/// # Errors
///
/// What the kernel says.
pub(crate) fn read_standard_input(most: usize) -> Result<Vec<u8>, CommandError> {
    read_from(io::stdin().lock(), most).map_err(|source| CommandError::File {
        path: "standard input".into(),
        source,
    })
}

/// As [`read_standard_input`], from anywhere.
///
/// # Errors
///
/// What the kernel says.
pub(crate) fn read_from(input: impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
