//! `kstate import`: from what `export` wrote to a live state, or to a persistence file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use kstate::{Bytes, Reader, StateName};
use kstate_sys::abi::page_size;
use kstate_sys::ioctl::{self, call, outcome};
use kstatefs::persist::{FileError, Image, StateFile};
use serde_json::json;

use crate::cli::{Context, Run};
use crate::encoding::longest_text;
use crate::error::CommandError;
use crate::exported::Exported;
use crate::keeping::KeepingArguments;
use crate::{once, output};

/// Publish what `kstate export` wrote, or make a persistence file of it
///
/// The value is published once, as `kstate set` would. A layout that the document names is recorded
/// with the state; a state that has another one refuses the value. Nothing else of the document
/// counts for a live state. With --file a new persistence file is made, of everything in the document
/// but its name; no daemon may be using the file.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate import robot.gps gps.json --keep
  kstate export robot.gps | kstate import robot.copy --linger 1m
  kstate import frame --raw frame.bin --keep
  kstate import robot.gps gps.json --file /var/lib/kstate/robot.gps")]
pub(crate) struct Arguments {
    /// The state
    name: String,

    /// Where the document is; `-`, or none, reads it from standard input
    input: Option<PathBuf>,

    /// The input is the value's bytes alone
    #[arg(long, conflicts_with = "file")]
    raw: bool,

    /// Make a persistence file instead of publishing to a live state
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["keep", "linger", "deadline", "capacity", "mode"]
    )]
    file: Option<PathBuf>,

    /// Replace the persistence file if it is there
    #[arg(long, requires = "file")]
    force: bool,

    #[command(flatten)]
    keeping: KeepingArguments,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let name =
            StateName::new(&self.name).map_err(|error| CommandError::Usage(error.to_string()))?;
        let page = page_size() as usize;
        // Beside the value in two spellings there is little.
        let most = if self.raw {
            page
        } else {
            longest_text(page) * 2
        };
        let input = self.read(most)?;
        let image = match self.raw {
            true => None,
            false => Some(Exported::parse(&input)?.image(name)?),
        };
        let value = image.as_ref().map_or(&input, |image| &image.value);
        if value.len() > page {
            let name = self.name;
            return Err(CommandError::TooLong { name, page });
        }
        if let (Some(path), Some(image)) = (&self.file, &image) {
            make(path, image, self.force)?;
            if context.json() {
                let line = json!({
                    "file": path.to_string_lossy(),
                    "name": self.name,
                    "generation": image.generation,
                    "length": image.value.len(),
                });
                output::json_line(&mut io::stdout().lock(), &line)?;
            }
            return Ok(());
        }
        let layout = image.as_ref().and_then(|image| image.layout.as_ref());
        let mount = context.mount()?;
        once::publish(context, &mount, &self.name, &self.keeping, |state, _| {
            if let Some(layout) = layout {
                self.agree(state, layout)?;
            }
            Ok(value.into())
        })
    }
}

impl Arguments {
    fn read(&self, most: usize) -> Result<Vec<u8>, CommandError> {
        match &self.input {
            Some(path) if path != Path::new("-") => {
                let read = File::open(path).and_then(|file| once::read_from(file, most));
                let path = path.clone();
                read.map_err(|source| CommandError::File { path, source })
            }
            _ => once::read_standard_input(most),
        }
    }

    /// Makes sure that the state holds what the value is: records the layout, as the first typed
    /// subscriber would, or is told the one there is.
    fn agree(&self, state: &Reader<Bytes>, (id, text): &(u64, String)) -> Result<(), CommandError> {
        let mut asked = ioctl::Subscribe::default();
        asked.layout_id = *id;
        asked.set_layout_text(text);
        while let Err(source) = call::subscribe(state.as_fd(), &mut asked) {
            if source.kind() != io::ErrorKind::Interrupted {
                let path = PathBuf::from(&self.name);
                return Err(CommandError::File { path, source });
            }
        }
        match asked.outcome {
            outcome::LAYOUT => Err(CommandError::Layout {
                name: self.name.clone(),
                found: asked.layout_text().unwrap_or("another one").to_owned(),
                wanted: text.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// Makes a persistence file: beside its place, and put there when the disk has it.
fn make(path: &Path, image: &Image, force: bool) -> Result<(), CommandError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let failed = |source| CommandError::File {
        path: path.to_owned(),
        source,
    };
    let exists = || CommandError::Exists {
        path: path.to_owned(),
    };
    if !force && path.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let made = tempfile::Builder::new()
        .prefix(".kstate-import-")
        .tempfile_in(directory);
    let made = made.map_err(failed)?;
    StateFile::initialise(made.as_file(), image).map_err(|source: FileError| {
        let path = path.to_owned();
        CommandError::StateFile { path, source }
    })?;
    let placed = match force {
        true => made.persist(path),
        false => made.persist_noclobber(path),
    };
    placed.map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => failed(error.error),
    })?;
    // The name, too, is to be there after a power cut.
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed)
}
