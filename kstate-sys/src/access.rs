//! The rights a subscription can have.

/// What a subscription may do with its state. Writing implies reading.
///
/// The kernel grants it when the state's file is opened: a descriptor opened for reading cannot
/// be mapped writable, whatever the program does afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Access {
    /// Read, wait and watch.
    #[default]
    Read,
    /// Read, publish and commit.
    Write,
}

impl Access {
    /// The bit for reading in the C interface's permissions.
    pub const READ_BIT: u32 = 1;
    /// The bit for writing in the C interface's permissions.
    pub const WRITE_BIT: u32 = 2;

    /// From permission bits as C programs give them; `None` for no bit or an unknown one.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            Self::READ_BIT => Some(Self::Read),
            2 | 3 => Some(Self::Write),
            _ => None,
        }
    }

    /// Permission bits as C programs see them.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Read => Self::READ_BIT,
            Self::Write => Self::READ_BIT | Self::WRITE_BIT,
        }
    }

    /// Whether publishing and committing are allowed.
    #[inline]
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_round_trip_and_unknown_ones_are_refused() {
        assert_eq!(Access::from_bits(0), None);
        assert_eq!(Access::from_bits(4), None);
        assert_eq!(Access::from_bits(7), None);
        assert_eq!(Access::from_bits(2), Some(Access::Write));
        for access in [Access::Read, Access::Write] {
            assert_eq!(Access::from_bits(access.bits()), Some(access));
        }
    }
}
