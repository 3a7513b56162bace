//! The kstate daemon as a library: names, rights, sizes, lifetime, and `read(2)`, `write(2)` and
//! `poll(2)` for programs without the library.
//!
//! It is never on the path of a mapped read or of a commit. Data flows through the files in this
//! order: a request comes in at `fuse`, means something in `fs`, concerns a `state` through an
//! open `handle`, whose bytes are in a `region` over a `backing` file.
//!
//! ```no_run
//! let mut config = kstatefs::Config::new("/run/kstate");
//! config.linger = std::time::Duration::from_secs(2);
//! kstatefs::serve(config, |mounted| println!("mounted on {}", mounted.path.display()))?;
//! # Ok::<(), kstatefs::ServeError>(())
//! ```

mod announce;
mod attr;
mod backing;
mod blocked;
mod capabilities;
mod changes;
mod closing;
pub mod command;
pub mod config;
pub mod daemonize;
mod descriptors;
mod errno;
mod fs;
mod fuse;
mod fusermount;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod guard;
mod handle;
mod holder;
mod inode;
mod intents;
mod ioctl;
mod leave;
mod ledger;
mod metrics;
pub mod mountpoint;
mod namespace;
pub mod persist;
mod poll;
mod private;
mod process;
mod reaper;
mod region;
mod registry;
mod report;
mod rights;
mod service;
mod session;
mod socket;
mod state;
mod table;
mod takeover;
mod timer;
mod unused;
mod view;
mod watchdog;
mod xattr;

pub use backing::Transport;
pub use config::Config;
pub use service::ServiceManager;
pub use session::{Mounted, ServeError, Server, serve};

/// Has what the daemon has to say written to standard error: warnings and errors, or what
/// `$KSTATE_LOG` asks for, such as `info` or `debug`. What is logged already stays as it is.
pub fn log_to_stderr() {
    // What fuser says of each request is only wanted by name: KSTATE_LOG=debug,fuser=debug. That a
    // reply found nobody (ENOENT) is said of each client that was killed while it waited.
    let wanted = std::env::var("KSTATE_LOG").unwrap_or_else(|_| "warn".into());
    let filter =
        tracing_subscriber::EnvFilter::new(format!("fuser=error,fuser::reply=off,{wanted}"));
    // Fails where the program logs in its own way.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
}
