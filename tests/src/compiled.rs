//! Programs in C and C++ with libkstate, compiled for a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::binary::{kstatefs, libkstate};
use crate::process::output_of;

/// Where the header and the tests of libkstate are.
pub fn c_sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bindings/c")
}

/// A compiled program, which goes with this.
#[derive(Debug)]
pub struct Compiled {
    directory: TempDir,
}

impl Compiled {
    /// `source` of the tests of libkstate, by `compiler`, a program and its arguments; with every warning an error.
    ///
    /// # Errors
    ///
    /// What the compiler says.
    ///
    /// # Panics
    ///
    /// Without that compiler.
    pub fn of(compiler: &str, source: &str) -> Result<Self, String> {
        let directory = tempfile::tempdir().expect("a directory");
        let sources = c_sources();
        let mut words = compiler.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args([
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-g",
            "-pthread",
            "-I",
        ]);
        command.arg(sources.join("include"));
        command.args(words.clone().filter(|word| word.starts_with('-')));
        command.arg(sources.join("tests").join(source));
        command.arg("-o").arg(directory.path().join("program"));
        command.arg("-L").arg(libkstate());
        // A library is named by itself, as it comes behind what needs it.
        let mut libraries: Vec<_> = words.filter(|word| !word.starts_with('-')).collect();
        if libraries.is_empty() {
            libraries.push("kstate");
        }
        command.args(libraries.iter().map(|library| format!("-l{library}")));
        let output = command.output().expect("the compiler");
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(Self { directory }),
            false => Err(format!("{command:?}: {said}")),
        }
    }

    /// It, with what it needs to find the library; `wrapper` runs it, if there is one.
    pub fn command(&self, wrapper: &[&str]) -> Command {
        let program = self.directory.path().join("program");
        let mut command = match wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.env("LD_LIBRARY_PATH", libkstate());
        command.env("KSTATE_DAEMON", kstatefs());
        command.env_remove("KSTATE_EMBED").stdin(Stdio::null());
        command
    }

    /// What it prints, run with `wrapper` on a mount.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn run(&self, wrapper: &[&str], mount: &Path) -> Output {
        let mut command = self.command(wrapper);
        command.env("KSTATE_MOUNT", mount);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        output_of(command.spawn().expect("it starts"))
    }
}
