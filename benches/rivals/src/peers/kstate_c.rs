#![expect(
    unsafe_code,
    reason = "calls into a library that was loaded by its name"
)]
#![expect(
    clippy::missing_transmute_annotations,
    reason = "the fields that they are for have the types"
)]
//! kstate through libkstate, by the calls that a C program makes.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::kstate_lib::KstateLib;
use super::{Kind, Peer};
use crate::Result;
use crate::capability::{By, Can, Follows, Publishes, Reads, Source, To, Updates};
use crate::site::{Home, Site};
use crate::value::{Place, Value, for_size};

/// kstate from C.
#[derive(Debug)]
pub(crate) struct KstateC;

impl Peer for KstateC {
    fn id(&self) -> &'static str {
        "kstate-c"
    }

    fn title(&self) -> &'static str {
        "kstate, from C"
    }

    fn kind(&self) -> Kind {
        Kind::Kstate
    }

    fn used(&self) -> &'static str {
        "`kstate_take_snapshot`, `kstate_publish`, `kstate_wait` and transactions of libkstate, loaded with \
         `dlopen` and called as C does. It always stamps."
    }

    fn home(&self, site: &Site) -> Can<Home> {
        // Any size of bytes is a state's value: what differs is who describes it.
        KstateLib.home(site)
    }

    fn reads(&self, site: &Site) -> Can<Box<dyn Reads>> {
        Ok(for_size!(site.size, reads, site, false)?)
    }

    fn reads_aged(&self, site: &Site) -> Can<Box<dyn Reads>> {
        Ok(for_size!(site.size, reads, site, true)?)
    }

    fn publishes(&self, _: &Site) -> Can<Box<dyn Publishes>> {
        crate::capability::lacks("always stamps from C")
    }

    fn publishes_stamped(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        Ok(for_size!(site.size, publishes, site)?)
    }

    fn tells(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        self.publishes_stamped(site)
    }

    fn follows(&self, site: &Site) -> Can<Box<dyn Follows>> {
        Ok(for_size!(site.size, follows, site)?)
    }

    fn updates(&self, site: &Site) -> Can<Box<dyn Updates>> {
        Ok(for_size!(site.size, updates, site)?)
    }
}

/// `struct kstate_snapshot` of `kstate.h`.
#[repr(C)]
#[derive(Default)]
struct Told {
    generation: u64,
    age_ns: i64,
    length: u32,
    flags: u32,
    reserved: [u64; 2],
}

/// `kstate_state_p` of `kstate.h`.
type Pointer = *mut c_void;

/// The functions of the library that are measured.
#[derive(Clone, Copy)]
struct Library {
    subscribe: unsafe extern "C" fn(*const c_char, u32) -> Pointer,
    free: unsafe extern "C" fn(*mut Pointer),
    snapshot: unsafe extern "C" fn(Pointer, *mut c_void, usize, *mut Told) -> c_int,
    publish: unsafe extern "C" fn(Pointer, *const c_void, usize) -> c_int,
    wait: unsafe extern "C" fn(Pointer, u64, i64, *mut u64) -> c_int,
    generation: unsafe extern "C" fn(Pointer) -> u64,
    begin: unsafe extern "C" fn(Pointer) -> Pointer,
    pointer: unsafe extern "C" fn(Pointer) -> *mut c_void,
    commit: unsafe extern "C" fn(Pointer) -> c_int,
}

/// Builds the library for this program's profile, beside it.
pub(crate) fn build() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let directory = program.parent().ok_or("a program is in a directory")?;
    let target = directory.parent().ok_or("of the target directory")?;
    let target = target.join("libkstate");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--release",
        "--quiet",
        "-p",
        "kstate-c",
        "--target-dir",
    ]);
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    match cargo.arg(&target).current_dir(root).status()?.success() {
        true => Ok(target.join("release/libkstate_c.so")),
        false => Err("libkstate does not build".into()),
    }
}

/// Where [`build`] leaves it.
fn library() -> Result<Library> {
    static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
    let loaded = LIBRARY.get_or_init(|| load().map_err(|error| error.to_string()));
    Ok(loaded.clone()?)
}

fn load() -> Result<Library> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(std::path::Path::parent);
    let target = target.ok_or("a program is in a directory")?;
    let path = target.join("libkstate/release/libkstate_c.so");
    let path = CString::new(path.into_os_string().into_encoded_bytes())?;
    // SAFETY: a string; the library has no code that runs when it is loaded. Never unloaded,
    // because it has threads.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    if library.is_null() {
        return Err("libkstate is not loaded; `run` builds it first".into());
    }
    let symbol = |name: &std::ffi::CStr| {
        // SAFETY: a library that is loaded, and a string.
        let found = unsafe { libc::dlsym(library, name.as_ptr()) };
        match found.is_null() {
            true => Err(format!("libkstate has no {name:?}")),
            false => Ok(found),
        }
    };
    macro_rules! function {
        ($name:expr) => {{
            let found = symbol($name)?;
            // SAFETY: `kstate.h` declares it with the type of the field that it is for.
            unsafe { core::mem::transmute::<*mut c_void, _>(found) }
        }};
    }
    Ok(Library {
        subscribe: function!(c"kstate_subscribe"),
        free: function!(c"kstate_free_state"),
        snapshot: function!(c"kstate_take_snapshot"),
        publish: function!(c"kstate_publish"),
        wait: function!(c"kstate_wait"),
        generation: function!(c"kstate_get_generation"),
        begin: function!(c"kstate_begin"),
        pointer: function!(c"kstate_get_transaction_ptr"),
        commit: function!(c"kstate_commit"),
    })
}

