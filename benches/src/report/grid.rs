//! The tables of the grid: means over all cells, an overview, and each cell.

use super::{CHURN, Report, Samples, line, ratio_columns};
use crate::measure::Sample;
use crate::plan::BASELINE;
use std::fmt::Write as _;

pub(super) fn means(report: &Report, text: &mut String) {
    let _ = write!(
        text,
        "\n### Against the {BASELINE}, over all cells\n\n\
         Geometric means over the cells, then over the rounds, with their 95% intervals.\n\n\
         | server | cells | complete rounds | CPU a message | 95% | | messages a second | 95% | \
         |\n|---|--:|--:|--:|---|---|--:|---|---|\n"
    );
    let echoes = report.echo_cells();
    for server in report.measured.servers() {
        let cpu = report.cpu_ratio(&server);
        let rate = report.measured.to_baseline(&server, &echoes, |sample| sample.per_second);
        let cells = echoes.iter().filter(|cell| report.measured.has(cell, &server));
        let mut row = vec![server.clone(), cells.count().to_string(), cpu.rounds.to_string()];
        for ratio in [cpu, rate] {
            row.extend(ratio_columns(ratio));
        }
        line(text, &row);
    }
}

pub(super) fn overview(measured: &Samples<Sample>, text: &mut String) {
    let _ = write!(
        text,
        "\n### CPU a message to the {BASELINE}'s, by cell\n\n\
         Means of the paired ratios; bold where the 95% interval excludes 1.\n\n"
    );
    let mut servers = measured.servers();
    servers.retain(|server| server != BASELINE);
    line(text, &[&["cell".to_owned()], &servers[..]].concat());
    let _ = writeln!(text, "|---|{}", "--:|".repeat(servers.len()));
    for cell in measured.cells() {
        let one = std::slice::from_ref(&cell);
        let ratios = servers.iter().map(|server| {
            if !measured.has(&cell, server) {
                return "–".into();
            }
            let ratio = measured.to_baseline(server, one, |sample| sample.cpu_ns);
            let mark = if ratio.is_shown() { "**" } else { "" };
            format!("{mark}{:.2}{mark}", ratio.mean)
        });
        let row: Vec<String> = [cell.clone()].into_iter().chain(ratios).collect();
        line(text, &row);
    }
}

pub(super) fn cells(measured: &Samples<Sample>, text: &mut String) {
    for cell in measured.cells() {
        let each = if cell == CHURN { "connection" } else { "message" };
        let _ = write!(
            text,
            "\n### {cell}\n\n| server | thousand a second | min–max | CPU ns a {each} | min–max \
             | CPU to {BASELINE} | 95% | | switches per 1000 |\n\
             |---|--:|--:|--:|--:|--:|---|---|--:|\n"
        );
        for server in measured.servers() {
            let of = |field: fn(&Sample) -> f64| measured.spread(&cell, &server, field);
            let rate = of(|sample| sample.per_second / 1000.0);
            let (cpu, switches) = (of(|sample| sample.cpu_ns), of(|s| s.switches_per_1000));
            let (Some(rate), Some(cpu), Some(switches)) = (rate, cpu, switches) else { continue };
            let one = std::slice::from_ref(&cell);
            let ratio = measured.to_baseline(&server, one, |sample| sample.cpu_ns);
            let mut row = vec![
                server.clone(),
                format!("{:.1}", rate.median),
                format!("{:.1}–{:.1}", rate.min, rate.max),
                format!("{:.0}", cpu.median),
                format!("{:.0}–{:.0}", cpu.min, cpu.max),
            ];
            row.extend(ratio_columns(ratio));
            row.push(format!("{:.1}", switches.median));
            line(text, &row);
        }
    }
}
