//! The number of a server's connections that this machine can hold, its lowest limit, and how to raise it.

use super::capacity::Capacity;
use super::{FdTable, Server};
use crate::base::error::StartError;
use crate::server::machine::{BYTES_PER_IDLE_CONNECTION, Machine};
use std::fmt;
use std::path::Path;

/// How many connections each limit of this machine allows a server, the lowest limit first. See
/// [`Server::doctor`].
///
/// The numbers are for idle connections of this server alone. Bytes that the connections buffer, and
/// other programs on the machine, need more. Clients on the same machine need as much again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityReport {
    walls: Vec<Wall>,
}

/// One limit of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wall {
    kind: Kind,
    allows: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Descriptors { per_table: u64, tables: u64, used: u64, is_shared: bool },
    Files { open: u64 },
    Watches,
    Conntrack { count: u64 },
    Memory,
}

impl Wall {
    /// The name of the limit.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Descriptors { .. } => "RLIMIT_NOFILE",
            Kind::Files { .. } => "fs.file-max",
            Kind::Watches => "fs.epoll.max_user_watches",
            Kind::Conntrack { .. } => "net.netfilter.nf_conntrack_max",
            Kind::Memory => "memory",
        }
    }

    /// How many connections the limit allows.
    pub fn allows(&self) -> u64 {
        self.allows
    }

    /// How to raise the limit to this number of connections: a command, or a short sentence.
    pub fn way_out(&self, connections: u64) -> String {
        let name = self.name();
        match self.kind {
            Kind::Descriptors { per_table, tables, used, is_shared } => {
                let loops = connections.div_ceil(per_table.max(1));
                let limit = connections.div_ceil(tables).saturating_add(used);
                if loops > crate::base::id::LOOPS_MAX as u64 {
                    return format!("ulimit -n {limit}");
                }
                let private = if is_shared { " with private tables" } else { "" };
                format!("{loops} loops{private}, or ulimit -n {limit}")
            }
            // Twice as many, to leave room for the rest of the machine.
            Kind::Files { open } => {
                format!("sysctl -w {name}={}", connections.saturating_add(open).saturating_mul(2))
            }
            Kind::Watches => format!("sysctl -w {name}={connections}"),
            Kind::Conntrack { count } => {
                let needed = connections.saturating_add(count);
                format!("sysctl -w {name}={needed}, or rules that exempt the port")
            }
            Kind::Memory => {
                let needed = connections.saturating_mul(BYTES_PER_IDLE_CONNECTION);
                format!("{} MiB of available memory, for idle ones", (needed >> 20) + 1)
            }
        }
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} allows {} connections", self.name(), self.allows)
    }
}

impl CapacityReport {
    pub(super) fn of(server: &Server, capacity: &Capacity, machine: &Machine) -> Self {
        let per_table = capacity.per_table;
        let descriptors = Kind::Descriptors {
            per_table,
            tables: capacity.tables,
            used: capacity.nofile - per_table,
            is_shared: matches!(server.fd_table, FdTable::Shared),
        };
        let mut walls = vec![Wall { kind: descriptors, allows: capacity.in_all() as u64 }];
        let mut wall = |kind, allows| walls.push(Wall { kind, allows });
        if let Some(max) = machine.file_max {
            let open = machine.files_open.unwrap_or(0);
            wall(Kind::Files { open }, max.saturating_sub(open));
        }
        if let Some(max) = machine.max_user_watches {
            wall(Kind::Watches, max);
        }
        // With no connection counted, no firewall rule uses connection tracking, and it is no limit.
        if let (Some(max), Some(count @ 1..)) = (machine.conntrack_max, machine.conntrack_count) {
            wall(Kind::Conntrack { count }, max.saturating_sub(count));
        }
        wall(Kind::Memory, machine.memory_available_bytes / BYTES_PER_IDLE_CONNECTION);
        walls.sort_by_key(Wall::allows);
        Self { walls }
    }

    /// The limits, the lowest first.
    pub fn walls(&self) -> &[Wall] {
        &self.walls
    }

    /// The limit that is reached first when connections are added.
    pub fn first(&self) -> &Wall {
        self.walls.first().expect("memory is always a wall")
    }

    /// The limits that allow fewer than this number of connections.
    pub fn before(&self, connections: u64) -> impl Iterator<Item = &Wall> {
        self.walls.iter().take_while(move |wall| wall.allows < connections)
    }
}

/// One line for each limit, with how to raise it to twice as many connections.
impl fmt::Display for CapacityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for wall in &self.walls {
            let twice = wall.allows.max(1).saturating_mul(2);
            writeln!(f, "{wall}; for {twice}: {}", wall.way_out(twice))?;
        }
        Ok(())
    }
}

