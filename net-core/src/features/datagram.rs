//! A received datagram, and the queue of datagrams to be sent.

use crate::sys::{BATCH, Ends, UdpMessage};
use std::cell::RefCell;
use std::net::SocketAddr;

/// What a queued datagram is charged in addition to its bytes.
const OVERHEAD: usize = 64;

/// The most datagrams in one message, and the most bytes: every kernel that has UDP_SEGMENT accepts these.
const JOINED_MAX: usize = 64;
const JOINED_BYTES_MAX: usize = 65_507;

/// A received datagram. It is valid during one call of [`on_datagram`].
///
/// [`on_datagram`]: crate::Handler::on_datagram
pub struct Datagram<'a> {
    /// The address to which the socket is bound.
    pub(crate) bound: SocketAddr,
    pub(crate) ends: Ends,
    pub(crate) bytes: &'a [u8],
    pub(crate) outgoing: &'a RefCell<Outgoing>,
}

impl<'a> Datagram<'a> {
    /// The source address in the datagram. Anybody can forge it.
    pub fn peer(&self) -> SocketAddr {
        self.ends.peer
    }

    /// The server's address to which the datagram was sent. If the server listens on all addresses of the
    /// machine, this is the one of them that the peer used.
    pub fn at(&self) -> SocketAddr {
        let ip = self.ends.own.unwrap_or(self.bound.ip());
        SocketAddr::new(ip, self.bound.port())
    }

    /// The payload: 0 to 65,527 bytes, never truncated.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Sends one datagram back to the peer. See [`send_to`](Self::send_to).
    pub fn reply(&mut self, bytes: &[u8]) -> bool {
        self.send_to(self.ends.peer, bytes)
    }

    /// Sends one datagram to `peer`, from the address at which this datagram was received.
    ///
    /// The bytes are copied. They are sent together with other datagrams in one call at the end of the batch.
    /// Consecutive datagrams to one peer are sent as one message, which the kernel cuts up (UDP_SEGMENT), if
    /// all have the length of the first; only the last may be shorter.
    ///
    /// Nothing tells whether the datagram arrives. A datagram that the kernel refuses (too long, no route) is
    /// counted in `datagrams_failed`. While the socket's buffer is full, up to
    /// [`datagram_queue_bytes`](crate::Limits::datagram_queue_bytes) are queued. Above that the datagram is
    /// dropped and counted in `datagrams_dropped`, and false is returned.
    pub fn send_to(&mut self, peer: SocketAddr, bytes: &[u8]) -> bool {
        self.outgoing.borrow_mut().push(Ends { peer, ..self.ends }, bytes)
    }
}

/// The queue of datagrams to be sent, in order, in one piece of memory.
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    /// For each datagram: the addresses, and where its bytes end.
    queued: Vec<(Ends, usize)>,
    /// How many datagrams at the front of `queued` are sent already.
    left: usize,
    limit: usize,
    /// The kernel cuts up messages that carry several datagrams.
    joins: bool,
    /// How many of the next datagrams are sent one by one: the kernel refused to cut up their message.
    alone: usize,
    /// The last batch. Kept to reuse its memory.
    batch: Vec<UdpMessage>,
    /// The socket's buffer is full: a readiness event will come.
    pub(crate) is_held: bool,
    /// Datagrams dropped for lack of room since `take_dropped` was last called.
    dropped: u64,
}

impl Outgoing {
    pub(crate) fn new(limit: usize, joins: bool) -> Self {
        Self {
            bytes: Vec::new(),
            queued: Vec::new(),
            left: 0,
            limit,
            joins,
            alone: 0,
            batch: Vec::with_capacity(BATCH),
            is_held: false,
            dropped: 0,
        }
    }

    /// The socket is closed: drops all queued datagrams, and every datagram pushed from now on.
    pub(crate) fn close(&mut self) {
        self.dropped += self.len() as u64;
        self.truncate(0);
        self.limit = 0;
    }

