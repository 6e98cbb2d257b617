//! Types that all folders use: ids, close reasons, errors.

pub(crate) mod close_reason;
pub(crate) mod error;
pub(crate) mod id;
pub(crate) mod log_limiter;
pub(crate) mod panics;
pub(crate) mod splitmix;
