//! What both halves set up in the same way on net-core: limits, descriptor tables, books.

use net_core::Limits;
use net_core::metrics::{Counter, Snapshot};
use net_core::server::{FdTable, PrivateTables};

use super::tables::{self, Tables};
use super::talk::Books;

/// Limits for loops that get little mail. Queues are allocated in full, and there are many loops.
pub(super) fn small_bridges(tables: &Tables) -> Limits {
    let arrivals_queue = match tables.fd_table {
        tables::FdTable::Shared => 1_024,
        tables::FdTable::PerLoop => 128, // for many loops; the fd channel brings arrivals in batches
    };
    Limits { mail_queue: 16, arrivals_queue, ..Limits::default() }
}

/// The descriptor tables that were planned.
pub(super) fn fd_table(tables: &Tables) -> FdTable {
    match tables.fd_table {
        tables::FdTable::Shared => FdTable::Shared,
        // SAFETY: the handlers of both halves and their factories hold memory only and no descriptor, and
        // start no thread. All other threads start before the loops, and own what they open.
        tables::FdTable::PerLoop => FdTable::PerLoop(unsafe { PrivateTables::promise() }),
    }
}

/// The last counts, as books. `descriptors_before`: see [`descriptors_open`].
pub(super) fn books(counts: &Snapshot, descriptors_before: u64) -> Books {
    let closed = counts.closed().filter(|(_, count)| *count > 0);
    Books {
        came: counts.get(Counter::Accepted) + counts.get(Counter::Dialled),
        open: counts.get(Counter::Open),
        closed: closed.map(|(reason, count)| (reason.to_owned(), count)).collect(),
        balance: counts.is_balanced(),
        descriptors_left: descriptors_open().saturating_sub(descriptors_before),
    }
}

/// Descriptors in this thread's table. 0 if they cannot be counted.
pub(super) fn descriptors_open() -> u64 {
    std::fs::read_dir("/proc/thread-self/fd").map_or(0, |entries| entries.count() as u64)
}
