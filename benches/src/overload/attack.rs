//! Three kinds of hostile clients, each on a thread of its own that takes no core from who runs: the
//! machine is shared, and what they cost themselves is not the server's doing.

use crate::sys;
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a connect may take when the backlog is full.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Between two looks at silent ones: so some thousands in a second come again at most.
const LOOK: Duration = Duration::from_micros(400);
/// Between two sends of each that never reads.
const SWEEP: Duration = Duration::from_millis(100);
/// Never-readers that come again after each sweep.
const AGAIN_PER_SWEEP: usize = 5;
/// What a send of a never-reader has. Small, for a kernel that is not preemptible gives the core to nobody
/// else while it copies, and on the way over loopback delivers, what is sent.
const BLOCK: usize = 8 << 10;
/// The kernel's send buffer of each that never reads: theirs would be the memory of other machines.
const SEND_BUFFER: usize = 64 << 10;
/// Connections of the flood that are open at once.
const FLOOD_OPEN: usize = 100;

/// From where, until when, and how many connects there were.
pub struct Attack {
    cores: Vec<usize>,
    is_over: AtomicBool,
    connects: AtomicU64,
}

impl Attack {
    /// Its threads are to run on these cores.
    pub fn from_cores(cores: &[usize]) -> Self {
        let (is_over, connects) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { cores: cores.to_vec(), is_over, connects }
    }

    /// What each thread begins with. Where it is not allowed, it takes more from the others.
    fn take_place(&self) {
        let _ = sys::pin(&self.cores);
        let _ = sys::come_last();
    }

    /// Ends it: the threads return soon.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Connections that all of them have made.
    pub fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn connect(&self, to: SocketAddr) -> Option<TcpStream> {
        let stream = TcpStream::connect_timeout(&to, CONNECT_MAX).ok()?;
        // Reset when dropped, so that no port waits for its time to be over.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok()?;
        stream.set_nonblocking(true).ok()?;
        self.connects.fetch_add(1, Ordering::Relaxed);
        Some(stream)
    }

    /// New connections at a rate, each dropped soon after.
    pub fn flood(&self, to: SocketAddr, per_second: u64) {
        self.take_place();
        let (start, mut due) = (Instant::now(), 0);
        let mut open = VecDeque::new();
        while self.goes_on() {
            if due > (start.elapsed().as_secs_f64() * per_second as f64) as u64 {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            due += 1;
            open.extend(self.connect(to));
            if open.len() > FLOOD_OPEN {
                open.pop_front();
            }
        }
    }

    /// So many connections that say nothing; when the server has closed one, another one comes, soon.
    pub fn say_nothing(&self, to: SocketAddr, connections: usize) {
        self.take_place();
        let mut open = VecDeque::new();
        while self.goes_on() && open.len() < connections {
            open.extend(self.connect(to));
        }
        while self.goes_on() {
            // The oldest is looked at; in its place it comes again, or another one.
            let oldest = open.pop_front();
            open.extend(oldest.filter(is_open).or_else(|| self.connect(to)));
            std::thread::sleep(LOOK);
        }
    }

    /// So many connections that send whatever is taken, and read nothing. For those that the server
    /// resets others come, a few in a second.
    pub fn never_read(&self, to: SocketAddr, connections: usize) {
        self.take_place();
        let block = vec![b'x'; BLOCK];
        let connect = || {
            let stream = self.connect(to)?;
            SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER).ok()?;
            Some(stream)
        };
        let mut open: Vec<TcpStream> = Vec::new();
        while self.goes_on() && open.len() < connections {
            open.extend(connect());
        }
        while self.goes_on() {
            open.retain(|stream| fill(stream, &block));
            let missing = connections - open.len();
            open.extend((0..missing.min(AGAIN_PER_SWEEP)).filter_map(|_| connect()));
            std::thread::sleep(SWEEP);
        }
    }
}

/// Sends until nothing more is taken. False if it is over.
fn fill(stream: &TcpStream, block: &[u8]) -> bool {
    let mut stream = stream;
    let ended = loop {
        // How much it took does not matter: all of it is the same.
        if let Err(error) = stream.write(block).map(drop) {
            break error;
        }
    };
    ended.kind() == ErrorKind::WouldBlock
}

fn is_open(stream: &TcpStream) -> bool {
    let mut stream = stream;
    match stream.read(&mut [0; 64]) {
        Ok(bytes) => bytes > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
