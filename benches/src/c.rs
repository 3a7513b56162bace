#![expect(
    unsafe_code,
    reason = "calls into a library that was loaded by its name"
)]
//! What a call from C costs beside the same from Rust.

use std::ffi::{CString, c_char, c_int, c_void};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

use kstate::{Bytes, State, Trapping};
use tempfile::TempDir;

use crate::alternate::alternate;
use crate::case::Case;
use crate::place::pin;
use crate::setup::{Result, Setup};

/// The C side, compiled for the run against the library as it is now.
const SOURCE: &str = include_str!("c/measured.c");

/// One of the functions there.
type Measured = unsafe extern "C" fn(count: u32, words: usize) -> c_int;

/// The C side, loaded; never unloaded, because the library has threads.
struct Loaded {
    library: *mut c_void,
    _directory: TempDir,
}

/// What both sides do.
#[derive(Clone, Copy)]
enum What {
    Commit,
    Short,
    Publish,
    Snapshot,
}

/// All cases.
pub(crate) fn run(blocks: usize) -> Result<Vec<Case>> {
    let loaded = Loaded::new()?;
    pin(0);
    let setup = Setup::start()?;
    // Before anything there has looked, and any thread is there.
    // SAFETY: no other thread of this process reads or changes its environment now.
    unsafe { std::env::set_var("KSTATE_MOUNT", setup.mount().path()) };
    let mut cases = Vec::new();
    for size in [64, 4096] {
        for (what, trapping, title) in [
            (
                What::Commit,
                Trapping::Thread,
                format!("start, write {size} B, commit, trapped"),
            ),
            (
                What::Commit,
                Trapping::Software,
                format!("start, write {size} B, commit, copied"),
            ),
            (
                What::Short,
                Trapping::Thread,
                format!("start, write, commit by the short spellings, {size} B"),
            ),
            (What::Publish, Trapping::Thread, format!("publish {size} B")),
            (
                What::Snapshot,
                Trapping::Thread,
                format!("take a snapshot of {size} B"),
            ),
        ] {
            cases.push(case(
                &loaded,
                &setup,
                blocks,
                title,
                what,
                (size, trapping),
            )?);
        }
    }
    Ok(cases)
}

fn case(
    loaded: &Loaded,
    setup: &Setup,
    blocks: usize,
    title: String,
    what: What,
    (size, trapping): (usize, Trapping),
) -> Result<Case> {
    let measured = loaded.function(match what {
        What::Commit => c"measured_commit",
        What::Short => c"measured_short",
        What::Publish => c"measured_publish",
        What::Snapshot => c"measured_snapshot",
    })?;
    // A state of each side's own: the same cache lines would be a contest.
    let name = |side: &str| format!("c.{side}.{size}.{trapping:?}");
    loaded.open(&name("theirs"), size, trapping)?;
    let subscribe = setup.mount().subscribe(name("ours")).write();
    let state = subscribe.capacity(u32::try_from(size)?).bytes()?;
    state.set_capacity(u32::try_from(size)?)?;
    state.set_trapping(trapping);
    let words = size / 8;
    // SAFETY: a function of that type, for a state that is open.
    let from_c = |count| assert!(unsafe { measured(count, words) } == 0, "{title} from C");
    let mut value = 0;
    let mut bytes = vec![0; size];
    let (ours, limit) = match what {
        What::Commit | What::Short => alternate(blocks, from_c, |count| {
            for _ in 0..count {
                value += 1;
                commit(&state, words, value);
            }
        }),
        What::Publish => alternate(blocks, from_c, |count| {
            for _ in 0..count {
                value += 1;
                bytes[..8].copy_from_slice(&value.to_ne_bytes());
                assert!(state.publish(&bytes).is_ok(), "{title}");
            }
        }),
        What::Snapshot => {
            let publish = loaded.function(c"measured_publish")?;
            // SAFETY: as above; so that there is something to be read.
            let published = unsafe { publish(1, words) };
            assert!(published == 0, "{title}");
            state.publish(&bytes)?;
            let reader = state.reader();
            let mut room = [0; 4096];
            alternate(blocks, from_c, |count| {
                for _ in 0..count {
                    assert!(
                        black_box(reader.snapshot_into(&mut room)).is_ok(),
                        "{title}"
                    );
                }
            })
        }
    };
    Ok(Case::new(title, ours, limit))
}