/// A state's handle.
///
/// # Invariants
///
/// 1. `pointer` is a handle of the library, not freed; it belongs to this thread.
struct Handle {
    library: Library,
    pointer: Pointer,
}

impl Handle {
    fn open(site: &Site, permissions: u32) -> Result<Self> {
        let library = library()?;
        let name = CString::new(site.name.as_str())?;
        // SAFETY: a string and a number.
        let pointer = unsafe { (library.subscribe)(name.as_ptr(), permissions) };
        match pointer.is_null() {
            true => Err("kstate_subscribe fails".into()),
            // INVARIANT: 1.
            false => Ok(Self { library, pointer }),
        }
    }

    #[inline(always)]
    fn snapshot<const W: usize>(&self, into: &mut Value<W>, told: *mut Told) -> Result<()> {
        let room = size_of::<Value<W>>();
        // SAFETY: invariant 1; a buffer of that many bytes, and null or room for what is told.
        let done =
            unsafe { (self.library.snapshot)(self.pointer, into.as_mut_ptr().cast(), room, told) };
        match done {
            0.. => Ok(()),
            errno => Err(format!("kstate_take_snapshot: {errno}").into()),
        }
    }
}

impl Handle {
    #[inline(always)]
    fn publish<const W: usize>(&self, value: &Value<W>) -> Result<()> {
        let length = size_of::<Value<W>>();
        // SAFETY: invariant 1; that many bytes.
        let done = unsafe { (self.library.publish)(self.pointer, value.as_ptr().cast(), length) };
        match done {
            0 => Ok(()),
            errno => Err(format!("kstate_publish: {errno}").into()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: invariant 1.
        unsafe { (self.library.free)(&mut self.pointer) };
    }
}

struct Snapshots<const W: usize> {
    handle: Handle,
    place: Box<Place<W>>,
    aged: bool,
}

impl<const W: usize> Source<W> for Snapshots<W> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        if self.aged {
            let mut told = Told::default();
            self.handle.snapshot(&mut self.place, &mut told)?;
            std::hint::black_box(told.age_ns);
        } else {
            self.handle
                .snapshot(&mut self.place, std::ptr::null_mut())?;
        }
        Ok(look(&self.place))
    }
}

fn reads<const W: usize>(site: &Site, aged: bool) -> Result<Box<dyn Reads>> {
    let handle = Handle::open(site, 1)?;
    let place = Place::new();
    Ok(Box::new(By(Snapshots::<W> {
        handle,
        place,
        aged,
    })))
}

fn publishes<const W: usize>(site: &Site) -> Result<Box<dyn Publishes>> {
    let handle = Handle::open(site, 3)?;
    // The handle goes along as a whole, by a call of its own: its fields alone would leave it behind.
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        handle.publish(value)
    })))
}

struct Following<const W: usize>(Handle);

fn follows<const W: usize>(site: &Site) -> Result<Box<dyn Follows>> {
    Ok(Box::new(Following::<W>(Handle::open(site, 1)?)))
}

impl<const W: usize> Follows for Following<W> {
    fn follow(&mut self, held: &mut dyn FnMut(Option<u64>) -> bool) -> Result<()> {
        let handle = &self.0;
        let patience = i64::try_from(crate::capability::PATIENCE.as_nanos())?;
        let mut seen = 0;
        let mut value = [0; W];
        let mut told = Told::default();
        loop {
            handle.snapshot(&mut value, &mut told)?;
            let word = (told.generation != seen).then_some(value[0]);
            seen = told.generation;
            if !held(word) {
                return Ok(());
            }
            let mut newest = 0;
            // SAFETY: invariant 1; room for a generation. A timeout is an outcome.
            let _ = unsafe { (handle.library.wait)(handle.pointer, seen, patience, &mut newest) };
        }
    }
}

struct Updating<const W: usize>(Handle);

fn updates<const W: usize>(site: &Site) -> Result<Box<dyn Updates>> {
    let handle = Handle::open(site, 3)?;
    // SAFETY: invariant 1.
    std::hint::black_box(unsafe { (handle.library.generation)(handle.pointer) });
    Ok(Box::new(Updating::<W>(handle)))
}

impl<const W: usize> Updating<W> {
    /// By pointer, whose first touch is trapped; false when somebody else was first.
    fn attempt(&self) -> Result<bool> {
        let Library {
            begin,
            pointer,
            commit,
            ..
        } = self.0.library;
        // SAFETY: invariant 1.
        let transaction = unsafe { begin(self.0.pointer) };
        if transaction.is_null() {
            return Err("kstate_begin fails".into());
        }
        // SAFETY: a transaction that has not ended.
        let page: *mut u64 = unsafe { pointer(transaction) }.cast();
        // SAFETY: within the page, aligned as it is.
        let next = unsafe { page.read_volatile() }.wrapping_add(1);
        for word in 0..W {
            // SAFETY: within the page.
            let place = unsafe { page.add(word) };
            // SAFETY: as above, aligned as the page is.
            unsafe { place.write_volatile(next) };
        }
        // SAFETY: a transaction that has not ended, and is not used again.
        match unsafe { commit(transaction) } {
            0 => Ok(true),
            errno if errno == -libc::EPERM => Ok(false),
            errno => Err(format!("kstate_commit: {errno}").into()),
        }
    }
}

impl<const W: usize> Updates for Updating<W> {
    fn update(&mut self, count: u32) -> Result<u64> {
        let mut attempts = 0;
        for _ in 0..count {
            attempts += 1;
            while !self.attempt()? {
                attempts += 1;
            }
        }
        Ok(attempts)
    }
}
