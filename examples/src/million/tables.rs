//! How many descriptors a process can hold, in one table or in one for each of its loops.
//!
//! `RLIMIT_NOFILE` binds a *table*, and not a process. Loops with private tables multiply it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::asked::{Accept, FdTableAsked};

/// Places in every table that are not for connections: standard streams, epoll, eventfd, fd channel,
/// listener, and what a library opens.
pub const PLACES_RESERVED: u64 = 100;

/// Further places for each loop if all loops share one table: its epoll, its eventfd, and two for a listener
/// or bridge of its own.
pub const PLACES_PER_SHARED_LOOP: u64 = 4;

/// Loops a process can have: a loop's number is 8 bits of every connection's id.
pub const LOOPS_MAX: u32 = 256;

/// Which descriptors a loop's table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FdTable {
    /// The descriptors of the whole process.
    #[default]
    Shared,
    /// The descriptors of this loop alone.
    PerLoop,
}

impl fmt::Display for FdTable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Shared => "shared",
            Self::PerLoop => "per-loop",
        })
    }
}

/// The descriptor tables of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// Threads that hold connections; at most [`LOOPS_MAX`].
    pub loops: u32,
    /// One table, or one per loop.
    pub fd_table: FdTable,
    /// Connections that each table can take.
    pub places_per_table: u64,
}

impl Tables {
    /// Tables there are.
    pub fn count(&self) -> u64 {
        match self.fd_table {
            FdTable::Shared => 1,
            FdTable::PerLoop => u64::from(self.loops),
        }
    }

    /// Connections that all tables can take.
    pub fn places(&self) -> u64 {
        self.count().saturating_mul(self.places_per_table)
    }
}

/// What decides the tables of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The most descriptors one table can hold.
    pub descriptors_per_table: u64,
    /// Cores of the machine.
    pub cores: u32,
    /// The number of loops, if it is not ours to choose.
    pub loops: Option<u32>,
    /// Shared, per loop, or ours to choose.
    pub fd_table: FdTableAsked,
    /// How connections come to the loops; a hash fills tables unevenly.
    pub accept: Accept,
}

impl Room {
    /// The largest tables this room allows.
    pub fn largest(&self) -> Tables {
        let shared = self.shared();
        let private = self.private(self.loops.unwrap_or(LOOPS_MAX));
        match self.fd_table {
            FdTableAsked::Shared => shared,
            FdTableAsked::PerLoop => private,
            FdTableAsked::Auto if private.places() > shared.places() => private,
            FdTableAsked::Auto => shared,
        }
    }

    /// The tables to use for that many connections: the simplest that hold them, or the largest if none holds
    /// them.
    pub fn tables_for(&self, connections: u64) -> Tables {
        let shared = self.shared();
        let shared_does = connections <= shared.places();
        match self.fd_table {
            FdTableAsked::Shared => return shared,
            FdTableAsked::Auto if shared_does => return shared,
            _ => {}
        }
        let loops = self.loops.unwrap_or_else(|| self.private_loops_for(connections));
        self.private(loops)
    }

    /// The fewest loops with private tables that hold that many connections. It may exceed [`LOOPS_MAX`], for
    /// a caller that explains why that does not work.
    pub fn fewest_private_loops(&self, connections: u64) -> u64 {
        connections.div_ceil(self.private(1).places_per_table.max(1))
    }

    /// The fewest loops plus one, so that no table has to be filled completely, rounded up to the same number
    /// on every core.
    fn private_loops_for(&self, connections: u64) -> u32 {
        let cores = u64::from(self.cores.max(1));
        let fewest = self.fewest_private_loops(connections).min(u64::from(LOOPS_MAX));
        let loops = (fewest + 1).next_multiple_of(cores);
        u32::try_from(loops).unwrap_or(LOOPS_MAX).min(LOOPS_MAX)
    }

    fn shared(&self) -> Tables {
        let loops = self.loops.unwrap_or(self.cores).clamp(1, LOOPS_MAX);
        let reserved = PLACES_RESERVED + PLACES_PER_SHARED_LOOP * u64::from(loops);
        Tables {
            loops,
            fd_table: FdTable::Shared,
            places_per_table: self.descriptors_per_table.saturating_sub(reserved),
        }
    }

    fn private(&self, loops: u32) -> Tables {
        let places = self.descriptors_per_table.saturating_sub(PLACES_RESERVED);
        let places_per_table = match self.accept {
            Accept::Acceptor => places,
            Accept::Reuseport => places.saturating_sub(hash_spread(places)),
        };
        Tables { loops, fd_table: FdTable::PerLoop, places_per_table }
    }
}

/// How much fuller than the mean a table may get if a hash spreads connections: six standard deviations of a
/// Poisson count, which a run does not exceed by chance.
fn hash_spread(mean: u64) -> u64 {
    6 * mean.isqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Room {
        Room {
            descriptors_per_table: 20_000,
            cores: 2,
            loops: None,
            fd_table: FdTableAsked::Auto,
            accept: Accept::Acceptor,
        }
    }

    #[test]
    fn shared_table_is_used_up_to_its_last_place() {
        let last = 20_000 - 100 - 2 * 4;
        for connections in [1, last - 1, last] {
            let tables = room().tables_for(connections);
            assert_eq!((tables.fd_table, tables.loops), (FdTable::Shared, 2), "{connections}");
        }
        let tables = room().tables_for(last + 1);
        assert_eq!(tables.fd_table, FdTable::PerLoop);
        assert!(tables.places() > last);
    }

    #[test]
    fn a_million_in_tables_of_twenty_thousand_needs_51_loops_and_gets_52() {
        assert_eq!(room().fewest_private_loops(1_000_000), 51);
        let tables = room().tables_for(1_000_000);
        assert_eq!((tables.loops, tables.fd_table), (52, FdTable::PerLoop));
        assert_eq!(tables.places(), 52 * 19_900);
    }

    #[test]
    fn asked_number_of_loops_is_kept_even_if_it_is_too_small() {
        let tables = Room { loops: Some(2), ..room() }.tables_for(1_000_000);
        assert_eq!((tables.loops, tables.places()), (2, 39_800));
        let tables = Room { loops: Some(3), fd_table: FdTableAsked::PerLoop, ..room() };
        assert_eq!(tables.tables_for(10).loops, 3);
    }

    #[test]
    fn no_process_gets_more_than_256_loops() {
        assert_eq!(room().largest().places(), 256 * 19_900);
        assert_eq!(room().tables_for(100_000_000).loops, 256);
    }

    #[test]
    fn large_limit_needs_no_private_tables() {
        let room = Room { descriptors_per_table: 2_000_000, ..room() };
        assert_eq!(room.tables_for(1_000_000).fd_table, FdTable::Shared);
    }

    #[test]
    fn hash_leaves_a_margin_in_every_table() {
        let room = Room { accept: Accept::Reuseport, ..room() };
        assert_eq!(room.largest().places_per_table, 19_900 - 6 * 141);
    }

    #[test]
    fn limit_below_the_reserve_holds_nothing() {
        let room = Room { descriptors_per_table: 64, ..room() };
        assert_eq!(room.largest().places(), 0);
        assert_eq!(room.tables_for(1).places(), 0);
    }
}
