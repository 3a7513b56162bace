//! The programs under test, built once for the profile that the test runs in.

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

/// Path of `kstate-worker`, which cargo makes for the tests of its package.
pub(crate) fn worker() -> PathBuf {
    artifacts().join("kstate-worker")
}

/// Path of `kstate-stepped`, likewise.
pub(crate) fn stepped() -> PathBuf {
    artifacts().join("kstate-stepped")
}

/// Cargo makes only the programs of the package that is tested; of the others there may be none,
/// or one from before a change. When all is fresh this takes a fifth of a second.
fn build(package: &str, program: &str) -> PathBuf {
    let directory = artifacts();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", package, "--bin", program]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(target) = directory.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "{program} does not build");
    directory.join(program)
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
