//! Memory of a server process, read from outside.

use crate::lockstep::{Clients, Load};
use crate::program::Program;
use std::fs;
use std::io;

/// Bytes of memory that only this process has.
pub fn private_bytes(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let is_private =
        |line: &&str| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:");
    let kib = rollup.lines().filter(is_private).filter_map(|line| {
        line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok())
    });
    Ok(1024 * kib.sum::<u64>())
}

/// How far private memory grows for each of so many idle connections that have spoken.
pub fn bytes_per_idle_connection(program: &Program, connections: usize) -> io::Result<f64> {
    let server = program.start()?;
    let one = Load { connections: 1, depth: 1, bytes: 64 };
    drop(Clients::connect(server.at(), one)?); // what the first of all brings is not counted
    let before = private_bytes(server.pid())?;
    let _clients = Clients::connect(server.at(), Load { connections, ..one })?;
    let after = private_bytes(server.pid())?;
    Ok(after.saturating_sub(before) as f64 / connections as f64)
}
