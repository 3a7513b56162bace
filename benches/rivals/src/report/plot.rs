//! Plots, as SVG.

use std::path::Path;

use plotters::prelude::*;

use crate::Result;
use crate::peers;
use crate::record::{Cell, Figures};

/// Pixels.
const SIZE: (u32, u32) = (900, 480);

/// Where the names of lines begin, in pixels.
const NAMES: (i32, i32) = (700, 50);

/// A color a peer, in the order of all of them: ours warm, the limits grey.
const COLORS: [RGBColor; 17] = [
    RGBColor(214, 39, 40),
    RGBColor(255, 127, 14),
    RGBColor(160, 82, 20),
    RGBColor(31, 119, 180),
    RGBColor(23, 190, 207),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(227, 119, 194),
    RGBColor(0, 95, 115),
    RGBColor(188, 189, 34),
    RGBColor(87, 117, 144),
    RGBColor(106, 4, 88),
    RGBColor(0, 0, 0),
    RGBColor(85, 85, 85),
    RGBColor(150, 150, 150),
    RGBColor(58, 58, 160),
    RGBColor(190, 170, 150),
];

/// A line of a plot.
struct Line {
    title: &'static str,
    style: ShapeStyle,
    points: Vec<(f64, f64)>,
}

/// What is along an axis.
struct Axes<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
    /// What is written at each whole number along x; empty: numbers, on a logarithmic axis.
    names: &'a [&'a str],
}

/// Draws what belongs to a question; returns the names of the files without their ending.
pub(super) fn draw(question: &str, cells: &[&Cell], into: &Path) -> Result<Vec<String>> {
    let mut drawn = Vec::new();
    let mut add = |name: &str, lines: Vec<Line>, axes: &Axes<'_>| -> Result<()> {
        if lines.iter().any(|line| line.points.len() > 1) {
            plot(&into.join(format!("{name}.svg")), &lines, axes)?;
            drawn.push(name.to_owned());
        }
        Ok(())
    };
    match question {
        "read" | "publish" => {
            for (case, name) in [("64 B", "64"), ("4 KiB", "4096")] {
                let title = format!("{question} {case}: percentiles");
                let axes = percentiles(&title);
                let lines = of_case(cells, case, tails);
                add(&format!("{question}-{name}"), lines, &axes)?;
            }
        }
        "beside" => {
            for (case, name) in [
                ("64 B, writer flat out", "64"),
                ("4 KiB, writer flat out", "4096"),
            ] {
                let title = format!("read {case}: percentiles");
                let axes = percentiles(&title);
                add(
                    &format!("beside-{name}"),
                    of_case(cells, case, tails),
                    &axes,
                )?;
            }
        }
        "readers" => {
            for (size, name) in [("64 B", "64"), ("4 KiB", "4096")] {
                let title = format!("{size}: reads a second of all readers together");
                let axes = Axes {
                    title: &title,
                    x: "readers",
                    y: "reads a second",
                    names: &["1", "2", "4"],
                };
                let cases =
                    ["1 reader", "2 readers", "4 readers"].map(|many| format!("{size}, {many}"));
                add(&format!("readers-{name}"), over_cases(cells, &cases), &axes)?;
            }
        }
        "update" => {
            let axes = Axes {
                title: "64 B: updates a second of all writers together",
                x: "writers",
                y: "updates a second",
                names: &["1", "2", "4", "8"],
            };
            let cases = ["1 writer", "2 writers", "4 writers", "8 writers"].map(str::to_owned);
            add("update", over_cases(cells, &cases), &axes)?;
        }
        "wake" => {
            for (case, name) in [
                ("another processor", "other"),
                ("the same processor", "same"),
            ] {
                let title = format!("publish to held on {case}: share of wake-ups");
                let axes = Axes {
                    title: &title,
                    x: "nanoseconds",
                    y: "% within a twelfth of an octave",
                    names: &[],
                };
                add(
                    &format!("wake-{name}"),
                    of_case(cells, case, histogram),
                    &axes,
                )?;
            }
        }
        _ => {}
    }
    Ok(drawn)
}

fn percentiles<'a>(title: &'a str) -> Axes<'a> {
    Axes {
        title,
        x: "percentile",
        y: "nanoseconds",
        names: &["50", "90", "99", "99.9"],
    }
}

/// A line a peer that has figures in this case.
fn of_case(cells: &[&Cell], case: &str, points: fn(&Figures) -> Vec<(f64, f64)>) -> Vec<Line> {
    let line = |peer: &&dyn peers::Peer| {
        let cell = cells
            .iter()
            .find(|cell| cell.peer == peer.id() && cell.case == case)?;
        let points = points(cell.figures.as_ref()?);
        Some(Line {
            title: peer.title(),
            style: style(*peer),
            points,
        })
    };
    peers::ALL.iter().filter_map(line).collect()
}

