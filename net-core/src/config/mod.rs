//! The limits, policies and rates that bound a server, with defaults and reasons.

pub(crate) mod limits;
pub(crate) mod policy;
pub(crate) mod rate;
