//! What `compare` says: everything as JSON, and tables in Markdown.

mod grid;
mod samples;
mod tables;

pub use samples::{Measured, Samples};

use crate::measure::Sample;
use crate::plan::LeftOut;
use crate::stats::Ratio;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// The cell that is no echo: it is left out of the means.
pub const CHURN: &str = "churn";

/// The cells of [`Tail`]: with nothing beside the active ones, the others against it.
pub const ALONE: &str = "alone";
/// Beside very many connections that do nothing.
pub const BESIDE_IDLE: &str = "beside idle";
/// Beside one that sends and receives as much as goes.
pub const BESIDE_FIREHOSE: &str = "beside a firehose";

/// A whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Machine, kernel, commit, command, settings: a name and a value each.
    pub setting: Vec<(String, String)>,
    /// Servers that could not run.
    pub left_out: Vec<LeftOut>,
    /// What was counted, by server.
    pub counted: Vec<Counted>,
    /// The grid, and churn.
    pub measured: Samples<Sample>,
    /// Latencies at a fixed rate.
    pub tails: Samples<Tail>,
    /// One payload to many.
    pub fan_outs: Samples<FanOut>,
    /// What was counted of messages from another thread.
    pub sends: Vec<Sends>,
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

/// Latencies of an open loop, in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tail {
    /// Messages a second.
    pub per_second: f64,
    /// The median.
    pub p50: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// 999 of 1000 are below.
    pub p999: f64,
}

/// One payload to each of many connections.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct FanOut {
    /// From the call until the last one has it, in milliseconds.
    pub last_ms: f64,
    /// The server's CPU time for each, in nanoseconds.
    pub cpu_ns: f64,
}

/// Messages from a thread that is no loop to a connection, counted for each message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sends {
    /// Messages that are sent one behind the other; before the next, the loop sleeps.
    pub burst: u32,
    /// User instructions of all threads, the request included.
    pub instructions: Option<f64>,
    /// Writes to the loop's eventfd.
    pub wakes: Option<f64>,
    /// The server's CPU time, in nanoseconds.
    pub cpu_ns: Option<f64>,
}

impl Report {
    /// Adds what another run has found. Its rounds are kept apart from these.
    pub fn add(&mut self, mut other: Report) {
        let rounds = |report: &Report| {
            let all = report.measured.0.iter().map(|found| found.round);
            let all = all.chain(report.tails.0.iter().map(|found| found.round));
            all.chain(report.fan_outs.0.iter().map(|found| found.round)).max().map_or(0, |n| n + 1)
        };
        let first = rounds(self);
        other.measured.0.iter_mut().for_each(|found| found.round += first);
        other.tails.0.iter_mut().for_each(|found| found.round += first);
        other.fan_outs.0.iter_mut().for_each(|found| found.round += first);
        self.setting.append(&mut other.setting);
        self.left_out.append(&mut other.left_out);
        self.counted.append(&mut other.counted);
        self.measured.0.append(&mut other.measured.0);
        self.tails.0.append(&mut other.tails.0);
        self.fan_outs.0.append(&mut other.fan_outs.0);
        self.sends.append(&mut other.sends);
    }

    /// The mean ratio of CPU a message to the baseline's, over all cells of the grid.
    pub fn cpu_ratio(&self, server: &str) -> Ratio {
        self.measured.to_baseline(server, &self.echo_cells(), |sample| sample.cpu_ns)
    }

    fn echo_cells(&self) -> Vec<String> {
        self.measured.cells().into_iter().filter(|cell| cell != CHURN).collect()
    }

    /// All tables.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| setting | value |\n|---|---|\n");
        for (name, value) in &self.setting {
            line(&mut text, &[name.clone(), value.clone()]);
        }
        tables::left_out(&self.left_out, &mut text);
        tables::counts(&self.counted, &mut text);
        tables::sends(&self.sends, &mut text);
        if !self.measured.0.is_empty() {
            grid::means(self, &mut text);
            grid::overview(&self.measured, &mut text);
        }
        tables::tails(&self.tails, &mut text);
        tables::fan_outs(&self.fan_outs, &mut text);
        grid::cells(&self.measured, &mut text);
        text
    }
}

fn ratio_columns(ratio: Ratio) -> [String; 3] {
    if ratio.rounds == 0 {
        return ["–".into(), "–".into(), "no complete round".into()];
    }
    let interval = format!("{:.3}–{:.3}", ratio.low, ratio.high);
    [format!("{:.3}", ratio.mean), interval, ratio.verdict().into()]
}

fn line(text: &mut String, columns: &[String]) {
    let _ = writeln!(text, "| {} |", columns.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::BASELINE;

    fn run() -> Report {
        let mut report = Report::default();
        for round in 0..2 {
            for (server, cpu_ns) in [(BASELINE, 100.0), ("mio", 110.0)] {
                let sample = Sample { per_second: 1.0, cpu_ns, switches_per_1000: 0.0 };
                report.measured.push(round, "1 × 64 B, depth 1", server, sample);
                for (cell, p99) in [(ALONE, 50.0), (BESIDE_IDLE, 60.0)] {
                    let tail = Tail { per_second: 1.0, p50: 9.0, p99, p999: 99.0 };
                    report.tails.push(round, cell, server, tail);
                }
                report.fan_outs.push(round, "9", server, FanOut { last_ms: 1.0, cpu_ns });
            }
        }
        let sends = Sends { burst: 7, instructions: Some(80.0), wakes: Some(0.5), cpu_ns: None };
        report.sends.push(sends);
        report
    }

    #[test]
    fn every_part_has_its_table() {
        let text = run().markdown();
        for row in [
            "| mio | 1 | 2 | 1.100 | 1.100–1.100 | above |",
            "| mio | beside idle | 0.0 | 9 | 60 | 60–60 | 99 | 1.20 | 1.200 | 1.200–1.200 | above |",
            "| mio | 1.00 | 1.00–1.00 | 110 | 110–110 | 1.100 | 1.100–1.100 | above |",
            "| 7 | 80 | 0.500 | – |",
        ] {
            assert!(text.contains(row), "{row} is not in {text}");
        }
    }

    #[test]
    fn runs_add_up_and_survive_json() {
        let mut both = run();
        both.add(run());
        let text = serde_json::to_string(&both).unwrap();
        let both: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(both.cpu_ratio("mio").rounds, 4);
        // What an older run has written has fewer parts.
        assert!(serde_json::from_str::<Report>(r#"{"measured": []}"#).is_ok());
    }
}