impl Server {
    /// How many of this server's connections this machine, in its present state, can hold: each limit,
    /// the lowest first, and how to raise it. Any thread may call this, before a start or without one.
    /// Like a start, it raises RLIMIT_NOFILE to its hard limit.
    ///
    /// The start itself logs a warning for every limit below the `connections_max` that was asked for.
    ///
    /// Returns an error if the server needs more descriptors than there are, or if a file of the kernel
    /// cannot be read or understood. The error names the file.
    ///
    /// ```
    /// let server = net_core::Server::new().listen("127.0.0.1:0");
    /// let diagnosis = server.doctor()?;
    /// println!("the first wall: {}", diagnosis.first());
    /// for wall in diagnosis.before(1_000_000) {
    ///     println!("{wall}; for a million: {}", wall.way_out(1_000_000));
    /// }
    /// # Ok::<(), net_core::StartError>(())
    /// ```
    pub fn doctor(&self) -> Result<CapacityReport, StartError> {
        let capacity = Capacity::of(self, self.loop_count()?)?;
        let machine = Machine::probe(Path::new("/"))
            .map_err(|error| StartError::plain(format!("look at the machine: {error}")))?;
        Ok(CapacityReport::of(self, &capacity, &machine))
    }
}

/// Logs a warning for each limit below this number of connections, except for the descriptor tables: the
/// server itself enforces that bound.
pub(super) fn warn_of_walls(server: &Server, capacity: &Capacity, asked: usize) {
    match Machine::probe(Path::new("/")) {
        Ok(machine) => {
            for wall in CapacityReport::of(server, capacity, &machine).before(asked as u64) {
                if !matches!(wall.kind, Kind::Descriptors { .. }) {
                    let way_out = wall.way_out(asked as u64);
                    tracing::warn!("{asked} connections were asked for, but {wall}: {way_out}");
                }
            }
        }
        // A machine without /proc may still serve.
        Err(error) => tracing::debug!(%error, "the machine's limits are not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis(machine: &Machine) -> CapacityReport {
        let capacity = Capacity { nofile: 20_000, per_table: 19_950, tables: 1 };
        CapacityReport::of(&Server::new(), &capacity, machine)
    }

    fn machine() -> Machine {
        Machine {
            memory_available_bytes: 4_151_000_000,
            file_max: Some(300_183),
            files_open: Some(183),
            max_user_watches: Some(500_000),
            ..Machine::default()
        }
    }

    fn names(diagnosis: &CapacityReport) -> Vec<&'static str> {
        diagnosis.walls().iter().map(Wall::name).collect()
    }

    #[test]
    fn the_lowest_wall_comes_first_and_each_says_how_to_move_it() {
        let diagnosis = diagnosis(&machine());
        let allows: Vec<_> = diagnosis.walls().iter().map(Wall::allows).collect();
        assert_eq!(allows, [19_950, 300_000, 500_000, 1_000_000]);
        assert_eq!(
            names(&diagnosis),
            ["RLIMIT_NOFILE", "fs.file-max", "fs.epoll.max_user_watches", "memory"]
        );
        let ways: Vec<_> = diagnosis.walls().iter().map(|wall| wall.way_out(2_000_000)).collect();
        assert_eq!(
            ways,
            [
                "101 loops with private tables, or ulimit -n 2000050",
                "sysctl -w fs.file-max=4000366",
                "sysctl -w fs.epoll.max_user_watches=2000000",
                "7918 MiB of available memory, for idle ones",
            ]
        );
        assert_eq!(diagnosis.to_string().lines().count(), 4);
    }

    #[test]
    fn a_wall_stands_before_those_that_it_does_not_allow() {
        let diagnosis = diagnosis(&machine());
        assert_eq!(diagnosis.before(19_950).count(), 0);
        assert_eq!(diagnosis.before(19_951).count(), 1);
        assert_eq!(diagnosis.before(500_000).count(), 2);
        assert_eq!(diagnosis.before(u64::MAX).count(), 4);
    }

    #[test]
    fn tracking_is_a_wall_only_where_it_counts() {
        let machine = Machine { conntrack_max: Some(1_000), conntrack_count: Some(0), ..machine() };
        assert!(!names(&diagnosis(&machine)).contains(&"net.netfilter.nf_conntrack_max"));
        let machine = Machine { conntrack_count: Some(7), ..machine };
        let diagnosis = diagnosis(&machine);
        let first = diagnosis.first();
        assert_eq!((first.name(), first.allows()), ("net.netfilter.nf_conntrack_max", 993));
    }

    #[test]
    fn what_the_kernel_does_not_limit_is_no_wall() {
        let machine = Machine { memory_available_bytes: 1 << 40, ..Machine::default() };
        assert_eq!(names(&diagnosis(&machine)), ["RLIMIT_NOFILE", "memory"]);
    }

    #[test]
    fn more_loops_than_there_can_be_are_not_advised() {
        let diagnosis = diagnosis(&machine());
        let wall = &diagnosis.walls()[0];
        assert!(wall.way_out(256 * 19_950).starts_with("256 loops"));
        assert_eq!(wall.way_out(256 * 19_950 + 1), "ulimit -n 5107251");
    }

    #[test]
    fn sockets_for_datagrams_are_counted() {
        let plain = Server::new().loops(crate::Loops::Count(64));
        let with = (0..3).fold(plain.clone(), |server, _| server.datagrams("127.0.0.1:0"));
        let (plain, with) = (plain.capacity().unwrap(), with.capacity().unwrap());
        // Other tests of this process open and close descriptors in the meantime.
        assert!((150..250).contains(&(plain - with)), "{plain} and {with}");
    }

    #[test]
    fn no_number_is_too_large_to_be_told() {
        for wall in diagnosis(&machine()).walls() {
            assert!(!wall.way_out(u64::MAX).is_empty());
        }
    }
}
