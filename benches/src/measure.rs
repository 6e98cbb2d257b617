//! One measurement: a load on a running server, and what both did meanwhile.

use crate::program::{Process, Program};
use crate::swarm::{self, Shared, Work};
use crate::sys;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// What one measurement found.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Messages, or connections churned, in a second.
    pub per_second: f64,
    /// The server's CPU time for each, in nanoseconds.
    pub cpu_ns: f64,
    /// The server's context switches for each thousand.
    pub switches_per_1000: f64,
}

/// How long a load runs before it is measured, and then.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Not measured.
    pub warm: Duration,
    /// Measured.
    pub measured: Duration,
}

/// Starts a server on these cores.
pub fn start_on(cores: &[usize], program: &Program) -> io::Result<Process> {
    let start = || {
        sys::pin(cores)?;
        program.start()
    };
    thread::scope(|scope| scope.spawn(start).join().expect("starting does not panic"))
}

/// Loads the server from these cores, and measures.
pub fn measure(
    server: &Process,
    work: Work,
    load_cores: &[usize],
    times: Times,
) -> io::Result<Sample> {
    let shared = Shared::default();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..load_cores.len())
            .map(|n| {
                scope.spawn({
                    let shared = &shared;
                    move || load(server.at(), work, load_cores, n, shared)
                })
            })
            .collect();
        let is_up = || shared.ready.load(Ordering::Relaxed) == threads.len() as u64;
        while !is_up() && !threads.iter().any(thread::ScopedJoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(times.warm);
        let before = Usage::read(server.pid(), &shared)?;
        thread::sleep(times.measured);
        let after = Usage::read(server.pid(), &shared)?;
        shared.is_over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("a load does not panic")?;
        }
        after.since(&before)
    })
}

fn load(
    at: SocketAddr,
    work: Work,
    cores: &[usize],
    share: usize,
    shared: &Shared,
) -> io::Result<()> {
    sys::pin(&cores[share..=share])?;
    swarm::run(at, work, share, cores.len(), shared)
}

/// Waits until the server has done what the last load has left it with: closing.
pub fn settle(server: &Process) -> io::Result<()> {
    for _ in 0..200 {
        let before = sys::cpu_time(server.pid())?;
        thread::sleep(Duration::from_millis(10));
        if sys::cpu_time(server.pid())?.saturating_sub(before) < Duration::from_micros(500) {
            break;
        }
    }
    Ok(())
}

struct Usage {
    when: Instant,
    done: u64,
    cpu: Duration,
    switches: u64,
}

impl Usage {
    fn read(pid: u32, shared: &Shared) -> io::Result<Self> {
        let switches = context_switches(pid)?;
        let cpu = sys::cpu_time(pid)?;
        Ok(Self { when: Instant::now(), done: shared.done.load(Ordering::Relaxed), cpu, switches })
    }

    fn since(&self, before: &Self) -> io::Result<Sample> {
        let done = (self.done - before.done) as f64;
        if done == 0.0 {
            return Err(io::Error::other("nothing was answered"));
        }
        let time = (self.when - before.when).as_secs_f64();
        Ok(Sample {
            per_second: done / time,
            cpu_ns: self.cpu.saturating_sub(before.cpu).as_nanos() as f64 / done,
            switches_per_1000: 1000.0 * self.switches.saturating_sub(before.switches) as f64 / done,
        })
    }
}

/// Context switches of all threads that live.
fn context_switches(pid: u32) -> io::Result<u64> {
    let mut switches = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended in the meantime.
        let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        let lines = status.lines().filter(|line| line.contains("ctxt_switches:"));
        switches += lines
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(switches)
}
