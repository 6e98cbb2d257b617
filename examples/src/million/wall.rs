//! One wall: a limit of the machine, and how many connections it allows.

use super::asked::Role;
use super::sizing::predict_for;
use super::tables::Room;

/// Open files that are left to the rest of the system, and to our own pipes and epolls.
pub const FILES_RESERVED: u64 = 50_000;

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wall {
    /// Places in the descriptor tables of one process.
    Descriptors {
        /// `server` or `swarm`.
        process: &'static str,
        /// What decides the tables.
        room: Room,
    },
    /// `fs.file-max`. The kernel lets a process with CAP_SYS_ADMIN exceed it. A plan does not rely on that,
    /// because the other programs on the machine would be left without files.
    Files {
        /// The limit.
        max: u64,
        /// Files that were open already.
        open: u64,
        /// Files for each connection.
        ends: u64,
    },
    /// `fs.epoll.max_user_watches`.
    Watches {
        /// The limit, for all epolls of one user.
        max: u64,
        /// Registrations for each connection.
        ends: u64,
    },
    /// Memory of kernel and processes together.
    Memory {
        /// What may be used: available memory without the reserve.
        budget_bytes: u64,
        /// Which halves run here.
        role: Role,
        /// Decides how many loops there are, which have a fixed cost.
        room: Room,
    },
    /// Source addresses times ports.
    Ports {
        /// Connections from one source address.
        per_source: u64,
        /// Source addresses there are.
        sources: u64,
    },
    /// The connection-tracking table; only where it counts.
    Conntrack {
        /// The limit.
        max: u64,
        /// Entries that were there already.
        count: u64,
    },
}

impl Wall {
    /// What the limit is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Descriptors { process: "swarm", .. } => "descriptors of the swarm",
            Self::Descriptors { .. } => "descriptors of the server",
            Self::Files { .. } => "fs.file-max",
            Self::Watches { .. } => "fs.epoll.max_user_watches",
            Self::Memory { .. } => "memory",
            Self::Ports { .. } => "source ports",
            Self::Conntrack { .. } => "nf_conntrack_max",
        }
    }

    /// How many connections it allows.
    pub fn allows(&self) -> u64 {
        match *self {
            Self::Descriptors { room, .. } => room.largest().places(),
            Self::Files { max, open, ends } => {
                max.saturating_sub(open).saturating_sub(FILES_RESERVED) / ends
            }
            Self::Watches { max, ends } => max / ends,
            Self::Memory { budget_bytes, role, room } => largest(|connections| {
                let loops = room.tables_for(connections).loops;
                predict_for(role, connections, loops).total_bytes() <= budget_bytes
            }),
            Self::Ports { per_source, sources } => per_source.saturating_mul(sources),
            Self::Conntrack { max, count } => max.saturating_sub(count),
        }
    }
}

/// The largest number below 2^40 that fits. Every number below a number that fits must fit too.
fn largest(fits: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, 1 << 40);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::super::asked::{Accept, FdTableAsked};
    use super::*;

    #[test]
    fn memory_allows_the_last_number_that_fits() {
        let budget_bytes = 9_800_000_000;
        let room = Room {
            descriptors_per_table: 20_000,
            cores: 2,
            loops: None,
            fd_table: FdTableAsked::Auto,
            accept: Accept::Acceptor,
        };
        let role = Role::Both;
        let allows = Wall::Memory { budget_bytes, role, room }.allows();
        let fits = |connections| {
            let loops = room.tables_for(connections).loops;
            predict_for(role, connections, loops).total_bytes() <= budget_bytes
        };
        assert!(fits(allows) && !fits(allows + 1));
    }

    #[test]
    fn open_files_are_counted_twice_on_loopback_and_leave_a_reserve() {
        let allows = |max, ends| Wall::Files { max, open: 183, ends }.allows();
        assert_eq!(allows(2_466_183, 2), (2_466_000 - 50_000) / 2);
        assert_eq!(allows(2_466_183, 1), 2_466_000 - 50_000);
        assert_eq!(allows(10_000, 2), 0);
        assert_eq!(allows(u64::MAX, 1), u64::MAX - 183 - 50_000);
    }

    #[test]
    fn watches_ports_and_tracking_are_plain_arithmetic() {
        assert_eq!(Wall::Watches { max: 1_001, ends: 2 }.allows(), 500);
        assert_eq!(Wall::Ports { per_source: 14_000, sources: 3 }.allows(), 42_000);
        assert_eq!(Wall::Conntrack { max: 100, count: 7 }.allows(), 93);
        assert_eq!(Wall::Conntrack { max: 5, count: 7 }.allows(), 0);
    }
}
