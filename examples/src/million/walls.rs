//! The walls: what each limit of this machine allows, the lowest first.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::asked::{Asked, Role};
use super::figures::grouped;
use super::sizing::MEMORY_RESERVE_BYTES;
use super::sources::{LOOPBACK_SOURCES, connections_per_source};
use super::tables::Room;
use super::wall::Wall;
use net_core::process::Machine;

/// All walls, the lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walls {
    rows: Vec<Wall>,
}

impl Walls {
    /// The walls of this machine for this command line. A limit that the kernel does not have, or that does
    /// not bind here, is no wall.
    pub fn of(machine: &Machine, asked: &Asked) -> Self {
        let ends = asked.role.ends();
        let mut rows = Vec::new();
        if asked.role.serves() {
            rows.push(Wall::Descriptors { process: "server", room: server_room(machine, asked) });
        }
        if asked.role.swarms() {
            rows.push(Wall::Descriptors { process: "swarm", room: swarm_room(machine) });
            let sources = match asked.role {
                Role::Swarm { source_addresses } => u64::from(source_addresses),
                _ => LOOPBACK_SOURCES,
            };
            let per_source = connections_per_source(machine.port_range);
            rows.push(Wall::Ports { per_source, sources });
        }
        if let Some(max) = machine.file_max {
            rows.push(Wall::Files { max, open: machine.files_open.unwrap_or(0), ends });
        }
        if let Some(max) = machine.max_user_watches {
            rows.push(Wall::Watches { max, ends });
        }
        if let (Some(max), Some(count @ 1..)) = (machine.conntrack_max, machine.conntrack_count) {
            rows.push(Wall::Conntrack { max, count });
        }
        let room =
            if asked.role.serves() { server_room(machine, asked) } else { swarm_room(machine) };
        let budget_bytes = machine.memory_available_bytes.saturating_sub(MEMORY_RESERVE_BYTES);
        rows.push(Wall::Memory { budget_bytes, role: asked.role, room });
        rows.sort_by_key(Wall::allows);
        Self { rows }
    }

    /// The walls, the lowest first.
    pub fn rows(&self) -> &[Wall] {
        &self.rows
    }

    /// The wall that is reached first when connections are added.
    pub fn first(&self) -> &Wall {
        self.rows.first().expect("memory is always a wall")
    }

    /// How many connections pass all walls.
    pub fn fits(&self) -> u64 {
        self.first().allows()
    }
}

impl fmt::Display for Walls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for wall in &self.rows {
            let allows = wall.allows();
            // The remedy is for twice as many connections, so that its command has a number that makes a
            // difference.
            let way_out = match wall {
                Wall::Memory { .. } => "add memory".to_owned(),
                _ => wall.way_out(allows.max(1).saturating_mul(2)),
            };
            writeln!(out, "  {:<26} {:>19}   {way_out}", wall.name(), grouped(allows))?;
        }
        Ok(())
    }
}

/// A wall as it stands in a plan or a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallFound {
    /// What the limit is called.
    pub name: String,
    /// How many connections it allows.
    pub allows: u64,
    /// A command or a sentence.
    pub way_out: String,
}

impl WallFound {
    /// The wall, and how to get to `connections` past it.
    pub fn of(wall: &Wall, connections: u64) -> Self {
        let (name, way_out) = (wall.name().to_owned(), wall.way_out(connections));
        Self { name, allows: wall.allows(), way_out }
    }
}

/// What decides the server's tables.
pub fn server_room(machine: &Machine, asked: &Asked) -> Room {
    Room {
        descriptors_per_table: machine.descriptors_per_table(),
        cores: machine.cores,
        loops: asked.loops.number(machine.cores),
        fd_table: asked.fd_table,
        accept: asked.accept,
    }
}

/// What decides the swarm's tables. The command line does not change them. Each loop of the swarm connects
/// for itself, so no hash spreads connections.
pub fn swarm_room(machine: &Machine) -> Room {
    let asked = Asked::default();
    Room { loops: None, ..server_room(machine, &asked) }
}

#[cfg(test)]
mod tests {
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
            conntrack_max: Some(262_144),
            conntrack_count: Some(0),
            ..Machine::default()
        }
    }

    fn names(walls: &Walls) -> Vec<&'static str> {
        walls.rows().iter().map(Wall::name).collect()
    }

    #[test]
    fn lowest_wall_comes_first() {
        let walls = Walls::of(&machine(), &Asked::default());
        assert_eq!(walls.first().name(), "fs.file-max");
        assert_eq!(walls.fits(), 1_208_000);
        assert!(walls.rows().is_sorted_by_key(Wall::allows));
    }

    #[test]
    fn tracking_is_a_wall_only_where_it_counts() {
        assert!(!names(&Walls::of(&machine(), &Asked::default())).contains(&"nf_conntrack_max"));
        let counting = Machine { conntrack_count: Some(5), ..machine() };
        let walls = Walls::of(&counting, &Asked::default());
        assert_eq!((walls.first().name(), walls.fits()), ("nf_conntrack_max", 262_139));
    }

    #[test]
    fn missing_files_are_no_walls() {
        let bare = Machine { file_max: None, max_user_watches: None, ..machine() };
        let walls = Walls::of(&bare, &Asked::default());
        assert!(!names(&walls).iter().any(|name| name.starts_with("fs.")));
    }

    #[test]
    fn server_alone_needs_one_file_and_no_ports() {
        let asked = Asked { role: Role::Server, ..Asked::default() };
        let walls = Walls::of(&machine(), &asked);
        assert!(!names(&walls).contains(&"source ports"));
        assert_eq!(walls.fits(), 2_416_000);
    }

    #[test]
    fn swarm_alone_is_bound_by_its_addresses() {
        let asked = Asked { role: Role::Swarm { source_addresses: 2 }, ..Asked::default() };
        let walls = Walls::of(&machine(), &asked);
        assert_eq!((walls.first().name(), walls.fits()), ("source ports", 28_000));
        assert!(!names(&walls).contains(&"descriptors of the server"));
    }

    #[test]
    fn machine_without_memory_fits_nothing() {
        let poor = Machine { memory_available_bytes: 1 << 30, ..machine() };
        let walls = Walls::of(&poor, &Asked::default());
        assert_eq!((walls.first().name(), walls.fits()), ("memory", 0));
    }

    #[test]
    fn table_of_walls_has_a_line_for_each() {
        let walls = Walls::of(&machine(), &Asked::default());
        let text = walls.to_string();
        assert_eq!(text.lines().count(), walls.rows().len());
        assert!(text.contains("1,208,000   sysctl -w fs.file-max=4900000"), "{text}");
    }
}
