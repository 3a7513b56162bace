//! Where one record ends and the next begins.

use std::num::NonZeroUsize;

use super::FeedError;

/// How much is read at a time, unless a record is longer.
const BUFFER_BYTES: usize = 64 * 1024;

/// How a stream of bytes becomes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A record is a line; a last one may lack its newline.
    Lines {
        /// Whether the newline is part of the record.
        keep_newline: bool,
    },
    /// A record is so many bytes.
    Records(NonZeroUsize),
}

impl Framing {
    /// Makes the first bytes of a datagram of `length` bytes a record.
    pub(super) fn strip_datagram(
        self,
        datagram: &mut Vec<u8>,
        length: usize,
        max_length: usize,
    ) -> Result<(), FeedError> {
        let is_whole = length == datagram.len();
        match self {
            Self::Records(wanted) if length != wanted.get() => {
                return Err(FeedError::WrongSize {
                    found: length,
                    wanted: wanted.get(),
                });
            }
            Self::Lines {
                keep_newline: false,
            } if is_whole => {
                datagram.pop_if(|last| *last == b'\n');
            }
            Self::Records(_) | Self::Lines { .. } => {}
        }
        if !is_whole || datagram.len() > max_length {
            return Err(FeedError::TooLong {
                found: length,
                bound: max_length,
            });
        }
        Ok(())
    }
}

/// Cuts a stream into records.
///
/// # Invariants
///
/// 1. `start <= scanned <= end <= buffer.len()`; what was read and not yet handed out is
///    `buffer[start..end]`, and there is no newline in `buffer[start..scanned]`.
/// 2. After [`next_record`](Self::next_record) returned `false`, at most `max_length` bytes are
///    left, which is less than the buffer: there is room to read into.
#[derive(Debug)]
pub(super) struct Framer {
    framing: Framing,
    max_length: usize,
    buffer: Vec<u8>,
    start: usize,
    scanned: usize,
    end: usize,
    /// The rest of a line that was too long is being passed over.
    skips_line: bool,
    has_ended: bool,
}

impl Framer {
    pub(super) fn new(framing: Framing, max_length: usize) -> Self {
        Self {
            framing,
            max_length,
            buffer: vec![0; BUFFER_BYTES.max(max_length + 1)],
            start: 0,
            scanned: 0,
            end: 0,
            skips_line: false,
            has_ended: false,
        }
    }

