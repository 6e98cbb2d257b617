//! What can be counted of one server. What cannot is said and left out.

use benches::bursts;
use benches::lockstep::Load;
use benches::memory::bytes_per_idle_connection;
use benches::plan::Rival;
use benches::program::Program;
use benches::report::{Counted, Sends};
use benches::sys::cpu_time;
use benches::tools::{Tool, average, per_connection, per_message};
use std::io;

/// Messages of a burst: one to a loop that sleeps, and so many that it is busy meanwhile.
const BURSTS: [u32; 3] = [1, 256, 4096];

/// Messages in each count of bursts.
const SENT: usize = 16 << 10;

pub(crate) fn of(rival: &Rival, idle: usize) -> Counted {
    let program = &rival.program;
    eprintln!("counting {}", program.name);
    let one = Load { connections: 100, depth: 1, bytes: 64 };
    let sixteen = Load { depth: 16, ..one };
    let can_run = |tool: Tool| rival.runs_in_valgrind || tool.program() != "valgrind";
    let by = |tool: Tool, load: Load, rounds: usize| {
        can_run(tool)
            .then(|| by_tool(program, tool, || per_message(program, tool, load, rounds)))
            .flatten()
    };
    let churned = |tool: Tool| {
        can_run(tool)
            .then(|| by_tool(program, tool, || per_connection(program, tool, 100)))
            .flatten()
    };
    let idle = idle.min(rival.connections_max);
    Counted {
        server: program.name.into(),
        instructions: [by(Tool::Instructions, one, 200), by(Tool::Instructions, sixteen, 100)],
        syscalls: [by(Tool::Syscalls, one, 50), by(Tool::Syscalls, sixteen, 50)],
        churned: [churned(Tool::Instructions), churned(Tool::Syscalls)],
        idle_bytes: say(program, "memory", bytes_per_idle_connection(program, idle)),
    }
}

/// Messages from another thread, for each burst.
pub(crate) fn sends(program: &Program) -> Vec<Sends> {
    BURSTS
        .map(|burst| {
            let bursts = (SENT / burst as usize).min(500);
            let per_message = |total: f64| total / f64::from(burst);
            let by = |tool: Tool| {
                let count = || average(program, tool, bursts, |at, n| bursts::ask(at, burst, n));
                by_tool(program, tool, count).map(per_message)
            };
            let cpu = say(program, "CPU", cpu_ns(program, burst, bursts)).map(per_message);
            // Of a long burst, the difference of two counts of nearly none may fall below zero.
            let wakes = by(Tool::Writes).map(|wakes| wakes.max(0.0));
            let instructions = by(Tool::Instructions);
            Sends { burst, instructions, wakes, cpu_ns: cpu }
        })
        .to_vec()
}

/// CPU time of the whole server for each burst.
fn cpu_ns(program: &Program, burst: u32, bursts: usize) -> io::Result<f64> {
    let server = program.start()?;
    bursts::ask(server.at(), burst, bursts)?; // what the first of all bring is not counted
    let before = cpu_time(server.pid())?;
    bursts::ask(server.at(), burst, bursts)?;
    let spent = cpu_time(server.pid())?.saturating_sub(before);
    Ok(spent.as_nanos() as f64 / bursts as f64)
}

fn by_tool(program: &Program, tool: Tool, count: impl FnOnce() -> io::Result<f64>) -> Option<f64> {
    tool.is_there().then(|| say(program, tool.program(), count())).flatten()
}

fn say(program: &Program, what: &str, result: io::Result<f64>) -> Option<f64> {
    result.inspect_err(|error| eprintln!("{}, {what}: {error}", program.name)).ok()
}
