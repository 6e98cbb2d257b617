//! Memory of a server process, read from outside.

use crate::lockstep::{Clients, Load};
use crate::program::Program;
use std::fs;
use std::io;

/// Bytes of memory that only this process has, and that it has written: what it has of a file unchanged, as
/// its own code, the kernel may drop and read again.
pub fn private_bytes(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let dirty = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
    let kib = dirty.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let kib = kib.ok_or_else(|| io::Error::other("smaps_rollup has no line Private_Dirty"))?;
    Ok(1024 * kib)
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
