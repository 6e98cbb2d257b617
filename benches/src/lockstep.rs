//! A load that is the same in each run: every connection sends, then every one receives, again and
//! again. It is for counting, not for timing.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any answer takes, under any tool.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is sent in each round.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections open at once.
    pub connections: usize,
    /// Messages that each connection sends before it receives.
    pub depth: usize,
    /// Bytes of a message.
    pub bytes: usize,
}

impl Load {
    /// Messages in so many rounds.
    pub fn messages(&self, rounds: usize) -> usize {
        self.connections * self.depth * rounds
    }
}

/// Connections to one server, each of which has spoken.
pub struct Clients {
    streams: Vec<TcpStream>,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Clients {
    /// Connects so many, and exchanges one message on each.
    pub fn connect(at: SocketAddr, load: Load) -> io::Result<Self> {
        let mut clients = Self {
            streams: Vec::with_capacity(load.connections),
            sent: vec![b'x'; load.bytes * load.depth],
            received: vec![0; load.bytes * load.depth],
        };
        for _ in 0..load.connections {
            let mut stream = TcpStream::connect(at)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&clients.sent[..load.bytes])?;
            stream.read_exact(&mut clients.received[..load.bytes])?;
            clients.streams.push(stream);
        }
        Ok(clients)
    }

    /// Ends all of them by a reset, which leaves no port waiting.
    pub fn reset(self) -> io::Result<()> {
        let linger = Some(Duration::ZERO);
        self.streams.iter().try_for_each(|one| socket2::SockRef::from(one).set_linger(linger))
    }

    /// So many rounds.
    pub fn run(&mut self, rounds: usize) -> io::Result<()> {
        for _ in 0..rounds {
            for stream in &mut self.streams {
                stream.write_all(&self.sent)?;
            }
            for stream in &mut self.streams {
                stream.read_exact(&mut self.received)?;
                debug_assert!(self.received == self.sent, "an echo is what was sent");
            }
        }
        Ok(())
    }
}
