//! `kstate get`: reads the newest value once.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use crate::cli::{Context, Run};
use crate::duration;
use crate::encoding::EncodingArguments;
use crate::error::CommandError;
use crate::keeping;
use crate::output;

/// Show the newest value of states
///
/// The value of a typed state is shown by its fields, any other as text where it can be, else in
/// hexadecimal; --as and --format say otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate get greeting
  kstate get fix --format '<u32 f64 f64'
  kstate get fix --format '<lat:f64 lon:f64' --json
  kstate get config --as json | jq .speed
  kstate get frame --as raw > frame.bin
  kstate get robot.gps --wait=5s                a publisher may still be starting")]
pub(crate) struct Arguments {
    /// The states
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    #[command(flatten)]
    encoding: EncodingArguments,

    /// Wait for the state and its first value, at most so long; exit status 4 when it does not come
    #[arg(
        long,
        value_name = "TIMEOUT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "forever",
        value_parser = parse_wait,
    )]
    wait: Option<Wait>,
}

/// How long to wait for a first value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wait(Duration);

/// As good as for ever.
const FOREVER: Duration = Duration::from_hours(24 * 365 * 100);

fn parse_wait(text: &str) -> Result<Wait, duration::DurationError> {
    match text {
        "forever" => Ok(Wait(FOREVER)),
        text => duration::parse(text).map(Wait),
    }
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let mount = context.mount()?;
        output::for_each_name(context, &self.names, |name| self.get(context, &mount, name))
    }
}

impl Arguments {
    fn get(
        &self,
        context: &Context,
        mount: &kstate::Mount,
        name: &str,
    ) -> Result<(), CommandError> {
        let subscribe = mount.subscribe(name);
        let state = match self.wait {
            None => subscribe.existing(),
            Some(Wait(timeout)) => subscribe.wait_for(timeout),
        };
        let state = state
            .bytes()
            .map_err(|error| CommandError::of_existing(name, error))?;
        let snapshot = state.snapshot()?;
        if snapshot.generation().is_never() {
            return Err(CommandError::NoValue {
                name: name.to_owned(),
            });
        }
        let layout = keeping::last_look(mount, &state)?.layout;
        let codec = self.encoding.codec(layout.as_ref());
        let mut output = io::stdout().lock();
        if context.json() {
            let line = json!({
                "name": name,
                "generation": snapshot.generation().0,
                "age_ns": snapshot.age().map(duration::nanoseconds),
                "length": snapshot.value.len(),
                "value": codec.to_json(&snapshot.value)?,
            });
            return Ok(output::json_line(&mut output, &line)?);
        }
        let line = codec.to_line(&snapshot.value)?;
        if self.names.len() > 1 && !codec.is_raw() {
            write!(output, "{name}\t")?;
        }
        output.write_all(&line)?;
        Ok(output.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_has_a_timeout_or_none() {
        assert_eq!(parse_wait("forever"), Ok(Wait(FOREVER)));
        assert_eq!(parse_wait("2s"), Ok(Wait(Duration::from_secs(2))));
        assert!(parse_wait("2").is_err());
    }
}
