//! The demo on a terminal: a live table.

use std::io;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Gauge, Row, Table};

use super::board::{Board, ProcessRow, grouped, show_ns};
use super::observer::StateRow;
use crate::duration;

/// The terminal while the demo has it; given back when dropped.
#[derive(Debug)]
pub(super) struct Screen(DefaultTerminal);

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    ///
    /// It cannot do what is needed.
    pub(super) fn take() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }

    /// Shows `board`.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub(super) fn show(&mut self, board: &Board) -> io::Result<()> {
        self.0.draw(|frame| draw(frame, board)).map(|_| ())
    }

    /// Whether somebody pressed a key that ends the demo: as the terminal is set up, Ctrl-C is a
    /// key and no signal.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub(super) fn is_asked_to_end(&mut self) -> io::Result<bool> {
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                let ends = match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => true,
                    KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
                    _ => false,
                };
                if ends {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn draw(frame: &mut Frame<'_>, board: &Board) {
    let rows = |count: usize| u16::try_from(count + 2).unwrap_or(u16::MAX);
    let [title, gauge, _, states, processes, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(rows(board.states.len())),
        Constraint::Length(rows(board.processes.len())),
        Constraint::Min(1),
    ])
    .areas(frame.area());
    let heading = Line::from(vec![
        Span::from("kstate demo ").bold(),
        Span::from("live states shared between processes; "),
        Span::from(board.mounted.as_str()),
    ]);
    frame.render_widget(heading, title);
    let ratio = board.elapsed.as_secs_f64() / board.length.as_secs_f64().max(0.001);
    let label = format!(
        "{:.0} of {:.0} s",
        board.elapsed.as_secs_f64(),
        board.length.as_secs_f64()
    );
    let bar = Gauge::default()
        .ratio(ratio.clamp(0.0, 1.0))
        .label(label)
        .gauge_style(Color::Cyan);
    frame.render_widget(bar, gauge);
    draw_states(frame, states, &board.states);
    draw_processes(frame, processes, &board.processes);
    let foot_text =
        Line::from("q ends it early; any process may be killed: the others go on").dim();
    frame.render_widget(foot_text, foot);
}

fn draw_states(frame: &mut Frame<'_>, area: Rect, states: &[StateRow]) {
    let rows = states.iter().map(|state| {
        Row::new([
            Line::from(state.name).bold(),
            right(grouped(state.generation)),
            right(format!("{:.0}", state.rate)),
            right(state.age.map_or_else(|| "-".to_owned(), duration::show)),
            right(format!("{} B", state.length)),
            Line::from(state.words.as_str()),
        ])
    });
    let widths = [
        Constraint::Length(8),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Fill(1),
    ];
    let headings = [
        "STATE",
        ">GENERATION",
        ">COMMITS/S",
        ">AGE",
        ">LENGTH",
        "VALUE",
    ];
    frame.render_widget(Table::new(rows, widths).header(header(headings)), area);
}

fn draw_processes(frame: &mut Frame<'_>, area: Rect, processes: &[ProcessRow]) {
    let rows = processes.iter().map(|process| {
        let measured = |ns: f64| match process.measure {
            "" => Line::default(),
            _ => right(show_ns(ns)),
        };
        let amount = match process.unit {
            "" => Line::default(),
            unit => right(format!("{} {unit}", grouped(process.amount))),
        };
        let torn = match process.torn {
            0 => Line::default(),
            torn => right(torn.to_string()).fg(Color::Red),
        };
        Row::new([
            Line::from(process.role.name()).bold(),
            right(process.pid.to_string()),
            amount,
            Line::from(process.measure),
            measured(process.latency.p50_ns),
            measured(process.latency.p99_ns),
            torn,
            Line::from(process.state.as_str()),
        ])
    });
    let widths = [
        Constraint::Length(13),
        Constraint::Length(7),
        Constraint::Length(18),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(4),
        Constraint::Fill(1),
    ];
    let headings = [
        "PROCESS", ">PID", ">SO FAR", "TIME", ">MEDIAN", ">99 %", ">TORN", "DOES",
    ];
    frame.render_widget(Table::new(rows, widths).header(header(headings)), area);
}

/// Headings; those that begin with `>` stand over columns of numbers.
fn header<const N: usize>(headings: [&'static str; N]) -> Row<'static> {
    let cells = headings.map(|heading| match heading.strip_prefix('>') {
        Some(heading) => right(heading.to_owned()),
        None => Line::from(heading),
    });
    Row::new(cells).style(Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD))
}

fn right(text: String) -> Line<'static> {
    Line::from(text).right_aligned()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::report::Latency;
    use super::super::role::Role;
    use super::*;

    #[test]
    fn a_moment_is_shown_with_states_and_processes() {
        let board = Board {
            elapsed: Duration::from_secs(3),
            length: Duration::from_secs(10),
            mounted: "mounted directly".into(),
            states: vec![StateRow {
                name: "load",
                generation: 3000,
                rate: 999.6,
                age: Some(Duration::from_micros(412)),
                length: 64,
                words: "0.42 over 1 min".into(),
            }],
            processes: vec![ProcessRow {
                role: Role::AtWill,
                pid: 4711,
                unit: "reads",
                amount: 1_234_567,
                measure: "read",
                latency: Latency {
                    p50_ns: 21.0,
                    p99_ns: 140.0,
                },
                torn: 0,
                state: "reads".into(),
            }],
        };
        let mut terminal = Terminal::new(TestBackend::new(110, 16)).unwrap();
        terminal.draw(|frame| draw(frame, &board)).unwrap();
        let shown: String = terminal
            .backend()
            .buffer()
            .content()
            .iter()
            .map(|cell| cell.symbol())
            .collect();
        for text in [
            "3 of 10 s",
            "mounted directly",
            "3 000",
            "1000",
            "412 µs",
            "0.42 over 1 min",
        ] {
            assert!(shown.contains(text), "{text}");
        }
        for text in ["at-will", "4711", "1 234 567 reads", "21.0 ns", "140 ns"] {
            assert!(shown.contains(text), "{text}");
        }
    }
}
