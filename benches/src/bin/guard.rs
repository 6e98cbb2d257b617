//! What an echoed message, and each step of each part, may cost at most, counted: a check that does
//! not depend on how fast or busy the machine is.
//!
//!     cargo build --release --workspace && cargo run --release -p benches --bin guard
//!
//! Exits with 1 if a bound is broken. What a tool is missing for is skipped with a sentence.

use benches::counted::{self, INSIDE};
use benches::lockstep::Load;
use benches::memory::bytes_per_idle_connection;
use benches::program::Program;
use benches::steps;
use benches::sys::raise_descriptor_limit;
use benches::tools::{Tool, per_message};
use std::io;
use std::process::ExitCode;

/// A machine that is busy with something else can still divide a round into more turns, and a turn
/// has a price of its own. So a count that is too high is taken again, and only the lowest is held
/// against the bound.
const TRIES: usize = 3;

const IDLE: usize = 15_000;
const IDLE_DESCRIPTORS: usize = IDLE + 100;

const DEPTH_1: Load = Load { connections: 100, depth: 1, bytes: 64 };
const DEPTH_16: Load = Load { depth: 16, ..DEPTH_1 };

/// A figure by a tool, and its bound.
struct Check {
    what: &'static str,
    tool: Tool,
    load: Load,
    rounds: usize,
    at_most: f64,
}

impl Check {
    const fn new(what: &'static str, tool: Tool, load: Load, rounds: usize, at_most: f64) -> Self {
        Self { what, tool, load, rounds, at_most }
    }
}

const CHECKS: [Check; 5] = [
    // Turns of one message cost most; a full turn of 100 is near 135, and the goal is 150.
    Check::new("instructions a message, depth 1", Tool::Instructions, DEPTH_1, 200, 150.0),
    Check::new("instructions a message, depth 16", Tool::Instructions, DEPTH_16, 100, 11.0),
    Check::new("system calls a message, depth 1", Tool::Syscalls, DEPTH_1, 50, 2.1),
    // A handful in 20,000 messages is allowed, as a queue needs that grows once, and no more.
    Check::new("allocations a message, depth 1", Tool::Allocations, DEPTH_1, 200, 0.0005),
    Check::new("allocations a message, depth 16", Tool::Allocations, DEPTH_16, 50, 0.0005),
];

/// Sizes that every connection, message or loop pays for.
#[rustfmt::skip]
const SIZES: [(&str, usize, usize); 5] = [
    ("bytes of a connection's entry", net_core::bench::ENTRY_BYTES, 48),
    ("bytes of a ConnId", size_of::<net_core::ConnId>(), 8),
    ("bytes of a timer's links and slot", size_of::<(net_timer::Links, net_timer::Slot)>(), 12),
    ("bytes of an Output", size_of::<net_buffer::Output>(), 64),
    ("bytes of a Wheel", size_of::<net_timer::Wheel>(), 8704),
];

#[derive(Default)]
struct Table {
    is_broken: bool,
}

impl Table {
    fn row(&mut self, what: &str, measured: f64, at_most: f64) {
        let is_kept = measured <= at_most;
        self.is_broken |= !is_kept;
        let verdict = if is_kept { "ok" } else { "BROKEN" };
        println!("{what:<48} {measured:>10.4} {at_most:>10.4}  {verdict}");
    }
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == INSIDE) {
        counted::run_inside();
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(table) if !table.is_broken => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("guard: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<Table> {
    let flags = ["--loops", "1", "--no-pin", "--idle-timeout", "60s"];
    let echo = Program::sibling("echo", "echo", &flags)?;
    let mut table = Table::default();
    println!("{:<48} {:>10} {:>10}", "what", "measured", "at most");
    for (what, bytes, at_most) in SIZES {
        table.row(what, bytes as f64, at_most as f64);
    }
    let [busy, asleep] = steps::rings()?;
    table.row("eventfd writes, a burst to a busy loop", busy as f64, 0.0);
    table.row("eventfd writes, a burst to a sleeping loop", asleep as f64, 1.0);
    if Tool::Instructions.is_there() {
        for count in counted::count(&std::env::current_exe()?)? {
            let what = format!("{}: {}", count.step.group, count.step.name);
            table.row(&what, count.instructions, count.step.at_most);
        }
    }
    for check in &CHECKS {
        if check.tool.is_there() {
            table.row(check.what, lowest(&echo, check)?, check.at_most);
        } else {
            println!("{:<48} skipped: {} is not installed", check.what, check.tool.program());
        }
    }
    let what = "private bytes an idle connection";
    if raise_descriptor_limit()? >= IDLE_DESCRIPTORS {
        table.row(what, bytes_per_idle_connection(&echo, IDLE)?, 64.0);
    } else {
        println!("{what:<48} skipped: the limit on descriptors is below {IDLE_DESCRIPTORS}");
    }
    Ok(table)
}

/// The lowest of a few counts, or the first that keeps the bound.
fn lowest(echo: &Program, check: &Check) -> io::Result<f64> {
    let mut lowest = f64::INFINITY;
    for _ in 0..TRIES {
        lowest = lowest.min(per_message(echo, check.tool, check.load, check.rounds)?);
        if lowest <= check.at_most {
            break;
        }
    }
    Ok(lowest)
}
