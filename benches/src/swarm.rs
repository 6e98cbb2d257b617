//! The load of the grid: closed loops with a window of messages, on cores of their own.
//!
//! Each thread serves its connections from one epoll. Of every connection `depth` messages are
//! under way: an answer that is complete is followed by the next message at once. Its connections
//! stay from one shape of load to the next.

use crate::measure::Shared;
use crate::plan::Shape;
use crate::sys::{self, Epoll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// What is received at once.
const BLOCK_BYTES: usize = 64 << 10;

/// A stalled server ends the bench instead of stopping it.
const PATIENCE: Duration = Duration::from_secs(10);

struct Client {
    stream: TcpStream,
    /// Bytes of the answer that is arriving.
    arrived: usize,
    /// Bytes that may be sent and that the kernel has not taken yet.
    owed: usize,
}

/// The connections of one thread.
pub struct Swarm {
    epoll: Epoll,
    clients: Vec<Client>,
    block: Vec<u8>,
}

/// One run: what is sent, and how far it is.
struct Run {
    bytes: usize,
    /// What is sent: a whole window.
    window: Vec<u8>,
    /// Messages whose answer is not complete.
    under_way: usize,
    /// Each answer is followed by a message.
    refills: bool,
}

impl Swarm {
    /// Connects so many. Nothing is sent yet.
    pub fn connect(at: SocketAddr, connections: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut clients = Vec::with_capacity(connections);
        for token in 0..connections {
            let stream = TcpStream::connect(at)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let bits = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET;
            epoll.add(stream.as_raw_fd(), token as u64, bits)?;
            clients.push(Client { stream, arrived: 0, owed: 0 });
        }
        Ok(Self { epoll, clients, block: vec![0; BLOCK_BYTES] })
    }

    /// One swarm for each of these cores, so many connections in all.
    pub fn connect_all(
        at: SocketAddr,
        connections: usize,
        cores: &[usize],
    ) -> io::Result<Vec<Self>> {
        let share = |n| connections / cores.len() + usize::from(n < connections % cores.len());
        (0..cores.len()).map(|n| Self::connect(at, share(n))).collect()
    }

    /// Runs until it is told to end, and then until the last answer is complete.
    pub fn run(&mut self, shape: Shape, shared: &Shared) -> io::Result<()> {
        let window = vec![b'x'; shape.depth * shape.bytes];
        let messages = self.clients.len() * shape.depth;
        let mut run = Run { bytes: shape.bytes, window, under_way: messages, refills: true };
        for client in &mut self.clients {
            client.owed = run.window.len();
            client.send(&run.window)?;
        }
        let mut answers_to_come = messages;
        let mut last = Instant::now();
        while run.under_way > 0 {
            run.refills = shared.goes_on();
            let came = self.epoll.wait(100)?;
            let mut done = 0;
            for n in 0..came {
                let (token, _) = self.epoll.event(n);
                done += self.clients[token as usize].serve(&mut self.block, &mut run)?;
            }
            if done > 0 {
                last = Instant::now();
                shared.add(done as u64);
                let is_first_round = answers_to_come > 0;
                answers_to_come = answers_to_come.saturating_sub(done);
                if is_first_round && answers_to_come == 0 {
                    shared.is_ready();
                }
            } else if last.elapsed() > PATIENCE {
                return Err(io::Error::other("the server has stopped answering"));
            }
        }
        Ok(())
    }
}

impl Drop for Swarm {
    /// A reset: the ports are free at once, and the server sees the end.
    fn drop(&mut self) {
        for client in &self.clients {
            // Without it the connection still ends.
            let _ = socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Client {
    /// Receives what has come and sends what may follow; returns the answers completed.
    #[inline]
    fn serve(&mut self, block: &mut [u8], run: &mut Run) -> io::Result<usize> {
        let mut done = 0;
        loop {
            match (&self.stream).read(block) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(got) => {
                    self.arrived += got;
                    done += self.arrived / run.bytes;
                    self.arrived %= run.bytes;
                    if got < block.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if run.refills {
            self.owed += done * run.bytes;
        } else {
            run.under_way = run.under_way.checked_sub(done).ok_or_else(answered_too_much)?;
        }
        self.send(&run.window)?;
        Ok(done)
    }

    #[inline]
    fn send(&mut self, window: &[u8]) -> io::Result<()> {
        while self.owed > 0 {
            match (&self.stream).write(&window[..self.owed.min(window.len())]) {
                Ok(sent) => self.owed -= sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn answered_too_much() -> io::Error {
    io::Error::other("more came back than was sent")
}

/// Cores for the server and for the load: apart, if there are two.
pub fn split_cores(loops: usize) -> io::Result<(Vec<usize>, Vec<usize>)> {
    let all = sys::allowed_cores()?;
    let server = loops.clamp(1, (all.len() - 1).max(1));
    let (server, load) = all.split_at(server);
    Ok((server.to_vec(), if load.is_empty() { server.to_vec() } else { load.to_vec() }))
}
