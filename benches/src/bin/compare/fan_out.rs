//! Rounds of one payload to many.

use crate::flags::Flags;
use benches::fan_out::Audience;
use benches::measure::start_on;
use benches::plan::BASELINE;
use benches::program::Program;
use benches::report::{FanOut, Samples};
use benches::stats::Spread;
use benches::swarm::split_cores;
use benches::sys::cpu_time;
use std::io;

/// Payloads to all in a round, after one that is not counted.
const CALLS: usize = 10;

/// The bare loop's plain writes, and ours.
pub(crate) fn servers(loops: usize) -> io::Result<[Program; 2]> {
    let loops = loops.to_string();
    Ok([
        Program::sibling(BASELINE, "bare_fan_out", &[])?, // one loop: it reaches no other's
        Program::sibling("net-core", "fan_out", &["--loops", &loops])?,
    ])
}

pub(crate) fn run_round(
    round: usize,
    servers: &[Program],
    flags: &Flags,
    fan_outs: &mut Samples<FanOut>,
) {
    for program in servers {
        match run_server(program, flags) {
            Ok(found) => fan_outs.push(round, &flags.idle.to_string(), program.name, found),
            Err(error) => eprintln!("{}, fan-out: {error}", program.name),
        }
    }
}

fn run_server(program: &Program, flags: &Flags) -> io::Result<FanOut> {
    let (server_cores, _) = split_cores(flags.loops)?;
    let server = start_on(&server_cores, program)?;
    let mut audience = Audience::connect(server.at(), flags.idle)?;
    audience.call()?;
    let before = cpu_time(server.pid())?;
    let mut last_ms = Vec::new();
    for _ in 0..CALLS {
        last_ms.push(1000.0 * audience.call()?.as_secs_f64());
    }
    let spent = cpu_time(server.pid())?.saturating_sub(before);
    let payloads = (CALLS * flags.idle) as f64;
    Ok(FanOut { last_ms: Spread::of(last_ms).median, cpu_ns: spent.as_nanos() as f64 / payloads })
}
