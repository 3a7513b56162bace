//! Values that show whether they are whole.

/// Words of a checked value: half a kilobyte, many cache lines.
pub const WORDS: usize = 64;

/// A value all of whose words follow from one number.
pub type Checked = [u64; WORDS];

/// The value that carries `number`.
pub fn checked(number: u64) -> Checked {
    words(number)
}

/// A value of so many words that carries `number`.
pub fn words<const N: usize>(number: u64) -> [u64; N] {
    let mut at = 0;
    [(); N].map(|()| {
        at += 1;
        word(number, at - 1)
    })
}

/// The number that a value carries; `None` when it is torn.
pub fn number_of(value: &[u64]) -> Option<u64> {
    let number = *value.first()?;
    let whole = (0..)
        .zip(value)
        .all(|(at, found)| *found == word(number, at));
    whole.then_some(number)
}

/// The bytes of a value of `length` bytes, whole words, that carries `number`.
pub fn bytes_of(number: u64, length: usize) -> Vec<u8> {
    let words = (0..).take(length / size_of::<u64>());
    words
        .flat_map(|at| word(number, at).to_ne_bytes())
        .collect()
}

/// The number that the bytes of a value carry; `None` when it is torn.
pub fn number_of_bytes(bytes: &[u8]) -> Option<u64> {
    let (words, rest) = bytes.as_chunks();
    let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    number_of(&words).filter(|_| rest.is_empty())
}

fn word(number: u64, at: u64) -> u64 {
    match at {
        0 => number,
        _ => number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7) ^ at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_of_two_values_is_seen() {
        let (old, new) = (checked(7), checked(8));
        assert_eq!(number_of(&old), Some(7));
        for cut in 1..WORDS {
            let mut mixture = new;
            mixture[cut..].copy_from_slice(&old[cut..]);
            assert_eq!(number_of(&mixture), None, "cut at {cut}");
        }
    }
}
