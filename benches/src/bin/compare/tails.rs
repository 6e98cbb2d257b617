//! Rounds of latencies: alone, beside idle connections, beside a firehose.

use crate::flags::Flags;
use benches::lockstep::{Clients, Load as Lockstep};
use benches::measure::{Load, Times, measure, settle, start_on};
use benches::open_loop::{self, Pace};
use benches::plan::{Rival, Shape};
use benches::program::Process;
use benches::report::{ALONE, BESIDE_FIREHOSE, BESIDE_IDLE, Samples, Tail};
use benches::swarm::{Swarm, split_cores};
use std::io;
use std::time::Duration;

/// Connections that send.
const ACTIVE: usize = 100;

/// The part of what a server reaches in a closed loop at which latencies are asked for.
const PART_OF_CAPACITY: f64 = 0.3;

/// Time in which that is measured.
const CAPACITY_TIMES: Times =
    Times { warm: Duration::from_millis(25), measured: Duration::from_millis(100) };

pub(crate) fn run_round(round: usize, rivals: &[Rival], flags: &Flags, tails: &mut Samples<Tail>) {
    for rival in rivals {
        if let Err(error) = run_server(round, rival, flags, tails) {
            eprintln!("{}, latency: {error}", rival.program.name);
        }
    }
}

fn run_server(
    round: usize,
    rival: &Rival,
    flags: &Flags,
    tails: &mut Samples<Tail>,
) -> io::Result<()> {
    let (server_cores, load_cores) = split_cores(flags.loops)?;
    let server = start_on(&server_cores, &rival.program)?;
    let per_second = PART_OF_CAPACITY * capacity(&server, &load_cores)?;
    let measured = Duration::from_millis(flags.tail_millis);
    let mut run = |cell: &str, pace: Pace| -> io::Result<()> {
        let found = open_loop::run(server.at(), pace, &load_cores, measured / 4, measured)?;
        let micros = |quantile: f64| found.value_at_quantile(quantile) as f64 / 1000.0;
        let (p50, p99, p999) = (micros(0.5), micros(0.99), micros(0.999));
        let tail = Tail { per_second: pace.per_second, p50, p99, p999 };
        tails.push(round, cell, rival.program.name, tail);
        Ok(())
    };
    let alone = Pace { pingers: ACTIVE, per_second, has_firehose: false, sleeps: false };
    let one_less = (ACTIVE - 1) as f64 / ACTIVE as f64;
    let per_second = one_less * per_second;
    let firehose = Pace { pingers: ACTIVE - 1, per_second, has_firehose: true, sleeps: false };
    // Which of them goes first alternates, so that none has the quieter part of each round.
    for n in 0..3 {
        match (n + round) % 3 {
            0 => run(ALONE, alone)?,
            1 if flags.idle + ACTIVE <= rival.connections_max => {
                let load = Lockstep { connections: flags.idle, depth: 1, bytes: 64 };
                let idle = Clients::connect(server.at(), load)?;
                run(BESIDE_IDLE, alone)?;
                idle.reset()?;
            }
            1 => {}
            _ => run(BESIDE_FIREHOSE, firehose)?,
        }
        settle(&server)?;
    }
    Ok(())
}

/// Messages a second of a closed loop over as many connections.
fn capacity(server: &Process, cores: &[usize]) -> io::Result<f64> {
    let mut swarms = Swarm::connect_all(server.at(), ACTIVE, cores)?;
    let loads = swarms.iter_mut().map(|swarm| -> Load<'_> {
        Box::new(|shared| swarm.run(Shape { depth: 1, bytes: 64 }, shared))
    });
    let sample = measure(server, loads.collect(), cores, CAPACITY_TIMES)?;
    drop(swarms);
    settle(server)?;
    Ok(sample.per_second)
}
