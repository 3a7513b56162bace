//! Standard output for people and for programs, and errors on standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, StdoutLock, Write};
use std::os::fd::AsFd;
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::cli::Context;
use crate::error::{CommandError, Exit};

/// Writes `value` on a line of its own and sends it off.
///
/// # Errors
///
/// Standard output fails.
pub(crate) fn json_line(output: &mut StdoutLock<'_>, value: &Value) -> io::Result<()> {
    writeln!(output, "{value}")?;
    output.flush()
}

/// Says on standard error what went wrong; nothing when the reader of our output has gone, or
/// when it was said already.
pub(crate) fn report(context: &Context, error: &CommandError) {
    match error {
        CommandError::Reported(_) => {}
        CommandError::Output(error) if error.kind() == ErrorKind::BrokenPipe => {}
        error if context.json() => {
            let code = error.exit().code();
            // There is nowhere left to complain to.
            let _ = writeln!(
                io::stderr(),
                "{}",
                json!({"error": error.to_string(), "exit": code})
            );
        }
        error => note(error),
    }
}

/// Says something on standard error that is not part of the output.
pub(crate) fn note(text: impl Display) {
    // There is nowhere left to complain to.
    let _ = writeln!(io::stderr(), "kstate: {text}");
}

/// Does `work` for each name. Where it fails, says so and goes on with the next.
///
/// # Errors
///
/// [`CommandError::Reported`] with the status of the first failure; the first failure itself where
/// there is but one name, or where output has become impossible.
pub(crate) fn for_each_name(
    context: &Context,
    names: &[String],
    mut work: impl FnMut(&str) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut first: Option<Exit> = None;
    for name in names {
        match work(name) {
            Ok(()) => {}
            Err(error) if names.len() == 1 || matches!(error, CommandError::Output(_)) => {
                return Err(error);
            }
            Err(error) => {
                report(context, &error);
                first.get_or_insert(error.exit());
            }
        }
    }
    first.map_or(Ok(()), |exit| Err(CommandError::Reported(exit)))
}

/// Ends this process, quietly, as soon as nobody can read its output any more.
///
/// A command that writes only when something changes would otherwise find out at the next change,
/// and `kstate watch x | head -1` would not return before.
pub(crate) fn end_with_reader() -> io::Result<()> {
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    // Error conditions are reported without being asked for: a pipe without a reader, a socket or
    // a terminal that was hung up. Nothing of it ever happens to a file.
    thread::Builder::new()
        .name("reader-watch".into())
        .spawn(move || {
            let mut polled = [PollFd::new(output.as_fd(), PollFlags::empty())];
            while let Err(Errno::EINTR) = poll(&mut polled, PollTimeout::NONE) {}
            std::process::exit(Exit::Done.code().into());
        })?;
    Ok(())
}

/// Rows of text in columns as wide as their widest entry; the columns of `right` lie to the right.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    rows: Vec<Vec<String>>,
    right: &'static [usize],
}

impl Columns {
    /// No rows yet.
    pub(crate) fn new(right: &'static [usize]) -> Self {
        Self {
            rows: Vec::new(),
            right,
        }
    }

    /// Appends a row.
    pub(crate) fn push(&mut self, row: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    /// Writes all rows.
    ///
    /// # Errors
    ///
    /// `output` fails.
    pub(crate) fn write(&self, mut output: impl Write) -> io::Result<()> {
        let width = |column: usize| {
            let entries = self.rows.iter().filter_map(|row| row.get(column));
            entries
                .map(|entry| entry.chars().count())
                .max()
                .unwrap_or(0)
        };
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (entry, width)) in row.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - entry.chars().count());
                let (before, after) = match self.right.contains(&column) {
                    true => (padding, String::new()),
                    false => (String::new(), padding),
                };
                line.extend([before.as_str(), entry, &after, "  "]);
            }
            writeln!(output, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_entry() {
        let mut columns = Columns::new(&[0]);
        columns.push(["1", "µs", "last"]);
        columns.push(["1000", "s", ""]);
        let mut output = Vec::new();
        columns.write(&mut output).unwrap();
        assert_eq!(
            String::from_utf8(output).unwrap(),
            "   1  µs  last\n1000  s\n"
        );
    }
}
