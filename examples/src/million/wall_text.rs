//! The text of a wall: why a number does not fit, and what to do about it.

use super::asked::FdTableAsked;
use super::figures::{bytes, counted, grouped};
use super::sizing::predict_for;
use super::tables::{FdTable, LOOPS_MAX, PLACES_RESERVED, Room};
use super::wall::{FILES_RESERVED, Wall};

impl Wall {
    /// The arithmetic by which that many connections do not fit, and the remedy, in one sentence. It has no
    /// meaning for a number that fits.
    pub fn refusal(&self, connections: u64) -> String {
        let asked = grouped(connections);
        let way_out = self.way_out(connections);
        match *self {
            Self::Descriptors { process, room } => {
                let tables = room.largest();
                let kind = match tables.fd_table {
                    FdTable::Shared => "shared table",
                    FdTable::PerLoop => "private table",
                };
                let whose = if process == "server" { "" } else { "swarm: " };
                format!(
                    "{whose}{} × {} = {} < {asked}: {way_out}",
                    counted(tables.count(), kind),
                    grouped(tables.places_per_table),
                    grouped(tables.places()),
                )
            }
            Self::Files { max, open, ends } => {
                let needed = connections.saturating_mul(ends).saturating_add(FILES_RESERVED);
                format!(
                    "fs.file-max: {asked} × {} + {} in reserve = {} > {} free: {way_out}",
                    counted(ends, "file"),
                    grouped(FILES_RESERVED),
                    grouped(needed),
                    grouped(max.saturating_sub(open)),
                )
            }
            Self::Watches { max, ends } => format!(
                "fs.epoll.max_user_watches: {asked} × {ends} = {} > {}: {way_out}",
                grouped(connections.saturating_mul(ends)),
                grouped(max),
            ),
            Self::Memory { budget_bytes, role, room } => {
                let loops = room.tables_for(connections).loops;
                let total = predict_for(role, connections, loops).total_bytes();
                format!(
                    "memory: {asked} × {} = {} > {} available: {way_out}",
                    bytes(total / connections.max(1)),
                    bytes(total),
                    bytes(budget_bytes),
                )
            }
            Self::Ports { per_source, sources } => format!(
                "source ports: {} × {} = {} < {asked}: {way_out}",
                if sources == 1 { "1 address".to_owned() } else { grouped(sources) + " addresses" },
                grouped(per_source),
                grouped(self.allows()),
            ),
            Self::Conntrack { max, count } => format!(
                "nf_conntrack_max: {asked} + {} tracked already > {}: {way_out}",
                grouped(count),
                grouped(max),
            ),
        }
    }

    /// How to make room for that many connections: a command or a short sentence.
    pub fn way_out(&self, connections: u64) -> String {
        match *self {
            Self::Descriptors { room, .. } => descriptors_way_out(&room, connections),
            Self::Files { open, ends, .. } => {
                let needed = connections.saturating_mul(ends).saturating_add(FILES_RESERVED + open);
                format!("sysctl -w fs.file-max={}", round_up(needed))
            }
            Self::Watches { ends, .. } => {
                let needed = connections.saturating_mul(ends);
                format!("sysctl -w fs.epoll.max_user_watches={}", round_up(needed))
            }
            Self::Memory { .. } => {
                format!("ask for at most {}, or add memory", grouped(self.allows()))
            }
            Self::Ports { per_source, .. } => {
                let needed = connections.div_ceil(per_source.max(1));
                format!("use at least {} source addresses or listening ports", grouped(needed))
            }
            Self::Conntrack { count, .. } => {
                let needed = round_up(connections.saturating_add(count));
                format!("sysctl -w net.netfilter.nf_conntrack_max={needed}, or exempt the port")
            }
        }
    }
}

fn descriptors_way_out(room: &Room, connections: u64) -> String {
    let loops = room.fewest_private_loops(connections);
    let per_table = room.descriptors_per_table;
    if per_table <= PLACES_RESERVED || loops > u64::from(LOOPS_MAX) {
        let least = connections.div_ceil(u64::from(LOOPS_MAX)) + PLACES_RESERVED;
        return format!(
            "a process has at most {LOOPS_MAX} loops, so raise nofile from {} to ≥ {}",
            grouped(per_table),
            grouped(least),
        );
    }
    match room.fd_table {
        FdTableAsked::Shared => {
            format!("use --fd-table per-loop with ≥ {loops} loops or raise nofile")
        }
        _ => format!("use ≥ {} or raise nofile", counted(loops, "loop")),
    }
}

