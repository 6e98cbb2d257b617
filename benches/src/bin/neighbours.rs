//! What does one connection's load cost those who share its loop?
//!
//!     cargo build --release --workspace
//!     cargo run --release -p benches --bin neighbours -- bulk
//!     cargo run --release -p benches --bin neighbours -- stall
//!     cargo run --release -p benches --bin neighbours -- broadcast --members 15000
//!     cargo run --release -p benches --bin neighbours -- broadcast --members 100000 --loops 8
//!
//! `bulk`: 99 connections ping, alone, and beside one that sends and receives as much as goes and
//! another that sends as much as goes and reads 4 KiB every 10 ms. `stall`: the same 99, while a callback
//! of the other loop sleeps for 200 ms, once a second. `broadcast`: one connection pings a
//! thousand times a second, while nothing else happens, and while every second (or `--every`) 64
//! bytes go to each of the members. The two arms take turns; what is told is the ratio of each pair of p99.
//!
//! The server has a core, and the load another. There the pings come first (`SCHED_FIFO`, if
//! allowed), so that what they wait for is the server, and not the load's own work.

use benches::fan_out::{BROADCAST, PAYLOAD, join};
use benches::measure::start_on;
use benches::open_loop::{self, Pace};
use benches::program::Program;
use benches::stall::{SLEEP, SLEEP_TIME, on_another_loop};
use benches::stats::Spread;
use benches::swarm::split_cores;
use benches::sys::{self, Epoll};
use clap::{Args, Parser, Subcommand};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Members that one process holds: below the usual hard limit on descriptors.
const MEMBERS_EACH: usize = 15_000;

/// Those who are disturbed, where it is not one alone.
const PINGERS: Pace = Pace { pingers: 99, per_second: 5_000.0, has_firehose: false, sleeps: true };

/// What the two heavy connections move by one call at most.
const BLOCK_BYTES: usize = 64 << 10;

/// What one connection's load costs those who share its loop.
#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// 99 that ping, beside one that moves as much as goes, and one that reads slowly
    Bulk(Rounds),
    /// 99 that ping, beside a callback of another loop that sleeps
    Stall(Rounds),
    /// One that pings, beside broadcasts to many
    Broadcast {
        #[command(flatten)]
        rounds: Rounds,
        /// Connections that every broadcast goes to
        #[arg(long, value_name = "N", default_value_t = 15_000)]
        members: usize,
        /// Loops of the server, on one core; more than one have a descriptor table each
        #[arg(long, value_name = "N", default_value_t = 1)]
        loops: usize,
        /// Connections of a loop that are sent to in a turn. Default: the library's
        #[arg(long, value_name = "N")]
        per_turn: Option<usize>,
        /// Time between two broadcasts
        #[arg(long, value_name = "MS", default_value_t = 1000)]
        every: u64,
    },
    /// Members in a process of their own, until standard input ends
    #[command(hide = true)]
    Members { at: SocketAddr, source: Ipv4Addr, count: usize },
}

#[derive(Args)]
struct Rounds {
    /// Pairs of one arm and the other
    #[arg(long, value_name = "N", default_value_t = 10)]
    pairs: usize,
    /// How long each arm is measured
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    millis: u64,
}

