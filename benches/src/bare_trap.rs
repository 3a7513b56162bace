#![expect(
    unsafe_code,
    reason = "the limit is what a program without any protocol would do"
)]
//! The limit of trapping: a page, userfaultfd, and a handler that copies a page in.

use std::ffi::c_void;
use std::fmt;
use std::sync::atomic::{AtomicPtr, Ordering};

use userfaultfd::{
    FeatureFlags, PageRegion, Pagemap, RegisterMode, ScanRequest, Uffd, UffdBuilder,
};

use crate::setup::Result;

/// Who fills the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answering {
    Thread,
    Signal,
}

impl fmt::Display for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Thread => "a thread",
            Self::Signal => "a signal",
        })
    }
}

/// A trapped page, for the rest of the program's life.
#[derive(Debug)]
pub(crate) struct BareTrap {
    parts: &'static Parts,
    pagemap: Pagemap,
}

#[derive(Debug)]
struct Parts {
    uffd: Uffd,
    page: usize,
    source: usize,
    length: usize,
}

static BY_SIGNAL: AtomicPtr<Parts> = AtomicPtr::new(std::ptr::null_mut());

impl BareTrap {
    pub(crate) fn new(answering: Answering) -> Result<Self> {
        let signal = match answering {
            Answering::Signal => FeatureFlags::SIGBUS,
            Answering::Thread => FeatureFlags::empty(),
        };
        let noted = FeatureFlags::WP_ASYNC | FeatureFlags::WP_UNPOPULATED;
        let uffd = UffdBuilder::new()
            .require_features(signal | noted)
            .create()?;
        let length = usize::try_from(kstate_sys::abi::page_size())?;
        let page = map(length)?;
        let source = map(length)?;
        let mode = RegisterMode::MISSING | RegisterMode::WRITE_PROTECT;
        uffd.register_with_mode(std::ptr::with_exposed_provenance_mut(page), length, mode)?;
        let parts: &'static Parts = Box::leak(Box::new(Parts {
            uffd,
            page,
            source,
            length,
        }));
        match answering {
            Answering::Thread => {
                std::thread::spawn(|| {
                    while let Ok(Some(_)) = parts.uffd.read_event() {
                        parts.fill();
                    }
                });
            }
            Answering::Signal => {
                BY_SIGNAL.store(std::ptr::from_ref(parts).cast_mut(), Ordering::Release);
                let handler: extern "C" fn(i32) = on_sigbus;
                // SAFETY: the handler makes one system call.
                unsafe { libc::signal(libc::SIGBUS, handler as libc::sighandler_t) };
            }
        }
        let pagemap = Pagemap::open()?;
        Ok(Self { parts, pagemap })
    }

    /// Empties the page and reads it.
    pub(crate) fn first_touch(&self) -> u64 {
        let page = self.parts.page();
        // SAFETY: a page of ours that nobody refers to.
        unsafe { libc::madvise(page, self.parts.length, libc::MADV_DONTNEED) };
        self.read(page.cast())
    }

    /// Protects the page, writes `value` to it, and asks whether it was written to.
    pub(crate) fn protected_again(&self, value: u64) -> usize {
        let (page, length) = (self.parts.page(), self.parts.length);
        if self.parts.uffd.write_protect(page, length).is_err() {
            return 0;
        }
        self.write(page.cast(), value);
        let mut found = [PageRegion::default(); 1];
        let scan = self
            .pagemap
            .scan(page, length, &ScanRequest::written(), &mut found);
        scan.map_or(0, |scan| scan.regions)
    }

    pub(crate) fn read(&self, page: *const u8) -> u64 {
        // SAFETY: a page that is, or is going to be, filled.
        unsafe { page.cast::<u64>().read_volatile() }
    }

    pub(crate) fn write(&self, page: *mut u8, value: u64) {
        // SAFETY: as in `read`; nobody refers to it.
        unsafe { page.cast::<u64>().write_volatile(value) }
    }
}

impl Parts {
    fn page(&self) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(self.page)
    }

    fn fill(&self) {
        let source = std::ptr::with_exposed_provenance(self.source);
        // SAFETY: two pages of ours; nobody refers to either.
        let _ = unsafe {
            self.uffd
                .copy_write_protected(source, self.page(), self.length, true)
        };
    }
}

extern "C" fn on_sigbus(_: i32) {
    // SAFETY: leaked by `new`.
    if let Some(parts) = unsafe { BY_SIGNAL.load(Ordering::Acquire).as_ref() } {
        parts.fill();
    }
}

fn map(length: usize) -> Result<usize> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(page.expose_provenance())
}
