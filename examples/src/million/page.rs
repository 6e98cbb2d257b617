//! The report as one HTML page without other files: figures, plots over time, the whole table.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use super::figures::{bytes, grouped};
use super::machine_text::machine_text;
use super::plots::{COLORS, Points, lines};
use super::report::{Report, Sample};
use super::report_rows::{Row, microseconds};

/// Writes the page to `path`, and makes the directory if needed.
///
/// # Errors
/// When the directory or the file cannot be written; the error names it.
pub fn write(path: &Path, report: &Report) -> Result<(), Box<dyn Error>> {
    let html = html(report)?;
    if let Some(directory) = path.parent() {
        let make = std::fs::create_dir_all(directory);
        make.map_err(|error| format!("make {}: {error}", directory.display()))?;
    }
    std::fs::write(path, html).map_err(|error| format!("write {}: {error}", path.display()).into())
}

/// The page's text.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn html(report: &Report) -> Result<String, Box<dyn Error>> {
    let mut page = String::new();
    page.push_str(HEAD);
    let title = format!("{} live connections", grouped(report.held_at_once));
    write!(page, "<title>{title}</title>\n<main>\n<h1>{title}</h1>\n")?;
    write!(page, "{}", verdict(report))?;
    write!(page, "{}", headline(report))?;
    let seconds = report.samples.last().map_or(0.0, |sample| sample.seconds);
    for plot in plots(report) {
        write!(page, "{}", figure(&plot, seconds)?)?;
    }
    write!(page, "{}", table(&report.rows()))?;
    if let Some(plan) = &report.plan {
        write!(page, "<h2>Plan</h2>\n<pre>{}</pre>\n", escaped(&plan.to_string()))?;
    }
    write!(page, "<h2>Machine</h2>\n<pre>{}</pre>\n", escaped(&machine_text(&report.machine)))?;
    let command = escaped(&report.command);
    write!(page, "<h2>Command</h2>\n<pre>{command}</pre>\n</main>\n</html>\n")?;
    Ok(page)
}

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<style>
:root { --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --paper: #fff; --card: #f6f8fa;
  --good: #1a7f37; --bad: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --paper: #0d1117; --card: #151b23; --good: #3fb950; --bad: #f85149; } }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1.2rem 0; }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
figure { margin: 2rem 0 0; } figcaption { font-weight: 600; }
figcaption span { font-weight: 400; color: var(--soft); margin-left: .8rem; white-space: nowrap; }
figcaption i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em; }
svg { display: block; width: 100%; height: auto; margin-top: .4rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .5rem; border-bottom: 1px solid var(--line); }
th { font-weight: 400; color: var(--soft); } td { font-variant-numeric: tabular-nums; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem;
  font-size: .8rem; overflow-x: auto; margin: 0; }
</style>
"#;

fn verdict(report: &Report) -> String {
    match report.verdict() {
        Ok(()) => {
            "<p class=\"good\">Every connection was verified, held and closed in order.</p>\n"
                .to_owned()
        }
        Err(fault) => format!("<p class=\"bad\">Failed: {}.</p>\n", escaped(&fault)),
    }
}

fn headline(report: &Report) -> String {
    let figures = [
        ("verified", grouped(report.verified)),
        ("lost", grouped(report.lost.max(report.hold.lost))),
        ("came up in", format!("{:.1} s", report.connect_seconds)),
        ("server, each", format!("{:.0} B", report.user_bytes_per_connection)),
        ("kernel, each", bytes(report.kernel_bytes_per_pair as u64)),
        ("p99 while held", microseconds(report.hold.p99_us)),
    ];
    let cards = figures.map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>"));
    format!("<dl>\n{}\n</dl>\n", cards.join("\n"))
}

/// One plot: its title, and a name and points for each line. A single line has no name.
struct Plot {
    title: &'static str,
    lines: Vec<(&'static str, Points)>,
}

fn plots(report: &Report) -> [Plot; 4] {
    let over_time = |value: fn(&Sample) -> Option<f64>| -> Points {
        let points = report.samples.iter();
        points.filter_map(|sample| Some((sample.seconds, value(sample)?))).collect()
    };
    let swarm = over_time(|sample| Some(sample.connections as f64));
    let server = over_time(|sample| sample.server_open.map(|count| count as f64));
    let kernel = over_time(|sample| Some(sample.kernel_bytes as f64));
    let user = over_time(|sample| Some(sample.user_bytes as f64));
    let p99 = over_time(|sample| sample.p99_us);
    [
        Plot { title: "Connections open", lines: vec![("by swarm", swarm), ("by server", server)] },
        Plot { title: "Kernel memory, bytes", lines: vec![("", kernel)] },
        Plot { title: "Server's private memory, bytes", lines: vec![("", user)] },
        Plot { title: "Round trips, p99, µs", lines: vec![("", p99)] },
    ]
}

fn figure(plot: &Plot, seconds: f64) -> Result<String, Box<dyn Error>> {
    let mut text = format!("<figure>\n<figcaption>{}", plot.title);
    for ((name, _), (red, green, blue)) in plot.lines.iter().zip(COLORS) {
        if name.is_empty() {
            continue;
        }
        let color = format!("rgb({red} {green} {blue})");
        write!(text, "<span><i style=\"background:{color}\"></i>{name}</span>")?;
    }
    let series: Vec<Points> = plot.lines.iter().map(|(_, points)| points.clone()).collect();
    write!(text, "</figcaption>\n{}\n</figure>\n", lines(&series, seconds)?)?;
    Ok(text)
}

fn table(rows: &[Row]) -> String {
    let line = |row: &Row| {
        format!("<tr><th>{}</th><td>{}</td></tr>\n", escaped(&row.label), escaped(&row.value))
    };
    let lines: String = rows.iter().map(line).collect();
    format!("<h2>All figures</h2>\n<table>\n{lines}</table>\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::fake_root::FakeRoot;
    use super::super::report::tests::flawless;
    use super::*;

    #[test]
    fn page_has_four_plots_and_the_figures() {
        let page = html(&flawless()).unwrap();
        assert_eq!(page.matches("<svg ").count(), 4);
        assert!(page.contains("<h1>1,000,000 live connections</h1>"));
        assert!(page.contains("class=\"good\""));
        assert!(page.contains("8.3 KB"));
    }

    #[test]
    fn page_needs_nothing_from_outside() {
        let page = html(&flawless()).unwrap();
        for tag in ["<script", "<link", "<img", "@import", "url(", "src="] {
            assert!(!page.contains(tag), "{tag}");
        }
        let addresses = page.matches("http").count();
        assert_eq!(addresses, page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
    }

    #[test]
    fn failure_is_the_first_thing_said_and_text_is_escaped() {
        let report = Report { lost: 1, command: "million --x '<b>'".to_owned(), ..flawless() };
        let page = html(&report).unwrap();
        assert!(page.contains("Failed: of 1,000,000 connections: 1 lost."));
        assert!(page.contains("&lt;b&gt;") && !page.contains("<b>"));
    }

    #[test]
    fn page_is_written_with_its_directory_and_errors_name_the_path() {
        let fake = FakeRoot::new();
        let path = fake.path().join("million/report.html");
        write(&path, &flawless()).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("<!doctype html>"));
        let below_a_file = path.join("report.html");
        let error = write(&below_a_file, &flawless()).unwrap_err().to_string();
        assert!(error.contains("report.html"), "{error}");
    }
}
