//! Messages that come from another thread of the server than the connection's.
//!
//! The protocol of the server `remote_send`: a request is a count, and the answer so many messages,
//! which a thread that is no loop hands to the connection's loop one by one.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Bytes of a request: a count, with the most significant byte first.
pub const REQUEST_BYTES: usize = 4;

/// Each message of an answer.
pub const MESSAGE: [u8; 64] = [b'm'; 64];

const PATIENCE: Duration = Duration::from_secs(20);

/// Asks `bursts` times for `burst` messages, each time once the last burst has come.
pub fn ask(at: SocketAddr, burst: u32, bursts: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = vec![0; MESSAGE.len() * burst as usize];
    for _ in 0..bursts {
        stream.write_all(&burst.to_be_bytes())?;
        stream.read_exact(&mut answer)?;
    }
    Ok(())
}
