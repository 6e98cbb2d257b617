//! What a user implements, and what its callbacks hold: handlers, connections, loops, jobs.

pub(crate) mod conn;
pub(crate) mod handler;
pub(crate) mod loop_context;
pub(crate) mod loop_spawner;
pub(crate) mod pool;
pub(crate) mod server_handle;
pub(crate) mod slices;
