//! The limit of sharing: a ring in shared memory with no checks at all.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use kstate_sys::clock::{Clock, Ticks};

use super::{Kind, Peer};
use crate::Result;
use crate::bare::{self, Bare};
use crate::capability::{By, Can, Follows, PATIENCE, Publishes, Reads, Source, To, lacks};
use crate::place::{processors, reader};
use crate::site::{Home, Site};
use crate::value::{Place, Value, for_size};

/// The ring.
#[derive(Debug)]
pub(crate) struct Ring;

impl Peer for Ring {
    fn id(&self) -> &'static str {
        "ring"
    }

    fn title(&self) -> &'static str {
        "bare ring (limit)"
    }

    fn kind(&self) -> Kind {
        Kind::Limit
    }

    fn used(&self) -> &'static str {
        "Four slots and an index in shared memory: a load and a copy; a copy and a compare-and-swap. It checks \
         nothing. Waking: the other process spins."
    }

    fn home(&self, site: &Site) -> Can<Home> {
        for_size!(site.size, home, site)
    }

    fn reads(&self, site: &Site) -> Can<Box<dyn Reads>> {
        for_size!(site.size, reads, site)
    }

    fn reads_aged(&self, site: &Site) -> Can<Box<dyn Reads>> {
        for_size!(site.size, reads_aged, site)
    }

    fn publishes(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        for_size!(site.size, publishes, site)
    }

    fn publishes_stamped(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        for_size!(site.size, publishes_stamped, site)
    }

    fn follows(&self, site: &Site) -> Can<Box<dyn Follows>> {
        if processors() < 2 || reader(0) == 0 {
            return lacks("spinning takes a second processor");
        }
        for_size!(site.size, follows, site)
    }
}

fn home<const W: usize>(site: &Site) -> Can<Home> {
    Bare::<W>::open(&site.file_of("ring")?)?;
    Ok(Arc::new(()))
}

/// A ring, and the place in the program where values go.
pub(super) struct Copying<R, const W: usize> {
    ring: R,
    place: Box<Place<W>>,
}

impl<R: bare::Ring<W>, const W: usize> Copying<R, W> {
    pub(super) fn of(ring: R) -> Self {
        let place = Place::new();
        Self { ring, place }
    }
}

impl<O: bare::Ring<W>, const W: usize> Source<W> for Copying<O, W> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        self.ring.read_into(&mut self.place);
        Ok(look(&self.place))
    }
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    Ok(Box::new(By(Copying::of(Bare::<W>::open(
        &site.file_of("ring")?,
    )?))))
}

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    Ok(publishing(Bare::<W>::open(&site.file_of("ring")?)?))
}

/// Publishes to a ring.
pub(super) fn publishing<const W: usize>(ring: impl bare::Ring<W> + 'static) -> Box<dyn Publishes> {
    Box::new(To::<_, W>::new(move |value: &Value<W>| {
        ring.publish(value);
        Ok(())
    }))
}

/// Compared with the machine's own once a process.
fn clock() -> Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    *CLOCK.get_or_init(Clock::calibrate)
}

/// With the time of the clock that kstate takes, beside the value.
fn publishes_stamped<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    let ring = Bare::<W>::open(&site.file_of("ring")?)?;
    let clock = clock();
    Ok(Box::new(To::<_, W>::new(move |value: &Value<W>| {
        let next = ring.head().load(Ordering::Relaxed) + 1;
        ring.stamp(next).store(clock.now().0, Ordering::Relaxed);
        ring.publish(value);
        Ok(())
    })))
}

/// Copies out, and says how long ago that was published.
struct Aging<const W: usize> {
    of: Copying<Bare<W>, W>,
    clock: Clock,
}

impl<const W: usize> Source<W> for Aging<W> {
    #[inline(always)]
    fn copy_out<R>(&mut self, look: impl FnOnce(&Value<W>) -> R) -> Result<R> {
        let ring = &self.of.ring;
        ring.read_into(&mut self.of.place);
        let stamp = ring.stamp(ring.head().load(Ordering::Relaxed));
        let then = Ticks(stamp.load(Ordering::Relaxed));
        let age = self.clock.between(then, self.clock.now());
        std::hint::black_box(age);
        Ok(look(&self.of.place))
    }
}

fn reads_aged<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    let ring = Bare::<W>::open(&site.file_of("ring")?)?;
    Ok(Box::new(By(Aging {
        of: Copying::of(ring),
        clock: clock(),
    })))
}

struct Spinning<const W: usize>(Bare<W>);

fn follows<const W: usize>(site: &Site) -> Can<Box<dyn Follows>> {
    Ok(Box::new(Spinning(Bare::<W>::open(&site.file_of("ring")?)?)))
}

impl<const W: usize> Follows for Spinning<W> {
    fn follow(&mut self, held: &mut dyn FnMut(Option<u64>) -> bool) -> Result<()> {
        let mut seen = self.0.head().load(Ordering::Acquire);
        loop {
            let begin = std::time::Instant::now();
            let mut looks = 0_u32;
            let mut word = None;
            loop {
                // ORDERING: Acquire with the exchange in `publish`.
                let head = self.0.head().load(Ordering::Acquire);
                if head != seen {
                    seen = head;
                    word = Some(self.0.word());
                    break;
                }
                looks = looks.wrapping_add(1);
                if looks.is_multiple_of(4096) && begin.elapsed() > PATIENCE {
                    break;
                }
                std::hint::spin_loop();
            }
            if !held(word) {
                return Ok(());
            }
        }
    }
}