/// The next number a person would type: two leading digits, rounded up.
fn round_up(number: u64) -> u64 {
    let step = 10_u64.pow(number.max(1).ilog10().saturating_sub(1));
    number.div_ceil(step).saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use super::super::asked::{Accept, Role};
    use super::*;

    fn room(loops: Option<u32>, fd_table: FdTableAsked) -> Room {
        let accept = Accept::Acceptor;
        Room { descriptors_per_table: 20_000, cores: 2, loops, fd_table, accept }
    }

    fn server(loops: Option<u32>, fd_table: FdTableAsked) -> Wall {
        Wall::Descriptors { process: "server", room: room(loops, fd_table) }
    }

    #[test]
    fn too_few_loops_are_refused_with_the_arithmetic() {
        assert_eq!(
            server(Some(2), FdTableAsked::Auto).refusal(1_000_000),
            "2 private tables × 19,900 = 39,800 < 1,000,000: use ≥ 51 loops or raise nofile"
        );
    }

    #[test]
    fn shared_table_that_is_too_small_names_the_private_ones() {
        assert_eq!(
            server(None, FdTableAsked::Shared).refusal(1_000_000),
            "1 shared table × 19,892 = 19,892 < 1,000,000: \
             use --fd-table per-loop with ≥ 51 loops or raise nofile"
        );
    }

    #[test]
    fn more_than_256_loops_can_hold_needs_a_higher_limit() {
        let wall = server(None, FdTableAsked::Auto);
        assert_eq!(wall.allows(), 5_094_400);
        assert_eq!(
            wall.refusal(6_000_000),
            "256 private tables × 19,900 = 5,094,400 < 6,000,000: \
             a process has at most 256 loops, so raise nofile from 20,000 to ≥ 23,538"
        );
    }

    #[test]
    fn memory_is_refused_with_kernel_and_processes_added_up() {
        let budget_bytes = 9_800_000_000;
        let room = room(None, FdTableAsked::Auto);
        let wall = Wall::Memory { budget_bytes, role: Role::Both, room };
        let refusal = wall.refusal(1_500_000);
        assert!(refusal.starts_with("memory: 1,500,000 × 8.5 KB = 12.7 GB > 9.8 GB available: "));
        assert!(refusal.contains("ask for at most 1,1"), "{refusal}");
    }

    #[test]
    fn open_files_are_refused_with_the_command_that_raises_them() {
        let wall = Wall::Files { max: 2_466_183, open: 183, ends: 2 };
        assert_eq!(
            wall.refusal(2_000_000),
            "fs.file-max: 2,000,000 × 2 files + 50,000 in reserve = 4,050,000 > 2,466,000 free: \
             sysctl -w fs.file-max=4100000"
        );
    }

    #[test]
    fn every_way_out_lets_the_number_through() {
        for connections in [1, 999_999, 1_000_000, 3_000_001] {
            let needed = round_up(connections * 2 + FILES_RESERVED + 183);
            assert!(Wall::Files { max: needed, open: 183, ends: 2 }.allows() >= connections);
            let max = round_up(connections * 2);
            assert!(Wall::Watches { max, ends: 2 }.allows() >= connections);
        }
        assert_eq!(round_up(4_000_001), 4_100_000);
        assert_eq!(round_up(7), 7);
    }

    #[test]
    fn other_walls_say_what_they_compare() {
        let watches = Wall::Watches { max: 1_000, ends: 2 };
        assert!(watches.refusal(501).contains("501 × 2 = 1,002 > 1,000"));
        let ports = Wall::Ports { per_source: 14_000, sources: 1 };
        assert!(ports.refusal(14_001).contains("1 address × 14,000 = 14,000 < 14,001"));
        assert!(ports.way_out(14_001).contains("at least 2 source addresses"));
        let conntrack = Wall::Conntrack { max: 100, count: 7 };
        assert!(conntrack.refusal(94).contains("94 + 7 tracked already > 100"));
    }
}
