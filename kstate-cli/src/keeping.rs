//! How long a state lives, and its room and rights: the arguments of those who publish.

use std::time::Duration;

use clap::builder::TypedValueParser;
use kstate::{Info, Subscribe};
use kstate_sys::ioctl::info_flags;

use crate::duration;
use crate::output;

/// What a publisher may ask of a state.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "State")]
pub(crate) struct KeepingArguments {
    /// Keep the state until the file system is unmounted or the state is deleted
    ///
    /// Otherwise it evaporates with its last subscriber. Sets the file's sticky bit.
    #[arg(long)]
    keep: bool,

    /// Keep the state for a while behind its last subscriber, such as 500ms or 10s
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    linger: Option<Duration>,

    /// Room for values, up to a page; free to choose before the first value, growing only behind it
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    capacity: Option<u32>,

    /// The file's permissions if this makes the state, in octal
    #[arg(long, value_name = "MODE", value_parser = mode())]
    mode: Option<u32>,
}

impl KeepingArguments {
    /// Asks for it.
    pub(crate) fn apply<'a>(&self, mut subscribe: Subscribe<'a>) -> Subscribe<'a> {
        if self.keep {
            subscribe = subscribe.keep();
        }
        if let Some(linger) = self.linger {
            subscribe = subscribe.linger(linger);
        }
        if let Some(capacity) = self.capacity {
            subscribe = subscribe.capacity(capacity);
        }
        if let Some(mode) = self.mode {
            subscribe = subscribe.mode(mode);
        }
        subscribe
    }

    /// The room asked for, in bytes.
    pub(crate) fn capacity(&self) -> Option<u32> {
        self.capacity
    }
}

/// Whether a state of which `info` is the last that its publisher saw goes with this publisher.
pub(crate) fn goes_with_its_publisher(info: &Info) -> bool {
    info.subscribers <= 1 && info.linger_ms == 0 && info.flags & info_flags::KEPT == 0
}

/// Says that a state has gone, and how to keep it.
pub(crate) fn tell_that_it_has_gone(name: &str) {
    output::note(format_args!(
        "`{name}` has gone again with its only subscriber; --keep keeps it, --linger 10s keeps it \
         for a while, and so does anyone who watches it (`kstate watch {name}`)"
    ));
}

fn mode() -> impl TypedValueParser<Value = u32> {
    clap::builder::StringValueParser::new().try_map(|text| {
        u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
            format!("`{text}` is not a file mode; expected three octal digits such as 640")
        })
    })
}
