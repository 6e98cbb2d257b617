//! Does everything hold, for as long as it runs?
//!
//!     cargo build --release -p benches --bin soak
//!     target/release/soak run --minutes 60
//!     target/release/soak churn --connections 10000000
//!
//! `run`: a server with everything on, in a child process, and clients of all kinds: those that echo,
//! download, subscribe and ask, and those that read slowly or never, reset at any moment, say nothing, or
//! come in hundreds. Descriptors are taken from it and given back, it is stopped and continued, it has a
//! memory limit; each minute it is drained, cut, or followed by a next one beside it. Every byte that
//! comes is compared; at the end of each child its books, memory, descriptors, threads and exit code.
//!
//! `churn`: connections that come, say one thing, and go, by a reset or an end of either side; then
//! the books must be exact, and the memory what it was.
//!
//! Exits with 1 if anything did not hold.

use benches::soak::churn::{self, ChurnServer};
use benches::soak::generation::{self, MODES, Plan};
use benches::soak::server::{self, ServerFlags};
use benches::sys::raise_descriptor_limit;
use clap::{Parser, Subcommand};
use std::io;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Runs a server with everything on, for long.
#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// A server with everything on, clients of all kinds, and faults
    Run {
        /// How long
        #[arg(long, value_name = "N", default_value_t = 1)]
        minutes: u64,
        /// How long, in place of the minutes
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
        /// Decides what clients do and what faults come. Default: by the clock
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
        /// Seconds for which each generation is under load, where the run is long enough
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(3..))]
        generation: u64,
        /// Begin with this generation, as one of a longer run
        #[arg(long, value_name = "N", default_value_t = 0)]
        first: usize,
        /// Keep all generations in the mode of the first
        #[arg(long)]
        one_mode: bool,
        /// Threads of clients
        #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..200))]
        threads: u8,
        /// Mebibytes of the child's control group
        #[arg(long, value_name = "N", default_value_t = 256)]
        memory_limit: u64,
    },
    /// Connections that come and go
    Churn {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 100_000)]
        connections: u64,
        /// Threads of clients
        #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
        threads: u8,
    },
    /// The child of `run`
    #[command(hide = true)]
    Serve(ServerFlags),
    /// The child of `churn`
    #[command(hide = true)]
    ServeChurn,
}

fn main() -> ExitCode {
    let done = match Flags::parse().part {
        Part::Serve(flags) => return server::serve(&flags),
        Part::ServeChurn => return ChurnServer::serve(),
        Part::Run {
            minutes,
            seconds,
            seed,
            generation,
            first,
            one_mode,
            threads,
            memory_limit,
        } => raise_descriptor_limit().and_then(|_| {
            generation::run(&Plan {
                seed: seed.unwrap_or_else(by_the_clock),
                life_max: Duration::from_secs(generation),
                time: Duration::from_secs(seconds.unwrap_or(minutes * 60)),
                threads: usize::from(threads),
                first,
                step: if one_mode { MODES } else { 1 },
                memory_limit: memory_limit << 20,
            })
        }),
        Part::Churn { connections, threads } => {
            raise_descriptor_limit().and_then(|_| churn::run(connections, usize::from(threads)))
        }
    };
    told(done)
}

fn by_the_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64 % 1_000_000)
}

fn told(done: io::Result<Vec<String>>) -> ExitCode {
    let wrong = done.unwrap_or_else(|error| vec![error.to_string()]);
    let Some(last) = wrong.last() else {
        println!("\nsoak: ok");
        return ExitCode::SUCCESS;
    };
    println!();
    for what in &wrong {
        println!("- {what}");
    }
    println!("soak: FAILED: {last}");
    ExitCode::FAILURE
}
