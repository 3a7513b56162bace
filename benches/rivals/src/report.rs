//! `performance.md`: tables and plots out of a run's file, and nothing by hand.

mod goals;
mod plot;
mod table;

use std::fmt::Write;
use std::path::Path;

use crate::Result;
use crate::peers;
use crate::questions;
use crate::record::{Cell, Record};

/// The method, which is the same for every run.
const METHOD: &str = include_str!("../README.md");

/// Writes `performance.md` into that directory, and its plots and the run's file below it.
pub(crate) fn write(file: &Path, into: &Path) -> Result<()> {
    let figures = std::fs::read_to_string(file)?;
    let record: Record = serde_json::from_str(&figures)?;
    let plots = into.join("performance");
    std::fs::create_dir_all(&plots)?;
    // Beside what is made of them, so that anybody can make it again.
    std::fs::write(plots.join("run.json"), figures)?;
    let mut text = String::new();
    head(&mut text, &record)?;
    goals::write(&mut text, &record)?;
    for question in questions::ALL {
        let cells = of(&record, question.id);
        if cells.is_empty() {
            continue;
        }
        writeln!(text, "## `{}`: {}\n", question.id, question.about)?;
        table::write(&mut text, question.id, &cells)?;
        for name in plot::draw(question.id, &cells, &plots)? {
            writeln!(text, "![{}](performance/{name}.svg)\n", question.about)?;
        }
    }
    used(&mut text)?;
    method(&mut text)?;
    let path = into.join("performance.md");
    std::fs::write(&path, text)?;
    eprintln!("{} and {}", path.display(), plots.display());
    Ok(())
}

/// The cells of one question.
fn of<'r>(record: &'r Record, question: &str) -> Vec<&'r Cell> {
    let cells = record.cells.iter();
    cells.filter(|cell| cell.question == question).collect()
}

fn head(text: &mut String, record: &Record) -> Result<()> {
    writeln!(
        text,
        "# Performance\n\n\
         <!-- Written by `kstate-rivals report` out of one run of `benches/rivals`. Change nothing here. -->\n\n\
         kstate beside its peers and the limits of the machine, all measured in turn in one run.\n\
         Figures are medians in nanoseconds unless said; compare them with each other, not with\n\
         another machine's. Make your own:\n\n\
         ```sh\n\
         cargo run --release --manifest-path benches/rivals/Cargo.toml -- run --out run.json\n\
         cargo run --release --manifest-path benches/rivals/Cargo.toml -- report run.json --into docs\n\
         ```\n"
    )?;
    if record.short {
        writeln!(
            text,
            "This was a **short** run: orders of magnitude, and tails of few samples.\n"
        )?;
    }
    writeln!(text, "| the run | |\n|---|---|")?;
    writeln!(text, "| date | {}, {} s |", record.date, record.seconds)?;
    writeln!(text, "| command | `kstate-rivals {}` |", record.command)?;
    for (name, value) in &record.machine {
        writeln!(text, "| {name} | {value} |")?;
    }
    let versions: Vec<String> = record
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    writeln!(text, "| versions | {} |", versions.join(", "))?;
    writeln!(text, "| all figures | [run.json](performance/run.json) |\n")?;
    Ok(())
}

fn used(text: &mut String) -> Result<()> {
    writeln!(text, "## How each is used\n")?;
    writeln!(text, "| | |\n|---|---|")?;
    for peer in peers::ALL {
        writeln!(text, "| {} | {} |", peer.title(), peer.used())?;
    }
    writeln!(text)?;
    Ok(())
}

/// The method out of the README, from its heading on.
fn method(text: &mut String) -> Result<()> {
    let (_, method) = METHOD
        .split_once("## Method")
        .ok_or("the README has no method")?;
    writeln!(text, "## Method{}", method.trim_end())?;
    Ok(())
}
