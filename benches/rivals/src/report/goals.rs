//! Whether kstate is what it wants to be, case by case.

use std::fmt::Write;

use super::of;
use super::table::ns;
use crate::Result;
use crate::peers::{self, Kind};
use crate::record::{Cell, Record};

/// How much more than the bare limit there may be.
const OF_LIMIT: f64 = 1.3;
/// How much two readers may slow each other, nobody writing.
const OF_ONE: f64 = 1.1;

/// One comparison.
struct Row {
    case: String,
    ours: f64,
    rival: Option<(&'static str, f64)>,
    limit: Option<(&'static str, f64)>,
}

/// A table of all cases of reading, publishing and waking.
pub(super) fn write(text: &mut String, record: &Record) -> Result<()> {
    let mut rows = Vec::new();
    for (question, limits) in [
        ("read", &["ring"][..]),
        ("beside", &["ring"]),
        ("publish", &["ring"]),
        ("wake", &["futex"]),
    ] {
        rows.extend(compare(&of(record, question), question, limits));
    }
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(text, "## Against its goals\n")?;
    writeln!(
        text,
        "kstate wants to be faster than the fastest peer whose reads are consistent between processes, and \
         within {OF_LIMIT} times the bare limit: a copy out of a ring that checks nothing, a copy and a \
         compare-and-swap, a futex. Beside a writer a peer counts whose \
         writer did not sleep: nine tenths of kstate's publications at 100 kHz, a tenth flat out. Medians, ns; \
         **bold** where it is not.\n"
    )?;
    writeln!(
        text,
        "| | kstate | fastest peer | | bare limit | |\n|---|---|---|---|---|---|"
    )?;
    let mut missed = 0;
    for row in &rows {
        let against = |other: Option<(&str, f64)>, bound: f64| match other {
            None => ("–".to_owned(), String::new(), false),
            Some((name, figure)) => {
                let ratio = row.ours / figure;
                let over = ratio > bound;
                let mark = if over { "**" } else { "" };
                (
                    format!("{name} {}", ns(figure)),
                    format!("{mark}{ratio:.2}{mark}"),
                    over,
                )
            }
        };
        let (rival, of_rival, slower) = against(row.rival, 1.0);
        let (limit, of_limit, over) = against(row.limit, OF_LIMIT);
        missed += usize::from(slower) + usize::from(over);
        writeln!(
            text,
            "| {} | {} | {rival} | {of_rival} | {limit} | {of_limit} |",
            row.case,
            ns(row.ours)
        )?;
    }
    writeln!(text)?;
    readers(text, record)?;
    writeln!(
        text,
        "{missed} of {} comparisons are over.\n",
        2 * rows.len()
    )?;
    Ok(())
}

fn compare(cells: &[&Cell], question: &str, limits: &[&str]) -> Vec<Row> {
    let mut rows = Vec::new();
    for ours in cells.iter().filter(|cell| cell.peer == "kstate") {
        let Some(figures) = &ours.figures else {
            continue;
        };
        let others = || cells.iter().filter(|cell| cell.case == ours.case);
        let figure = |cell: &&&Cell| {
            let title = peers::find(&cell.peer)?.title();
            Some((title, cell.figures.as_ref()?.p50))
        };
        let consistent = |cell: &&&Cell| {
            let torn = |figures: &crate::record::Figures| {
                figures.count("torn").unwrap_or(0.0) + figures.count("torn_ends").unwrap_or(0.0)
            };
            let seen_torn = cell
                .figures
                .as_ref()
                .is_some_and(|figures| torn(figures) > 0.0);
            let kind = peers::find(&cell.peer).map(peers::Peer::kind);
            kind == Some(Kind::Between { consistent: true }) && !seen_torn
        };
        // Who is read beside a writer that sleeps is not read beside a writer.
        let writes = |cell: &Cell| cell.figures.as_ref()?.count("writes_a_second");
        let share = if ours.case.ends_with("flat out") {
            0.1
        } else {
            0.9
        };
        let enough = writes(ours).map(|rate| rate * share);
        let written = |cell: &&&Cell| writes(cell).unwrap_or(0.0) >= enough.unwrap_or(0.0);
        let rival = others()
            .filter(consistent)
            .filter(written)
            .filter_map(|cell| figure(&cell))
            .min_by(|a, b| a.1.total_cmp(&b.1));
        let limit = others()
            .filter(|cell| limits.contains(&cell.peer.as_str()))
            .find_map(|cell| figure(&cell));
        rows.push(Row {
            case: format!("{question}: {}", ours.case),
            ours: figures.p50,
            rival,
            limit,
        });
    }
    rows
}

/// Whether readers leave each other alone.
fn readers(text: &mut String, record: &Record) -> Result<()> {
    let cells = of(record, "readers");
    for size in ["64 B", "4 KiB"] {
        let median = |case: &str| {
            let mut ours = cells.iter().filter(|cell| cell.peer == "kstate");
            let cell = ours.find(|cell| cell.case == format!("{size}, {case}"))?;
            Some(cell.figures.as_ref()?.p50)
        };
        let (Some(one), Some(two)) = (median("1 reader"), median("2 readers")) else {
            continue;
        };
        let ratio = two / one;
        let verdict = if ratio > OF_ONE {
            "**more than**"
        } else {
            "within"
        };
        writeln!(
            text,
            "Two readers of {size} take {ratio:.2} times what one takes, {verdict} the {OF_ONE} there may be.\n"
        )?;
    }
    Ok(())
}
