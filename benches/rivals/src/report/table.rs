//! Tables: a row a peer, a column a case.

use std::fmt::Write;

use crate::Result;
use crate::peers;
use crate::record::{Cell, Figures};

/// What a table shows of a cell.
struct Shown {
    title: &'static str,
    of: fn(&Figures) -> Option<String>,
    /// Behind a heading that opens.
    folded: bool,
}

const MEDIANS: Shown = Shown {
    title: "Medians, ns",
    of: |figures| Some(ns(figures.p50)),
    folded: false,
};

const TAILS: Shown = Shown {
    title: "90th, 99th and 99.9th percentiles of blocks of some 20 µs, ns an operation",
    of: |figures| {
        Some(format!(
            "{} / {} / {}",
            ns(figures.p90),
            ns(figures.p99),
            ns(figures.p999)
        ))
    },
    folded: true,
};

const NOISE: Shown = Shown {
    title: "Least and greatest median of a round, ns: the noise",
    of: |figures| {
        let least = figures.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = figures.rounds.iter().copied().fold(0.0, f64::max);
        Some(format!("{} – {}", ns(least), ns(greatest)))
    },
    folded: true,
};

const RATE: Shown = Shown {
    title: "Operations a second, of all together",
    of: |figures| figures.count("operations_a_second").map(many),
    folded: false,
};

const TORN: Shown = Shown {
    title: "Mixtures of two versions, of so many values whose words were all compared",
    of: |figures| {
        let torn = figures.count("torn")? + figures.count("torn_ends").unwrap_or(0.0);
        Some(format!("{torn} of {}", many(figures.count("checked")?)))
    },
    folded: false,
};

const APART: Shown = Shown {
    title: "Readings whose values were not of one moment",
    of: |figures| figures.count("torn").map(many),
    folded: false,
};

const WRITES: Shown = Shown {
    title: "Publications a second meanwhile, and their median in ns where the writer goes flat out",
    of: |figures| {
        let rate = many(figures.count("writes_a_second")?);
        Some(match figures.count("publish_p50_ns") {
            Some(median) => format!("{rate}, {}", ns(median)),
            None => rate,
        })
    },
    folded: true,
};

const ATTEMPTS: Shown = Shown {
    title: "Attempts an update; lost updates",
    of: |figures| {
        let attempts = figures.count("attempts_an_update")?;
        Some(format!("{attempts:.2}; {}", figures.count("lost")?))
    },
    folded: false,
};

const MISSED: Shown = Shown {
    title: "Publications that nobody woke for, of all",
    of: |figures| {
        let missed = figures.count("missed")?;
        Some(format!("{missed} of {}", figures.samples))
    },
    folded: true,
};

const BYTES: Shown = Shown {
    title: "Bytes of memory a value",
    of: |figures| figures.count("bytes_a_value").map(many),
    folded: false,
};

const MAKING: Shown = Shown {
    title: "Making one, ns",
    of: |figures| figures.count("make_ns").map(ns),
    folded: false,
};

/// All tables of a question.
pub(super) fn write(text: &mut String, question: &str, cells: &[&Cell]) -> Result<()> {
    if cells.iter().any(|cell| cell.seen.is_some()) {
        return said(text, cells);
    }
    // What has to do with time is a table of its own.
    if matches!(question, "read" | "publish") && cells.iter().any(|cell| cell.case.contains(',')) {
        let (timed, plain): (Vec<&Cell>, Vec<&Cell>) = cells
            .iter()
            .copied()
            .partition(|cell| cell.case.contains(','));
        write(text, "plain", &plain)?;
        return write(text, "timed", &timed);
    }
    if question == "many" {
        one(text, &BYTES, cells)?;
        return one(text, &MAKING, cells);
    }
    let more: &[Shown] = match question {
        "readers" => &[RATE],
        "beside" => &[TORN, WRITES],
        "update" => &[RATE, ATTEMPTS],
        "wake" => &[MISSED],
        "several" => &[APART],
        _ => &[],
    };
    for shown in [MEDIANS].iter().chain(more).chain(&[TAILS, NOISE]) {
        one(text, shown, cells)?;
    }
    Ok(())
}

fn one(text: &mut String, shown: &Shown, cells: &[&Cell]) -> Result<()> {
    let mut cases: Vec<&str> = Vec::new();
    for cell in cells {
        if !cases.contains(&cell.case.as_str()) {
            cases.push(&cell.case);
        }
    }
    match shown.folded {
        true => writeln!(text, "<details><summary>{}</summary>\n", shown.title)?,
        false => writeln!(text, "{}:\n", shown.title)?,
    }
    writeln!(text, "| | {} |", cases.join(" | "))?;
    writeln!(text, "|---|{}", "---|".repeat(cases.len()))?;
    let mut left_out = Vec::new();
    for peer in peers::ALL {
        let of_peer: Vec<&&Cell> = cells.iter().filter(|cell| cell.peer == peer.id()).collect();
        let Some(first) = of_peer.first() else {
            continue;
        };
        let same = |cell: &&&Cell| cell.cannot.is_some() && cell.cannot == first.cannot;
        if of_peer.iter().all(same) {
            let why = first.cannot.as_deref().unwrap_or("");
            left_out.push(format!("{}: {why}", peer.title()));
            continue;
        }
        let column = |case: &&str| {
            let cell = of_peer.iter().find(|cell| cell.case == **case);
            match cell.map(|cell| (&cell.figures, &cell.cannot)) {
                None => String::new(),
                Some((Some(figures), _)) => (shown.of)(figures).unwrap_or_else(|| "–".to_owned()),
                Some((None, why)) => why.as_deref().unwrap_or("–").replace('|', "/"),
            }
        };
        let columns: Vec<String> = cases.iter().map(column).collect();
        writeln!(text, "| {} | {} |", peer.title(), columns.join(" | "))?;
    }
    writeln!(text)?;
    if shown.folded {
        writeln!(text, "</details>\n")?;
    } else if !left_out.is_empty() {
        writeln!(text, "Not in this table: {}.\n", left_out.join("; "))?;
    }
    Ok(())
}

/// Where sentences are the answer.
fn said(text: &mut String, cells: &[&Cell]) -> Result<()> {
    let mut case = "";
    for cell in cells {
        if cell.case != case {
            case = &cell.case;
            writeln!(text, "\n**{case}**\n\n| | |\n|---|---|")?;
        }
        let title = peers::find(&cell.peer).map_or("?", |peer| peer.title());
        let seen = cell
            .seen
            .as_deref()
            .or(cell.cannot.as_deref())
            .unwrap_or("–");
        writeln!(text, "| {title} | {} |", seen.replace('|', "/"))?;
    }
    writeln!(text)?;
    Ok(())
}

/// Nanoseconds with about three digits.
pub(super) fn ns(ns: f64) -> String {
    match ns {
        _ if !ns.is_finite() => "–".to_owned(),
        _ if ns < 10.0 => format!("{ns:.1}"),
        _ if ns < 1000.0 => format!("{ns:.0}"),
        _ => many((ns / 10.0).round() * 10.0),
    }
}

/// A big number in groups of three digits.
fn many(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}
