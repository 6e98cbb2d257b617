//! What `compare` says: everything as JSON, and tables in Markdown.

use crate::measure::Sample;
use crate::plan::BASELINE;
use crate::stats::{Ratio, Spread, geometric_mean};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The cell that is no echo: it is left out of the means.
const CHURN: &str = "churn";

/// A whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Machine, kernel, commit, command, settings: a name and a value each.
    pub setting: Vec<(String, String)>,
    /// What was counted, by server.
    pub counted: Vec<Counted>,
    /// What was measured.
    pub measured: Vec<Measured>,
}

/// What is counted exactly, or nearly so: 100 connections, messages of 64 bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// The server's name.
    pub server: String,
    /// User instructions a message, depth 1 and depth 16.
    pub instructions: [Option<f64>; 2],
    /// System calls a message, depth 1 and depth 16.
    pub syscalls: [Option<f64>; 2],
    /// User instructions and system calls of a connection that comes, has one message echoed, and
    /// goes.
    pub churned: [Option<f64>; 2],
    /// Private bytes that each of many idle connections adds.
    pub idle_bytes: Option<f64>,
}

/// One sample, and where it belongs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// The round, from 0.
    pub round: usize,
    /// The load.
    pub cell: String,
    /// The server's name.
    pub server: String,
    /// What was found.
    pub sample: Sample,
}

impl Report {
    /// All tables.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| setting | value |\n|---|---|\n");
        for (name, value) in &self.setting {
            line(&mut text, &[name.clone(), value.clone()]);
        }
        self.counts(&mut text);
        self.means(&mut text);
        self.overview(&mut text);
        self.cells(&mut text);
        text
    }

    fn counts(&self, text: &mut String) {
        text.push_str(
            "\n### Counted\n\n| server | instructions a message, depth 1 | depth 16 \
             | system calls a message, depth 1 | depth 16 \
             | instructions a connection | system calls a connection \
             | bytes an idle connection |\n|---|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for counted in &self.counted {
            let show = |value: Option<f64>, digits: usize| {
                value.map_or("–".into(), |value| format!("{value:.digits$}"))
            };
            let [one, sixteen] = counted.instructions;
            let mut row = vec![counted.server.clone(), show(one, 0), show(sixteen, 1)];
            row.extend(counted.syscalls.map(|calls| show(calls, 2)));
            let [instructions, calls] = counted.churned;
            row.extend([show(instructions, 0), show(calls, 1), show(counted.idle_bytes, 0)]);
            line(text, &row);
        }
    }

    fn means(&self, text: &mut String) {
        let _ = write!(
            text,
            "\n### Against the {BASELINE}, over all cells\n\n\
             Geometric means over the cells, then over the rounds, with their 95% intervals.\n\n\
             | server | cells | complete rounds | CPU a message | 95% | | messages a second | 95% | \
             |\n|---|--:|--:|--:|---|---|--:|---|---|\n"
        );
        let echoes: Vec<_> = self.cell_names().into_iter().filter(|cell| cell != CHURN).collect();
        for server in self.server_names() {
            let cpu = self.mean_ratio(&server, &echoes, |sample| sample.cpu_ns);
            let rate = self.mean_ratio(&server, &echoes, |sample| sample.per_second);
            let cells = echoes.iter().filter(|cell| self.samples(cell, &server).next().is_some());
            let mut row = vec![server.clone(), cells.count().to_string(), cpu.rounds.to_string()];
            for ratio in [cpu, rate] {
                row.extend(ratio_columns(ratio));
            }
            line(text, &row);
        }
    }

    fn overview(&self, text: &mut String) {
        let _ = write!(
            text,
            "\n### CPU a message to the {BASELINE}'s, by cell\n\n\
             Means of the paired ratios; bold where the 95% interval excludes 1.\n\n"
        );
        let mut servers = self.server_names();
        servers.retain(|server| server != BASELINE);
        line(text, &[&["cell".to_owned()], &servers[..]].concat());
        let _ = writeln!(text, "|---|{}", "--:|".repeat(servers.len()));
        for cell in self.cell_names() {
            let one = std::slice::from_ref(&cell);
            let ratios = servers.iter().map(|server| {
                let found = self.samples(&cell, server).next();
                let ratio = found.map(|_| self.mean_ratio(server, one, |sample| sample.cpu_ns));
                ratio.map_or("–".into(), |ratio| {
                    let mark = if ratio.is_shown() { "**" } else { "" };
                    format!("{mark}{:.2}{mark}", ratio.mean)
                })
            });
            let row: Vec<String> = [cell.clone()].into_iter().chain(ratios).collect();
            line(text, &row);
        }
    }

    fn cells(&self, text: &mut String) {
        for cell in self.cell_names() {
            let _ = write!(
                text,
                "\n### {cell}\n\n| server | thousand a second | min–max | CPU ns each | min–max \
                 | CPU to {BASELINE} | 95% | | switches per 1000 |\n\
                 |---|--:|--:|--:|--:|--:|---|---|--:|\n"
            );
            for server in self.server_names() {
                if self.samples(&cell, &server).next().is_none() {
                    continue;
                }
                let of = |field: fn(&Sample) -> f64| {
                    Spread::of(self.samples(&cell, &server).map(|found| field(&found.sample)))
                };
                let rate = of(|sample| sample.per_second / 1000.0);
                let (cpu, switches) = (of(|sample| sample.cpu_ns), of(|s| s.switches_per_1000));
                let one = std::slice::from_ref(&cell);
                let ratio = self.mean_ratio(&server, one, |sample| sample.cpu_ns);
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

    /// For each round the geometric mean, over the cells, of this server's value to the
    /// baseline's in the same round; and the mean of that. Rounds in which a cell is missing are
    /// left out, and cells that the server never runs.
    fn mean_ratio(&self, server: &str, cells: &[String], field: fn(&Sample) -> f64) -> Ratio {
        let cells: Vec<_> =
            cells.iter().filter(|cell| self.samples(cell, server).next().is_some()).collect();
        let rounds: BTreeSet<_> = self.measured.iter().map(|found| found.round).collect();
        let find = |round: usize, cell: &str, server: &str| {
            let found = self.samples(cell, server).find(|found| found.round == round);
            found.map(|found| field(&found.sample))
        };
        let ratios: Vec<f64> = rounds
            .into_iter()
            .filter_map(|round| {
                let pairs = cells
                    .iter()
                    .map(|cell| Some(find(round, cell, server)? / find(round, cell, BASELINE)?));
                pairs.collect::<Option<Vec<_>>>().map(|pairs| geometric_mean(&pairs))
            })
            .collect();
        Ratio::of(&ratios)
    }

    fn samples<'a>(&'a self, cell: &'a str, server: &'a str) -> impl Iterator<Item = &'a Measured> {
        self.measured.iter().filter(move |found| found.cell == cell && found.server == server)
    }

    /// In the order of the first round.
    fn server_names(&self) -> Vec<String> {
        unique(self.measured.iter().map(|found| &found.server))
    }

    fn cell_names(&self) -> Vec<String> {
        unique(self.measured.iter().map(|found| &found.cell))
    }
}

