//! `kstate inspect`: what a persistence file has, and whether it is whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kstate::Sinks;
use kstatefs::persist::{FoundCopy, Image, Inspection};
use serde_json::{Value, json};

use crate::cli::{Context, Run};
use crate::encoding::EncodingArguments;
use crate::error::{CommandError, Exit};
use crate::exported::{Exported, layout_of};
use crate::output::{self, Columns};
use crate::{duration, instant};

/// Show and check persistence files: both copies, what would be restored, and whether it is whole
///
/// A file has two copies of its state, each with a checksum, and the whole one that was saved last
/// counts. After a power cut one may be cut short, which is no damage. Files are only read; what a
/// daemon is saving meanwhile may look damaged for a moment. Exit status 1 if a file cannot be
/// restored from.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate inspect /var/lib/kstate/robot.gps
  kstate inspect --json /var/lib/kstate/* | jq -r 'select(.usable | not).file'")]
pub(crate) struct Arguments {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let mut all_serve = true;
        for path in &self.files {
            match open(path).and_then(|file| {
                kstatefs::persist::inspect(&file).map_err(|source| CommandError::File {
                    path: path.clone(),
                    source,
                })
            }) {
                Ok(inspection) => all_serve &= show(context, path, inspection)?,
                Err(error) => {
                    output::report(context, &error);
                    all_serve = false;
                }
            }
        }
        match all_serve {
            true => Ok(()),
            false => Err(CommandError::Reported(Exit::Failed)),
        }
    }
}

/// Opens a persistence file to be read.
///
/// # Errors
///
/// What the kernel says; or it is a pipe or a directory, in which no state can be.
pub(crate) fn open(path: &Path) -> Result<File, CommandError> {
    let found = path.metadata().and_then(|found| match found.is_file() {
        // A pipe's open would wait for somebody who writes.
        false => Err(io::Error::other("not a regular file")),
        true => File::open(path),
    });
    found.map_err(|source| CommandError::File {
        path: path.to_owned(),
        source,
    })
}

/// Shows one file. Returns whether a state can be restored from it.
fn show(context: &Context, path: &Path, inspection: Inspection) -> Result<bool, CommandError> {
    let counts = inspection.counts();
    let copies = inspection.copies.each_ref().map(describe);
    let in_json = inspection.copies.each_ref().map(copy_to_json);
    let length = inspection.length;
    let newest = inspection.into_newest();
    let mut output = io::stdout().lock();
    if context.json() {
        let newest = newest.as_ref();
        let line = json!({
            "file": path.to_string_lossy(),
            "usable": newest.is_ok(),
            "error": newest.err().map(ToString::to_string),
            "length": length,
            "file_id": newest.ok().map(|(_, copy)| hexadecimal(copy.file_id)),
            "counts": counts,
            "copies": in_json,
            "state": newest.ok().map(|(_, copy)| Exported::of(&copy.image).to_json()),
        });
        output::json_line(&mut output, &line)?;
        return Ok(newest.is_ok());
    }
    writeln!(output, "{}", path.display())?;
    let mut columns = Columns::new(&[]);
    let mut line = |label: &str, text: String| columns.push([format!("  {label}"), text]);
    for (index, copy) in copies.into_iter().enumerate() {
        let counts = if counts == Some(index) {
            "; counts"
        } else {
            ""
        };
        line(
            ["first copy", "second copy"][index],
            format!("{copy}{counts}"),
        );
    }
    match &newest {
        Ok((_, copy)) => {
            line("file id", hexadecimal(copy.file_id));
            describe_state(&copy.image, &mut line)?;
            line("verdict", verdict(&copy.image));
        }
        Err(error) => line("verdict", error.to_string()),
    }
    columns.write(&mut output)?;
    Ok(newest.is_ok())
}

fn verdict(image: &Image) -> String {
    format!("good: generation {} can be restored", image.generation)
}

fn describe(copy: &FoundCopy) -> String {
    match &copy.content {
        Ok(copy) => format!(
            "whole, sequence {}, generation {}",
            copy.sequence, copy.image.generation
        ),
        Err(error) => error.to_string(),
    }
}

fn copy_to_json(copy: &FoundCopy) -> Value {
    let content = copy.content.as_ref();
    json!({
        "offset": copy.offset,
        "whole": content.is_ok(),
        "sequence": content.ok().map(|copy| copy.sequence),
        "generation": content.ok().map(|copy| copy.image.generation),
        "error": content.err().map(ToString::to_string),
    })
}

fn describe_state(image: &Image, line: &mut impl FnMut(&str, String)) -> Result<(), CommandError> {
    line("name", image.name.to_string());
    line("generation", image.generation.to_string());
    let goes_on = image.ceiling.max(image.generation);
    line(
        "ceiling",
        match image.clean {
            true => format!(
                "{}; saved in an orderly end, so no later version was given out",
                image.ceiling
            ),
            false => format!(
                "{}; a later version may have been given out, it goes on above {goes_on}",
                image.ceiling
            ),
        },
    );
    line(
        "owner",
        format!(
            "user {}, group {}, mode {:04o}",
            image.uid, image.gid, image.mode
        ),
    );
    line("capacity", format!("{} bytes", image.capacity));
    line(
        "layout",
        match &image.layout {
            Some((id, text)) => format!("{} ({id:016x})", printable(text)),
            None => "none, any bytes".to_owned(),
        },
    );
    line("lingers", duration::show(image.linger));
    line(
        "deadline",
        match image.deadline {
            Some(after) => format!("a value each {}", duration::show(after)),
            None => "none".to_owned(),
        },
    );
    line(
        "announced",
        match Sinks::from_bits(image.announce) {
            Some(Sinks::NONE) => "nowhere".to_owned(),
            Some(sinks) => format!("on {sinks}"),
            None => format!("where this program does not know ({:#x})", image.announce),
        },
    );
    line(
        "saved",
        match image.within {
            Duration::ZERO => "with each commit".to_owned(),
            within => format!("{} after a commit", duration::show(within)),
        },
    );
    line(
        "committed",
        image
            .time
            .map_or_else(|| "unknown when".to_owned(), instant::show),
    );
    line("length", format!("{} bytes", image.value.len()));
    let codec = EncodingArguments::default().codec(layout_of(image).as_ref());
    let value = codec.to_line(&image.value)?;
    line(
        "value",
        String::from_utf8_lossy(&value)
            .trim_end_matches('\n')
            .to_owned(),
    );
    Ok(())
}

/// What a terminal does not take for anything but text.
fn printable(text: &str) -> String {
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

fn hexadecimal(bytes: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(bytes))
}
