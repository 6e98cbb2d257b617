//! What do honest clients notice of an attack, and does the server keep to its bounds meanwhile?
//!
//!     cargo build --release --workspace && cargo run --release -p benches --bin overload
//!
//! A flood of new connections, ten thousand that say nothing and a thousand that never read, against
//! `echo` with a limit on connections, a first-byte timeout and a memory budget. Exits with 1 if the
//! honest clients' p99 is more than twice that of a quiet server, if more than the budget was
//! buffered at any sample, or if the books do not balance to the unit.

use benches::open_loop::{self, Pace};
use benches::overload::attack::Attack;
use benches::overload::target::Target;
use benches::overload::watch::{Most, watch};
use benches::sys::{allowed_cores, raise_descriptor_limit};
use clap::Parser;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// What honest clients notice of an attack on a server with limits.
#[derive(Parser)]
struct Flags {
    /// New connections a second
    #[arg(long, default_value_t = 2_000)]
    flood: u64,
    /// Connections that say nothing
    #[arg(long, default_value_t = 10_000)]
    silent: usize,
    /// Connections that send and never read
    #[arg(long, default_value_t = 1_000)]
    never_readers: usize,
    /// Honest clients, which stay
    #[arg(long, default_value_t = 50)]
    honest: usize,
    /// Messages a second, of all honest clients together
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Seconds that are measured, once quiet and once under attack
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// The server's loops
    #[arg(long, default_value_t = 2)]
    loops: usize,
    /// Mebibytes of the server's memory budget
    #[arg(long, default_value_t = 64)]
    budget: usize,
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("overload: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> io::Result<bool> {
    // Ours, and the server's: as many as all but the flood.
    let connections = flags.silent + flags.never_readers + flags.honest;
    let limit = raise_descriptor_limit()?;
    if limit < connections + 500 {
        let what = format!("{connections} connections do not fit in {limit} descriptors");
        return Err(io::Error::other(what));
    }
    let target = Target::start(&[
        format!("--loops={}", flags.loops),
        format!("--max-connections={connections}"),
        "--first-byte-timeout=5s".to_owned(),
        format!("--memory-budget={}m", flags.budget),
        "--no-pin".to_owned(),
    ])?;
    println!("quiet, {} s...", flags.seconds);
    let quiet = measure(flags, target.at)?;
    println!("under attack, {} s...", flags.seconds);
    let (attacked, most, connects) = under_attack(flags, &target)?;
    let counts = target.finish()?;

    println!("\n| honest clients | p50 µs | p99 µs | worst µs |\n|---|---|---|---|");
    for (name, latencies) in [("quiet", &quiet), ("under attack", &attacked)] {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile| micros(latencies.value_at_quantile(quantile));
        let worst = micros(latencies.max());
        println!("| {name} | {:.0} | {:.0} | {worst:.0} |", at(0.5), at(0.99));
    }
    let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
    println!("\n{connects} hostile connects; the most at {} samples:", most.samples);
    println!("- buffered: {:.1} of {} MiB", mebibytes(most.buffered), flags.budget);
    println!("- resident: {:.1} MiB", mebibytes(most.resident));
    println!("- the kernel's, all sockets of the machine: {:.1} MiB", mebibytes(most.kernel));
    println!("- connections: {} of {connections}\n", most.connections);
    say_counts(&counts);

    let times = attacked.value_at_quantile(0.99) as f64 / quiet.value_at_quantile(0.99) as f64;
    let is_bounded = most.buffered <= (flags.budget << 20) as f64;
    let verdicts = [
        (format!("the honest p99 is {times:.2} times the quiet one: at most 2"), times <= 2.0),
        ("no more than the budget was buffered at any sample".to_owned(), is_bounded),
        ("accepted = closed, to the unit, each for a reason".to_owned(), balances(&counts)),
        ("each refusal has a name".to_owned(), refusals_have_names(&counts)),
    ];
    println!();
    for (what, is_so) in &verdicts {
        println!("{} {what}", if *is_so { "ok    " } else { "BROKEN" });
    }
    Ok(verdicts.iter().all(|(_, is_so)| *is_so))
}

type Latencies = hdrhistogram::Histogram<u64>;

fn measure(flags: &Flags, at: SocketAddr) -> io::Result<Latencies> {
    let pace =
        Pace { pingers: flags.honest, per_second: flags.rate, has_firehose: false, sleeps: true };
    let cores = allowed_cores()?;
    let measured = Duration::from_secs(flags.seconds);
    open_loop::run(at, pace, &cores[..1], Duration::from_secs(2), measured)
}

/// The attack begins, and has two seconds before the measured time to fill every place.
fn under_attack(flags: &Flags, target: &Target) -> io::Result<(Latencies, Most, u64)> {
    let (attack, is_over) = (Attack::default(), AtomicBool::new(false));
    let at = target.at;
    thread::scope(|scope| {
        // Before the attack, so that the honest ones are in.
        let honest = scope.spawn(|| measure(flags, at));
        thread::sleep(Duration::from_millis(200));
        scope.spawn(|| attack.flood(at, flags.flood));
        scope.spawn(|| attack.say_nothing(at, flags.silent));
        scope.spawn(|| attack.never_read(at, flags.never_readers));
        let watched = scope.spawn(|| watch(target.admin, &is_over));
        let latencies = honest.join().expect("the honest do not panic");
        attack.end();
        is_over.store(true, Ordering::Relaxed);
        let most = watched.join().expect("who watches does not panic")?;
        Ok((latencies?, most, attack.connects()))
    })
}

fn say_counts(counts: &BTreeMap<String, u64>) {
    let shown = ["accepted", "accept_paused", "accept_starved", "accept_shed"];
    for (name, n) in counts {
        if shown.contains(&name.as_str())
            || name.starts_with("closed(")
            || name.starts_with("refused")
        {
            println!("- {name}: {n}");
        }
    }
}

fn count(counts: &BTreeMap<String, u64>, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

fn balances(counts: &BTreeMap<String, u64>) -> bool {
    let closed: u64 =
        counts.iter().filter(|(name, _)| name.starts_with("closed(")).map(|(_, n)| n).sum();
    count(counts, "open") == 0 && count(counts, "accepted") == closed
}

fn refusals_have_names(counts: &BTreeMap<String, u64>) -> bool {
    let named: u64 =
        counts.iter().filter(|(name, _)| name.starts_with("refused_")).map(|(_, n)| n).sum();
    count(counts, "closed(refused)") == named
}
