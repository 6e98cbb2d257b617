//! One payload to very many connections: how long until the last has it?
//!
//! The protocol of the servers `fan_out` and `bare_fan_out`: on `CALL`, every other connection gets
//! the payload; any other byte comes back. `fan_out` has two bytes more: who has sent `JOIN` gets the
//! payload of each `BROADCAST`, which is sent a few at a time.

use crate::sys::Epoll;
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// What asks for the payload.
pub const CALL: u8 = b'!';

/// Joins those who get broadcasts.
pub const JOIN: u8 = b'+';

/// What asks for a broadcast to those who have joined.
pub const BROADCAST: u8 = b'*';

/// What each of the others gets.
pub const PAYLOAD: [u8; 64] = [b'p'; 64];

const HELLO: u8 = b'.';
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections that wait for a payload, and one that asks for it.
pub struct Audience {
    epoll: Epoll,
    caller: TcpStream,
    members: Vec<Member>,
}

struct Member {
    stream: TcpStream,
    /// Bytes of the payload.
    got: usize,
}

impl Audience {
    /// Connects the caller and so many others, each of which the server has answered.
    pub fn connect(at: SocketAddr, members: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let member = |token: usize| {
            let stream = greet(at)?;
            stream.set_nonblocking(true)?;
            epoll.add(stream.as_raw_fd(), token as u64, libc::EPOLLIN | libc::EPOLLET)?;
            Ok(Member { stream, got: 0 })
        };
        let members = (0..members).map(member).collect::<io::Result<_>>()?;
        Ok(Self { caller: greet(at)?, epoll, members })
    }

    /// Asks once, and returns after which time the last one has the whole payload.
    pub fn call(&mut self) -> io::Result<Duration> {
        let start = Instant::now();
        self.caller.write_all(&[CALL])?;
        let mut left = self.members.len();
        while left > 0 {
            let came = self.epoll.wait(100)?;
            for n in 0..came {
                let (token, _) = self.epoll.event(n);
                left -= usize::from(self.members[token as usize].receive()?);
            }
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("{left} have not got the payload")));
            }
        }
        Ok(start.elapsed())
    }
}

impl Drop for Audience {
    /// A reset: the ports are free at once, and the server sees the end.
    fn drop(&mut self) {
        for member in &self.members {
            // Without it the connection still ends.
            let _ = socket2::SockRef::from(&member.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Member {
    /// True: that was the end of the payload.
    fn receive(&mut self) -> io::Result<bool> {
        let mut block = [0; PAYLOAD.len() + 1];
        let got = match self.stream.read(&mut block) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            got => got?,
        };
        if got + self.got > PAYLOAD.len() || block[..got] != PAYLOAD[..got] {
            return Err(io::Error::other("something else than the payload came"));
        }
        self.got = (self.got + got) % PAYLOAD.len();
        Ok(self.got == 0)
    }
}

fn greet(at: SocketAddr) -> io::Result<TcpStream> {
    say(TcpStream::connect(at)?, HELLO)
}

/// Connects from this address, and joins those who get broadcasts.
pub fn join(at: SocketAddr, source: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&at.into())?;
    say(socket.into(), JOIN)
}

/// Sends one byte, and waits until the server has sent it back.
fn say(mut stream: TcpStream, byte: u8) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[byte])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer == [byte] { Ok(stream) } else { Err(io::Error::other("a greeting came back wrong")) }
}
