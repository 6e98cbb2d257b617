//! The load of datagrams: so many leave, and when they have come back the next do.

use crate::measure::Shared;
use crate::sys;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Datagrams under way at once.
pub const UNDER_WAY: usize = 32;

/// Bytes of each.
pub const BYTES: usize = 100;

/// After so long without one the rest is lost, and the next leave: a socket's buffer is finite.
const LOST_AFTER: Duration = Duration::from_millis(200);

/// How they leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// One peer sends them one by one.
    OneByOne,
    /// One peer sends them all at once: as one message that its kernel cuts up (UDP_SEGMENT).
    Joined,
    /// Each comes from another peer.
    FromMany,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Joined, Self::OneByOne, Self::FromMany];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneByOne => "one peer, one by one",
            Self::Joined => "one peer, 32 at once (UDP_SEGMENT)",
            Self::FromMany => "32 peers, one each",
        })
    }
}

/// Sends and receives until it is told to end.
pub fn load(to: SocketAddr, way: Way, shared: &Shared) -> io::Result<()> {
    let peers = if way == Way::FromMany { UNDER_WAY } else { 1 };
    let peers = (0..peers).map(|_| peer(to)).collect::<io::Result<Vec<_>>>()?;
    if way == Way::Joined {
        sys::segment_datagrams(peers[0].as_raw_fd(), BYTES as i32)?;
    }
    let said = [b'd'; UNDER_WAY * BYTES];
    let mut is_ready = false;
    while shared.goes_on() {
        match way {
            Way::Joined => _ = peers[0].send(&said)?,
            Way::OneByOne | Way::FromMany => {
                for n in 0..UNDER_WAY {
                    peers[n % peers.len()].send(&said[..BYTES])?;
                }
            }
        }
        shared.add(come_back(&peers)?);
        if !is_ready {
            shared.is_ready();
            is_ready = true;
        }
    }
    Ok(())
}

fn peer(to: SocketAddr) -> io::Result<UdpSocket> {
    let peer = UdpSocket::bind((to.ip(), 0))?;
    peer.connect(to)?;
    peer.set_read_timeout(Some(LOST_AFTER))?;
    Ok(peer)
}

/// How many of those under way have come back.
fn come_back(peers: &[UdpSocket]) -> io::Result<u64> {
    let mut back = [0; BYTES + 1];
    for n in 0..UNDER_WAY {
        match peers[n % peers.len()].recv(&mut back) {
            Ok(BYTES) => {}
            Ok(got) => return Err(io::Error::other(format!("{got} bytes came of {BYTES}"))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(n as u64),
            Err(error) => return Err(error),
        }
    }
    Ok(UNDER_WAY as u64)
}
