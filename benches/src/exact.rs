//! Does a server echo, to the byte? Asked before it is measured, with a peer that is slow to read.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// What a reader does not read, in kernel buffers of both sides, is less than half of this: so
/// the server meets a socket without room, and must keep what is left.
const BYTES: usize = 8 << 20;

/// The reader's buffer in the kernel.
const RECEIVE_BUFFER: usize = 64 << 10;

/// A writer that has not moved for so long has been stopped by the server.
const STALLED_AFTER: Duration = Duration::from_millis(100);

const PATIENCE: Duration = Duration::from_secs(20);

/// Sends many bytes without waiting for an answer, begins to read once the server has stopped
/// reading or has taken all, and compares.
pub fn check(at: SocketAddr) -> io::Result<()> {
    let sent: Vec<u8> = bytes().take(BYTES).collect();
    let mut stream = TcpStream::connect(at)?;
    socket2::SockRef::from(&stream).set_recv_buffer_size(RECEIVE_BUFFER)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let taken = AtomicUsize::new(0);
    let received = thread::scope(|scope| {
        let writer = scope.spawn(|| write(&stream, &sent, &taken));
        wait_for_a_stall(&taken);
        let mut received = vec![0; BYTES];
        let read = (&stream).read_exact(&mut received);
        if read.is_err() {
            let _ = stream.shutdown(Shutdown::Both); // so that the writer ends too
        }
        writer.join().expect("writing does not panic")?;
        read.map(|()| received)
    })?;
    if let Some(place) = (0..BYTES).find(|&n| received[n] != sent[n]) {
        return Err(io::Error::other(format!("byte {place} is not what was sent")));
    }
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more came back than was sent")),
    }
}

fn write(mut stream: &TcpStream, bytes: &[u8], taken: &AtomicUsize) -> io::Result<()> {
    for part in bytes.chunks(16 << 10) {
        stream.write_all(part)?;
        taken.fetch_add(part.len(), Ordering::Relaxed); // a count by itself
    }
    Ok(())
}

fn wait_for_a_stall(taken: &AtomicUsize) {
    let mut before = usize::MAX;
    loop {
        let now = taken.load(Ordering::Relaxed);
        if now == before || now == BYTES {
            return;
        }
        before = now;
        thread::sleep(STALLED_AFTER);
    }
}

/// Bytes without a pattern that a mistake could fit (xorshift).
fn bytes() -> impl Iterator<Item = u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state as u8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn serve(change: impl FnOnce(&mut [u8]) + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = vec![0; BYTES];
            stream.read_exact(&mut all).unwrap();
            change(&mut all);
            stream.write_all(&all).unwrap();
        });
        at
    }

    #[test]
    fn an_echo_is_taken_and_one_wrong_byte_is_found() {
        check(serve(|_| {})).unwrap();
        let error = check(serve(|all| all[BYTES - 1] ^= 1)).unwrap_err().to_string();
        assert!(error.contains(&(BYTES - 1).to_string()), "{error}");
    }
}
