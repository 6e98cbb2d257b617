//! Watches the run from outside, once a second: the kernel's counts and the server's memory.

use std::path::PathBuf;
use std::time::Instant;

use super::kernel_stat::KernelStat;
use super::process_stat::{ProcessStat, descriptors};
use super::report::{Phase, Sample};
use super::talk::{ServerState, SwarmState};

/// What is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The kernel.
    pub kernel: KernelStat,
    /// The server's process; all zero if it runs elsewhere.
    pub server: ProcessStat,
    /// The swarm's process.
    pub swarm: ProcessStat,
    /// Descriptors in all tables of the server, or of the swarm if the server runs elsewhere. `None`: the
    /// kernel does not tell.
    pub descriptors: Option<u64>,
}

/// Takes samples, from the moment it is made.
pub struct Observer {
    root: PathBuf,
    began: Instant,
    server: Option<u32>,
    swarm: u32,
    ends: u64,
    before: View,
    last: View,
    /// All samples so far.
    pub samples: Vec<Sample>,
}

impl Observer {
    /// Takes the first view: when the listener is open, and before anything connects. `ends` of each
    /// connection are on this machine. `server` is the server's process, if it is here. `swarm` is the
    /// clients' process.
    ///
    /// # Errors
    /// One sentence on what cannot be read.
    pub fn new(began: Instant, server: Option<u32>, swarm: u32, ends: u64) -> Result<Self, String> {
        let mut observer = Self {
            root: PathBuf::from("/"),
            began,
            server,
            swarm,
            ends,
            before: View::default(),
            last: View::default(),
            samples: Vec::new(),
        };
        observer.before = observer.look()?;
        observer.last = observer.before.clone();
        Ok(observer)
    }

    /// The moment before anything connected.
    pub fn before(&self) -> &View {
        &self.before
    }

    /// Takes a view now.
    ///
    /// # Errors
    /// One sentence on what cannot be read.
    pub fn look(&self) -> Result<View, String> {
        let kernel = KernelStat::sample(&self.root).map_err(|error| error.to_string())?;
        // A process that is ending has no memory any more, so zeros are right.
        let process = |pid| match ProcessStat::sample(&self.root, pid) {
            Ok(stat) => Ok(stat.unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        };
        Ok(View {
            kernel,
            server: self.server.map_or(Ok(ProcessStat::default()), process)?,
            swarm: process(self.swarm)?,
            descriptors: descriptors(&self.root, self.server.unwrap_or(self.swarm)),
        })
    }

    /// Takes a view, and keeps it as a sample.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub fn sample(
        &mut self,
        phase: Phase,
        server: Option<ServerState>,
        swarm: &SwarmState,
    ) -> Result<Sample, String> {
        self.last = self.look()?;
        let sample = Sample {
            seconds: self.began.elapsed().as_secs_f64(),
            phase,
            connections: swarm.open,
            server_open: server.map(|state| state.open),
            user_bytes: self.last.server.private_bytes,
            kernel_bytes: self.last.kernel.kernel_bytes_since(&self.before.kernel),
            p99_us: swarm.p99_us,
        };
        self.samples.push(sample);
        Ok(sample)
    }

    /// Connections open at the last sample, by the kernel's own count.
    ///
    /// `sockstat` counts the whole network namespace, so it reads too low if other programs close sockets
    /// meanwhile. The kernel also counts the descriptor tables of one half, which no other program uses. A
    /// connection that is lost is missing in both counts, so the higher count is taken.
    pub fn kernel_open(&self) -> u64 {
        let sockets = &self.last.kernel.sockets;
        let by_sockets = sockets.connections_since(&self.before.kernel.sockets, self.ends);
        let by_tables = match (self.last.descriptors, self.before.descriptors) {
            (Some(now), Some(before)) => now.saturating_sub(before),
            _ => 0,
        };
        by_sockets.max(by_tables)
    }
}
