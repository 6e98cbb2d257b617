//! What does our echo cost beside a bare epoll loop and named rivals, on this machine?
//!
//!     cargo build --release --workspace
//!     cargo run --release -p benches --bin compare -- --json run.json > tables.md
//!
//! Each round takes every server in turn for each load, so that what changes with time changes for
//! all; the limit runs twice, and what differs between the two is noise.

mod counts;
mod fan_out;
mod flags;
mod grid;
mod servers;
mod setting;
mod tails;

use benches::native;
use benches::plan::BASELINE_AGAIN;
use benches::plots;
use benches::program::Program;
use benches::report::Report;
use benches::sys::raise_descriptor_limit;
use flags::{Flags, Part};
use std::error::Error;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Descriptors that are not connections.
const OWN_DESCRIPTORS: usize = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let flags = Flags::read();
    let report = if flags.show.is_empty() { run(&flags)? } else { read(&flags.show)? };
    print!("{}", report.markdown());
    if let Some(folder) = &flags.plots {
        plots::write(&report, folder)?;
    }
    Ok(())
}

fn read(files: &[PathBuf]) -> Result<Report, Box<dyn Error>> {
    let mut report = Report::default();
    for file in files {
        let text =
            fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let one =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        report.add(one);
    }
    Ok(report)
}

fn run(flags: &Flags) -> Result<Report, Box<dyn Error>> {
    if flags.install {
        native::install()?;
    }
    let limit = raise_descriptor_limit()?;
    let needed = flags.connections_max() + OWN_DESCRIPTORS;
    if limit < needed {
        return Err(format!("{needed} descriptors are needed, and the limit is {limit}").into());
    }
    let (mut rivals, left_out) = servers::ready(flags)?;
    let mut report = Report { setting: setting::read(flags)?, left_out, ..Report::default() };
    if flags.has(Part::Counts) {
        for rival in rivals.iter().filter(|rival| rival.program.name != BASELINE_AGAIN) {
            report.counted.push(counts::of(rival, flags.idle));
        }
    }
    if flags.has(Part::Sends) {
        let program = Program::sibling("net-core", "remote_send", &[])?;
        report.sends = counts::sends(&program);
    }
    let fan_outs = fan_out::servers(flags.loops)?;
    let has_rounds = [Part::Grid, Part::Churn, Part::Tails, Part::FanOut];
    let rounds = if has_rounds.iter().any(|&part| flags.has(part)) { flags.rounds } else { 0 };
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        if flags.has(Part::Grid) || flags.has(Part::Churn) {
            let descriptors = limit - OWN_DESCRIPTORS;
            grid::run_round(round, &rivals, flags, descriptors, &mut report.measured)?;
        }
        if flags.has(Part::Tails) {
            tails::run_round(round, &rivals, flags, &mut report.tails);
        }
        if flags.has(Part::FanOut) {
            fan_out::run_round(round, &fan_outs, flags, &mut report.fan_outs);
        }
        rivals.rotate_left(1); // so that no server is always the one behind another
        report.setting.push((format!("load after round {}", round + 1), setting::load_average()));
        save(flags, &report)?; // what an abort leaves
    }
    save(flags, &report)?;
    Ok(report)
}

fn save(flags: &Flags, report: &Report) -> io::Result<()> {
    let Some(path) = &flags.json else { return Ok(()) };
    fs::write(path, serde_json::to_string_pretty(report)?)
}
