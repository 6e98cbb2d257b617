//! How a client becomes a connection: listeners, their limits, the PROXY header, the way to a loop.

pub(crate) mod accept_error;
pub(crate) mod courier;
pub(crate) mod entrances;
pub(crate) mod gate;
pub(crate) mod listener;
pub(crate) mod pace;
pub(crate) mod proxy_header;
pub(crate) mod sources;
pub(crate) mod trusted;
