//! A message of KBUS as it is written to the device: `struct kbus_message_header` of its
//! `kbus_defns.h` in the "entire" form, in which name and data follow the header.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | start guard |
//! | 4 | 16 | its id, and the one it replies to: a network and a serial number each, which KBUS sets |
//! | 20 | 8 | to, from: KBUS's own numbers of open files |
//! | 28 | 16 | the first sender and the last receiver of a message between networks |
//! | 44 | 8 | reserved, flags |
//! | 52 | 8 | bytes of the name without its NUL, bytes of data |
//! | 60 | 4 | padding |
//! | 64 | 16 | pointers to name and data, null here |
//! | 80 | 4 | end guard |
//! | 84 | 4 | padding |
//! | 88 | | the name, NULs up to a multiple of four with one at least |
//! | | | the data, zeros up to a multiple of four |
//! | | 4 | end guard once more |
//!
//! Integers are in the machine's byte order. A message of which all ids and flags are zero is an
//! announcement: to whoever listens, and without a reply.

/// Bytes of the header on a machine with pointers of 64 bits, which all are that this is built for.
const HEADER_BYTES: usize = 88;

const START_GUARD: u32 = 0x7375_624b;
const END_GUARD: u32 = 0x4b62_7573;

/// The longest name that KBUS takes (`KBUS_MAX_NAME_LEN`), in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 1000;

/// An announcement called `name`, which has no NUL.
pub(super) fn announcement(name: &str, data: &[u8]) -> Vec<u8> {
    let word = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER_BYTES + name.len() + data.len() + 12);
    message.extend(START_GUARD.to_ne_bytes());
    message.resize(52, 0);
    message.extend(word(name.len()).to_ne_bytes());
    message.extend(word(data.len()).to_ne_bytes());
    message.resize(80, 0);
    message.extend(END_GUARD.to_ne_bytes());
    message.resize(HEADER_BYTES, 0);
    message.extend(name.as_bytes());
    message.push(0);
    pad(&mut message);
    message.extend(data);
    pad(&mut message);
    message.extend(END_GUARD.to_ne_bytes());
    message
}

/// Up to a multiple of four; the header is one.
fn pad(message: &mut Vec<u8>) {
    message.resize(message.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    }

    #[test]
    fn a_message_has_the_bytes_that_kbus_expects() {
        let message = announcement("$.KState.Committed.Fred.Jim", &[1, 2, 3, 4, 5]);
        let expected = [
            "4b627573",
            &"00".repeat(48),
            "1b000000",
            "05000000",
            &"00".repeat(20),
            "7375624b",
            "00000000",
            "242e4b53746174652e436f6d6d69747465642e467265642e4a696d00",
            "0102030405000000",
            "7375624b",
        ];
        assert_eq!(message.len(), 128);
        assert_eq!(message, hex(&expected.concat()));
    }

    #[test]
    fn a_name_of_whole_words_gets_a_word_of_nuls() {
        let message = announcement("$.ab", &[]);
        assert_eq!(message[HEADER_BYTES..], hex("242e6162000000007375624b"));
    }
}
