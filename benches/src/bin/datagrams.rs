//! What does a datagram cost, which comes and goes back?
//!
//!     cargo build --release --workspace && cargo run --release -p benches --bin datagrams
//!
//! CPU time of `udp_echo` with one loop, to that of tokio's socket on one thread: both servers in turn,
//! in every round, for each way in which the datagrams leave.

use benches::datagrams::{BYTES, Way, load};
use benches::measure::{Load, Shared, Times, measure, start_on};
use benches::program::Program;
use benches::stats::{Ratio, Spread};
use benches::swarm::split_cores;
use clap::Parser;
use std::io;
use std::time::Duration;

/// What a datagram costs.
#[derive(Parser)]
struct Flags {
    /// Rounds: each has both servers once for each way
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// Measured time of each, in milliseconds
    #[arg(long, default_value_t = 500)]
    millis: u64,
}

fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let (server_cores, load_cores) = split_cores(1)?;
    let servers = [
        start_on(&server_cores, &Program::sibling("net-core", "udp_echo", &["--loops", "1"])?)?,
        start_on(&server_cores, &Program::sibling("tokio", "tokio_datagrams", &[])?)?,
    ];
    let measured = Duration::from_millis(flags.millis);
    let times = Times { warm: measured / 5, measured };
    println!("| {BYTES} bytes | net-core, ns | tokio, ns | ratio | 95% |\n|---|--:|--:|--:|--:|");
    for way in Way::ALL {
        let mut costs = [Vec::new(), Vec::new()];
        for round in 0..flags.rounds.max(1) {
            // Each of them is first as often as second.
            for n in [round % 2, 1 - round % 2] {
                let at = servers[n].at();
                let load: Load<'_> = Box::new(move |shared: &Shared| load(at, way, shared));
                costs[n].push(measure(&servers[n], vec![load], &load_cores, times)?.cpu_ns);
            }
        }
        let ratios: Vec<f64> =
            costs[0].iter().zip(&costs[1]).map(|(own, other)| own / other).collect();
        let Ratio { low, mean, high, .. } = Ratio::of(&ratios);
        let [own, other] = costs.map(|costs| Spread::of(costs).median);
        println!("| {way} | {own:.0} | {other:.0} | {mean:.2} | {low:.2}–{high:.2} |");
    }
    servers.into_iter().try_for_each(|server| server.stop())
}
