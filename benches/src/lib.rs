//! What the programs of the benches share: the rivals' command line, servers as processes, loads,
//! and the tools that count.
//!
//! - `src/bin/*_echo.rs` and `bare_epoll` are servers: ours is `echo` in `examples`.
//! - `guard` checks what can be counted exactly; `compare` measures what can only be timed.

pub mod counted;
pub mod lockstep;
pub mod measure;
pub mod memory;
pub mod plan;
pub mod program;
pub mod report;
pub mod rival;
pub mod stats;
pub mod steps;
pub mod swarm;
pub mod sys;
pub mod tools;
