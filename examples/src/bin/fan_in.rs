//! Asks many servers many things, from one loop, and brings the answers together in one table.
//!
//!     cargo run --release --bin fan_in -- --upstream 127.0.0.1:9000 --query hello --query 42
//!
//! A question is a line, and so is its answer. `echo` will do as a server. At most `--at-once` questions are
//! under way, over at most `--connections` connections to each server. A connection is used again for the
//! next question. A question that fails is asked again, up to `--attempts` times.
//!
//! It is also an example of a program without a server: a `Server` that listens nowhere has loops, a
//! `ServerHandle` to post to them, and a drain that ends it.

use clap::Parser;
use examples::fan_in::{Ask, FanIn, Outcome, Plan};
use examples::flags::{self, LogFlag};
use net_core::{Addr, Server};
use std::collections::VecDeque;
use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

/// Asks many servers many things, and shows all answers in one table.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// A server to ask.
    #[arg(
        long,
        help = "A server to ask: HOST:PORT, [V6]:PORT or unix:PATH (repeatable)",
        value_name = "ADDR",
        required = true
    )]
    upstream: Vec<Addr>,
    /// A line to ask each of them (repeatable)
    #[arg(long, value_name = "TEXT", required = true, value_parser = parse_query)]
    query: Vec<String>,
    /// Questions under way at once, over all servers
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,
    /// Connections to each server
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// How long an answer, or a connect, may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = flags::parse_time)]
    timeout: Duration,
    /// How often a question is asked before it is given up
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u8).range(1..))]
    attempts: u8,
    /// What to log on standard error
    #[arg(long, value_enum, default_value_t)]
    log: LogFlag,
}

fn parse_query(text: &str) -> Result<String, String> {
    match text.contains('\n') {
        true => Err("a question is one line".into()),
        false => Ok(text.to_owned()),
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let _log = flags::start_log(flags.log);
    let plan = Plan {
        upstreams: flags.upstream.clone(),
        queries: flags.query.clone(),
        at_once: flags.at_once.into(),
        connections: flags.connections.into(),
        timeout: flags.timeout,
        attempts: flags.attempts,
    };
    let (say, outcomes) = mpsc::channel();
    let jobs: VecDeque<Ask> = plan.jobs().collect();
    let asked = jobs.len();
    // One loop asks all questions, on this thread. It ends the server when the last answer is in.
    let client = Server::new().pin(false).run_alone_on_current_thread(
        |_place| FanIn::new(plan, say),
        |running| _ = running.handle().post(0, jobs), // a mailbox that is new has room
    );
    if let Err(error) = client {
        return flags::fail(1, &error.to_string());
    }
    let mut outcomes: Vec<Outcome> = outcomes.try_iter().collect();
    outcomes.sort_by_key(|outcome| (outcome.ask.upstream, outcome.ask.query));
    match show(&flags, &outcomes, asked) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => flags::fail(1, &format!("standard output: {error}")),
    }
}

/// Shows the table, and then the sums over all answers. Returns true if no answer is missing.
fn show(flags: &Flags, outcomes: &[Outcome], asked: usize) -> std::io::Result<bool> {
    let mut out = std::io::stdout().lock();
    let (mut answered, mut numbers) = (0, Vec::new());
    for Outcome { ask, millis, answer } in outcomes {
        let (upstream, query) = (&flags.upstream[ask.upstream], &flags.query[ask.query]);
        match answer {
            Ok(answer) => {
                writeln!(out, "{upstream}\t{query}\t{millis} ms\t{answer}")?;
                answered += 1;
                numbers.extend(answer.parse::<f64>());
            }
            Err(why) => writeln!(out, "{upstream}\t{query}\t{millis} ms\tFAILED: {why}")?,
        }
    }
    write!(out, "answered={answered} failed={}", asked - answered)?;
    if !numbers.is_empty() {
        let sum: f64 = numbers.iter().sum();
        let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
        let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        write!(out, " numbers={} sum={sum} least={least} most={most}", numbers.len())?;
    }
    writeln!(out)?;
    Ok(answered == asked)
}
