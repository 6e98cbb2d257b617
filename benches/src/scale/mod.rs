//! How costs grow: with the connections, with the loops, and with each knob of `Limits`.

pub mod curves;
pub mod growth;

use curves::Point;
use growth::Size;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// A whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Machine, command, times: a name and a value each.
    pub setting: Vec<(String, String)>,
    /// By number of connections.
    pub sizes: Vec<Size>,
    /// By knob, and then by its value.
    pub points: Vec<Point>,
}

impl Report {
    /// All tables.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| setting | value |\n|---|---|\n");
        for (name, value) in &self.setting {
            let _ = writeln!(text, "| {name} | {value} |");
        }
        if !self.sizes.is_empty() {
            text.push_str(&growth::table(&self.sizes));
        }
        let mut points = &self.points[..];
        while let Some(first) = points.first() {
            let of_one_knob = points.iter().take_while(|point| point.knob == first.knob).count();
            let (knob, rest) = points.split_at(of_one_knob);
            text.push_str(&curves::table(knob));
            points = rest;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Spread;

    #[test]
    fn each_knob_gets_a_table_of_its_own() {
        let spread = Spread { min: 1.0, median: 2.0, max: 3.0 };
        let point = |knob: &str, value, is_default| Point {
            knob: knob.into(),
            load: "bulk".into(),
            value,
            is_default,
            per_second: spread,
            cpu_ns: spread,
        };
        let points = vec![
            point("cork_bytes", 1024, false),
            point("cork_bytes", 65536, true),
            point("events_per_wait", 256, true),
        ];
        let text = Report { points, ..Report::default() }.markdown();
        assert_eq!(text.matches("\n### ").count(), 2, "{text}");
        assert!(text.contains("| **65536** | 0.0 | 0.0–0.0 | 2 | 1–3 |"), "{text}");
    }
}