fn tails(figures: &Figures) -> Vec<(f64, f64)> {
    let tails = [figures.p50, figures.p90, figures.p99, figures.p999];
    (0..).map(f64::from).zip(tails).collect()
}

fn histogram(figures: &Figures) -> Vec<(f64, f64)> {
    let total: u64 = figures.histogram.iter().map(|(_, count)| count).sum();
    let share = |count: u64| 100.0 * count as f64 / total.max(1) as f64;
    let points = figures.histogram.iter();
    points
        .map(|(upper, count)| (*upper, share(*count)))
        .collect()
}

/// A line a peer over several cases: operations a second.
fn over_cases(cells: &[&Cell], cases: &[String]) -> Vec<Line> {
    let line = |peer: &&dyn peers::Peer| {
        let point = |(x, case): (i32, &String)| {
            let cell = cells
                .iter()
                .find(|cell| cell.peer == peer.id() && cell.case == *case)?;
            let rate = cell.figures.as_ref()?.count("operations_a_second")?;
            Some((f64::from(x), rate))
        };
        let points: Vec<(f64, f64)> = (0..).zip(cases).filter_map(point).collect();
        (!points.is_empty()).then_some(Line {
            title: peer.title(),
            style: style(*peer),
            points,
        })
    };
    peers::ALL.iter().filter_map(line).collect()
}

/// The least and the greatest of what is drawn.
fn span(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    numbers
        .filter(|number| number.is_finite() && *number > 0.0)
        .fold((f64::INFINITY, 0.0), |(least, most), number| {
            (least.min(number), most.max(number))
        })
}

fn plot(path: &Path, lines: &[Line], axes: &Axes<'_>) -> Result<()> {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let (low, high) = span(points().map(|(_, y)| y));
    let (left, right) = span(points().map(|(x, _)| x));
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut builder = ChartBuilder::on(&area);
    builder
        .caption(axes.title, ("sans-serif", 18))
        .margin(10)
        .margin_right(220)
        .x_label_area_size(40)
        .y_label_area_size(80);
    let heights = (low / 1.5..high * 1.5).log_scale();
    // Two kinds of axis are two types.
    if axes.names.is_empty() {
        let mut chart =
            builder.build_cartesian_2d((left / 1.5..right * 1.5).log_scale(), heights)?;
        chart
            .configure_mesh()
            .x_desc(axes.x)
            .y_desc(axes.y)
            .y_label_formatter(&|y| short(*y))
            .x_label_formatter(&|x| short(*x))
            .draw()?;
        for line in lines {
            chart.draw_series(LineSeries::new(line.points.clone(), line.style))?;
        }
    } else {
        let last = axes.names.len().saturating_sub(1) as f64;
        let mut chart = builder.build_cartesian_2d(-0.1..last + 0.1, heights)?;
        let name = |x: &f64| {
            let whole = (x - x.round()).abs() < 0.01 && *x > -0.01;
            let name = (0..)
                .map(f64::from)
                .zip(axes.names)
                .find(|(at, _)| (at - x).abs() < 0.01);
            name.filter(|_| whole)
                .map_or_else(String::new, |(_, name)| (*name).to_owned())
        };
        chart
            .configure_mesh()
            .x_desc(axes.x)
            .y_desc(axes.y)
            .x_labels(axes.names.len() * 2)
            .y_label_formatter(&|y| short(*y))
            .x_label_formatter(&name)
            .draw()?;
        for line in lines {
            chart.draw_series(LineSeries::new(line.points.clone(), line.style))?;
        }
    }
    for (line, at) in lines.iter().zip((NAMES.1..).step_by(20)) {
        let key = vec![(NAMES.0, at), (NAMES.0 + 24, at)];
        area.draw(&PathElement::new(key, line.style))?;
        let place = (NAMES.0 + 30, at - 6);
        area.draw(&Text::new(line.title, place, ("sans-serif", 13)))?;
    }
    area.present()?;
    Ok(())
}

/// kstate's own line is drawn thick.
fn style(peer: &dyn peers::Peer) -> ShapeStyle {
    let index = peers::ALL.iter().position(|known| known.id() == peer.id());
    let color = COLORS[index.unwrap_or(0) % COLORS.len()];
    let width = if index == Some(0) { 4 } else { 2 };
    color.to_rgba().stroke_width(width)
}

/// With thousands as k and millions as M.
fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.0}G", n / 1e9),
        n if n >= 1e6 => format!("{:.0}M", n / 1e6),
        n if n >= 1e3 => format!("{:.0}k", n / 1e3),
        n if n >= 1.0 => format!("{n:.0}"),
        n => format!("{n:.1}"),
    }
}
