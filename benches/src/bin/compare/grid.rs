//! Rounds of echoes and of churn: every server anew, and all in turn for each load.

use crate::flags::{Flags, Part};
use benches::churn;
use benches::measure::{Load, Sample, Times, measure, settle, start_on};
use benches::plan::{Rival, Shape, shapes};
use benches::program::Process;
use benches::report::{CHURN, Samples};
use benches::swarm::{Swarm, split_cores};
use std::io::{self, ErrorKind};
use std::time::Duration;

/// All servers once, at all loads; at most so many `descriptors` are connections.
pub(crate) fn run_round(
    number: usize,
    rivals: &[Rival],
    flags: &Flags,
    descriptors: usize,
    measured: &mut Samples<Sample>,
) -> io::Result<()> {
    let (server_cores, cores) = split_cores(flags.loops)?;
    let time = Duration::from_millis(flags.millis);
    let times = Times { warm: time / 4, measured: time };
    let mut round = Round { number, cores, times, measured };
    let servers: Vec<_> = rivals
        .iter()
        .map(|rival| Ok((rival, start_on(&server_cores, &rival.program)?)))
        .collect::<io::Result<_>>()?;
    if flags.has(Part::Grid) {
        let shapes = shapes(&flags.bytes, &flags.depth);
        for &connections in &flags.connections {
            // Servers that take turns at the same load should do so within moments; but all the
            // connections to them must fit.
            for together in servers.chunks((descriptors / connections).max(1)) {
                round.echo(together, connections, &shapes)?;
            }
        }
    }
    if flags.has(Part::Churn) {
        for (rival, server) in servers.iter().filter(|(rival, _)| rival.churns) {
            round.churn(rival, server)?;
        }
    }
    Ok(())
}

struct Round<'a> {
    number: usize,
    /// The load's.
    cores: Vec<usize>,
    times: Times,
    measured: &'a mut Samples<Sample>,
}

/// A server that runs, and a swarm for each core of the load.
struct Stage<'a> {
    rival: &'a Rival,
    server: &'a Process,
    swarms: Vec<Swarm>,
}

impl Round<'_> {
    fn echo(
        &mut self,
        servers: &[(&Rival, Process)],
        connections: usize,
        shapes: &[Shape],
    ) -> io::Result<()> {
        let mut stages = self.connect(servers, connections);
        for shape in shapes {
            let cell = shape.name(connections);
            // A server that has failed has no connections for the loads to come.
            stages.retain_mut(|stage| self.take_turn(stage, *shape, &cell));
        }
        drop(stages);
        servers.iter().try_for_each(|(_, server)| settle(server))
    }

    fn connect<'a>(
        &self,
        servers: &'a [(&'a Rival, Process)],
        connections: usize,
    ) -> Vec<Stage<'a>> {
        let mut stages = Vec::new();
        for (rival, server) in servers.iter().filter(|(one, _)| connections <= one.connections_max)
        {
            match Swarm::connect_all(server.at(), connections, &self.cores) {
                Ok(swarms) => stages.push(Stage { rival, server, swarms }),
                Err(why) => eprintln!("{}, {connections} connections: {why}", rival.program.name),
            }
        }
        stages
    }

    fn take_turn(&mut self, stage: &mut Stage<'_>, shape: Shape, cell: &str) -> bool {
        let swarms = stage.swarms.iter_mut();
        let loads =
            swarms.map(|swarm| -> Load<'_> { Box::new(move |shared| swarm.run(shape, shared)) });
        let found = measure(stage.server, loads.collect(), &self.cores, self.times);
        self.keep(cell, stage.rival, found)
    }

    fn churn(&mut self, rival: &Rival, server: &Process) -> io::Result<()> {
        let load = || -> Load<'_> { Box::new(|shared| churn::run(server.at(), shared)) };
        let loads = self.cores.iter().map(|_| load()).collect();
        let found = measure(server, loads, &self.cores, self.times);
        self.keep(CHURN, rival, found);
        settle(server)
    }

    /// Whether the server can go on.
    fn keep(&mut self, cell: &str, rival: &Rival, found: io::Result<Sample>) -> bool {
        let name = rival.program.name;
        match found {
            Ok(sample) => self.measured.push(self.number, cell, name, sample),
            Err(error) => {
                eprintln!("{name}, {cell}: {error}");
                return error.kind() == ErrorKind::TimedOut; // slow, but there
            }
        }
        true
    }
}
