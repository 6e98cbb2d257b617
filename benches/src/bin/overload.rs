//! What do honest clients notice of an attack, and does the server keep to its bounds meanwhile?
//!
//!     cargo build --release --workspace && cargo run --release -p benches --bin overload
//!
//! New connections as fast as they go, ten thousand that say nothing and a thousand that never read,
//! against `echo` with a limit on connections, an accept rate, a first-byte timeout and a memory
//! budget. Exits with 1 if the honest clients' p99 is, in the median round, more than twice that of the
//! quiet server, if more than the budget was buffered at any sample, or if the books do not balance to
//! the unit.
//!
//! Who shares a machine with the server is not what is asked here. So, quiet as under attack, the honest
//! clients come first on their core, then the server, then the other processes of the machine, and last
//! the attackers: what these get is what everybody else leaves, and the kernel's work for them.

use benches::open_loop::{self, Pace};
use benches::overload::attack::Attack;
use benches::overload::target::Target;
use benches::overload::watch::{Most, watch};
use benches::stats::Spread;
use benches::sys::{self, allowed_cores, raise_descriptor_limit};
use clap::Parser;
use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// What honest clients notice of an attack on a server with limits.
#[derive(Parser)]
struct Flags {
    /// New connections a second; as fast as they go if not given
    #[arg(long)]
    flood: Option<u64>,
    /// Connections a second that the server accepts (0: as many as come)
    #[arg(long, default_value_t = 2_000)]
    accept_rate: u32,
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
    /// Servers, one after the other, each first quiet and then under attack
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that are measured, once quiet and once under attack
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// The server's loops
    #[arg(long, default_value_t = 2)]
    loops: usize,
    /// Let the server wait for the other processes of the machine, too: precedence needs root
    #[arg(long)]
    no_precedence: bool,
    /// The attack has the last core for itself; the server and the honest clients have the others
    #[arg(long)]
    apart: bool,
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
    let cores = allowed_cores()?;
    let (ours, theirs) = match cores.len() {
        n if flags.apart && n > 1 => cores.split_at(n - 1),
        _ if flags.apart => return Err(io::Error::other("one core is not enough for --apart")),
        _ => (&cores[..], &cores[..]),
    };
    sys::pin(ours)?;
    let rounds = (1..=flags.rounds.max(1)).map(|round| {
        let (rounds, seconds) = (flags.rounds, flags.seconds);
        println!("\nround {round} of {rounds}: {seconds} s quiet, {seconds} s under attack");
        let round = Round::run(flags, connections, ours, theirs)?;
        round.say(flags, connections);
        Ok(round)
    });
    let rounds: Vec<Round> = rounds.collect::<io::Result<_>>()?;

    let times = Spread::of(rounds.iter().map(Round::times_quiet));
    let all = |holds: &dyn Fn(&Round) -> bool| rounds.iter().all(holds);
    let budget = (flags.budget << 20) as f64;
    let verdicts = [
        (
            format!(
                "the honest p99 is {:.2} times the quiet one, in the median round ({:.2} to {:.2}){}: at most 2",
                times.median,
                times.min,
                times.max,
                if flags.no_precedence { ", without precedence" } else { "" }
            ),
            times.median <= 2.0,
        ),
        (
            "no more than the budget was buffered at any sample".to_owned(),
            all(&|round| round.most.buffered <= budget),
        ),
        (
            "accepted = closed, to the unit, each for a reason".to_owned(),
            all(&|round| balances(&round.counts)),
        ),
        ("each refusal has a name".to_owned(), all(&|round| refusals_have_names(&round.counts))),
    ];
    println!();
    for (what, is_so) in &verdicts {
        println!("{} {what}", if *is_so { "ok    " } else { "BROKEN" });
    }
    Ok(verdicts.iter().all(|(_, is_so)| *is_so))
}

/// A server of its own, first quiet and then under attack.
struct Round {
    quiet: Latencies,
    attacked: Latencies,
    most: Most,
    connects: u64,
    counts: BTreeMap<String, u64>,
}

