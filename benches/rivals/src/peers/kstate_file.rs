//! kstate by its files, with no library: what a shell or any language does.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::kstate_lib::KstateLib;
use super::{Kind, Peer};
use crate::Result;
use crate::capability::{By, Can, Follows, PATIENCE, Publishes, Reads, Source, To, Updates, lacks};
use crate::site::{Home, Site};
use crate::value::{Place, Value, bytes_of, bytes_of_mut, for_size};

/// kstate by its files.
#[derive(Debug)]
pub(crate) struct KstateFile;

impl Peer for KstateFile {
    fn id(&self) -> &'static str {
        "kstate-file"
    }

    fn title(&self) -> &'static str {
        "kstate, as a file"
    }

    fn kind(&self) -> Kind {
        Kind::Kstate
    }

    fn used(&self) -> &'static str {
        "`pread` and `pwrite` at offset 0, `poll` to wait; read, write and `ESTALE` to change. Each is a \
         request to the daemon, whose threads are not pinned. It always stamps."
    }

    fn home(&self, site: &Site) -> Can<Home> {
        KstateLib.home(site)
    }

    fn reads(&self, site: &Site) -> Can<Box<dyn Reads>> {
        for_size!(site.size, reads, site)
    }

    fn reads_aged(&self, _: &Site) -> Can<Box<dyn Reads>> {
        lacks("no part of what a read returns")
    }

    fn publishes(&self, _: &Site) -> Can<Box<dyn Publishes>> {
        lacks("always stamps as a file")
    }

    fn publishes_stamped(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        for_size!(site.size, publishes, site)
    }

    fn tells(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        self.publishes_stamped(site)
    }

    fn follows(&self, site: &Site) -> Can<Box<dyn Follows>> {
        for_size!(site.size, follows, site)
    }

    fn updates(&self, site: &Site) -> Can<Box<dyn Updates>> {
        for_size!(site.size, updates, site)
    }
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
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        self.file.read_exact_at(bytes_of_mut(&mut self.place), 0)?;
        Ok(look(&self.place))
    }
}

fn open(site: &Site, write: bool) -> std::io::Result<File> {
    let path = site.mount().join(&site.name);
    File::options().read(true).write(write).open(path)
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    Ok(Box::new(By(Pread::<W>::new(open(site, false)?))))
}

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    // Through a file that has read, it would be validated.
    let file = File::options()
        .write(true)
        .open(site.mount().join(&site.name))?;
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        Ok(file.write_all_at(bytes_of(value), 0)?)
    })))
}

struct Polling<const W: usize>(Pread<W>);

fn follows<const W: usize>(site: &Site) -> Can<Box<dyn Follows>> {
    Ok(Box::new(Polling(Pread::<W>::new(open(site, false)?))))
}

impl<const W: usize> Follows for Polling<W> {
    fn follow(&mut self, held: &mut dyn FnMut(Option<u64>) -> bool) -> Result<()> {
        let patience = PollTimeout::try_from(PATIENCE)?;
        loop {
            let word = self.0.copy_out(|value| value[0])?;
            if !held(Some(word)) {
                return Ok(());
            }
            let mut fds = [PollFd::new(self.0.file.as_fd(), PollFlags::POLLIN)];
            while poll(&mut fds, patience)? == 0 {
                if !held(None) {
                    return Ok(());
                }
            }
        }
    }
}

struct Updating<const W: usize>(File);

fn updates<const W: usize>(site: &Site) -> Can<Box<dyn Updates>> {
    Ok(Box::new(Updating::<W>(open(site, true)?)))
}

impl<const W: usize> Updates for Updating<W> {
    fn update(&mut self, count: u32) -> Result<u64> {
        let mut attempts = 0;
        for _ in 0..count {
            loop {
                attempts += 1;
                let mut value = [0; W];
                self.0.read_exact_at(bytes_of_mut(&mut value), 0)?;
                let next = value[0].wrapping_add(1);
                value.fill(next);
                match self.0.write_all_at(bytes_of(&value), 0) {
                    Ok(()) => break,
                    // Somebody has committed since.
                    Err(error) if error.raw_os_error() == Some(Errno::ESTALE as i32) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(attempts)
    }
}
