//! Where a run took place, and with which settings.

use crate::flags::Flags;
use benches::swarm::split_cores;
use std::fs;
use std::io;
use std::process::Command;

pub(crate) fn read(flags: &Flags) -> io::Result<Vec<(String, String)>> {
    let (server_cores, load_cores) = split_cores(flags.loops)?;
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let git = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = git.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    let command: Vec<String> = std::env::args().skip(1).collect();
    let rows = [
        ("processor", model.map_or_else(String::new, |(_, name)| name.trim().to_owned())),
        ("kernel", first_line("/proc/sys/kernel/osrelease")),
        ("commit", commit.unwrap_or_default()),
        ("command", format!("compare {}", command.join(" "))),
        ("rounds", flags.rounds.to_string()),
        ("measured", format!("{} ms a load, after a quarter of that", flags.millis)),
        ("cores", format!("server on {server_cores:?}, load on {load_cores:?}")),
        ("load at the start", load_average()),
    ];
    Ok(rows.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

/// The kernel's, over 1, 5 and 15 minutes.
pub(crate) fn load_average() -> String {
    first_line("/proc/loadavg")
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
