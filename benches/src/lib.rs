//! What the programs of the benches share: the rivals' command line, servers as processes, loads,
//! and the tools that count.
//!
//! - `src/bin/*_echo.rs` and `bare_epoll` are servers, and so is what `rivals` has in other
//!   languages; ours is `echo` in `examples`.
//! - `fan_out`, `bare_fan_out`, `remote_send`, `sleeper` and `tokio_datagrams` are servers for one
//!   question each.
//! - `guard` checks what can be counted exactly; `compare` measures what can only be timed, and
//!   `neighbours` what one connection's load costs the others, `overload` what an attack does, and `datagrams`
//!   what a datagram costs.
//! - `soak` asks whether all that holds, for as long as it runs: a server with everything on, and faults.

pub mod bursts;
pub mod churn;
pub mod counted;
pub mod datagrams;
pub mod exact;
pub mod fan_out;
pub mod folder;
pub mod lockstep;
pub mod measure;
pub mod memory;
pub mod native;
pub mod open_loop;
pub mod overload;
pub mod plan;
pub mod plots;
pub mod program;
pub mod report;
pub mod rival;
pub mod scale;
pub mod soak;
pub mod stall;
pub mod stats;
pub mod steps;
pub mod swarm;
pub mod sys;
pub mod tools;
