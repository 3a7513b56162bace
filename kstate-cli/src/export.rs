//! `kstate export`: a state as a JSON document, or its bytes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kstatefs::persist::{Image, StateFile};

use crate::cli::{Context, Run};
use crate::error::CommandError;
use crate::exported::Exported;
use crate::{inspect, keeping};

/// Write a state as a JSON document that `kstate import` reads
///
/// The newest version with its name, generation, layout, time, and what else would bring the state
/// back; the value's bytes in hexadecimal and, where its type is known, by its fields. With --file
/// the state is not a live one, but what a persistence file has of one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate export robot.gps
  kstate export robot.gps -o gps.json
  kstate export --file /var/lib/kstate/robot.gps | jq .value
  kstate export frame --raw > frame.bin

The format:  one object. `format` is `kstate-export/1`; `hex` is what counts of the value.")]
pub(crate) struct Arguments {
    /// The state
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    name: Option<String>,

    /// A persistence file instead of a live state; it is not changed
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// The value's bytes alone
    #[arg(long)]
    raw: bool,

    /// Write there instead of to standard output
    #[arg(long, short, value_name = "OUTPUT")]
    output: Option<PathBuf>,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let image = match (&self.file, &self.name) {
            (Some(path), _) => image_of_file(path)?,
            (None, name) => image_of_state(context, name.as_deref().unwrap_or_default())?,
        };
        let output = match self.raw {
            true => image.value,
            false => format!("{}\n", Exported::of(&image).to_json()).into_bytes(),
        };
        match self.output {
            Some(path) => {
                fs::write(&path, output).map_err(|source| CommandError::File { path, source })
            }
            None => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&output)?;
                Ok(stdout.flush()?)
            }
        }
    }
}

fn image_of_file(path: &Path) -> Result<Image, CommandError> {
    let file: File = inspect::open(path)?;
    let (_, image) = StateFile::recover(file).map_err(|source| CommandError::StateFile {
        path: path.to_owned(),
        source,
    })?;
    Ok(image)
}

/// The newest version of a live state, as if it had been kept.
fn image_of_state(context: &Context, name: &str) -> Result<Image, CommandError> {
    let mount = context.mount()?;
    let state = mount.subscribe(name).existing().bytes();
    let state = state.map_err(|error| CommandError::of_existing(name, error))?;
    let snapshot = state.snapshot()?;
    if snapshot.generation().is_never() {
        return Err(CommandError::NoValue {
            name: name.to_owned(),
        });
    }
    let info = keeping::last_look(&mount, &state)?;
    let path = mount.path().join(name);
    let attributes = fs::metadata(&path).map_err(|source| CommandError::File { path, source })?;
    let time = snapshot.time();
    let time = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    Ok(Image {
        name: state.name().clone(),
        generation: snapshot.generation().0,
        ceiling: snapshot.generation().0,
        clean: false,
        mode: attributes.mode() & 0o7777,
        uid: attributes.uid(),
        gid: attributes.gid(),
        capacity: info.capacity,
        layout: info.layout.map(|layout| (layout.id, layout.text)),
        linger: info.linger,
        deadline: info.deadline,
        announce: info.announced.bits(),
        within: Duration::ZERO,
        time,
        value: snapshot.value,
    })
}
