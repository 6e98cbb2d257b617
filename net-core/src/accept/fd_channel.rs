//! The fd channel: it carries connections to a loop that has a descriptor table of its own.
//!
//! One SEQPACKET socket pair per loop carries descriptors by `SCM_RIGHTS`. The same message has the address
//! of each client. When the receiving table is full, the kernel closes the surplus descriptors without an
//! error. So the acceptor sends only as many descriptors as the loop has room for (its credit). Descriptors
//! that are lost in spite of that are counted: the message says how many there were.

use crate::accept::admission::{Admission, Arrival};
use crate::sys::addr::{Addr, UnixName};
use crate::sys::rights::{self, RIGHTS_MAX};
use crate::sys::{Errno, Socket};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Bytes of an arrival in a message. The first byte says whether the arrival is announced, and whether it is
/// over the limit. The address follows: 16 bytes of IP (IPv4 mapped), 2 of port.
const ENTRY: usize = 1 + ADDRESS;
const ADDRESS: usize = 18;
/// Stands in place of an address for a Unix socket. The receiving loop asks the kernel for the socket's name,
/// which mostly is empty. No TCP connection comes from port 0 of the unspecified address.
const UNIX: [u8; ADDRESS] = [0; ADDRESS];
const MESSAGE_MAX: usize = RIGHTS_MAX * ENTRY;
/// Messages that a loop takes in one turn.
const MESSAGES_PER_TURN: usize = 4;
/// Receives that may fail in a row before the fd channel counts as broken.
const FAILURES_MAX: u32 = 16;

/// The two ends of a channel: the acceptor's, and the loop's.
pub(crate) fn pair() -> io::Result<(Socket, Socket)> {
    rights::pair()
}

/// Sends the arrivals at the front of `batch` as one message, and takes them out of `batch`. All are sent, or
/// none: on an error they stay. Their permits go with them.
pub(crate) fn send(end: &Socket, batch: &mut Vec<Arrival>) -> Result<usize, Errno> {
    let count = batch.len().min(RIGHTS_MAX);
    let mut payload = Vec::with_capacity(count * ENTRY);
    for arrival in &batch[..count] {
        let is_over = arrival.permit.is_over();
        payload.push(u8::from(arrival.is_announced) | u8::from(is_over) << 1);
        payload.extend_from_slice(&pack(&arrival.peer));
    }
    rights::send(end, &payload, batch[..count].iter().map(|arrival| &arrival.socket))?;
    for sent in batch.drain(..count) {
        // The copy in the message is the connection now. Closing our descriptor does not end the connection.
        sent.permit.keep();
    }
    Ok(count)
}

/// The loop's end.
pub(crate) struct FdReceiver {
    end: Socket,
    has_more: bool,
    /// Number of receives that have failed in a row.
    failed: u32,
}

/// What one `take` from the fd channel brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Brought {
    /// Connections that were sent.
    pub(crate) carried: u64,
    /// Number of these that the kernel closed because this descriptor table had no room.
    pub(crate) lost: u64,
    /// No more connections will come.
    pub(crate) is_the_end: bool,
}

impl FdReceiver {
    pub(crate) fn new(end: Socket) -> Self {
        Self { end, has_more: true, failed: 0 }
    }

    pub(crate) fn signalled(&mut self) {
        self.has_more = true;
    }

    pub(crate) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Takes at most `MESSAGES_PER_TURN` messages.
    pub(crate) fn take(&mut self, admission: &Arc<Admission>, into: &mut Vec<Arrival>) -> Brought {
        let mut brought = Brought::default();
        for _ in 0..MESSAGES_PER_TURN {
            if !self.has_more {
                break;
            }
            self.take_one(admission, into, &mut brought);
        }
        brought
    }

