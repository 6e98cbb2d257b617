//! How a client becomes a connection: listeners, their limits, the PROXY header, and the fd channel.

pub(crate) mod accept_error;
pub(crate) mod accept_rate;
pub(crate) mod admission;
pub(crate) mod fd_channel;
pub(crate) mod listener;
pub(crate) mod listener_health;
pub(crate) mod per_source_limit;
pub(crate) mod proxy_header;
pub(crate) mod trusted_proxies;
