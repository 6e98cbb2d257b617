//! What a run is asked to do.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Compares our echo with a bare epoll loop and named rivals.
///
/// A full run takes an hour and a half on two quiet cores: the counts 12 minutes; the grid, with 12
/// rounds of 16 loads and 20 servers, 45 (with --millis 100: 18); churn 3; the tails 20; fan-out
/// and sends one or two each. --parts, --only, --rounds and --millis choose, and --show puts the
/// files of several runs into one page.
#[derive(Parser)]
pub(crate) struct Flags {
    /// A few loads and rounds, to see that all works: no figure from it means much
    #[arg(long)]
    pub(crate) quick: bool,
    /// What to run
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::value_variants().to_vec())]
    pub(crate) parts: Vec<Part>,
    /// Rounds: each has every server and load once
    #[arg(long, value_parser = positive, default_value = "12")]
    pub(crate) rounds: usize,
    /// Measured time of each load of the grid, in milliseconds
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), default_value = "500")]
    pub(crate) millis: u64,
    /// Measured time of each load of the tails, in milliseconds
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), default_value = "500")]
    pub(crate) tail_millis: u64,
    /// Loops of each server; the load has the other cores
    #[arg(long, value_parser = positive, default_value = "1")]
    pub(crate) loops: usize,
    /// Connections
    #[arg(long, value_parser = positive, value_delimiter = ',', default_value = "1,100,1000,10000")]
    pub(crate) connections: Vec<usize>,
    /// Bytes of a message
    #[arg(long, value_parser = positive, value_delimiter = ',', default_value = "64,4096,16384")]
    pub(crate) bytes: Vec<usize>,
    /// Messages under way on each connection
    #[arg(long, value_parser = positive, value_delimiter = ',', default_value = "1,16")]
    pub(crate) depth: Vec<usize>,
    /// Only servers with one of these in their names; the bare epoll loop is always there
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Idle connections: those whose memory is counted, those beside the active ones, and those
    /// that get one payload
    #[arg(long, value_parser = positive, default_value = "15000")]
    pub(crate) idle: usize,
    /// First install the libraries of the rivals in C and C++, by Debian's apt-get
    #[arg(long)]
    pub(crate) install: bool,
    /// Where to write everything that was found
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// A folder for the plots
    #[arg(long)]
    pub(crate) plots: Option<PathBuf>,
    /// Run nothing: show the tables, and plots, of what earlier runs have written
    #[arg(long, value_name = "JSON", num_args = 1..)]
    pub(crate) show: Vec<PathBuf>,
}

/// A part of a run.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Instructions, system calls and memory: a busy machine does not change them
    Counts,
    /// Echoes, for every number of connections, size and depth
    Grid,
    /// Connections that come and go
    Churn,
    /// Latencies at a fixed rate: alone, beside idle connections, beside a firehose
    Tails,
    /// One payload to many connections
    FanOut,
    /// Messages from another thread
    Sends,
}

impl Flags {
    pub(crate) fn read() -> Self {
        let flags = Self::parse();
        if !flags.quick {
            return flags;
        }
        Self {
            rounds: flags.rounds.min(2),
            millis: flags.millis.min(100),
            tail_millis: flags.tail_millis.min(200),
            connections: vec![1, 100],
            bytes: vec![64],
            idle: flags.idle.min(1_000),
            ..flags
        }
    }

    pub(crate) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// The most connections that are open at once.
    pub(crate) fn connections_max(&self) -> usize {
        let grid = if self.has(Part::Grid) { &self.connections[..] } else { &[] };
        let idle = [Part::Counts, Part::Tails, Part::FanOut].iter().any(|&part| self.has(part));
        let idle = if idle { self.idle } else { 0 };
        grid.iter().copied().chain([idle]).max().unwrap_or(0)
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it has to be at least 1".into()),
        Ok(number) => Ok(number),
        Err(_) => Err("it is no whole number".into()),
    }
}
