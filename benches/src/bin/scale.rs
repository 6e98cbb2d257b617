//! How do costs grow: with the connections, with the loops, and with each knob?
//!
//!     cargo build --release --workspace
//!     cargo run --release -p benches --bin scale -- --json scale.json > tables.md
//!
//! `--quick` shows in a few seconds that everything works; its figures mean nothing.

use benches::measure::Times;
use benches::scale::curves::{self, Values};
use benches::scale::{Report, growth};
use benches::sys::{allowed_cores, raise_descriptor_limit};
use clap::Parser;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How costs grow: with the connections, with the loops, and with each knob.
#[derive(Parser)]
struct Flags {
    /// Where to write everything as JSON
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// A few seconds, to see that it works
    #[arg(long)]
    quick: bool,
    /// Numbers of connections; none: leave that out
    #[arg(long, value_name = "N,…", value_delimiter = ',', num_args = 0..)]
    connections: Option<Vec<u64>>,
    /// How often each value of each knob is measured; 0: leave that out
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// How long each is measured, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 400)]
    millis: u64,
}

impl Flags {
    fn connections(&self) -> Vec<u64> {
        let usual: &[u64] =
            if self.quick { &[1_000, 3_000] } else { &[1_000, 10_000, 100_000, 1_000_000] };
        self.connections.clone().unwrap_or_else(|| usual.to_vec())
    }

    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 7 })
    }

    fn times(&self) -> Times {
        let measured = Duration::from_millis(if self.quick { 100 } else { self.millis });
        Times { warm: measured / 4, measured }
    }

    fn hold(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { 10 })
    }
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("scale: {what}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<(), String> {
    let start = Instant::now();
    raise_descriptor_limit().map_err(|error| format!("the limit on descriptors: {error}"))?;
    let mut report = Report { setting: setting(flags)?, ..Report::default() };
    for connections in flags.connections() {
        eprintln!("{connections} connections");
        let size = growth::measure(connections, flags.hold());
        report.sizes.push(size.map_err(|error| format!("{connections} connections: {error}"))?);
    }
    let values = if flags.quick { Values::First } else { Values::All };
    let say = |round: &str| eprintln!("{round}");
    let points = curves::measure(values, flags.rounds(), flags.times(), say);
    report.points = points.map_err(|error| error.to_string())?;
    report.setting.push(("took".into(), format!("{:.0} s", start.elapsed().as_secs_f64())));
    println!("{}", report.markdown());
    if let Some(path) = &flags.json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        fs::write(path, text).map_err(|error| format!("write {}: {error}", path.display()))?;
    }
    Ok(())
}

fn setting(flags: &Flags) -> Result<Vec<(String, String)>, String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned(); // only told
    let cores = allowed_cores().map_err(|error| error.to_string())?.len();
    let rounds = format!("{}, {} ms each", flags.rounds(), flags.times().measured.as_millis());
    let pairs = [
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("cores", cores.to_string()),
        ("command", std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
        ("rounds of the curves", rounds),
        ("load at the start", read("/proc/loadavg")),
    ];
    Ok(pairs.map(|(name, value)| (name.to_owned(), value)).to_vec())
}
