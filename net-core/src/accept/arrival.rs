//! `Arrival`: a connection on its way into a loop. The one door in.

use crate::accept::gate::Permit;
use crate::sys::Socket;
use crate::sys::addr::Addr;

/// A connected socket that no loop owns yet. Dropped on its way, it is closed and its place in
/// the process's count is free again.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) socket: Socket,
    pub(crate) peer: Addr,
    pub(crate) permit: Permit,
    /// It comes from a proxy that is to say who the client is, before anything else.
    pub(crate) is_announced: bool,
}
