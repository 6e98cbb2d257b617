//! Cost a message, p99, bytes a connection and connect rate, by number of connections.
//!
//! The `million` example makes the run: its clients come from as many addresses and descriptor
//! tables as they need. The same 100 connections are active at each size, by the clock.

use crate::folder::Folder;
use crate::program::sibling_path;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Connections that are active while all are held.
const ACTIVE: f64 = 100.0;

/// Between two messages of an active connection.
const PING_EVERY: &str = "50ms";

/// What one number of connections costs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Size {
    /// Connections, all open at once and each proven.
    pub connections: u64,
    /// Loops of the server: one per core, or as many as the descriptor limit asks for.
    pub loops: u64,
    /// Connections that came up in a second, each with an answered byte.
    pub connects_per_second: f64,
    /// Growth of the server's private memory for each connection, in bytes.
    pub bytes_per_connection: f64,
    /// The server's CPU time for each message of the hold, in microseconds, the kernel's included.
    pub cpu_us_per_message: f64,
    /// Messages in a second of the hold.
    pub messages_per_second: f64,
    /// 99 of 100 of their round trips were at most this, in microseconds.
    pub p99_us: f64,
    /// How long the whole run took, in seconds.
    pub seconds: f64,
}

/// Brings so many connections up, and holds them for so long.
pub fn measure(connections: u64, hold: Duration) -> io::Result<Size> {
    let folder = Folder::new("scale")?;
    let json = folder.file("report.json");
    let active = format!("{}%", (100.0 * ACTIVE / connections as f64).min(100.0));
    let mut command = Command::new(sibling_path("million")?);
    command
        .args(["--connections", &connections.to_string(), "--active", &active])
        .args(["--ping-every", PING_EVERY, "--hold", &format!("{}ms", hold.as_millis())])
        .arg("--json")
        .arg(&json)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = command.status()?;
    if !status.success() {
        return Err(io::Error::other(format!("{command:?}: {status}")));
    }
    let report: Value = serde_json::from_str(&fs::read_to_string(&json)?)?;
    size(&report).ok_or_else(|| io::Error::other("the report of `million` lacks a figure"))
}

fn size(report: &Value) -> Option<Size> {
    let hold = &report["hold"];
    let (connected, pings) = (report["connected"].as_u64()?, hold["pings"].as_f64()?);
    Some(Size {
        connections: connected,
        loops: report["loops"].as_u64()?,
        connects_per_second: connected as f64 / report["connect_seconds"].as_f64()?,
        bytes_per_connection: report["user_bytes_per_connection"].as_f64()?,
        cpu_us_per_message: 1e6 * hold["server_cpu_seconds"].as_f64()? / pings,
        messages_per_second: pings / hold["seconds"].as_f64()?,
        p99_us: hold["p99_us"].as_f64()?,
        seconds: report["total_seconds"].as_f64()?,
    })
}

/// The table of all sizes.
pub fn table(sizes: &[Size]) -> String {
    let mut text = format!(
        "\n### By number of connections\n\n{ACTIVE} of them are active, each sends every \
         {PING_EVERY}.\n\n| connections | loops | connects a second | bytes a connection \
         | CPU a message, µs | p99, µs | messages a second | whole run, s |\n\
         |--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for size in sizes {
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} |",
            size.connections,
            size.loops,
            size.connects_per_second,
            size.bytes_per_connection,
            size.cpu_us_per_message,
            size.p99_us,
            size.messages_per_second,
            size.seconds,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_from_a_report_and_a_missing_figure_is_noticed() {
        let text = r#"{"connected": 1000, "loops": 2, "connect_seconds": 0.5,
            "user_bytes_per_connection": 53.5, "total_seconds": 3.0,
            "hold": {"seconds": 2.0, "pings": 4000, "server_cpu_seconds": 0.08, "p99_us": 150.0}}"#;
        let mut report: Value = serde_json::from_str(text).expect("it is JSON");
        let found = size(&report).expect("all figures are there");
        assert_eq!((found.connections, found.loops), (1000, 2));
        assert_eq!((found.connects_per_second, found.messages_per_second), (2000.0, 2000.0));
        assert!((found.cpu_us_per_message - 20.0).abs() < 1e-9);
        report["hold"]["server_cpu_seconds"] = Value::Null;
        assert!(size(&report).is_none());
    }
}
