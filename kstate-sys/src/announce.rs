//! Announcements: messages that the daemon sends outside after commits, where that is chosen.
//!
//! Which *sinks* a state is announced to is chosen a state; the record is what a message says of one
//! version.

use core::fmt;
use core::mem::{offset_of, size_of};
use core::ops::BitOr;
use core::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::name::StateName;

/// The sinks that a state is announced to; as text `off`, or their names joined by commas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Sinks(u32);

/// Each with its name.
const NAMED: [(Sinks, &str); 2] = [(Sinks::KBUS, "kbus"), (Sinks::DBUS, "dbus")];

/// What stands for no sink at all.
const OFF: &str = "off";

/// A text that names no sinks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not where a state can be announced; expected off, kbus, dbus or kbus,dbus")]
pub struct SinksError(String);

impl Sinks {
    /// Not announced.
    pub const NONE: Self = Self(0);
    /// Messages on KBUS.
    pub const KBUS: Self = Self(1);
    /// Signals on D-Bus.
    pub const DBUS: Self = Self(2);

    /// From the bits of an ioctl's argument; `None` for bits that mean no sink.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits & !(Self::KBUS.0 | Self::DBUS.0) {
            0 => Some(Self(bits)),
            _ => None,
        }
    }

    /// Those bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Each of them alone.
    pub fn each(self) -> impl Iterator<Item = Self> {
        let sinks = NAMED.into_iter().map(|(sink, _)| sink);
        sinks.filter(move |sink| self.contains(*sink))
    }
}

impl BitOr for Sinks {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str(OFF);
        }
        let mut comma = "";
        for (sink, name) in NAMED {
            if self.contains(sink) {
                write!(f, "{comma}{name}")?;
                comma = ",";
            }
        }
        Ok(())
    }
}

impl FromStr for Sinks {
    type Err = SinksError;

    fn from_str(text: &str) -> Result<Self, SinksError> {
        if text == OFF {
            return Ok(Self::NONE);
        }
        let known = |word: &str| NAMED.iter().find(|(_, name)| *name == word);
        text.split(',')
            .map(|word| known(word).map(|(sink, _)| *sink))
            .try_fold(Self::NONE, |all, sink| Some(all | sink?))
            .ok_or_else(|| SinksError(text.to_owned()))
    }
}

/// Whether KBUS can carry the name, whose names have letters and digits between dots: a state's may
/// have `_` and `-` as well.
pub fn is_kbus_name(name: &StateName) -> bool {
    !name.as_str().contains(['_', '-'])
}

/// The version of [`Record`] described here.
pub const RECORD_VERSION: u32 = 1;

/// What a message says of a version: the data of a KBUS message. Little-endian, as every machine
/// is that this is built for.
///
/// A later version may have more behind these bytes, and [`RECORD_VERSION`] only changes where they
/// mean something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Bytes of the value.
    pub length: u32,
    /// The generation.
    pub generation: u64,
    /// When it was committed, in nanoseconds since the epoch; 0 when its writer gave no time.
    pub time_ns: u64,
    /// The process that committed, as the daemon sees its id; 0 when that is not known.
    pub pid: u32,
    reserved: u32,
}

impl Record {
    /// Of a version of `length` bytes.
    pub const fn new(generation: u64, length: u32, time_ns: u64, pid: u32) -> Self {
        Self {
            version: RECORD_VERSION,
            length,
            generation,
            time_ns,
            pid,
            reserved: 0,
        }
    }
}

const _: () = {
    assert!(size_of::<Record>() == 32);
    assert!(offset_of!(Record, version) == 0);
    assert!(offset_of!(Record, length) == 4);
    assert!(offset_of!(Record, generation) == 8);
    assert!(offset_of!(Record, time_ns) == 16);
    assert!(offset_of!(Record, pid) == 24);
    assert!(offset_of!(Record, reserved) == 28);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_are_written_as_they_are_read() {
        for text in ["off", "kbus", "dbus", "kbus,dbus"] {
            let sinks: Sinks = text.parse().unwrap();
            assert_eq!(sinks.to_string(), text);
            assert_eq!(Sinks::from_bits(sinks.bits()), Some(sinks));
            let all = sinks.each().fold(Sinks::NONE, BitOr::bitor);
            assert_eq!(all, sinks);
        }
        assert_eq!("dbus,kbus".parse(), Ok(Sinks::KBUS | Sinks::DBUS));
        for bad in ["", "on", "kbus,", "kbus,off", "KBUS", "kbus dbus"] {
            let error = bad.parse::<Sinks>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{bad}`")), "{error}");
        }
        assert_eq!(Sinks::from_bits(4), None);
    }

    #[test]
    fn kbus_carries_letters_digits_and_dots() {
        let can = |name| is_kbus_name(&StateName::new(name).unwrap());
        assert!(can("Fred.Jim") && can("7.a"));
        assert!(!can("fred_jim") && !can("fred-jim") && !can("a.b_"));
    }

    #[test]
    fn a_record_is_thirty_two_little_endian_bytes() {
        let record = Record::new(0x0102, 3, 0x0a0b_0c0d, 77);
        let expected = [
            &[1, 0, 0, 0, 3, 0, 0, 0][..],
            &[2, 1, 0, 0, 0, 0, 0, 0],
            &[0x0d, 0x0c, 0x0b, 0x0a, 0, 0, 0, 0],
            &[77, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(record.as_bytes(), expected.concat());
    }
}
