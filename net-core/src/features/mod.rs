//! What a loop does beside carrying bytes, as values: no kernel, no thread, no clock.

pub(crate) mod broadcast;
pub(crate) mod datagram;
pub(crate) mod dial;
pub(crate) mod timers;
pub(crate) mod topics;
pub(crate) mod upstreams;
