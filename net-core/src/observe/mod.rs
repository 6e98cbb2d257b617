//! What is counted, timed and reported of a running server.

pub(crate) mod connection_query;
pub(crate) mod counters;
pub(crate) mod cpu_accounting;
pub(crate) mod log_writer;
pub(crate) mod loop_activity;
