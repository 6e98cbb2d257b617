//! The load of `compare`: closed loops with a window of messages, on cores of their own.
//!
//! Each thread serves its connections from one epoll. Of every connection `depth` messages are
//! under way: an answer that is complete is followed by the next message at once.

use crate::sys::{self, Epoll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Connections that a churning thread has open at once.
const CHURN_BATCH: usize = 16;

/// A stalled server ends the bench instead of stopping it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Connections that stay.
    Echo {
        /// Connections of all threads.
        connections: usize,
        /// Messages under way on each.
        depth: usize,
        /// Bytes of a message.
        bytes: usize,
    },
    /// Connect, exchange one message of 64 bytes, close.
    Churn,
}

/// Between the threads of a load and who measures. Counts by themselves, so all is relaxed.
#[derive(Debug, Default)]
pub struct Shared {
    /// Threads whose load has got going: as many answers as messages
    /// were sent at first.
    pub ready: AtomicU64,
    /// Messages answered, or connections churned, so far.
    pub done: AtomicU64,
    /// Set by who measures: end.
    pub is_over: AtomicBool,
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn add(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }
}

/// One thread of a load: its `share` of `of` threads, until it is told to end.
pub fn run(at: SocketAddr, work: Work, share: usize, of: usize, shared: &Shared) -> io::Result<()> {
    match work {
        Work::Churn => churn(at, shared),
        Work::Echo { connections, depth, bytes } => {
            let own = connections / of + usize::from(share < connections % of);
            Swarm::connect(at, own, depth, bytes)?.run(shared)
        }
    }
}

struct Client {
    stream: TcpStream,
    /// Bytes of the answer that is arriving.
    arrived: usize,
    /// Bytes that may be sent and that the kernel has not taken yet.
    owed: usize,
}

struct Swarm {
    epoll: Epoll,
    clients: Vec<Client>,
    bytes: usize,
    /// What is sent: a whole window.
    window: Vec<u8>,
    block: Vec<u8>,
}

impl Swarm {
    fn connect(at: SocketAddr, connections: usize, depth: usize, bytes: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut clients = Vec::with_capacity(connections);
        for token in 0..connections {
            let stream = TcpStream::connect(at)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let bits = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET;
            epoll.add(stream.as_raw_fd(), token as u64, bits)?;
            // The first event is that it can be written, and starts it.
            clients.push(Client { stream, arrived: 0, owed: depth * bytes });
        }
        let (window, block) = (vec![b'x'; depth * bytes], vec![0; 64 << 10]);
        Ok(Self { epoll, clients, bytes, window, block })
    }

    fn depth(&self) -> usize {
        self.window.len() / self.bytes
    }

    fn run(&mut self, shared: &Shared) -> io::Result<()> {
        let mut last = Instant::now();
        let mut answers_to_come = self.clients.len() * self.depth();
        while shared.goes_on() {
            let came = self.epoll.wait(100)?;
            let mut done = 0;
            for n in 0..came {
                let (token, _) = self.epoll.event(n);
                done += self.serve(token as usize)?;
            }
            if done > 0 {
                last = Instant::now();
                shared.add(done as u64);
                let is_first_round = answers_to_come > 0;
                answers_to_come = answers_to_come.saturating_sub(done);
                if is_first_round && answers_to_come == 0 {
                    shared.ready.fetch_add(1, Ordering::Relaxed);
                }
            } else if last.elapsed() > PATIENCE {
                return Err(io::Error::other("the server has stopped answering"));
            }
        }
        // A reset: the ports are free at once, and the server sees the end.
        for client in &self.clients {
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }

    /// Receives what has come and sends what may follow; returns the answers completed.
    #[inline]
    fn serve(&mut self, token: usize) -> io::Result<usize> {
        let client = &mut self.clients[token];
        let mut done = 0;
        loop {
            match (&client.stream).read(&mut self.block) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(got) => {
                    client.arrived += got;
                    done += client.arrived / self.bytes;
                    client.arrived %= self.bytes;
                    if got < self.block.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        client.owed += done * self.bytes;
        while client.owed > 0 {
            match (&client.stream).write(&self.window[..client.owed.min(self.window.len())]) {
                Ok(sent) => client.owed -= sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

fn churn(at: SocketAddr, shared: &Shared) -> io::Result<()> {
    shared.ready.fetch_add(1, Ordering::Relaxed);
    let message = [b'x'; 64];
    let mut answer = [0; 64];
    let mut streams = Vec::with_capacity(CHURN_BATCH);
    while shared.goes_on() {
        for _ in 0..CHURN_BATCH {
            let mut stream = TcpStream::connect(at)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&message)?;
            streams.push(stream);
        }
        for mut stream in streams.drain(..) {
            stream.read_exact(&mut answer)?;
            stream.shutdown(Shutdown::Write)?;
            shared.add(1);
        }
    }
    Ok(())
}

/// Cores for the server and for the load: apart, if there are two.
pub fn split_cores(loops: usize) -> io::Result<(Vec<usize>, Vec<usize>)> {
    let all = sys::allowed_cores()?;
    let server = loops.clamp(1, (all.len() - 1).max(1));
    let (server, load) = all.split_at(server);
    Ok((server.to_vec(), if load.is_empty() { server.to_vec() } else { load.to_vec() }))
}