    fn take_one(
        &mut self,
        admission: &Arc<Admission>,
        into: &mut Vec<Arrival>,
        brought: &mut Brought,
    ) {
        let mut payload = [0u8; MESSAGE_MAX];
        let mut sockets = Vec::new();
        let message = match rights::receive(&self.end, &mut payload, &mut sockets) {
            Ok(message) => message,
            Err(errno) if errno == Errno::AGAIN => {
                (self.has_more, self.failed) = (false, 0);
                return;
            }
            // A shortage of memory may pass, and no edge comes for messages that wait. So the receive is
            // tried again.
            Err(errno) => {
                self.failed += 1;
                if self.failed >= FAILURES_MAX {
                    self.has_more = false;
                    tracing::error!(%errno, "the fd channel is broken");
                    brought.is_the_end = true;
                }
                return;
            }
        };
        self.failed = 0;
        if message.bytes == 0 {
            self.has_more = false;
            brought.is_the_end = true;
            return;
        }
        let entries = payload[..message.bytes].chunks_exact(ENTRY);
        let carried = entries.len();
        brought.carried += carried as u64;
        // The kernel takes descriptors from the front of the message, and drops those that find no room.
        brought.lost += carried.saturating_sub(sockets.len()) as u64;
        debug_assert!(message.truncated == (carried > sockets.len()));
        let mut sockets = sockets.into_iter();
        for entry in entries {
            let (is_announced, is_over) = (entry[0] & 1 != 0, entry[0] & 2 != 0);
            let inet = unpack(&entry[1..]);
            let from = inet.as_ref().filter(|_| !is_announced);
            // If the socket is lost, the permit is dropped and its place is free again.
            let permit = admission.take_over(from, is_over);
            let Some(socket) = sockets.next() else { continue };
            let peer = inet.unwrap_or_else(|| name_of(&socket));
            into.push(Arrival { socket, peer, permit, is_announced });
        }
    }
}

fn pack(peer: &Addr) -> [u8; ADDRESS] {
    let Addr::Inet(address) = peer else { return UNIX };
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut packed = [0; ADDRESS];
    packed[..16].copy_from_slice(&ip.octets());
    packed[16..].copy_from_slice(&address.port().to_be_bytes());
    packed
}

/// The packed address. `None`: the client is on a Unix socket.
fn unpack(packed: &[u8]) -> Option<Addr> {
    if packed == UNIX {
        return None;
    }
    let mut octets = [0; 16];
    octets.copy_from_slice(&packed[..16]);
    let port = u16::from_be_bytes([packed[16], packed[17]]);
    Some(Addr::from(SocketAddr::new(Ipv6Addr::from(octets).into(), port)))
}

/// The name of the peer of a Unix socket.
fn name_of(socket: &Socket) -> Addr {
    socket.peer().unwrap_or(Addr::Unix(UnixName::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Limits;
    use crate::sys::{DialOptions, ListenOptions};

    fn arrival(admission: &Arc<Admission>, port: u16) -> (Arrival, Socket) {
        let (socket, far) = pair().unwrap();
        let peer = Addr::from(SocketAddr::from(([127, 0, 0, 1], port)));
        let is_announced = port.is_multiple_of(2);
        let permit = admission.enter(Some(&peer).filter(|_| !is_announced)).unwrap();
        (Arrival { socket, peer, permit, is_announced }, far)
    }

    #[test]
    fn connections_arrive_with_their_addresses_and_keep_their_places() {
        let limits = Limits { per_source_max: Some(10), ..Limits::default() };
        let admission = Arc::new(Admission::new(10, &limits));
        let (ours, theirs) = pair().unwrap();
        let (mut batch, _far): (Vec<_>, Vec<_>) = (1..=3).map(|p| arrival(&admission, p)).unzip();
        assert_eq!(send(&ours, &mut batch), Ok(3));
        assert!(batch.is_empty());
        assert_eq!((admission.inside(), admission.sources()), (3, 1));
        let (mut end, mut got) = (FdReceiver::new(theirs), Vec::new());
        let brought = end.take(&admission, &mut got);
        assert_eq!(brought, Brought { carried: 3, lost: 0, is_the_end: false });
        assert_eq!(got[2].peer.to_string(), "127.0.0.1:3");
        assert!(!got[0].is_announced && got[1].is_announced && !got[2].is_announced);
        assert!(!end.has_more());
        drop(got);
        assert_eq!((admission.inside(), admission.sources()), (0, 0));
        drop(ours);
        end.signalled();
        assert!(end.take(&admission, &mut Vec::new()).is_the_end);
    }

    #[test]
    fn both_families_are_packed() {
        for text in ["10.1.2.3:4", "[2001:db8::1]:65535", "0.0.0.0:0"] {
            let addr: Addr = text.parse().unwrap();
            assert_eq!(unpack(&pack(&addr)), Some(addr));
        }
    }

    #[test]
    fn a_unix_clients_name_is_asked_at_the_other_end() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let a = Socket::from_owned(a.into());
        let unnamed = Addr::Unix(UnixName::default());
        assert_eq!(unpack(&pack(&unnamed)), None);
        assert_eq!(name_of(&a), unnamed);
        let at: Addr = format!("unix:@net-core-fd-channel-{}", std::process::id()).parse().unwrap();
        let _listener = Socket::listen(&at, &ListenOptions::default()).unwrap();
        let dialled = Socket::dial(&at, &DialOptions::default()).unwrap();
        assert_eq!(unpack(&pack(&at)), None);
        assert_eq!(name_of(&dialled), at);
    }
}