/// The same by pointer from Rust.
fn commit(state: &State<Bytes>, words: usize, value: u64) {
    let mut transaction = match state.begin_raw() {
        Ok(transaction) => transaction,
        Err(error) => panic!("{error}"),
    };
    let page = transaction.as_mut_ptr().cast::<u64>();
    for word in 0..words {
        // SAFETY: within the page of a transaction that has not ended.
        let place = unsafe { page.add(word) };
        // SAFETY: as above, aligned as the page is.
        unsafe { place.write_volatile(value) };
    }
    match transaction.commit() {
        Ok(outcome) => assert!(outcome.is_committed(), "{outcome:?}"),
        Err(error) => panic!("{error}"),
    }
}

impl Loaded {
    fn new() -> Result<Self> {
        let library = build()?;
        let directory = tempfile::tempdir()?;
        let (source, object) = (
            directory.path().join("measured.c"),
            directory.path().join("measured.so"),
        );
        std::fs::write(&source, SOURCE)?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut compiler = Command::new("cc");
        compiler.args([
            "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I",
        ]);
        compiler
            .arg(root.join("bindings/c/include"))
            .arg(&source)
            .arg(&library);
        // As it lies, not as it is named.
        compiler.arg(format!("-Wl,-rpath,{}", directory.path().display()));
        std::os::unix::fs::symlink(&library, directory.path().join("libkstate.so.0"))?;
        let compiled = compiler.arg("-o").arg(&object).status()?;
        if !compiled.success() {
            return Err("the C side does not compile".into());
        }
        let path = CString::new(object.into_os_string().into_encoded_bytes())?;
        // SAFETY: a library without code of its own that runs when it is loaded.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return Err("the C side cannot be loaded".into());
        }
        Ok(Self {
            library,
            _directory: directory,
        })
    }

    fn symbol(&self, name: &std::ffi::CStr) -> Result<*mut c_void> {
        // SAFETY: a library that is loaded, and a string.
        let found = unsafe { libc::dlsym(self.library, name.as_ptr()) };
        match found.is_null() {
            true => Err(format!("the C side has no {name:?}").into()),
            false => Ok(found),
        }
    }

    fn function(&self, name: &std::ffi::CStr) -> Result<Measured> {
        let found = self.symbol(name)?;
        // SAFETY: those of these names have this type.
        Ok(unsafe { core::mem::transmute::<*mut c_void, Measured>(found) })
    }

    fn open(&self, name: &str, size: usize, trapping: Trapping) -> Result<()> {
        type Open = unsafe extern "C" fn(*const c_char, usize, c_int) -> c_int;
        let found = self.symbol(c"measured_open")?;
        // SAFETY: the one of this name has this type.
        let open = unsafe { core::mem::transmute::<*mut c_void, Open>(found) };
        let name = CString::new(name)?;
        let trapping = match trapping {
            Trapping::Software => 3,
            _ => 0,
        };
        // SAFETY: a string, and two numbers.
        match unsafe { open(name.as_ptr(), size, trapping) } {
            0 => Ok(()),
            errno => Err(format!("the C side cannot open a state: {errno}").into()),
        }
    }
}

/// The library, built for the profile of this program.
fn build() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let directory = program.parent().ok_or("a program is in a directory")?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", "kstate-c", "--target-dir"]);
    cargo.arg(directory.parent().ok_or("of the target directory")?);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    match cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?
        .success()
    {
        true => Ok(directory.join("libkstate_c.so")),
        false => Err("libkstate does not build".into()),
    }
}
