//! What the examples share: their common command line, and the parts of `million`.

pub mod fan_in;
pub mod flags;
pub mod http;
pub mod million;
