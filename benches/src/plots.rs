//! Bar plots as SVG files for a page: one bar for each server, shortest first.

use crate::report::Report;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::error::Error;
use std::fs;
use std::path::Path;

const WIDTH: u32 = 760;
/// Where the bars begin: to the left of it are the names.
const LEFT: i32 = 250;
/// Where the longest bar may end: to the right of it is room for its number.
const RIGHT: i32 = 640;
const TOP: i32 = 44;
const ROW: i32 = 24;

const RATIO_MAX: f64 = 2.0;

const OWN: RGBColor = RGBColor(217, 115, 13);
const OTHERS: RGBColor = RGBColor(47, 129, 247);
const INK: RGBColor = RGBColor(40, 44, 52);

/// One server's value.
struct Bar {
    name: String,
    value: f64,
    /// Its 95% interval.
    interval: Option<(f64, f64)>,
}

/// How values become lengths.
#[derive(Clone, Copy)]
enum Scale {
    /// From zero, with a line at 1. Cut at `RATIO_MAX`, so that one far above hides no difference.
    Ratio,
    /// Each factor is as long as the other; from 1.
    Log,
}

/// Writes a file into `folder` for each part of the report that has something to plot.
pub fn write(report: &Report, folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let counted = |field: fn(&crate::report::Counted) -> Option<f64>| {
        let bar = |counted: &crate::report::Counted| {
            let value = field(counted)?;
            Some(Bar { name: counted.server.clone(), value, interval: None })
        };
        report.counted.iter().filter_map(bar).collect::<Vec<_>>()
    };
    let cpu = report.measured.servers().into_iter().filter_map(|name| {
        let ratio = report.cpu_ratio(&name);
        let interval = ratio.high.is_finite().then_some((ratio.low, ratio.high));
        (ratio.rounds > 0).then_some(Bar { name, value: ratio.mean, interval })
    });
    let plots = [
        (
            "cpu.svg",
            "CPU a message, to the bare epoll loop's: mean over the grid, 95% interval (cut at 2)",
            Scale::Ratio,
            cpu.collect(),
        ),
        (
            "instructions.svg",
            "User instructions an echoed message of 64 B, 100 connections, depth 1 (log)",
            Scale::Log,
            counted(|counted| counted.instructions[0]),
        ),
        (
            "idle-bytes.svg",
            "Private bytes an idle connection adds to the server (log)",
            Scale::Log,
            counted(|counted| counted.idle_bytes),
        ),
    ];
    for (file, title, scale, mut bars) in plots {
        if !bars.is_empty() {
            bars.sort_by(|a, b| a.value.total_cmp(&b.value));
            fs::write(folder.join(file), draw(title, scale, &bars)?)?;
        }
    }
    Ok(())
}

fn draw(title: &str, scale: Scale, bars: &[Bar]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    let height = TOP + ROW * bars.len() as i32 + 14;
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height as u32)).into_drawing_area();
        area.fill(&WHITE)?; // the same on a light and on a dark page
        let font = |size: i32| ("sans-serif", size).into_font().color(&INK);
        area.draw(&Text::new(title, (12, 10), font(15)))?;
        let ends = bars.iter().map(|bar| bar.interval.map_or(bar.value, |(_, high)| high));
        let longest = scale.end(ends.fold(f64::MIN_POSITIVE, f64::max));
        let x = |value: f64| LEFT + scale.length(value, longest);
        for (row, bar) in bars.iter().enumerate() {
            let top = TOP + ROW * row as i32;
            let middle = top + ROW / 2;
            let label = font(14).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(bar.name.as_str(), (LEFT - 8, middle), label))?;
            let color = if bar.name.starts_with("net-core") { OWN } else { OTHERS };
            let corners = [(LEFT, top + 4), (x(bar.value), top + ROW - 4)];
            area.draw(&Rectangle::new(corners, color.filled()))?;
            let mut end = x(bar.value);
            if let Some((low, high)) = bar.interval {
                end = x(high);
                let stroke = INK.stroke_width(2);
                area.draw(&PathElement::new([(x(low), middle), (end, middle)], stroke))?;
                for side in [x(low), end] {
                    let whisker = [(side, middle - 4), (side, middle + 4)];
                    area.draw(&PathElement::new(whisker, stroke))?;
                }
            }
            let label = font(14).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(scale.number(bar.value), (end + 8, middle), label))?;
        }
        if matches!(scale, Scale::Ratio) {
            let one = [(x(1.0), TOP - 4), (x(1.0), height - 10)];
            area.draw(&PathElement::new(one, INK.stroke_width(1)))?;
        }
        area.present()?;
    }
    Ok(svg)
}

impl Scale {
    /// The value at which the plot ends.
    fn end(self, longest: f64) -> f64 {
        match self {
            Scale::Ratio => longest.clamp(1.0, RATIO_MAX),
            Scale::Log => longest,
        }
    }

    /// A bar's length, where `longest` is the longest.
    fn length(self, value: f64, longest: f64) -> i32 {
        let part = match self {
            Scale::Ratio => value / longest,
            Scale::Log => value.max(1.0).ln() / longest.max(2.0).ln(),
        };
        (part.clamp(0.0, 1.0) * f64::from(RIGHT - LEFT)) as i32
    }

    fn number(self, value: f64) -> String {
        match self {
            Scale::Ratio => format!("{value:.2}"),
            Scale::Log => format!("{value:.0}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_every_name_and_number() {
        let bar = |name: &str, value, interval| Bar { name: name.into(), value, interval };
        let bars = [bar("mio", 0.98, Some((0.9, 1.1))), bar("net-core, acceptor", 1.01, None)];
        let svg = draw("a title", Scale::Ratio, &bars).unwrap();
        for part in ["<svg ", "a title", "mio", "0.98", "net-core, acceptor", "1.01"] {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
    }

    #[test]
    fn a_bar_is_never_longer_than_the_plot() {
        for scale in [Scale::Ratio, Scale::Log] {
            assert_eq!(scale.length(9.0, 9.0), RIGHT - LEFT);
            assert_eq!(scale.length(0.0, 9.0), 0);
            assert_eq!(scale.length(99.0, scale.end(99.0)), RIGHT - LEFT);
        }
    }
}
