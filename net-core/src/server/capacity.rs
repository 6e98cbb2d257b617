//! How many connections the descriptor tables can hold.

use super::{FdTable, Listens, Server};
use crate::base::error::StartError;
use crate::server::admin;
use crate::sys::descriptors;

/// Descriptors left free in each table, for what handlers open and for descriptors that are open only for
/// a moment.
const RESERVE: u64 = 16;

pub(crate) struct Capacity {
    /// RLIMIT_NOFILE after it was raised: the places in each table.
    pub(crate) nofile: u64,
    /// The connections that one table can hold.
    pub(crate) per_table: u64,
    pub(super) tables: u64,
}

impl Capacity {
    /// Raises RLIMIT_NOFILE to its hard limit, and counts the descriptors that the server needs itself.
    /// An error if they leave no place for a connection.
    pub(crate) fn of(server: &Server, loops: usize) -> Result<Self, StartError> {
        let nofile = descriptors::raise_limit()
            .map_err(|error| StartError::new("raise RLIMIT_NOFILE", error))?;
        let loops = loops as u64;
        let listeners = server.listen.len() as u64;
        // Each endpoint for datagrams needs one descriptor in each loop, and while the server starts
        // another one that holds the address. Pipes are not counted: a tunnel without descriptors for a
        // pipe copies.
        let endpoints = server.datagrams.len() as u64;
        let (used, tables) = match server.fd_table {
            FdTable::Shared => {
                let open = descriptors::open_now()
                    .map_err(|error| StartError::new("count open descriptors", error))?;
                // Each loop and the acceptor need a waker and an epoll. A thread with listeners also
                // needs a spare descriptor.
                let of_loops = match server.listens(loops as usize) {
                    Listens::Acceptor => 2 * loops,
                    Listens::EachLoop | Listens::OnlyLoop => (3 + listeners) * loops,
                };
                let of_admin = if server.admin.is_some() { admin::DESCRIPTORS } else { 0 };
                let of_datagrams = endpoints * (loops + 1);
                (open as u64 + 3 + listeners + of_loops + of_admin as u64 + of_datagrams, 1)
            }
            // The three standard descriptors, the wakers of every loop and of the acceptor, and the fd
            // channel, epoll and spare of the loop.
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

    /// Logs how many connections are possible, and which limit decides this. Returns how many connections
    /// the server may have.
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
