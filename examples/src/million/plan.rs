//! The plan: how many connections, in how many loops, with which descriptor tables, from which addresses. It
//! is decided once, from the machine and the command line. Pure.

use serde::{Deserialize, Serialize};

use super::asked::{Accept, Asked, CONNECTIONS_DEFAULT, Count, FdTableAsked, LoopsAsked, Role};
use super::pace::Pace;
use super::refusal::Refusal;
use super::sizing::{Prediction, predict_for};
use super::sources::{Share, connections_per_source, shares};
use super::tables::{LOOPS_MAX, Tables};
use super::walls::{WallFound, Walls, server_room, swarm_room};
use net_core::process::Machine;

/// What the run will do. Everything in it has been checked against the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Connections to hold at once.
    pub connections: u64,
    /// Which halves run here.
    pub role: Role,
    /// How the server accepts.
    pub accept: Accept,
    /// The server's loops and tables, if it runs here.
    pub server: Option<Tables>,
    /// The swarm's loops and tables, if it runs here. The swarm is one process.
    pub swarm: Option<Tables>,
    /// The most connections from one source address to one port.
    pub connections_per_source: u64,
    /// The memory that the run is expected to take.
    pub prediction: Prediction,
    /// The wall that is met first when connections are added, and how to get past it.
    pub first_wall: WallFound,
    /// Where the run must hold back.
    pub pace: Pace,
}

impl Plan {
    /// Makes the plan. Without a number on the command line: a million connections, or what fits if that is
    /// less. A number on the command line is done or refused, and never reduced.
    ///
    /// # Errors
    /// If the requested number does not fit. The error has the arithmetic.
    pub fn make(machine: &Machine, asked: &Asked) -> Result<Self, Refusal> {
        let loops = asked.loops.number(machine.cores).unwrap_or(1);
        if loops > LOOPS_MAX {
            return Err(Refusal::TooManyLoops(loops));
        }
        let walls = Walls::of(machine, asked);
        let connections = match asked.connections {
            Count::Exactly(number) => number,
            Count::Max => walls.fits().max(1),
            Count::Default => CONNECTIONS_DEFAULT.min(fits_at_best(machine, asked)).max(1),
        };
        if connections > walls.fits() {
            return Err(Refusal::Wall { connections, wall: walls.first().clone() });
        }
        let server = server_room(machine, asked).tables_for(connections);
        let swarm = swarm_room(machine).tables_for(connections);
        let loops = if asked.role.serves() { server.loops } else { swarm.loops };
        Ok(Self {
            connections,
            role: asked.role,
            accept: asked.accept,
            server: asked.role.serves().then_some(server),
            swarm: asked.role.swarms().then_some(swarm),
            connections_per_source: connections_per_source(machine.port_range),
            prediction: predict_for(asked.role, connections, loops),
            first_wall: WallFound::of(walls.first(), walls.fits().saturating_mul(2).max(1)),
            pace: Pace::of(machine),
        })
    }

    /// What each loop of the swarm opens, and from which addresses. Empty if the swarm runs elsewhere.
    pub fn shares(&self) -> Vec<Share> {
        let loops = self.swarm.map(|swarm| swarm.loops);
        let per_source = self.connections_per_source;
        loops.map_or_else(Vec::new, |loops| shares(self.connections, loops, per_source))
    }
}

/// What fits if the program chooses loops and tables. A run without a number aims at this. So a `--loops`
/// that is too small is refused, and not obeyed with fewer connections.
fn fits_at_best(machine: &Machine, asked: &Asked) -> u64 {
    let free = Asked { loops: LoopsAsked::Auto, fd_table: FdTableAsked::Auto, ..asked.clone() };
    Walls::of(machine, &free).fits()
}

#[cfg(test)]
mod tests {
    use super::super::tables::FdTable;
    use super::*;

    fn machine() -> Machine {
        Machine {
            cores: 2,
            memory_available_bytes: 24_000_000_000,
            nofile_soft: 1_024,
            nofile_hard: 20_000,
            file_max: Some(2_466_183),
            files_open: Some(183),
            max_user_watches: Some(5_491_533),
            ..Machine::default()
        }
    }

    fn exactly(connections: u64) -> Asked {
        Asked { connections: Count::Exactly(connections), ..Asked::default() }
    }

