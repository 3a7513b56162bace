//! `kstate get`: reads the newest value once.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use crate::cli::{Context, Run};
use crate::duration;
use crate::encoding::EncodingArguments;
use crate::error::CommandError;
use crate::output;

/// Show the newest value of states
///
/// A value is shown as text where it can be, else in hexadecimal; --as and --format say otherwise.
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
struct Wait(Option<Duration>);

fn parse_wait(text: &str) -> Result<Wait, duration::DurationError> {
    match text {
        "forever" => Ok(Wait(None)),
        text => duration::parse(text).map(|timeout| Wait(Some(timeout))),
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
        let mut subscribe = mount.subscribe(name);
        if self.wait.is_none() {
            subscribe = subscribe.existing();
        }
        let state = subscribe.bytes()?;
        if let Some(Wait(timeout)) = self.wait {
            state.wait(0, timeout)?;
        }
        let snapshot = state.snapshot()?;
        if snapshot.generation() == 0 {
            return Err(CommandError::NoValue { name: name.to_owned() });
        }
        let mut output = io::stdout().lock();
        if context.json() {
            let line = json!({
                "name": name,
                "generation": snapshot.generation(),
                "age_ns": snapshot.age().map(duration::nanoseconds),
                "length": snapshot.value.len(),
                "value": self.encoding.render_json(&snapshot.value)?,
            });
            return Ok(output::json_line(&mut output, &line)?);
        }
        let line = self.encoding.line(&snapshot.value)?;
        if self.names.len() > 1 && !self.encoding.is_raw() {
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
        assert_eq!(parse_wait("forever"), Ok(Wait(None)));
        assert_eq!(parse_wait("2s"), Ok(Wait(Some(Duration::from_secs(2)))));
        assert!(parse_wait("2").is_err());
    }
}
