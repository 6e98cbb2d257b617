//! The load of connections that come and go.

use crate::measure::Shared;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Connections that a thread has open at once.
const BATCH: usize = 16;

/// A stalled server ends the bench instead of stopping it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects, exchanges one message of 64 bytes, closes; until it is told to end.
pub fn run(at: SocketAddr, shared: &Shared) -> io::Result<()> {
    shared.is_ready();
    let message = [b'x'; 64];
    let mut answer = [0; 64];
    let mut streams = Vec::with_capacity(BATCH);
    while shared.goes_on() {
        for _ in 0..BATCH {
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