    /// Where the next bytes of the stream belong.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.scanned -= self.start;
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }

    /// Takes note of bytes put into [`room`](Self::room).
    pub(super) fn filled(&mut self, length: usize) {
        self.end += length;
    }

    /// Takes note that there are no more bytes.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Drops what there is, and ends.
    pub(super) fn abandon(&mut self) {
        self.drop_to(self.end);
        self.end();
    }

    /// Whether there is nothing more to hand out, now or later.
    pub(super) fn is_finished(&self) -> bool {
        self.has_ended && self.start == self.end
    }

    /// Puts the next record into `record`; `false` when more bytes are needed, or none are left.
    pub(super) fn next_record(&mut self, record: &mut Vec<u8>) -> Result<bool, FeedError> {
        match self.framing {
            Framing::Lines { keep_newline } => self.next_line(record, keep_newline),
            Framing::Records(wanted) => self.next_sized(record, wanted.get()),
        }
    }

    fn next_line(&mut self, record: &mut Vec<u8>, keep_newline: bool) -> Result<bool, FeedError> {
        let bound = self.max_length;
        loop {
            let unscanned = &self.buffer[self.scanned..self.end];
            let newline = unscanned.iter().position(|byte| *byte == b'\n');
            let (line_end, next) = match newline.map(|at| self.scanned + at) {
                Some(newline) => (newline + usize::from(keep_newline), newline + 1),
                None if self.has_ended => (self.end, self.end),
                None => {
                    self.scanned = self.end;
                    let found = self.end - self.start;
                    if self.skips_line {
                        self.drop_to(self.end);
                    } else if found > bound {
                        self.drop_to(self.end);
                        self.skips_line = true;
                        return Err(FeedError::TooLong { found, bound });
                    }
                    return Ok(false);
                }
            };
            if next == self.start {
                return Ok(false);
            }
            let line = self.start..line_end;
            self.drop_to(next);
            if std::mem::take(&mut self.skips_line) {
                continue;
            }
            if line.len() > bound {
                return Err(FeedError::TooLong {
                    found: line.len(),
                    bound,
                });
            }
            record.clear();
            record.extend_from_slice(&self.buffer[line]);
            return Ok(true);
        }
    }

    fn next_sized(&mut self, record: &mut Vec<u8>, wanted: usize) -> Result<bool, FeedError> {
        let found = self.end - self.start;
        if found >= wanted {
            let start = self.start;
            self.drop_to(start + wanted);
            record.clear();
            record.extend_from_slice(&self.buffer[start..start + wanted]);
            return Ok(true);
        }
        if self.has_ended && found > 0 {
            self.drop_to(self.end);
            return Err(FeedError::WrongSize { found, wanted });
        }
        Ok(false)
    }

    fn drop_to(&mut self, place: usize) {
        self.start = place;
        self.scanned = place;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All records and errors of a stream that comes in pieces.
    fn cut(framing: Framing, max_length: usize, pieces: &[&[u8]]) -> Vec<Result<Vec<u8>, String>> {
        let mut framer = Framer::new(framing, max_length);
        let mut found = Vec::new();
        for piece in pieces.iter().map(Some).chain([None]) {
            match piece {
                Some(piece) => {
                    framer.room()[..piece.len()].copy_from_slice(piece);
                    framer.filled(piece.len());
                }
                None => framer.end(),
            }
            let mut record = b"old".to_vec();
            loop {
                match framer.next_record(&mut record) {
                    Ok(true) => found.push(Ok(record.clone())),
                    Ok(false) => break,
                    Err(error) => found.push(Err(error.to_string())),
                }
            }
        }
        assert!(framer.is_finished());
        found
    }

    fn lines(max_length: usize, pieces: &[&[u8]]) -> Vec<Result<Vec<u8>, String>> {
        cut(
            Framing::Lines {
                keep_newline: false,
            },
            max_length,
            pieces,
        )
    }

    #[test]
    fn lines_are_cut_wherever_the_pieces_end() {
        let whole = [Ok(b"ab".to_vec()), Ok(vec![]), Ok(b"c".to_vec())];
        assert_eq!(lines(9, &[b"ab\n\nc"]), whole);
        assert_eq!(lines(9, &[b"a", b"b", b"\n", b"\nc\n"]), whole);
        assert_eq!(lines(9, &[]), []);
        let kept = cut(Framing::Lines { keep_newline: true }, 9, &[b"a\n\nb"]);
        assert_eq!(
            kept,
            [Ok(b"a\n".to_vec()), Ok(b"\n".to_vec()), Ok(b"b".to_vec())]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_one_error_and_the_next_line_follows() {
        let error = |found| {
            Err(format!(
                "a record has {found} bytes or more, but only 3 bytes fit into the state"
            ))
        };
        assert_eq!(
            lines(3, &[b"abc\nabcd\nx\n"]),
            [Ok(b"abc".to_vec()), error(4), Ok(b"x".to_vec())]
        );
        assert_eq!(
            lines(3, &[b"abcd", b"efg", b"h\nx"]),
            [error(4), Ok(b"x".to_vec())]
        );
        assert_eq!(lines(3, &[b"abcd", b"efg"]), [error(4)]);
        assert_eq!(lines(3, &[b"abc", b"\n"]), [Ok(b"abc".to_vec())]);
    }

    #[test]
    fn a_short_last_record_is_an_error_with_both_sizes() {
        let records = cut(
            Framing::Records(NonZeroUsize::new(4).unwrap()),
            9,
            &[b"abcdef", b"gh12"],
        );
        let error = "found 2 bytes where a record of 4 bytes belongs".to_owned();
        assert_eq!(
            records,
            [Ok(b"abcd".to_vec()), Ok(b"efgh".to_vec()), Err(error)]
        );
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            text in prop::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..60),
            cuts in prop::collection::vec(0..60usize, 0..6),
            size in 1..5usize,
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            for framing in [
                Framing::Lines { keep_newline: false },
                Framing::Lines { keep_newline: true },
                Framing::Records(NonZeroUsize::new(size).unwrap()),
            ] {
                let whole = cut(framing, 60, &[&text]);
                prop_assert_eq!(&whole, &cut(framing, 60, &pieces));
                let narrow: Vec<_> = cut(framing, 5, &pieces).into_iter().map(Result::ok).collect();
                let bounded = |record: Vec<u8>| (record.len() <= 5).then_some(record);
                let wanted: Vec<_> =
                    whole.into_iter().map(|record| record.ok().and_then(bounded)).collect();
                prop_assert_eq!(narrow, wanted);
            }
        }
    }
}
