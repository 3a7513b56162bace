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

/// Beside a writer a peer counts whose writer published at least that share of what kstate's did meanwhile.
const AT_RATE: f64 = 0.5;
const FLAT_OUT: f64 = 0.1;

/// One case of ours beside the others.
struct Row {
    case: String,
    ours: f64,
    rival: Option<(&'static str, f64)>,
    limit: Option<(&'static str, f64)>,
    /// Peers that were not looked at, and why.
    left_out: Vec<String>,
}

const QUESTIONS: [(&str, &str); 5] = [
    ("read", "ring"),
    ("readers", "ring"),
    ("beside", "ring"),
    ("publish", "ring"),
    ("wake", "futex"),
];

fn rows(record: &Record, id: &str) -> Vec<Row> {
    let asked = QUESTIONS.iter();
    let rows = asked.map(|(question, limit)| compare(&of(record, question), question, limit, id));
    rows.flatten().collect()
}

/// How many comparisons there were, and how many of them are over.
#[derive(Default)]
struct Count {
    made: usize,
    over: usize,
}

impl Count {
    /// What stands in the two cells of a comparison.
    fn against(&mut self, ours: f64, other: Option<(&str, f64)>, bound: f64) -> (String, String) {
        let Some((name, figure)) = other else {
            return ("–".to_owned(), String::new());
        };
        let ratio = ours / figure;
        // What is no number is not within it.
        let within = ratio <= bound;
        self.made += 1;
        self.over += usize::from(!within);
        let mark = if within { "" } else { "**" };
        (
            format!("{name} {}", ns(figure)),
            format!("{mark}{ratio:.2}{mark}"),
        )
    }
}

/// Tables of all cases of reading, publishing and waking.
pub(super) fn write(text: &mut String, record: &Record) -> Result<()> {
    let ours = rows(record, "kstate");
    if ours.is_empty() {
        return Ok(());
    }
    writeln!(text, "## Against its goals\n")?;
    writeln!(
        text,
        "kstate's library wants to be faster than the fastest peer whose reads are consistent between processes, and \
         within {OF_LIMIT} times the bare limit: a copy out of a ring that checks nothing, a copy and a \
         compare-and-swap, a futex. Medians, ns; **bold** where it is not.\n"
    )?;
    let mut count = table(text, &ours)?;
    let left_out: Vec<String> = ours.iter().flat_map(|row| row.left_out.clone()).collect();
    if !left_out.is_empty() {
        writeln!(
            text,
            "Beside a writer a peer counts whose writer published at least half as often as kstate's at 100 kHz, a \
             tenth flat out, and of which no mixture was seen. Left out: {}.\n",
            left_out.join("; ")
        )?;
    }
    checks(text, record)?;
    readers(text, record, &mut count)?;
    writeln!(
        text,
        "Of {} comparisons {} are over.\n",
        count.made, count.over
    )?;
    for (id, what) in [
        (
            "kstate-c",
            "From C, each call checks its handle and locks it, and always stamps.",
        ),
        (
            "kstate-file",
            "As a file, each operation is a request to the daemon.",
        ),
    ] {
        let rows = rows(record, id);
        if rows.is_empty() {
            continue;
        }
        writeln!(
            text,
            "<details><summary>The same of {}, which is not held to these goals</summary>\n\n{what}\n",
            peers::find(id).map_or(id, peers::Peer::title)
        )?;
        table(text, &rows)?;
        writeln!(text, "</details>\n")?;
    }
    Ok(())
}

fn table(text: &mut String, rows: &[Row]) -> Result<Count> {
    let mut count = Count::default();
    writeln!(
        text,
        "| | kstate | fastest peer | | bare limit | |\n|---|---|---|---|---|---|"
    )?;
    for row in rows {
        let (rival, of_rival) = count.against(row.ours, row.rival, 1.0);
        let (limit, of_limit) = count.against(row.ours, row.limit, OF_LIMIT);
        writeln!(
            text,
            "| {} | {} | {rival} | {of_rival} | {limit} | {of_limit} |",
            row.case,
            ns(row.ours)
        )?;
    }
    writeln!(text)?;
    Ok(count)
}

fn compare(cells: &[&Cell], question: &str, limit: &str, id: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for ours in cells.iter().filter(|cell| cell.peer == id) {
        let Some(figures) = &ours.figures else {
            continue;
        };
        let case = format!("{question}: {}", ours.case);
        let share = match ours.case.ends_with("flat out") {
            true => FLAT_OUT,
            false => AT_RATE,
        };
        let enough = figures.count("writes_a_second").unwrap_or(0.0) * share;
        let mut left_out = Vec::new();
        let mut rival: Option<(&'static str, f64)> = None;
        let mut bare = None;
        for cell in cells.iter().filter(|cell| cell.case == ours.case) {
            let (Some(peer), Some(figures)) = (peers::find(&cell.peer), &cell.figures) else {
                continue;
            };
            let figure = (peer.title(), figures.p50);
            if cell.peer == limit {
                bare = Some(figure);
            }
            if peer.kind() != (Kind::Between { consistent: true }) {
                continue;
            }
            let count = |what| figures.count(what).unwrap_or(0.0);
            let torn = count("torn") + count("torn_ends");
            let writes = figures.count("writes_a_second");
            if torn > 0.0 {
                left_out.push(format!("{case}, {}: {torn} mixtures", peer.title()));
            } else if writes.is_some_and(|writes| writes < enough) {
                // Who is read beside a writer that sleeps is not read beside a writer.
                let rate = writes.unwrap_or(0.0).round();
                left_out.push(format!("{case}, {}: {rate} a second", peer.title()));
            } else if rival.is_none_or(|(_, best)| figure.1 < best) {
                rival = Some(figure);
            }
        }
        rows.push(Row {
            case,
            ours: figures.p50,
            rival,
            limit: bare,
            left_out,
        });
    }
    rows
}

/// What looking whether a copy is one version takes at the least.
fn checks(text: &mut String, record: &Record) -> Result<()> {
    let cells = of(record, "read");
    let mut said = Vec::new();
    for ours in cells.iter().filter(|cell| cell.peer == "kstate") {
        let median = |peer: &str| {
            let mut same = cells.iter().filter(|cell| cell.case == ours.case);
            Some(same.find(|cell| cell.peer == peer)?.figures.as_ref()?.p50)
        };
        if let (Some(kstate), Some(bare), Some(checked)) =
            (median("kstate"), median("ring"), median("checked-ring"))
        {
            said.push(format!(
                "of {} {} ns, {:.2} times the bare ring ({:.2})",
                ours.case,
                ns(checked),
                checked / bare,
                kstate / checked
            ));
        }
    }
    if !said.is_empty() {
        writeln!(
            text,
            "A read that knows whether it got one version cannot be as cheap as a copy. What the checked ring takes, the \
             same ring with one tag a slot and nothing else, is the least of it: {}. In brackets: kstate's read against \
             that.\n",
            said.join("; ")
        )?;
    }
    Ok(())
}

/// Whether readers leave each other alone.
fn readers(text: &mut String, record: &Record, count: &mut Count) -> Result<()> {
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
        let within = ratio <= OF_ONE;
        count.made += 1;
        count.over += usize::from(!within);
        let verdict = if within { "within" } else { "**more than**" };
        writeln!(
            text,
            "Two readers of {size} take {ratio:.2} times what one takes, {verdict} the {OF_ONE} there may be.\n"
        )?;
    }
    Ok(())
}