    pub(crate) fn push(&mut self, ends: Ends, bytes: &[u8]) -> bool {
        if self.size() + bytes.len() + OVERHEAD > self.limit {
            self.dropped += 1;
            return false;
        }
        self.bytes.extend_from_slice(bytes);
        self.queued.push((ends, self.bytes.len()));
        true
    }

    /// The memory that the queue is charged, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + self.queued.len() * OVERHEAD
    }

    /// How many datagrams wait.
    pub(crate) fn len(&self) -> usize {
        self.queued.len() - self.left
    }

    /// Removes all waiting datagrams except the first `len`. Used to take back what a callback sent before it
    /// panicked.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.queued.truncate(self.left + len);
        self.bytes.truncate(self.queued.last().map_or(0, |(_, end)| *end));
    }

    /// Returns the next messages, at most one batch, and the bytes to which they refer.
    pub(crate) fn next(&mut self) -> (&[u8], &[UdpMessage]) {
        self.batch.clear();
        let mut at = self.left;
        while at < self.queued.len() && self.batch.len() < BATCH {
            let message = self.message_at(at);
            at += message.datagrams();
            self.batch.push(message);
        }
        (&self.bytes, &self.batch)
    }

    /// Returns the message that begins with datagram number `first` and holds the datagrams joined to it.
    fn message_at(&self, first: usize) -> UdpMessage {
        let from = if first == 0 { 0 } else { self.queued[first - 1].1 };
        let (ends, mut end) = self.queued[first];
        let longest = end - from;
        let mut message = UdpMessage { ends, from, end, longest };
        // A datagram to port 0 (a forged source port) is refused in any case. It is sent alone, so that the
        // refusal is not taken for a refusal to cut up the message.
        let is_alone = !self.joins || first - self.left < self.alone || ends.peer.port() == 0;
        if is_alone || !(1..=JOINED_BYTES_MAX).contains(&longest) {
            return message;
        }
        let most = JOINED_MAX.min(JOINED_BYTES_MAX / longest);
        for &(other, next) in self.queued[first + 1..].iter().take(most - 1) {
            let len = next - end;
            if other != ends || len > longest || len == 0 {
                break;
            }
            (end, message.end) = (next, next);
            if len < longest {
                break; // a shorter datagram is the last of its message
            }
        }
        message
    }

    /// The kernel has refused to cut up the next message, which carries `datagrams` datagrams.
    ///
    /// These are sent one by one. Later datagrams are joined again: the path to one peer, whose MTU that peer
    /// may have lowered itself, says nothing about the paths to other peers.
    pub(crate) fn refuse_joined(&mut self, datagrams: usize) {
        self.alone = datagrams;
    }

    /// The device cannot cut up messages: never join datagrams again.
    pub(crate) fn never_join(&mut self) {
        self.joins = false;
    }

    /// Removes the next `n` datagrams: they were sent, or can never be sent.
    pub(crate) fn remove(&mut self, n: usize) {
        self.left += n;
        self.alone = self.alone.saturating_sub(n);
        let end = self.queued[self.left - 1].1;
        // Not at every step, so that each byte is moved at most once.
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

    fn peer(port: u16) -> Ends {
        Ends { peer: ([127, 0, 0, 1], port).into(), own: None }
    }

    #[test]
    fn datagrams_leave_in_order_whole_and_empty_ones_too() {
        for joins in [false, true] {
            let mut outgoing = Outgoing::new(1 << 20, joins);
            // Several in a row to one peer, with different lengths.
            let said: Vec<(u16, Vec<u8>)> =
                (0..1000).map(|n| (n / 5 % 3, vec![n as u8; usize::from(n / 3 % 7)])).collect();
            said.iter().for_each(|(to, s)| assert!(outgoing.push(peer(*to), s)));
            let (left, messages) = leave(&mut outgoing, 3);
            assert_eq!(left, said);
            assert_eq!(outgoing.size(), 0);
            assert!(if joins { messages < 800 } else { messages == 1000 }, "{messages}");
        }
    }

    /// Returns all datagrams that are sent, and the number of messages, when the kernel takes `most` messages
    /// per call.
    fn leave(outgoing: &mut Outgoing, most: usize) -> (Vec<(u16, Vec<u8>)>, usize) {
        let (mut left, mut messages) = (Vec::new(), 0);
        while outgoing.len() > 0 {
            let (bytes, batch) = outgoing.next();
            let mut taken = 0;
            for message in batch.iter().take(most) {
                taken += message.datagrams();
                messages += 1;
                let cut = message.cut(bytes);
                left.extend(cut.map(|one| (message.ends.peer.port(), one.to_vec())));
            }
            outgoing.remove(taken);
        }
        (left, messages)
    }

    #[test]
    fn equal_ones_in_a_row_are_joined_within_the_kernel_s_bounds() {
        let sizes = |lengths: &[usize]| {
            let mut outgoing = Outgoing::new(1 << 22, true);
            lengths.iter().for_each(|&len| assert!(outgoing.push(peer(1), &vec![0; len])));
            outgoing.next().1.iter().map(UdpMessage::datagrams).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[9; 3]), [3]);
        assert_eq!(sizes(&[9, 9, 4, 9]), [3, 1], "a shorter one is the last");
        assert_eq!(sizes(&[4, 9, 9]), [1, 2], "and a longer one the next's first");
        assert_eq!(sizes(&[0, 0, 9, 0]), [1, 1, 1, 1], "an empty one is alone");
        assert_eq!(sizes(&[1; 130]), [64, 64, 2]);
        assert_eq!(sizes(&[1400; 100]), [46, 46, 8], "65,507 bytes at most");
        assert_eq!(sizes(&[40_000; 2]), [1, 1]);
    }

    #[test]
    fn what_the_kernel_does_not_cut_up_leaves_by_itself() {
        let mut outgoing = Outgoing::new(1 << 20, true);
        let say = |outgoing: &mut Outgoing, len: usize| {
            (0..4).for_each(|_| assert!(outgoing.push(peer(1), &vec![0; len])));
            leave(outgoing, 1).1
        };
        assert_eq!(say(&mut outgoing, 1500), 1);
        outgoing.refuse_joined(3);
        assert_eq!((say(&mut outgoing, 1500), say(&mut outgoing, 1500)), (4, 1));
        outgoing.never_join();
        assert_eq!(say(&mut outgoing, 1), 4);
    }

    #[test]
    fn a_forged_port_is_not_joined() {
        let mut outgoing = Outgoing::new(1 << 20, true);
        (0..2).for_each(|_| assert!(outgoing.push(peer(0), b"!")));
        assert_eq!(outgoing.next().1.len(), 2);
    }

    #[test]
    fn of_a_closed_one_all_is_dropped_and_counted() {
        let mut outgoing = Outgoing::new(1 << 20, true);
        assert!(outgoing.push(peer(1), b"waits"));
        outgoing.close();
        assert!(!outgoing.push(peer(1), b"too late"));
        assert_eq!((outgoing.len(), outgoing.take_dropped()), (0, 2));
    }

    #[test]
    fn above_the_limit_they_are_dropped_and_counted() {
        let mut outgoing = Outgoing::new(2 * (OVERHEAD + 10), false);
        assert!(outgoing.push(peer(1), &[0; 10]) && outgoing.push(peer(2), &[0; 10]));
        assert!(!outgoing.push(peer(3), &[]));
        assert_eq!((outgoing.len(), outgoing.take_dropped(), outgoing.take_dropped()), (2, 1, 0));
        outgoing.truncate(1);
        assert!(outgoing.push(peer(4), &[1; 10]));
        let left = leave(&mut outgoing, 9).0;
        assert_eq!(left, [(1, vec![0; 10]), (4, vec![1; 10])]);
    }
}
