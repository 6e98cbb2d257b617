//! One measurement: a load on a running server, and what both did meanwhile.

use crate::program::{Process, Program};
use crate::sys;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// Between the threads of a load and who measures. Counts by themselves, so all is relaxed.
#[derive(Debug, Default)]
pub struct Shared {
    /// Threads whose load has got going.
    ready: AtomicU64,
    /// Messages answered, or connections churned, so far.
    done: AtomicU64,
    /// Set by who measures: end.
    is_over: AtomicBool,
}

impl Shared {
    /// Whether a load is to go on.
    pub fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// Counts so many more.
    pub fn add(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }

    /// Said once by each thread, when as many answers have come as messages were sent at first.
    pub fn is_ready(&self) {
        self.ready.fetch_add(1, Ordering::Relaxed);
    }
}

/// One thread of a load. It runs until it is told to end.
pub type Load<'a> = Box<dyn FnOnce(&Shared) -> io::Result<()> + Send + 'a>;

/// Loads the server, each load from a core of its own, and measures. `TimedOut`: all goes well, but
/// nothing was answered while it was measured.
pub fn measure(
    server: &Process,
    loads: Vec<Load<'_>>,
    cores: &[usize],
    times: Times,
) -> io::Result<Sample> {
    let shared = Shared::default();
    thread::scope(|scope| {
        let shared = &shared;
        let threads: Vec<_> = loads
            .into_iter()
            .zip(cores)
            .map(|(load, &core)| {
                scope.spawn(move || {
                    sys::pin(&[core])?;
                    load(shared)
                })
            })
            .collect();
        let is_up = || shared.ready.load(Ordering::Relaxed) == threads.len() as u64;
        while !is_up() && !threads.iter().any(thread::ScopedJoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(times.warm);
        let before = Usage::read(server.pid(), shared);
        thread::sleep(times.measured);
        let after = Usage::read(server.pid(), shared);
        shared.is_over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("a load does not panic")?;
        }
        after?.since(&before?)
    })
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
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nothing was answered in the time",
            ));
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
