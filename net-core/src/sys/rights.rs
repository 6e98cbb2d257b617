//! Sends and receives descriptors through a Unix socket: `SCM_RIGHTS`, unix(7).

use super::{Errno, Socket, socket};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::{io, mem};

/// The most descriptors that one message carries (`SCM_MAX_FD` of the kernel).
pub(crate) const RIGHTS_MAX: usize = 253;

/// Room for one control message with `RIGHTS_MAX` descriptors. The alignment is that of cmsghdr.
#[repr(align(8))]
struct Control([u8; CONTROL_BYTES]);

// SAFETY: CMSG_SPACE is arithmetic on its argument.
const CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE((RIGHTS_MAX * 4) as u32) } as usize;

/// A received message.
pub(crate) struct Message {
    /// The number of payload bytes at the front of the caller's buffer.
    pub(crate) bytes: usize,
    /// This descriptor table had no room for some descriptors, and the kernel closed them.
    pub(crate) truncated: bool,
}

/// Makes two connected, non-blocking SEQPACKET sockets. A message stays one message, and the close of the far
/// end arrives as an empty message.
pub(crate) fn pair() -> io::Result<(Socket, Socket)> {
    let mut ends = [0 as RawFd; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `ends` has room for the two numbers.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both came from socketpair just above and nothing else owns them.
    let [a, b] = ends.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
    Ok((Socket::from_owned(a), Socket::from_owned(b)))
}

/// Sends `payload` and copies of `sockets`: all of it, or nothing. The caller's sockets stay open.
///
/// # Panics
/// If there is no socket, or more than [`RIGHTS_MAX`], or if the payload is empty. The far end takes an empty
/// message for the end.
pub(crate) fn send<'a>(
    end: &Socket,
    payload: &[u8],
    sockets: impl ExactSizeIterator<Item = &'a Socket>,
) -> Result<(), Errno> {
    let count = sockets.len();
    assert!((1..=RIGHTS_MAX).contains(&count) && !payload.is_empty());
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part =
        libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: msghdr is plain data for which zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE and CMSG_LEN are arithmetic on their argument.
    let (space, length) = unsafe {
        (libc::CMSG_SPACE((count * 4) as u32) as usize, libc::CMSG_LEN((count * 4) as u32) as usize)
    };
    message.msg_controllen = space;
    // SAFETY: the control buffer is at least one header large, so this points into it.
    let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    // SAFETY: `header` points to aligned, writable memory for a cmsghdr.
    unsafe {
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = length;
    }
    // SAFETY: the header's data begins here, with `count * 4` bytes of the control buffer.
    let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
    for (i, socket) in sockets.enumerate() {
        // SAFETY: `i < count`, and the data has place for `count` numbers.
        unsafe { data.add(i).write_unaligned(socket.number()) };
    }
    let flags = libc::MSG_NOSIGNAL;
    // SAFETY: `message` points to the payload and control buffer, alive through the call.
    Errno::uninterrupted(|| unsafe { libc::sendmsg(end.number(), &message, flags) })?;
    Ok(())
}

/// Receives one message. Appends its descriptors to `sockets`, owned and close-on-exec. `bytes` is 0 when the
/// far end has closed.
pub(crate) fn receive(
    end: &Socket,
    payload: &mut [u8],
    sockets: &mut Vec<Socket>,
) -> Result<Message, Errno> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: msghdr is plain data for which zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    let flags = libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` points to the payload and control buffer, alive through the call.
    let bytes =
        Errno::uninterrupted(|| unsafe { libc::recvmsg(end.number(), &mut message, flags) })?;
    // SAFETY: the kernel has filled `message`; the macro stays inside its control buffer.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    while !header.is_null() {
        // SAFETY: a non-null header points to a whole cmsghdr inside the control buffer.
        let (level, kind, length) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN is arithmetic; the data of this header follows it.
            let (before, data) = unsafe { (libc::CMSG_LEN(0) as usize, libc::CMSG_DATA(header)) };
            for i in 0..(length - before) / 4 {
                // SAFETY: the kernel wrote so many numbers into the data part.
                let raw = unsafe { data.cast::<RawFd>().add(i).read_unaligned() };
                // SAFETY: the kernel made this descriptor for this process just now, and nothing else owns
                // it.
                sockets.push(unsafe { socket::from_received(raw) });
            }
        }
        // SAFETY: `header` is a header of `message`, as the macro asks.
        header = unsafe { libc::CMSG_NXTHDR(&message, header) };
    }
    Ok(Message { bytes, truncated: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_arrive_in_order_and_the_end_is_seen() {
        let (a, b) = pair().unwrap();
        let (x, y) = pair().unwrap();
        send(&a, b"2", [&x, &y].into_iter()).unwrap();
        drop((x, a));
        let (mut payload, mut got) = ([0u8; 16], Vec::new());
        let message = receive(&b, &mut payload, &mut got).unwrap();
        assert_eq!((message.bytes, message.truncated, got.len()), (1, false, 2));
        got[0].send(b"through").unwrap();
        let mut bytes = [0u8; 16];
        assert_eq!(y.receive(&mut bytes), Ok(7));
        assert_eq!(receive(&b, &mut payload, &mut got).unwrap().bytes, 0);
    }

    #[test]
    fn a_full_message_of_descriptors_passes() {
        let (a, b) = pair().unwrap();
        let (x, _y) = pair().unwrap();
        send(&a, b"x", std::iter::repeat_n(&x, RIGHTS_MAX)).unwrap();
        let (mut payload, mut got) = ([0u8; 1], Vec::new());
        assert!(!receive(&b, &mut payload, &mut got).unwrap().truncated);
        assert_eq!(got.len(), RIGHTS_MAX);
    }
}
