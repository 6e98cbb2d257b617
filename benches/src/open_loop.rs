//! The load that asks how long an answer takes: an open loop.
//!
//! Messages leave at fixed moments, whether the last has been answered or not, and a latency is
//! counted from the moment at which its message should have left. So a server that stalls is
//! charged for every message that fell into the stall.

use crate::sys::{self, Epoll};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

const MESSAGE: [u8; 64] = [b'x'; 64];

/// What the firehose sends, and what it receives, at most, between two looks at the clock.
const FIREHOSE_BYTES: usize = 64 << 10;

/// The firehose's token: the pingers have those below it.
const FIREHOSE: u64 = u64::MAX;

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Connections that send messages of 64 bytes, one after the other.
    pub pingers: usize,
    /// Messages a second, of all pingers together.
    pub per_second: f64,
    /// One more connection, which sends and receives as much as goes.
    pub has_firehose: bool,
    /// Between messages the load sleeps, and leaves the core to others. Else it never does, since a
    /// wake-up would be part of what it measures.
    pub sleeps: bool,
}

/// Runs from these cores, each its share of the pingers, and returns all latencies in nanoseconds
/// of the messages that were due within the measured time.
pub fn run(
    at: SocketAddr,
    pace: Pace,
    cores: &[usize],
    warm: Duration,
    measured: Duration,
) -> io::Result<Histogram<u64>> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.len())
            .map(|n| {
                let own = pace.share(n, cores.len());
                scope.spawn(move || {
                    sys::pin(&cores[n..=n])?;
                    if pace.sleeps {
                        // Where it is not allowed, the pings wait for the core like everybody.
                        let _ = sys::come_first();
                    }
                    OpenLoop::connect(at, own)?.run(warm, measured)
                })
            })
            .collect();
        let mut all = histogram();
        for thread in threads {
            let own = thread.join().expect("a load does not panic")?;
            all.add(&own).map_err(io::Error::other)?;
        }
        Ok(all)
    })
}

impl Pace {
    fn share(self, n: usize, of: usize) -> Self {
        let pingers = self.pingers / of + usize::from(n < self.pingers % of);
        let per_second = self.per_second * pingers as f64 / self.pingers as f64;
        Self { pingers, per_second, has_firehose: self.has_firehose && n == 0, ..self }
    }
}

/// From a nanosecond to ten minutes, with three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are in order")
}

struct Pinger {
    stream: TcpStream,
    /// When each message that has no answer should have left.
    due: VecDeque<Instant>,
    /// Bytes of an answer that is arriving.
    arrived: usize,
    /// Bytes that the kernel has not taken yet.
    owed: usize,
}

struct OpenLoop {
    epoll: Epoll,
    pingers: Vec<Pinger>,
    firehose: Option<TcpStream>,
    sleeps: bool,
    period: Duration,
    block: Vec<u8>,
}

impl OpenLoop {
    fn connect(at: SocketAddr, pace: Pace) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let connect = |token: u64| -> io::Result<TcpStream> {
            let stream = TcpStream::connect(at)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(stream.as_raw_fd(), token, libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET)?;
            Ok(stream)
        };
        let pinger = |n: usize| {
            let stream = connect(n as u64)?;
            Ok(Pinger { stream, due: VecDeque::new(), arrived: 0, owed: 0 })
        };
        let pingers = (0..pace.pingers).map(pinger).collect::<io::Result<_>>()?;
        let firehose = pace.has_firehose.then(|| connect(FIREHOSE)).transpose()?;
        let period = Duration::from_secs_f64(1.0 / pace.per_second);
        let block = vec![b'x'; FIREHOSE_BYTES];
        Ok(Self { epoll, pingers, firehose, sleeps: pace.sleeps, period, block })
    }

    fn run(&mut self, warm: Duration, measured: Duration) -> io::Result<Histogram<u64>> {
        let mut latencies = histogram();
        let start = Instant::now();
        let (from, end) = (start + warm, start + warm + measured);
        let (mut next_due, mut next) = (start, 0);
        while next_due < end || self.is_waiting() {
            let now = Instant::now();
            if now > end + PATIENCE {
                return Err(io::Error::other("the server has stopped answering"));
            }
            while next_due <= now && next_due < end {
                self.pingers[next].ping(next_due)?;
                next = (next + 1) % self.pingers.len();
                next_due += self.period;
            }
            if now < end {
                self.feed_firehose()?;
            }
            // Once all has been sent, only answers are waited for.
            let next_due = if next_due < end { next_due } else { end + PATIENCE };
            let patience = if self.sleeps { next_due - Instant::now() } else { Duration::ZERO };
            let came = self.epoll.wait_for(patience)?;
            for n in 0..came {
                let (token, _) = self.epoll.event(n);
                if token != FIREHOSE {
                    self.pingers[token as usize].answers(&mut self.block, from, &mut latencies)?;
                }
            }
        }
        Ok(latencies)
    }

    fn is_waiting(&self) -> bool {
        self.pingers.iter().any(|pinger| !pinger.due.is_empty())
    }

    /// One send and one receive, both as large as the kernel allows at this moment.
    fn feed_firehose(&mut self) -> io::Result<()> {
        let Some(mut stream) = self.firehose.as_ref() else { return Ok(()) };
        for result in [stream.write(&self.block), stream.read(&mut self.block)] {
            match result {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Pinger {
    fn ping(&mut self, due: Instant) -> io::Result<()> {
        self.due.push_back(due);
        self.owed += MESSAGE.len();
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        while self.owed > 0 {
            // What is left of the oldest message goes first.
            let part = (self.owed - 1) % MESSAGE.len() + 1;
            match (&self.stream).write(&MESSAGE[..part]) {
                Ok(sent) => self.owed -= sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Receives, and writes down how late each answer is.
    fn answers(
        &mut self,
        block: &mut [u8],
        from: Instant,
        latencies: &mut Histogram<u64>,
    ) -> io::Result<()> {
        match (&self.stream).read(block) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => self.arrived += got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let now = Instant::now();
        while self.arrived >= MESSAGE.len() {
            self.arrived -= MESSAGE.len();
            let due = self.due.pop_front().ok_or(ErrorKind::InvalidData)?;
            if due >= from {
                latencies.saturating_record((now - due).as_nanos() as u64);
            }
        }
        self.send()
    }
}
