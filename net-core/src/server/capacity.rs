//! How many connections the descriptor tables hold.

use super::{FdTable, Listens, Server};
use crate::base::error::StartError;
use crate::server::admin;
use crate::sys::descriptors;

/// Descriptors left free in each table, for what handlers open and for passing ones.
const RESERVE: u64 = 16;

pub(crate) struct Capacity {
    /// RLIMIT_NOFILE, raised: places in each table.
    pub(crate) nofile: u64,
    /// Connections that one table holds.
    pub(crate) per_table: u64,
    pub(super) tables: u64,
}

impl Capacity {
    /// Raises the limit and counts.
    pub(crate) fn of(server: &Server, loops: usize) -> Result<Self, StartError> {
        let nofile = descriptors::raise_limit()
            .map_err(|error| StartError::new("raise RLIMIT_NOFILE", error))?;
        let loops = loops as u64;
        let listeners = server.listen.len() as u64;
        // One in each loop, and while the server starts one that holds the address. Pipes are not counted:
        // where there is no descriptor for one, a tunnel copies.
        let endpoints = server.datagrams.len() as u64;
        let (used, tables) = match server.fd_table {
            FdTable::Shared => {
                let open = descriptors::open_now()
                    .map_err(|error| StartError::new("count open descriptors", error))?;
                // A waker and an epoll for each loop and for the acceptor, and who listens has a spare.
                let of_loops = match server.listens(loops as usize) {
                    Listens::Acceptor => 2 * loops,
                    Listens::EachLoop | Listens::OnlyLoop => (3 + listeners) * loops,
                };
                let of_admin = if server.admin.is_some() { admin::DESCRIPTORS } else { 0 };
                let of_datagrams = endpoints * (loops + 1);
                (open as u64 + 3 + listeners + of_loops + of_admin as u64 + of_datagrams, 1)
            }
            // Standard ones, every loop's and the acceptor's waker, fd channel, epoll, spare.
            FdTable::PerLoop(_) => (3 + loops + 1 + 3 + listeners + 2 * endpoints, loops),
        };
        let reserve = RESERVE + server.limits.when_full.spare() as u64;
        let per_table = nofile.saturating_sub(used + reserve);
        if per_table == 0 {
            return Err(StartError::plain(format!(
                "RLIMIT_NOFILE is {nofile}, and the server itself needs {}: raise it (ulimit -n)",
                used + reserve + 1
            )));
        }
        Ok(Self { nofile, per_table, tables })
    }

    pub(crate) fn in_all(&self) -> usize {
        (self.per_table * self.tables) as usize
    }

    /// Says how many connections are possible and what the limit is made of. Returns how many there
    /// may be.
    pub(super) fn say(&self, server: &Server, loops: usize) -> usize {
        let (nofile, holds) = (self.nofile, self.in_all());
        let tables = match server.fd_table {
            FdTable::Shared => "one descriptor table holds".to_owned(),
            FdTable::PerLoop(_) => format!("{loops} private descriptor tables hold"),
        };
        tracing::info!("RLIMIT_NOFILE {nofile}: {tables} {holds} connections");
        let Some(asked) = server.limits.connections_max else { return holds };
        if asked > holds {
            tracing::warn!(
                "{asked} connections were asked for, but {tables} {holds}: raise RLIMIT_NOFILE, \
                 or use more loops with private tables"
            );
        }
        asked.min(holds)
    }
}
