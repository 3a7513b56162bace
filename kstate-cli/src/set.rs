//! `kstate set`: publishes one value.

use crate::cli::{Context, Run};
use crate::encoding::{EncodingArguments, longest_text};
use crate::error::CommandError;
use crate::keeping::KeepingArguments;
use crate::once;

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
            // As far as it could ever be the text of a value.
            _ => once::read_standard_input(longest_text(kstate_sys::abi::page_size() as usize))?,
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
        once::publish(context, &mount, &self.name, &self.keeping, |_, found| {
            Ok(self.encoding.codec(found.layout.as_ref()).parse(&input)?)
        })
    }
}
