//! Makes the report from the measured values.

use super::super::observer::View;
use super::super::report::{Broadcast, Forecast, Hold, PrivateBytes, Report, RttUs, per};
use super::super::slabs::SlabSet;
use super::super::tables::{FdTable, Tables};
use super::Conductor;

/// What the phases measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Private memory of an idle server for one connection, in bytes.
    pub(super) idle_bytes: u64,
    /// Connections that were up when the verification began.
    pub(super) swarm_up: u64,
    pub(super) verify: RttUs,
    /// With all connections open, after each has sent.
    pub(super) full: View,
    pub(super) held_at_once: u64,
    pub(super) hold: Hold,
    pub(super) hold_round_trips: RttUs,
    pub(super) pings_missing: u64,
    pub(super) broadcast: Broadcast,
}

impl Conductor<'_> {
    pub(super) fn report(&mut self, measured: Measured) -> Report {
        let wanted = self.wanted;
        let (plan, state) = (&wanted.plan, &self.swarm_state);
        let observer = self.observer.as_mut().expect("it watched every phase");
        let (before, full) = (observer.before(), &measured.full);
        let connections = state.connected;
        let private_bytes =
            PrivateBytes { empty: before.server.private_bytes, full: full.server.private_bytes };
        let kernel_bytes = full.kernel.kernel_bytes_since(&before.kernel);
        let (slab, slab_object_bytes) = slabs(full, before);
        let tables: Option<Tables> = plan.server.or(plan.swarm);
        let loops = tables.map_or(0, |tables| tables.loops);
        // If the server runs elsewhere, its books are there too. Then the swarm's books are used.
        let books = self.server_books.as_ref().or(self.swarm_books.as_ref());
        let halves = [(plan.role.serves(), &self.server_books), (true, &self.swarm_books)];
        let books_balance = halves.into_iter().all(|(is_here, books)| {
            !is_here || books.as_ref().is_some_and(super::Books::are_closed)
        });
        let from_idle = private_bytes.full.saturating_sub(measured.idle_bytes);
        Report {
            asked: plan.connections,
            connected: connections,
            verified: state.right,
            wrong: state.wrong,
            missing: plan.connections.saturating_sub(state.right + state.wrong)
                + measured.pings_missing,
            lost: state.lost,
            lost_by: state.lost_by.clone(),
            dials_retried: state.retried,
            held_at_once: measured.held_at_once.min(measured.swarm_up),
            connect_seconds: state.connect_ms as f64 / 1e3,
            private_bytes,
            swarm_private_bytes: PrivateBytes {
                empty: before.swarm.private_bytes,
                full: full.swarm.private_bytes,
            },
            idle_private_bytes: measured.idle_bytes,
            user_bytes_per_connection: private_bytes.per_connection(connections),
            user_bytes_per_connection_over_idle: if plan.role.serves() {
                per(from_idle, connections)
            } else {
                0.0
            },
            kernel_bytes_per_pair: per(kernel_bytes, connections),
            slab,
            slab_object_bytes,
            slab_bytes_per_pair: per(full.kernel.slab_bytes_since(&before.kernel), connections),
            free_bytes_per_pair: per(
                before.kernel.memory.free_bytes.saturating_sub(full.kernel.memory.free_bytes),
                connections,
            ),
            rtt_us: measured.verify,
            hold: measured.hold,
            hold_rtt_us: measured.hold_round_trips,
            broadcast: measured.broadcast,
            closed: books.map(|books| books.closed.clone()).unwrap_or_default(),
            books_balance,
            loops,
            fd_table: tables.map_or(FdTable::Shared, |tables| tables.fd_table),
            accept: plan.accept,
            total_seconds: self.began.elapsed().as_secs_f64(),
            seed: wanted.seed,
            command: wanted.command.clone(),
            machine: wanted.machine.clone(),
            plan: Some(plan.clone()),
            forecast: Forecast::compare(plan.prediction, loops, kernel_bytes, private_bytes.full),
            samples: std::mem::take(&mut observer.samples),
        }
    }
}

/// The objects gained, and the object sizes. Dentries of other files are not charged to sockets: a program
/// that lists `/proc/PID/fd` makes a dentry for each descriptor. So our dentries are never more than our
/// sockets.
fn slabs(full: &View, before: &View) -> (SlabSet<Option<u64>>, SlabSet<Option<u64>>) {
    let (Some(now), Some(then)) = (full.kernel.slabs, before.kernel.slabs) else {
        return Default::default();
    };
    let mut gained = now.objects_since(&then);
    if let (Some(dentries), Some(sockets)) = (&mut gained.dentry, gained.sock_inode_cache) {
        *dentries = (*dentries).min(sockets);
    }
    (gained, now.caches.map(|cache| cache.map(|cache| cache.object_bytes)))
}