fn ratio_columns(ratio: Ratio) -> [String; 3] {
    if ratio.rounds == 0 {
        return ["–".into(), "–".into(), "no complete round".into()];
    }
    let interval = format!("{:.3}–{:.3}", ratio.low, ratio.high);
    [format!("{:.3}", ratio.mean), interval, ratio.verdict().into()]
}

fn unique<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.filter(|name| seen.insert(name.as_str())).cloned().collect()
}

fn line(text: &mut String, columns: &[String]) {
    let _ = writeln!(text, "| {} |", columns.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_paired_within_a_round() {
        let mut report = Report::default();
        for (round, busy) in [(0, 1.0), (1, 3.0)] {
            for (server, cost) in [(BASELINE, 100.0), ("mio", 110.0)] {
                let sample =
                    Sample { per_second: 1.0, cpu_ns: cost * busy, switches_per_1000: 0.0 };
                let (cell, server) = ("1 × 64 B, depth 1".into(), server.into());
                report.measured.push(Measured { round, cell, server, sample });
            }
        }
        let ratio = report.mean_ratio("mio", &report.cell_names(), |sample| sample.cpu_ns);
        assert!((ratio.mean - 1.1).abs() < 1e-9 && ratio.high < 1.11, "{ratio:?}");
        assert!(report.markdown().contains("| mio | 1 | 2 | 1.100 | 1.100–1.100 | above |"));
    }
}
