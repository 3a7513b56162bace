//! Arbitrary bytes as the names, numbers and arguments that a client would choose.

use kstate_sys::abi::Geometry;
use kstate_sys::ioctl;

/// What is left of the bytes. At their end all is zero.
#[derive(Debug)]
pub(super) struct Input<'a>(&'a [u8]);

/// Suffixes of views; the last is none.
const SUFFIXES: [&str; 8] = [
    "wait",
    "wait",
    "wait",
    "1khz,wait",
    "1us,wait",
    "250ms",
    "1h,wait",
    "wait,wait",
];

/// Streams of changes; the last two are none.
const CHANGES: [&str; 8] = [
    "changes",
    "changes",
    "changes@",
    "changes@a",
    "changes@b.",
    "changes@x_",
    "changes@..",
    "change",
];

/// Names that most calls use, so that they meet; two that are none.
const NAMES: [&str; 8] = ["a", "b.c", "d", "x_1", "a", "b.c", "..", "a@4hz"];

const COMMANDS: [u32; 19] = [
    ioctl::SUBSCRIBE,
    ioctl::CLAIM,
    ioctl::RELEASE,
    ioctl::SET_CAPACITY,
    ioctl::WAIT_BEGIN,
    ioctl::WAIT_END,
    ioctl::SEEN,
    ioctl::ARM,
    ioctl::SET_LINGER,
    ioctl::INFO,
    ioctl::TICKET,
    ioctl::RECORD,
    ioctl::SETTLE,
    ioctl::RELEASE_RECORD,
    ioctl::TURN,
    ioctl::TURN_END,
    ioctl::SET_DEADLINE,
    ioctl::SET_ANNOUNCE,
    ioctl::VERSION,
];

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    pub(super) fn one_in(&mut self, chances: u8) -> bool {
        self.byte().is_multiple_of(chances)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// Up to 31 of the bytes themselves.
    pub(super) fn some_bytes(&mut self) -> Vec<u8> {
        let length = self.below(32).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken.to_vec()
    }

    pub(super) fn name(&mut self) -> Vec<u8> {
        match self.byte() {
            choice @ 0..=239 => NAMES[usize::from(choice) % NAMES.len()].into(),
            240 => vec![b'n'; 247 + self.below(3)],
            _ => self.some_bytes(),
        }
    }

    /// The name of a view.
    pub(super) fn view(&mut self) -> Vec<u8> {
        let mut name = self.name();
        let suffix = match self.byte() {
            choice @ 0..=239 => SUFFIXES[usize::from(choice) % SUFFIXES.len()].into(),
            _ => self.some_bytes(),
        };
        name.push(b'@');
        name.extend(suffix);
        name
    }

    /// The name of a stream of changes.
    pub(super) fn changes(&mut self) -> String {
        match self.byte() {
            choice @ 0..=239 => CHANGES[usize::from(choice) % CHANGES.len()].into(),
            _ => format!("changes@{}", String::from_utf8_lossy(&self.some_bytes())),
        }
    }

    /// Small, near the ends of its range, or any.
    pub(super) fn number(&mut self) -> u64 {
        match self.byte() % 8 {
            0..=2 => u64::from(self.byte() % 8),
            3 => 64 << self.below(8),
            4 => 4096 + u64::from(self.byte() % 3) - 1,
            5 => u64::MAX - u64::from(self.byte() % 2),
            6 => u64::from(u32::MAX) - u64::from(self.byte() % 2),
            _ => u64::from_le_bytes(self.array()),
        }
    }

    /// As [`Input::number`], as much as fits.
    pub(super) fn small_number(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.number().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// What is written: usually little, at times more than a page.
    pub(super) fn value(&mut self) -> Vec<u8> {
        let length = match self.byte() {
            0..=199 => self.below(65),
            200..=239 => 16 * self.below(256),
            _ => 4095 + self.below(3),
        };
        vec![self.byte(); length]
    }

    pub(super) fn command(&mut self) -> u32 {
        match self.byte() {
            choice @ 0..=249 => COMMANDS[usize::from(choice) % COMMANDS.len()],
            // Of our type, or any at all.
            250..=252 => 0xb500 | u32::from(self.byte()) | u32::from(self.byte()) << 16,
            _ => u32::from_le_bytes(self.array()),
        }
    }

    /// An argument as long as the number says, which is what the kernel sends.
    pub(super) fn argument(&mut self, command: u32) -> Vec<u8> {
        const WRITE: u32 = 1 << 30;
        if command & WRITE == 0 {
            return Vec::new();
        }
        let length = usize::try_from(command >> 16 & 0x3fff).expect("14 bits");
        let mut argument = vec![0; length];
        match (command, self.byte() % 4) {
            // Well formed but for what is drawn.
            (ioctl::SUBSCRIBE, 0..=2) => self.subscribe(&mut argument),
            (ioctl::SET_DEADLINE, 0..=2) => {
                let nanos = 1_000_000 * u64::from(self.byte() % 8);
                argument.copy_from_slice(&nanos.to_ne_bytes());
            }
            (ioctl::SETTLE, 0..=2) => {
                let intent = u64::from(self.byte() % 8) << 40 | u64::from(self.byte() % 8);
                let intent = if self.one_in(2) {
                    intent
                } else {
                    self.number()
                };
                argument[..8].copy_from_slice(&intent.to_ne_bytes());
            }
            _ => {
                for word in argument.chunks_mut(8) {
                    let number = self.number().to_ne_bytes();
                    word.copy_from_slice(&number[..word.len()]);
                }
            }
        }
        argument
    }

    fn subscribe(&mut self, argument: &mut [u8]) {
        use zerocopy::IntoBytes;
        let mut asked = ioctl::Subscribe::default();
        asked.capacity = self.small_number();
        asked.layout_id = u64::from(self.byte() % 3);
        if self.one_in(16) {
            asked.abi_version = self.small_number();
        }
        asked.set_layout_text(["", "u64", "[u64; 8]"][self.below(3)]);
        if self.one_in(16) {
            asked.layout_text_length = self.small_number();
            asked.layout_text[0] = self.byte();
        }
        argument.copy_from_slice(asked.as_bytes());
    }

    /// A word of a region, and what is put there.
    pub(super) fn scribble(&mut self) -> (usize, u64) {
        let geometry = Geometry::of_this_machine();
        let place = match self.byte() % 8 {
            0 | 1 => geometry.header() + 64,
            2 => geometry.header() + 8 * self.below(64),
            3..=5 => geometry.slot_meta(u16::from(self.byte() % 16)) + 8 * self.below(4),
            6 => 8 * self.below(256),
            _ => geometry.slot_meta(u16::from_le_bytes(self.array()) % 1024) + 8 * self.below(4),
        };
        (place, self.word())
    }

    /// A word that the protocol might have put there, or any.
    pub(super) fn word(&mut self) -> u64 {
        let head =
            |slot: u8, generation: u8| u64::from(slot % 16) << 53 | u64::from(generation % 8);
        match self.byte() % 8 {
            0 => u64::from(self.byte() % 8),
            1 => head(self.byte(), self.byte()),
            2 => head(self.byte(), self.byte()) | 1 << 63,
            // A record's status, and a commit through it.
            3 => u64::from(self.byte() % 8) << 3 | u64::from(self.byte() % 8),
            4 => kstate_sys::region::IntentRef::new(
                u32::from(self.byte() % 8),
                kstate_sys::region::Round(u64::from(self.byte() % 8)),
            )
            .raw(),
            5 => u64::from(self.byte() % 65) | u64::from(self.byte() % 16) << 32,
            6 => self.number(),
            _ => u64::from_le_bytes(self.array()),
        }
    }
}
