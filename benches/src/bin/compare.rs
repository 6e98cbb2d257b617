//! What does our echo cost beside a bare epoll loop and named rivals, on this machine?
//!
//!     cargo build --release --workspace
//!     cargo run --release -p benches --bin compare -- --json run.json > tables.md
//!
//! Each round starts every server anew and takes them in turn for each load, so that what changes
//! with time changes for all; the limit runs twice, and what differs between the two is noise.

use benches::lockstep::Load;
use benches::measure::{Times, measure, settle, start_on};
use benches::memory::bytes_per_idle_connection;
use benches::plan::{Rival, name_of, rivals, works};
use benches::report::{Counted, Measured, Report};
use benches::swarm::split_cores;
use benches::sys::raise_descriptor_limit;
use benches::tools::{Tool, per_connection, per_message};
use clap::Parser;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Descriptors that are not connections.
const OWN_DESCRIPTORS: usize = 100;

/// Compares our echo with a bare epoll loop and named rivals.
#[derive(Parser)]
struct Flags {
    /// A few loads and rounds, to see that all works: no figure from it means much
    #[arg(long)]
    quick: bool,
    /// Rounds: each has every server and load once
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    /// Measured time of each load, in milliseconds
    #[arg(long, default_value_t = 500)]
    millis: u64,
    /// Loops of each server; the load has the other cores
    #[arg(long, default_value_t = 1)]
    loops: usize,
    /// Connections
    #[arg(long, value_delimiter = ',', default_value = "1,100,1000,10000")]
    connections: Vec<usize>,
    /// Bytes of a message
    #[arg(long, value_delimiter = ',', default_value = "64,4096,16384")]
    bytes: Vec<usize>,
    /// Messages under way on each connection
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    depth: Vec<usize>,
    /// Only servers with one of these in their names; the bare epoll loop is always there
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Without instructions, system calls and memory
    #[arg(long)]
    no_counts: bool,
    /// Idle connections whose memory is counted
    #[arg(long, default_value_t = 15_000)]
    idle: usize,
    /// Where to write everything that was found
    #[arg(long)]
    json: Option<PathBuf>,
    /// Measure nothing: show the tables of what an earlier run has written
    #[arg(long, value_name = "JSON")]
    show: Option<PathBuf>,
}

impl Flags {
    fn read() -> Self {
        let flags = Self::parse();
        if !flags.quick {
            return flags;
        }
        Self {
            rounds: flags.rounds.min(2),
            millis: flags.millis.min(200),
            connections: vec![1, 100],
            bytes: vec![64],
            ..flags
        }
    }

    fn rivals(&self) -> io::Result<Vec<Rival>> {
        let mut rivals = rivals(self.loops)?;
        rivals.retain(|rival| {
            let name = rival.program.name;
            let is_wanted = self.only.iter().any(|part| name.contains(part.as_str()));
            self.only.is_empty() || name.starts_with("bare epoll") || is_wanted
        });
        Ok(rivals)
    }
}

fn main() -> io::Result<()> {
    let flags = Flags::read();
    if let Some(path) = &flags.show {
        let report: Report = serde_json::from_str(&fs::read_to_string(path)?)?;
        print!("{}", report.markdown());
        return Ok(());
    }
    let descriptors = raise_descriptor_limit()?;
    let most = flags.connections.iter().copied().chain([flags.idle]).max().unwrap_or(1);
    if descriptors < most + OWN_DESCRIPTORS {
        let what = format!("{most} connections need a higher limit than {descriptors} descriptors");
        return Err(io::Error::other(what));
    }
    let mut rivals = flags.rivals()?;
    let mut report = Report { setting: setting(&flags)?, ..Report::default() };
    if !flags.no_counts {
        for rival in rivals.iter().filter(|rival| rival.program.name != "bare epoll, again") {
            report.counted.push(count(rival, flags.idle));
        }
    }
    for round in 0..flags.rounds {
        eprintln!("round {} of {}", round + 1, flags.rounds);
        run_round(round, &rivals, &flags, &mut report)?;
        rivals.rotate_left(1); // so that no server is always the one behind another
        let load = format!("load after round {}", round + 1);
        report.setting.push((load, first_line("/proc/loadavg")));
        if let Some(path) = &flags.json {
            fs::write(path, serde_json::to_string_pretty(&report)?)?; // what an abort leaves
        }
    }
    print!("{}", report.markdown());
    Ok(())
}

fn run_round(round: usize, rivals: &[Rival], flags: &Flags, report: &mut Report) -> io::Result<()> {
    let (server_cores, load_cores) = split_cores(flags.loops)?;
    let measured = Duration::from_millis(flags.millis);
    let times = Times { warm: measured / 4, measured };
    let servers = rivals
        .iter()
        .map(|rival| start_on(&server_cores, &rival.program))
        .collect::<io::Result<Vec<_>>>()?;
    for work in works(&flags.connections, &flags.bytes, &flags.depth) {
        for (rival, server) in rivals.iter().zip(&servers) {
            if !rival.takes(work) {
                continue;
            }
            let (cell, server_name) = (name_of(work), rival.program.name);
            match measure(server, work, &load_cores, times) {
                Ok(sample) => report.measured.push(Measured {
                    round,
                    cell,
                    server: server_name.into(),
                    sample,
                }),
                Err(error) => eprintln!("{server_name}, {cell}: {error}"),
            }
            settle(server)?;
        }
    }
    Ok(())
}

/// What can be counted of one server. What cannot is said and left out.
fn count(rival: &Rival, idle: usize) -> Counted {
    let program = &rival.program;
    eprintln!("counting {}", program.name);
    let one = Load { connections: 100, depth: 1, bytes: 64 };
    let sixteen = Load { depth: 16, ..one };
    let say = |what: &str, result: io::Result<f64>| {
        result.inspect_err(|error| eprintln!("{}, {what}: {error}", program.name)).ok()
    };
    let is_usable =
        |tool: Tool| tool.is_there() && (tool == Tool::Syscalls || rival.runs_in_valgrind);
    let by = |tool: Tool, load: Load, rounds: usize| {
        let count = || say(tool.program(), per_message(program, tool, load, rounds));
        is_usable(tool).then(count).flatten()
    };
    let churned = |tool: Tool| {
        let count = || say(tool.program(), per_connection(program, tool, 100));
        is_usable(tool).then(count).flatten()
    };
    let idle = idle.min(rival.connections_max);
    Counted {
        server: program.name.into(),
        instructions: [by(Tool::Instructions, one, 200), by(Tool::Instructions, sixteen, 100)],
        syscalls: [by(Tool::Syscalls, one, 50), by(Tool::Syscalls, sixteen, 50)],
        churned: [churned(Tool::Instructions), churned(Tool::Syscalls)],
        idle_bytes: say("memory", bytes_per_idle_connection(program, idle)),
    }
}

fn setting(flags: &Flags) -> io::Result<Vec<(String, String)>> {
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
        ("load at the start", first_line("/proc/loadavg")),
    ];
    Ok(rows.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