    #[test]
    fn nothing_asked_is_a_million_where_it_fits() {
        let plan = Plan::make(&machine(), &Asked::default()).unwrap();
        assert_eq!(plan.connections, 1_000_000);
        let server = plan.server.unwrap();
        assert_eq!((server.loops, server.fd_table), (52, FdTable::PerLoop));
        assert_eq!(plan.swarm, plan.server);
        assert_eq!(plan.first_wall.name, "fs.file-max");
        assert_eq!(plan.shares().iter().map(|share| share.connections).sum::<u64>(), 1_000_000);
        let text = plan.to_string();
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains("52 loops × 19,900 places = 1,034,800"), "{text}");
        assert!(text.contains("fs.file-max, at 1,208,000: sysctl -w"), "{text}");
    }

    #[test]
    fn nothing_asked_is_what_fits_where_a_million_does_not() {
        let small = Machine { file_max: Some(250_183), ..machine() };
        let plan = Plan::make(&small, &Asked::default()).unwrap();
        assert_eq!(plan.connections, 100_000);
    }

    #[test]
    fn at_the_wall_fits_and_one_above_is_refused() {
        for connections in [1_207_999, 1_208_000] {
            assert_eq!(
                Plan::make(&machine(), &exactly(connections)).unwrap().connections,
                connections
            );
        }
        let refusal = Plan::make(&machine(), &exactly(1_208_001)).unwrap_err().to_string();
        assert!(refusal.starts_with("fs.file-max: 1,208,001 × 2 files"), "{refusal}");
    }

    #[test]
    fn max_is_what_the_first_wall_allows() {
        let max = Asked { connections: Count::Max, ..Asked::default() };
        assert_eq!(Plan::make(&machine(), &max).unwrap().connections, 1_208_000);
        let two_loops = Asked { loops: LoopsAsked::Exactly(2), ..max };
        assert_eq!(Plan::make(&machine(), &two_loops).unwrap().connections, 39_800);
    }

    #[test]
    fn too_few_loops_are_refused_though_no_number_was_asked() {
        for loops in [LoopsAsked::Exactly(2), LoopsAsked::PerCore] {
            let asked = Asked { loops, ..Asked::default() };
            let refusal = Plan::make(&machine(), &asked).unwrap_err().to_string();
            assert_eq!(
                refusal,
                "2 private tables × 19,900 = 39,800 < 1,000,000: use ≥ 51 loops or raise nofile"
            );
        }
        let asked = Asked { loops: LoopsAsked::Exactly(51), ..Asked::default() };
        assert_eq!(Plan::make(&machine(), &asked).unwrap().server.unwrap().loops, 51);
    }

    #[test]
    fn shared_table_is_refused_above_its_last_place() {
        let shared = |number| Asked { fd_table: FdTableAsked::Shared, ..exactly(number) };
        assert!(Plan::make(&machine(), &shared(19_892)).is_ok());
        let refusal = Plan::make(&machine(), &shared(19_893)).unwrap_err().to_string();
        assert!(refusal.starts_with("1 shared table × 19,892 = 19,892 < 19,893"), "{refusal}");
    }

    #[test]
    fn private_tables_that_were_asked_for_are_used_when_one_would_do() {
        let asked = Asked {
            fd_table: FdTableAsked::PerLoop,
            loops: LoopsAsked::Exactly(3),
            ..exactly(30_000)
        };
        let limited = Machine { nofile_hard: 16_384, ..machine() };
        let plan = Plan::make(&limited, &asked).unwrap();
        assert_eq!(plan.server.unwrap().places(), 3 * 16_284);
        assert_eq!(plan.swarm.unwrap().loops, 4);
    }

    #[test]
    fn number_of_loops_is_bound_by_the_id() {
        let asked = |loops| Asked { loops: LoopsAsked::Exactly(loops), ..exactly(10) };
        assert!(Plan::make(&machine(), &asked(256)).is_ok());
        let refusal = Plan::make(&machine(), &asked(257)).unwrap_err().to_string();
        assert!(refusal.starts_with("257 loops > 256"), "{refusal}");
    }

    #[test]
    fn memory_that_is_too_small_is_refused_with_what_fits() {
        let poor = Machine {
            memory_available_bytes: 9_800_000_000 + (1 << 30),
            file_max: None,
            ..machine()
        };
        let refusal = Plan::make(&poor, &exactly(1_500_000)).unwrap_err().to_string();
        assert!(refusal.contains("= 12.7 GB > 9.8 GB available: ask for at most"), "{refusal}");
    }

    #[test]
    fn machine_without_room_is_refused_rather_than_given_an_empty_plan() {
        let poor = Machine { nofile_hard: 64, ..machine() };
        for connections in [Count::Default, Count::Max] {
            let asked = Asked { connections, ..Asked::default() };
            let refusal = Plan::make(&poor, &asked).unwrap_err().to_string();
            assert!(refusal.contains("raise nofile from 64"), "{refusal}");
        }
    }

    #[test]
    fn half_a_plan_has_half_the_cost() {
        let asked = Asked { role: Role::Server, ..Asked::default() };
        let plan = Plan::make(&machine(), &asked).unwrap();
        assert_eq!(plan.swarm, None);
        assert!(plan.shares().is_empty());
        assert_eq!(plan.prediction.swarm_bytes, 0);
        assert!(!plan.to_string().contains("swarm"));
    }
}
