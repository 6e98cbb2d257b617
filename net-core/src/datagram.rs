//! A received datagram, and those that are to be sent. Pure.

use std::net::SocketAddr;

/// What a queued datagram costs beside its bytes.
const OVERHEAD: usize = 64;

/// A datagram that was received, for the length of one [`on_datagram`].
///
/// [`on_datagram`]: crate::Handler::on_datagram
pub struct Datagram<'a> {
    pub(crate) at: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) bytes: &'a [u8],
    pub(crate) outgoing: &'a mut Outgoing,
}

impl<'a> Datagram<'a> {
    /// Where it comes from, as it says: anybody can forge that.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address of the server at which it came.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// What it says: 0 to 65,527 bytes, never cut off.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Sends one datagram back. See [`send_to`](Self::send_to).
    pub fn reply(&mut self, bytes: &[u8]) -> bool {
        self.send_to(self.peer, bytes)
    }

    /// Sends one datagram to `peer`, from the address at which this one came. It is copied, and leaves
    /// with others in one call, at the end of the batch.
    ///
    /// Nothing tells whether it arrives. What the kernel refuses (too long, no route) is counted in
    /// `datagrams_failed`. While the socket is full, up to
    /// [`datagram_queue_bytes`](crate::Limits::datagram_queue_bytes) wait; above that this one is
    /// dropped and counted in `datagrams_dropped`, and the answer is false.
    pub fn send_to(&mut self, peer: SocketAddr, bytes: &[u8]) -> bool {
        self.outgoing.push(peer, bytes)
    }
}

/// Datagrams that wait to be sent, in order, in one piece of memory.
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    /// To whom, and where its bytes end.
    queued: Vec<(SocketAddr, usize)>,
    /// So many of them have left.
    left: usize,
    limit: usize,
    /// Those for which there was no room, since that was last asked.
    dropped: u64,
}

impl Outgoing {
    pub(crate) fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), queued: Vec::new(), left: 0, limit, dropped: 0 }
    }

    fn push(&mut self, peer: SocketAddr, bytes: &[u8]) -> bool {
        if self.size() + bytes.len() + OVERHEAD > self.limit {
            self.dropped += 1;
            return false;
        }
        self.bytes.extend_from_slice(bytes);
        self.queued.push((peer, self.bytes.len()));
        true
    }

    /// Bytes that it takes.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + self.queued.len() * OVERHEAD
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.queued.len() - self.left
    }

    /// Takes back all but the first `len`: what a callback that panicked has sent.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.queued.truncate(self.left + len);
        self.bytes.truncate(self.queued.last().map_or(0, |(_, end)| *end));
    }

    /// The next of them, at most `most`.
    pub(crate) fn next(&self, most: usize) -> Vec<(SocketAddr, &[u8])> {
        let start = |n: usize| if n == 0 { 0 } else { self.queued[n - 1].1 };
        let end = self.queued.len().min(self.left + most);
        (self.left..end)
            .map(|n| (self.queued[n].0, &self.bytes[start(n)..self.queued[n].1]))
            .collect()
    }

    /// The next `n` have left, or never will.
    pub(crate) fn remove(&mut self, n: usize) {
        self.left += n;
        let end = self.queued[self.left - 1].1;
        // Not at every step, so that each byte is moved once at the most.
        if self.left == self.queued.len() {
            self.bytes.clear();
            self.queued.clear();
            self.left = 0;
        } else if end > self.bytes.len() / 2 || self.left > self.queued.len() / 2 {
            self.bytes.drain(..end);
            self.queued.drain(..self.left);
            self.queued.iter_mut().for_each(|(_, to)| *to -= end);
            self.left = 0;
        }
    }

    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn datagrams_leave_in_order_whole_and_empty_ones_too() {
        let mut outgoing = Outgoing::new(1 << 20);
        let said: Vec<Vec<u8>> = (0..100).map(|n| vec![n as u8; n % 7]).collect();
        said.iter().enumerate().for_each(|(n, s)| assert!(outgoing.push(peer(n as u16), s)));
        let mut left = Vec::new();
        while outgoing.len() > 0 {
            let n = outgoing.next(3).len();
            left.extend(
                outgoing.next(3).into_iter().map(|(to, bytes)| (to.port(), bytes.to_vec())),
            );
            outgoing.remove(n);
        }
        let wanted: Vec<_> = said.into_iter().enumerate().map(|(n, s)| (n as u16, s)).collect();
        assert_eq!(left, wanted);
        assert_eq!(outgoing.size(), 0);
    }

    #[test]
    fn above_the_limit_they_are_dropped_and_counted() {
        let mut outgoing = Outgoing::new(2 * (OVERHEAD + 10));
        assert!(outgoing.push(peer(1), &[0; 10]) && outgoing.push(peer(2), &[0; 10]));
        assert!(!outgoing.push(peer(3), &[]));
        assert_eq!((outgoing.len(), outgoing.take_dropped(), outgoing.take_dropped()), (2, 1, 0));
        outgoing.truncate(1);
        assert!(outgoing.push(peer(4), &[1; 10]));
        assert_eq!(outgoing.next(9), [(peer(1), &[0; 10][..]), (peer(4), &[1; 10][..])]);
    }
}
