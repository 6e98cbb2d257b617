//! What is counted, timed and told of a running server.

pub(crate) mod ledger;
pub(crate) mod log_writer;
pub(crate) mod pulse;
pub(crate) mod stats;
pub(crate) mod survey;
