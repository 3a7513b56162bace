//! The programs under test, built once for the profile that the test runs in.

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of `kstatefs`, the daemon.
///
/// # Panics
///
/// When it does not build.
pub fn kstatefs() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("kstatefs", "kstatefs")).clone()
}

/// Path of `kstate`, the command.
///
/// # Panics
///
/// When it does not build.
pub fn kstate() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("kstate-cli", "kstate")).clone()
}

/// A directory with `libkstate.so`, under the name that programs look for as well, and `libkstate.a`.
///
/// # Panics
///
/// When it does not build.
pub fn libkstate() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        cargo_build("kstate-c", &["--lib"]);
        let directory = artifacts().join("c");
        std::fs::create_dir_all(&directory).expect("a directory beside the programs");
        for (link, file) in [
            ("libkstate.so", "libkstate_c.so"),
            ("libkstate.so.0", "libkstate_c.so"),
            ("libkstate.a", "libkstate_c.a"),
        ] {
            let made = symlink(Path::new("..").join(file), directory.join(link));
            // Another test may have made it.
            let is_there = |error: &std::io::Error| error.kind() == ErrorKind::AlreadyExists;
            assert!(made.as_ref().err().is_none_or(is_there), "{made:?}");
        }
        directory
    };
    BUILT.get_or_init(make).clone()
}

/// Path of a program of this package, which cargo makes for its tests.
pub(crate) fn own(program: &str) -> PathBuf {
    artifacts().join(program)
}

/// Cargo makes only the programs of the package that is tested; of the others there may be none,
/// or one from before a change. When all is fresh this takes a fifth of a second.
fn build(package: &str, program: &str) -> PathBuf {
    cargo_build(package, &["--bin", program]);
    artifacts().join(program)
}

fn cargo_build(package: &str, what: &[&str]) {
    let directory = artifacts();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", package]).args(what);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(target) = directory.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "{package} does not build");
}

/// `target/debug` or `target/release`, from where this program is: there, or in `deps` below.
fn artifacts() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    let directory = program.parent().expect("a program is in a directory");
    match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().map(Path::to_owned),
        _ => Some(directory.to_owned()),
    }
    .expect("deps is in the target directory")
}
