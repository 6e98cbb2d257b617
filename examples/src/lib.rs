//! Code that the examples share: their common command line, and the parts of `http` and `million`.

pub mod fan_in;
pub mod flags;
#[cfg(test)]
#[path = "../../net-core/tests/fuzzing/mod.rs"]
mod fuzzing;
pub mod http;
pub mod million;
