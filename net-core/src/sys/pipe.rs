//! Pipes between two sockets, and splice(2).

use super::{Errno, Socket};
use net_buffer::Pipe;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// The size of a pipe: 64 fragments. The default is 16 fragments. If each is as small as an Ethernet segment,
/// 16 are less than half of the bytes that a connection may receive in a turn.
const SIZE: libc::c_int = 256 << 10;

/// A smaller pipe is not worth its two descriptors. A user who has too many pipes gets pipes with two places
/// (pipe(7), `pipe-user-pages-soft`).
const SIZE_LEAST: libc::c_int = 64 << 10;

/// Makes an empty pipe, non-blocking and close-on-exec. `ENOSPC`: the user has so many pipes that this pipe
/// would be too small.
pub(super) fn new() -> Result<Pipe, Errno> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: `ends` is writable room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } != 0 {
        return Err(Errno::last());
    }
    let owned = ends.map(|end| {
        // SAFETY: the descriptor came from pipe2 just above and nothing else owns it.
        unsafe { OwnedFd::from_raw_fd(end) }
    });
    // SAFETY: fcntl takes no pointers here. Without the right to this size, the pipe keeps its size.
    unsafe { libc::fcntl(ends[1], libc::F_SETPIPE_SZ, SIZE) };
    // SAFETY: as above.
    if unsafe { libc::fcntl(ends[1], libc::F_GETPIPE_SZ) } < SIZE_LEAST {
        return Err(Errno::new(libc::ENOSPC));
    }
    let [read_end, write_end] = owned;
    Ok(Pipe::new(read_end, write_end))
}

/// Moves received bytes, at most `most`, into the pipe. Returns 0 at the peer's end of stream. `EAGAIN`:
/// nothing was received, *or* the pipe has no free place, *or* urgent data is next.
pub(super) fn fill(pipe: &Pipe, socket: &Socket, most: usize) -> Result<usize, Errno> {
    splice(socket.number(), pipe.write_end().as_raw_fd(), most)
}

/// Sends bytes of the pipe, at most `most`. A short result does not mean that the socket is full. `EAGAIN`,
/// for a pipe that is not empty: the socket has no room.
pub(super) fn send(pipe: &Pipe, socket: &Socket, most: usize) -> Result<usize, Errno> {
    splice(pipe.read_end().as_raw_fd(), socket.number(), most)
}

fn splice(from: RawFd, to: RawFd, most: usize) -> Result<usize, Errno> {
    let none = ptr::null_mut();
    // SAFETY: no offsets are passed, so the call touches no memory of ours.
    Errno::uninterrupted(|| unsafe {
        libc::splice(from, none, to, none, most, libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    /// The two sockets of a connection: ours, which is non-blocking, and the peer's.
    fn connection() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Socket::from_owned(ours.into()), peer)
    }

    fn filled(pipe: &Pipe, socket: &Socket, most: usize) -> Result<usize, i32> {
        loop {
            match fill(pipe, socket, most).map_err(Errno::raw) {
                Err(libc::EAGAIN) => std::thread::yield_now(), // loopback takes a moment
                other => return other,
            }
        }
    }

    #[test]
    fn bytes_pass_from_one_connection_to_another_and_then_the_end() {
        let ((a, mut from), (b, mut to)) = (connection(), connection());
        let pipe = new().unwrap();
        from.write_all(b"past this process").unwrap();
        assert_eq!(filled(&pipe, &a, 4), Ok(4));
        assert_eq!(filled(&pipe, &a, 100), Ok(13));
        assert_eq!(fill(&pipe, &a, 1).unwrap_err().raw(), libc::EAGAIN);
        assert_eq!(send(&pipe, &b, 5).unwrap(), 5);
        assert_eq!(send(&pipe, &b, 12).unwrap(), 12);
        assert_eq!(send(&pipe, &b, 1).unwrap_err().raw(), libc::EAGAIN);
        let mut got = [0; 17];
        to.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"past this process");
        from.shutdown(Shutdown::Write).unwrap();
        assert_eq!(filled(&pipe, &a, 9), Ok(0));
    }

    /// The model kernel's pipe does the same: see `driver/sim/pipes.rs`.
    #[test]
    fn a_full_pipe_says_eagain_although_more_has_come() {
        let ((a, mut from), (b, _to)) = (connection(), connection());
        let pipe = new().unwrap();
        from.set_nonblocking(true).unwrap();
        while from.write(&[7; 64 << 10]).is_ok() {} // as many bytes as the kernel takes
        let mut in_pipe = filled(&pipe, &a, 1 << 20).unwrap();
        while let Ok(n) = fill(&pipe, &a, 1 << 20) {
            in_pipe += n;
        }
        let mut rest = [0; 1];
        assert_eq!(a.receive(&mut rest), Ok(1), "{in_pipe} bytes fill the pipe, and more is there");
        assert!(send(&pipe, &b, in_pipe).unwrap() > 0);
    }
}