impl Round {
    fn run(
        flags: &Flags,
        connections: usize,
        ours: &[usize],
        theirs: &[usize],
    ) -> io::Result<Self> {
        let mut server = vec![
            format!("--loops={}", flags.loops),
            format!("--max-connections={connections}"),
            "--first-byte-timeout=5s".to_owned(),
            format!("--memory-budget={}m", flags.budget),
        ];
        if flags.accept_rate > 0 {
            server.push(format!("--accept-rate={}", flags.accept_rate));
        }
        let target = Target::start(&server, !flags.no_precedence)?;
        let (quiet, _, _) = measure(flags, &target, ours, theirs, None)?;
        let (attacked, most, connects) =
            measure(flags, &target, ours, theirs, Some(&Attack::from_cores(theirs)))?;
        Ok(Self { quiet, attacked, most, connects, counts: target.finish()? })
    }

    fn times_quiet(&self) -> f64 {
        self.attacked.value_at_quantile(0.99) as f64 / self.quiet.value_at_quantile(0.99) as f64
    }

    fn say(&self, flags: &Flags, connections: usize) {
        println!("\n| honest clients | p50 µs | p99 µs | worst µs |\n|---|---|---|---|");
        for (name, latencies) in [("quiet", &self.quiet), ("under attack", &self.attacked)] {
            let micros = |nanos: u64| nanos as f64 / 1e3;
            let at = |quantile| micros(latencies.value_at_quantile(quantile));
            let worst = micros(latencies.max());
            println!("| {name} | {:.0} | {:.0} | {worst:.0} |", at(0.5), at(0.99));
        }
        let (most, mebibytes) = (&self.most, |bytes: f64| bytes / f64::from(1 << 20));
        println!("\n{} hostile connects; the most at {} samples:", self.connects, most.samples);
        println!("- buffered: {:.1} of {} MiB", mebibytes(most.buffered), flags.budget);
        println!("- resident: {:.1} MiB", mebibytes(most.resident));
        println!("- the kernel's, all sockets of the machine: {:.1} MiB", mebibytes(most.kernel));
        println!("- connections: {} of {connections}\n", most.connections);
        say_counts(&self.counts);
    }
}

type Latencies = hdrhistogram::Histogram<u64>;

/// What the honest notice, and the most that the server says meanwhile; and how many hostile connects
/// there were. An attack has two seconds before the measured time, to fill every place.
fn measure(
    flags: &Flags,
    target: &Target,
    ours: &[usize],
    theirs: &[usize],
    attack: Option<&Attack>,
) -> io::Result<(Latencies, Most, u64)> {
    let pace =
        Pace { pingers: flags.honest, per_second: flags.rate, has_firehose: false, sleeps: true };
    let (warm, measured) = (Duration::from_secs(2), Duration::from_secs(flags.seconds));
    let (at, is_over) = (target.at, AtomicBool::new(false));
    thread::scope(|scope| {
        let honest = scope.spawn(|| open_loop::run(at, pace, &ours[..1], warm, measured));
        thread::sleep(Duration::from_millis(200)); // so that the honest ones are in
        if let Some(attack) = attack {
            scope.spawn(|| attack.flood(at, flags.flood.unwrap_or(u64::MAX)));
            scope.spawn(|| attack.say_nothing(at, flags.silent));
            scope.spawn(|| attack.never_read(at, flags.never_readers));
        }
        // Whether there is an attack or not: what looking costs is in both.
        let watched = scope.spawn(|| {
            sys::pin(theirs)?;
            let _ = sys::come_last();
            watch(target.admin, &is_over)
        });
        let latencies = honest.join().expect("the honest do not panic");
        if let Some(attack) = attack {
            attack.end();
        }
        is_over.store(true, Ordering::Relaxed);
        let most = watched.join().expect("who watches does not panic")?;
        Ok((latencies?, most, attack.map_or(0, Attack::connects)))
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
