//! The demo where there is no terminal: a few lines each second.

use std::io::{self, Write};

use super::board::{Board, grouped, show_ns};
use crate::duration;

/// Writes `board`.
///
/// # Errors
///
/// `output` fails.
pub(super) fn write(mut output: impl Write, board: &Board) -> io::Result<()> {
    let mut lines = format!("after {:.0} s:\n", board.elapsed.as_secs_f64());
    for state in &board.states {
        let age = state.age.map_or_else(|| "-".to_owned(), duration::show);
        lines += &format!(
            "  {:<8} generation {:>9}  {:>5.0}/s  age {age:>8}  {}\n",
            state.name,
            grouped(state.generation),
            state.rate,
            state.words,
        );
    }
    for process in board
        .processes
        .iter()
        .filter(|process| !process.unit.is_empty())
    {
        lines += &format!(
            "  {:<13} {:>10} {}",
            process.role.name(),
            grouped(process.amount),
            process.unit,
        );
        if !process.measure.is_empty() {
            lines += &format!(
                "  {} median {}, 99 % {}",
                process.measure,
                show_ns(process.latency.p50_ns),
                show_ns(process.latency.p99_ns),
            );
        }
        lines.push('\n');
    }
    output.write_all(lines.as_bytes())?;
    output.flush()
}
