//! Values that show whether they are whole.

/// Words of a checked value: half a kilobyte, many cache lines.
pub const WORDS: usize = 64;

/// A value all of whose words follow from one number.
pub type Checked = [u64; WORDS];

/// The value that carries `number`.
pub fn checked(number: u64) -> Checked {
    let mut value = [number; WORDS];
    for (at, word) in (0_u64..).zip(&mut value).skip(1) {
        *word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7) ^ at;
    }
    value
}

/// The number that a value carries; `None` when it is torn.
pub fn number_of(value: &Checked) -> Option<u64> {
    (*value == checked(value[0])).then_some(value[0])
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