fn main() -> ExitCode {
    let done = sys::raise_descriptor_limit().and_then(|_| match Flags::parse().part {
        Part::Bulk(rounds) => bulk(&rounds),
        Part::Stall(rounds) => stall(&rounds),
        Part::Broadcast { rounds, members, loops, per_turn, every } => {
            broadcast(&rounds, members, loops, per_turn, Duration::from_millis(every))
        }
        Part::Members { at, source, count } => hold_members(at, source, count),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("neighbours: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bulk(rounds: &Rounds) -> io::Result<()> {
    let (server_cores, load_cores) = split_cores(1)?;
    let server =
        start_on(&server_cores, &Program::sibling("net-core", "echo", &["--loops", "1"])?)?;
    let at = server.at();
    rounds.run(at, PINGERS, &load_cores, |is_over| {
        thread::scope(|scope| {
            let firehose = scope.spawn(|| move_bytes(at, is_over, Duration::ZERO, BLOCK_BYTES));
            let slow = move_bytes(at, is_over, Duration::from_millis(10), 4096)?;
            let fast = firehose.join().expect("a load does not panic")?;
            Ok(format!("{} MB came back fast, {} kB slowly", fast / 1_000_000, slow / 1000))
        })
    })
}

/// Sends as much as goes and reads so much between two rests, until it is over. Returns how much
/// has come back.
fn move_bytes(
    at: SocketAddr,
    is_over: &AtomicBool,
    rest: Duration,
    most: usize,
) -> io::Result<usize> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_nonblocking(true)?;
    let mut block = vec![b'x'; BLOCK_BYTES];
    let mut came_back = 0;
    while !is_over.load(Ordering::Relaxed) {
        came_back += tried(stream.read(&mut block[..most]))?;
        tried(stream.write(&block))?;
        thread::sleep(rest);
    }
    Ok(came_back)
}

/// What was moved: nothing, if nothing goes at this moment.
fn tried(moved: io::Result<usize>) -> io::Result<usize> {
    match moved {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        moved => moved,
    }
}

fn stall(rounds: &Rounds) -> io::Result<()> {
    let (server_cores, load_cores) = split_cores(1)?;
    let server =
        start_on(&server_cores, &Program::sibling("net-core", "sleeper", &["--loops", "2"])?)?;
    let mut sleeper = on_another_loop(server.at())?;
    rounds.run(server.at(), PINGERS, &load_cores, |is_over| {
        let mut slept = 0;
        while !is_over.load(Ordering::Relaxed) {
            sleeper.write_all(&[SLEEP])?;
            sleeper.read_exact(&mut [0])?;
            slept += 1;
            thread::sleep(Duration::from_secs(1) - SLEEP_TIME);
        }
        Ok(format!("{slept} callbacks slept"))
    })
}

fn broadcast(
    rounds: &Rounds,
    members: usize,
    loops: usize,
    per_turn: Option<usize>,
    every: Duration,
) -> io::Result<()> {
    let (server_cores, load_cores) = split_cores(1)?;
    let (count, per_turn) = (loops.to_string(), per_turn.map(|n| n.to_string()));
    let mut flags = vec!["--loops", &count];
    flags.extend(per_turn.iter().flat_map(|n| ["--per-turn", n]));
    if loops > 1 {
        flags.push("--private-tables");
    }
    let server = start_on(&server_cores, &Program::sibling("net-core", "fan_out", &flags)?)?;
    sys::pin(&load_cores)?;
    let mut groups = Vec::new();
    let mut left = members;
    while left > 0 {
        let count = left.min(MEMBERS_EACH);
        groups.push(Members::start(server.at(), groups.len(), count)?);
        left -= count;
    }
    eprintln!("{members} members have joined");
    let mut caller = TcpStream::connect(server.at())?;
    let mut calls = 0;
    let pace = Pace { pingers: 1, per_second: 1_000.0, has_firehose: false, sleeps: true };
    rounds.run(server.at(), pace, &load_cores, |is_over| {
        let before = calls;
        while !is_over.load(Ordering::Relaxed) {
            caller.write_all(&[BROADCAST])?;
            caller.read_exact(&mut [0])?;
            calls += 1;
            thread::sleep(every);
        }
        Ok(format!("{} broadcasts", calls - before))
    })?;
    let got = groups.into_iter().map(Members::end).sum::<io::Result<usize>>()?;
    let expected = calls * members * PAYLOAD.len();
    println!("{calls} broadcasts to {members}: {got} bytes came, {expected} were to come");
    if got == expected { Ok(()) } else { Err(io::Error::other("broadcasts were lost")) }
}

impl Rounds {
    /// Both arms in turn. `disturb` runs beside the second until it is told that all is over, and
    /// says what it has done.
    fn run(
        &self,
        at: SocketAddr,
        pace: Pace,
        load_cores: &[usize],
        mut disturb: impl FnMut(&AtomicBool) -> io::Result<String> + Send,
    ) -> io::Result<()> {
        sys::pin(load_cores)?;
        let quiet = || self.p99(at, pace, load_cores);
        let mut disturbed = || {
            let is_over = AtomicBool::new(false);
            thread::scope(|scope| {
                let disturb = scope.spawn(|| disturb(&is_over));
                let found = self.p99(at, pace, load_cores);
                is_over.store(true, Ordering::Relaxed);
                let done = disturb.join().expect("a load does not panic")?;
                // What it has left under way must not be charged to the next.
                thread::sleep(Duration::from_millis(500));
                Ok::<_, io::Error>((found?, done))
            })
        };
        let mut ratios = Vec::new();
        for pair in 0..self.pairs {
            let (alone, (beside, done)) = if pair % 2 == 0 {
                let alone = quiet()?;
                (alone, disturbed()?)
            } else {
                let beside = disturbed()?;
                (quiet()?, beside)
            };
            let ratio = beside / alone;
            println!("p99 alone {alone:.0} us, beside {beside:.0} us: {ratio:.2} ({done})");
            ratios.push(ratio);
        }
        let Spread { median, min, max } = Spread::of(ratios);
        println!("median of the ratios {median:.2}, from {min:.2} to {max:.2}");
        Ok(())
    }

    /// In microseconds.
    fn p99(&self, at: SocketAddr, pace: Pace, load_cores: &[usize]) -> io::Result<f64> {
        let measured = Duration::from_millis(self.millis);
        let found = open_loop::run(at, pace, load_cores, measured / 5, measured)?;
        Ok(found.value_at_quantile(0.99) as f64 / 1000.0)
    }
}

/// Members in another process.
struct Members {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Members {
    /// Returns when all have joined.
    fn start(at: SocketAddr, number: usize, count: usize) -> io::Result<Self> {
        let source = Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1).map_err(io::Error::other)?);
        let mut process = Command::new(std::env::current_exe()?)
            .args(["members", &at.to_string(), &source.to_string(), &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take().expect("standard output is a pipe");
        let mut members = Self { process, lines: BufReader::new(stdout) };
        members.number()?;
        Ok(members)
    }

    /// Ends it, and returns how many bytes all of them got.
    fn end(mut self) -> io::Result<usize> {
        drop(self.process.stdin.take());
        let got = self.number()?;
        self.process.wait()?;
        Ok(got)
    }

    fn number(&mut self) -> io::Result<usize> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        line.trim().parse().map_err(|_| io::Error::other("a process of members has failed"))
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        // Both do nothing once it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says how many have joined, then reads until standard input ends, and says how many bytes came.
fn hold_members(at: SocketAddr, source: Ipv4Addr, count: usize) -> io::Result<()> {
    const STDIN: u64 = u64::MAX;
    let mut epoll = Epoll::new()?;
    let members = (0..count as u64)
        .map(|token| {
            let stream = join(at, source)?;
            stream.set_nonblocking(true)?;
            epoll.add(stream.as_raw_fd(), token, libc::EPOLLIN | libc::EPOLLET)?;
            Ok(stream)
        })
        .collect::<io::Result<Vec<_>>>()?;
    epoll.add(io::stdin().as_raw_fd(), STDIN, libc::EPOLLIN)?;
    println!("{count}");
    let mut block = [0; 4096];
    let mut got = 0;
    loop {
        for n in 0..epoll.wait(-1)? {
            let (token, _) = epoll.event(n);
            if token == STDIN {
                println!("{got}");
                // Resets: the ports are free at once.
                for member in &members {
                    socket2::SockRef::from(member).set_linger(Some(Duration::ZERO))?;
                }
                return Ok(());
            }
            // A short read: the next bytes come with an edge of their own.
            got += tried((&members[token as usize]).read(&mut block))?;
        }
    }
}
