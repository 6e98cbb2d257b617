//! The protocol of `sleeper`, and a client whose connection is on another loop than those from 127.0.0.1.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// The byte at which the server's callback sleeps before it answers.
pub const SLEEP: u8 = b's';

/// For how long.
pub const SLEEP_TIME: Duration = Duration::from_millis(200);

/// From when on the server takes a callback for a stall.
pub const THRESHOLD: Duration = Duration::from_millis(50);

/// Sources that are tried: with two loops each has an even chance.
const SOURCES: std::ops::RangeInclusive<u8> = 2..=60;

/// Connects from addresses of 127.0.0.0/24 until one is on another loop: while its callback sleeps,
/// a connection from 127.0.0.1 is answered.
pub fn on_another_loop(at: SocketAddr) -> io::Result<TcpStream> {
    let mut usual = TcpStream::connect(at)?;
    for last in SOURCES {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into())?;
        socket.connect(&at.into())?;
        let mut other = TcpStream::from(socket);
        other.write_all(&[SLEEP])?;
        std::thread::sleep(SLEEP_TIME / 4);
        let asked = Instant::now();
        usual.write_all(b"x")?;
        usual.read_exact(&mut [0])?;
        let waited = asked.elapsed();
        other.read_exact(&mut [0])?;
        if waited < SLEEP_TIME / 4 {
            return Ok(other);
        }
    }
    Err(io::Error::other("no source is on another loop"))
}
