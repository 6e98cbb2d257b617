//! What a loop does besides carrying bytes, as plain values: no kernel calls, no threads, no clock.

pub(crate) mod broadcast;
pub(crate) mod datagram;
pub(crate) mod dial;
pub(crate) mod timers;
pub(crate) mod topics;
pub(crate) mod upstream_pool;
