//! A file on tmpfs, as programs without any library share a value: it tears.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{Kind, Peer};
use crate::Result;
use crate::capability::{By, Can, Follows, PATIENCE, Publishes, Reads, Source, To};
use crate::site::{Home, Site};
use crate::value::{Place, Value, bytes_of, bytes_of_mut, for_size};

/// A file on tmpfs.
#[derive(Debug)]
pub(crate) struct Tmpfs;

impl Peer for Tmpfs {
    fn id(&self) -> &'static str {
        "tmpfs"
    }

    fn title(&self) -> &'static str {
        "tmpfs file"
    }

    fn kind(&self) -> Kind {
        Kind::Between { consistent: false }
    }

    fn used(&self) -> &'static str {
        "`pread` and `pwrite` of one open file in `/dev/shm`; waking by inotify's `IN_MODIFY`."
    }

    fn home(&self, site: &Site) -> Can<Home> {
        let first = path(site)?;
        for name in site.names() {
            std::fs::write(first.with_file_name(name), vec![0; site.size])?;
        }
        std::fs::write(first, vec![0; site.size])?;
        Ok(Arc::new(()))
    }

    fn has_many(&self) -> bool {
        true
    }

    fn reads(&self, site: &Site) -> Can<Box<dyn Reads>> {
        for_size!(site.size, reads, site)
    }

    fn publishes(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        for_size!(site.size, publishes, site)
    }

    fn follows(&self, site: &Site) -> Can<Box<dyn Follows>> {
        for_size!(site.size, follows, site)
    }
}

fn path(site: &Site) -> Result<PathBuf> {
    site.file_of("tmpfs")
}

/// A file, and the place in the program where values go.
struct Pread<const W: usize> {
    file: File,
    place: Box<Place<W>>,
}

impl<const W: usize> Pread<W> {
    fn new(file: File) -> Self {
        let place = Place::new();
        Self { file, place }
    }
}

impl<const W: usize> Source<W> for Pread<W> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        self.file.read_exact_at(bytes_of_mut(&mut self.place), 0)?;
        Ok(look(&self.place))
    }
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    Ok(Box::new(By(Pread::<W>::new(File::open(path(site)?)?))))
}

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let file = File::options().write(true).open(path(site)?)?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        Ok(file.write_all_at(bytes_of(value), 0)?)
    })))
}

struct Watching<const W: usize> {
    inotify: Inotify,
    file: Pread<W>,
}

fn follows<const W: usize>(site: &Site) -> Can<Box<dyn Follows>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK)?;
    inotify.add_watch(&path(site)?, AddWatchFlags::IN_MODIFY)?;
    let file = Pread::new(File::open(path(site)?)?);
    Ok(Box::new(Watching::<W> { inotify, file }))
}

impl<const W: usize> Follows for Watching<W> {
    fn follow(&mut self, held: &mut dyn FnMut(Option<u64>) -> bool) -> Result<()> {
        let patience = PollTimeout::try_from(PATIENCE)?;
        loop {
            let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            let mut word = None;
            if poll(&mut fds, patience)? > 0 {
                self.inotify.read_events()?;
                word = Some(self.file.copy_out(|value| value[0])?);
            }
            if !held(word) {
                return Ok(());
            }
        }
    }
}
