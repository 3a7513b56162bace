//! `kstate set`: publishes one value.

use std::io::{self, Read};

use serde_json::json;

use crate::cli::{Context, Run};
use crate::encoding::{EncodingArguments, longest_text};
use crate::error::CommandError;
use crate::keeping::{self, KeepingArguments};
use crate::output;

/// Publish a value, creating the state if it is not there
///
/// Whatever the state held is replaced. A state lives as long as somebody is subscribed to it: if
/// nobody else is and neither --keep nor --linger is given, it is gone when this command ends, and
/// the command says so. A value that is refused leaves nothing behind, --keep or not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate set greeting hello --keep
  date | kstate set now --linger 1m             the value from standard input
  kstate set fix '7 48.125 11.5' --format '<u32 f64 f64' --keep
  kstate set fix 'lat=48.125 lon=11.5' --format '<lat:f64 lon:f64' --keep
  kstate set config '{\"speed\": 3}' --as json --keep
  kstate set raw '00ff 2a' --as hex --keep

A value that begins with a dash stands behind `--`:  kstate set x --keep -- -hello")]
pub(crate) struct Arguments {
    /// The state
    name: String,

    /// The value; `-`, or none, reads it from standard input
    #[arg(allow_negative_numbers = true)]
    value: Option<String>,

    #[command(flatten)]
    encoding: EncodingArguments,

    #[command(flatten)]
    keeping: KeepingArguments,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let input = match self.value {
            Some(value) if value != "-" => value.into_bytes(),
            _ => read_input()?,
        };
        // A value that does not match, or cannot fit, shall not make the state.
        let page = kstate_sys::abi::page_size() as usize;
        let too_long = match self.encoding.chosen() {
            Some(format) => format.parse(&input)?.len() > page,
            // The state may have a type, of which this is the text.
            None => input.len() > longest_text(page),
        };
        if too_long {
            let name = self.name;
            return Err(CommandError::TooLong { name, page });
        }
        let mount = context.mount()?;
        let state = self
            .keeping
            .apply(mount.subscribe(&self.name).write())
            .bytes()?;
        let found = keeping::last_look(&mount, &state)?;
        self.keeping.check(&mount, &self.name, &found)?;
        let value = self.encoding.codec(found.layout.as_ref()).parse(&input)?;
        let generation = state.publish(&value)?;
        // A writer no more, but subscribed: a deadline set now counts from here.
        let reader = state.reader();
        drop(state);
        self.keeping.settle(&mount, &self.name)?;
        let info = keeping::last_look(&mount, &reader)?;
        drop(reader);
        let gone = keeping::goes_with_its_publisher(&info);
        if context.json() {
            output::json_line(
                &mut io::stdout().lock(),
                &json!({
                    "name": self.name,
                    "generation": generation.0,
                    "length": value.len(),
                    "gone": gone,
                }),
            )?;
        }
        if gone {
            keeping::tell_that_it_has_gone(&self.name);
        }
        Ok(())
    }
}

/// Reads standard input, as far as it could ever be the text of a value, and a byte further.
fn read_input() -> Result<Vec<u8>, CommandError> {
    let bound = longest_text(kstate_sys::abi::page_size() as usize) + 1;
    let mut input = Vec::new();
    let read = io::stdin()
        .lock()
        .take(bound as u64)
        .read_to_end(&mut input);
    read.map_err(|source| CommandError::File {
        path: "standard input".into(),
        source,
    })?;
    Ok(input)
}
