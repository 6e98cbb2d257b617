//! `Wire`: one TCP connection as Linux keeps it. The loop's socket is at one end, and a scripted peer at the
//! other end. Each direction has a finite buffer.
//!
//! ```text
//!   peer ──coming──▶ arrived ──receive──▶ loop
//!   peer ◀──read──── sent ◀─────send───── loop
//! ```
//!
//! A poll reports what `tcp_poll` of net/ipv4/tcp.c reports, bit for bit. Receive and send return what
//! `tcp_recvmsg` and `tcp_sendmsg` of the same file return.

use crate::driver::What;
use crate::sys::Errno;
use std::collections::VecDeque;

/// What the peer has given to the network, and has not arrived yet.
#[derive(Clone, Debug)]
pub(crate) enum Coming {
    Bytes(VecDeque<u8>),
    /// A byte out of band. It sets the urgent mark, and is not part of the stream.
    Urgent,
    /// Descriptors come with the bytes that follow, on a Unix stream only. No event announces them.
    Descriptors,
    Fin,
}

/// One connection.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// The token under which the loop's socket is watched.
    pub(crate) token: Option<u64>,
    /// The last token of the socket. It stays after the close.
    pub(crate) last_token: Option<u64>,
    /// The loop's socket is closed. Bytes that it sent are still on their way.
    pub(crate) is_closed: bool,
    /// The socket is dialled, and the dial has no outcome yet.
    pub(crate) is_connecting: bool,

    pub(crate) coming: VecDeque<Coming>,
    pub(crate) arrived: VecDeque<u8>,
    pub(crate) arrived_max: usize,
    /// When a byte was last received or sent, or when the connection came up.
    pub(crate) moved_at: u64,
    /// The number of bytes in front of the urgent mark.
    pub(crate) mark: Option<usize>,
    /// The number of bytes in front of each message with descriptors. A receive stops there.
    pub(crate) stops: VecDeque<usize>,
    pub(crate) has_fin: bool,
    /// The error that the kernel keeps for the socket (`sk_err`).
    pub(crate) error: Option<i32>,
    pub(crate) is_reset: bool,

    pub(crate) sent: VecDeque<u8>,
    pub(crate) sent_max: usize,
    pub(crate) has_sent_fin: bool,
    /// A send ended short (`SOCK_NOSPACE`). The socket must report an edge once there is room.
    pub(crate) wants_room: bool,
    /// The last bytes leave only with more bytes (`MSG_MORE`), with the FIN, or after 200 ms.
    pub(crate) is_corked: bool,
    /// Bytes that the peer's kernel acknowledges before the peer reads them.
    pub(crate) window: usize,

    /// The bytes that the peer has read.
    pub(crate) got: Vec<u8>,
    /// The peer reads everything that arrives.
    pub(crate) is_reading: bool,
    pub(crate) saw_fin: bool,
    pub(crate) saw_reset: bool,
    /// The peer's own end is closed. It neither reads nor sends.
    pub(crate) is_gone: bool,
}

const IN: u32 = What::ARRIVED.bits();
const OUT: u32 = What::ROOM.bits();

impl Wire {
    pub(crate) fn new(arrived_max: usize, sent_max: usize) -> Self {
        Self { arrived_max, sent_max, window: sent_max / 2, is_reading: true, ..Wire::default() }
    }

    // --- the loop's end ----------------------------------------------------------------------

    /// `tcp_poll`. As in Linux, a poll that finds no room asks for an edge.
    pub(crate) fn poll(&mut self) -> u32 {
        let mut bits = 0;
        if self.is_reset || (self.has_fin && self.has_sent_fin) {
            bits |= What::HUNG_UP.bits();
        }
        if self.is_reset || self.has_fin {
            bits |= IN | What::ENDED.bits();
        }
        if !self.is_connecting {
            if !self.arrived.is_empty() {
                bits |= IN;
            }
            if self.mark.is_some() {
                bits |= What::URGENT.bits();
            }
            if self.is_reset || self.has_sent_fin || self.has_room() {
                bits |= OUT;
            } else {
                self.wants_room = true;
            }
        }
        if self.error.is_some() {
            bits |= What::GONE.bits();
        }
        bits
    }

    /// recv(2).
    pub(crate) fn receive(&mut self, into: &mut [u8]) -> Result<usize, i32> {
        if self.mark == Some(0) {
            self.mark = None; // the urgent byte itself is skipped
        }
        while self.stops.front() == Some(&0) {
            self.stops.pop_front();
        }
        let before_mark = self.mark.unwrap_or(usize::MAX);
        let before_stop = self.stops.front().copied().unwrap_or(usize::MAX);
        let count = self.arrived.len().min(into.len()).min(before_mark).min(before_stop);
        if count > 0 {
            for place in &mut into[..count] {
                *place = self.arrived.pop_front().unwrap();
            }
            self.mark = self.mark.map(|mark| mark - count);
            self.stops.iter_mut().for_each(|stop| *stop -= count);
            return Ok(count);
        }
        if self.has_fin {
            return Ok(0);
        }
        match self.error.take() {
            Some(errno) => Err(errno),
            None if self.is_reset => Ok(0),
            None => Err(Errno::AGAIN.raw()),
        }
    }

    /// send(2). It takes at most `most` bytes, as under memory pressure.
    pub(crate) fn send(&mut self, bytes: &[u8], most: usize) -> Result<usize, i32> {
        if let Some(errno) = self.error.take() {
            return Err(errno);
        }
        if self.is_reset || self.has_sent_fin {
            return Err(Errno::PIPE.raw());
        }
        if self.is_connecting {
            self.wants_room = true;
            return Err(Errno::AGAIN.raw());
        }
        self.is_corked = false;
        let count = bytes.len().min(self.sent_max - self.sent.len()).min(most);
        self.sent.extend(&bytes[..count]);
        self.wants_room |= count < bytes.len();
        if count == 0 { Err(Errno::AGAIN.raw()) } else { Ok(count) }
    }

    /// shutdown(2) of the sending half.
    pub(crate) fn shutdown(&mut self) -> Result<(), i32> {
        if self.is_reset || self.is_connecting {
            return Err(Errno::NOTCONN.raw());
        }
        self.has_sent_fin = true;
        Ok(())
    }

    /// close(2). If input is unread, or with `reset`, the peer gets RST and loses the bytes that it has not
    /// read.
    pub(crate) fn close(&mut self, reset: bool) {
        self.is_closed = true;
        self.token = None;
        if reset || !self.arrived.is_empty() || self.is_connecting {
            self.reset_peer();
        } else {
            self.has_sent_fin = true;
        }
    }

    /// `sk_stream_is_writeable`: at least a third of the buffer is free.
    pub(crate) fn has_room(&self) -> bool {
        (self.sent_max - self.sent.len()) * 2 >= self.sent.len() && self.sent.len() < self.sent_max
    }

    /// SIOCOUTQ.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.sent.len().saturating_sub(self.window)
    }

    // --- the network -------------------------------------------------------------------------

    /// Moves all bytes that can move. Returns whether the loop's socket would wake its epoll.
    pub(crate) fn flow(&mut self) -> bool {
        let mut wakes = false;
        if self.is_connecting {
            return false;
        }
        if self.is_closed {
            if !self.is_reset && self.coming.iter().any(|c| !matches!(c, Coming::Fin)) {
                self.reset_peer(); // data for a socket that is closed
            }
            self.coming.clear();
        }
        while !self.is_reset && !self.has_fin {
            match self.coming.front_mut() {
                None => break,
                Some(Coming::Bytes(bytes)) => {
                    let count = bytes.len().min(self.arrived_max - self.arrived.len());
                    if count == 0 && !bytes.is_empty() {
                        break;
                    }
                    self.arrived.extend(bytes.drain(..count));
                    wakes |= count > 0;
                    if bytes.is_empty() {
                        self.coming.pop_front();
                    }
                }
                Some(Coming::Urgent) => {
                    if self.mark.is_some() {
                        break; // one urgent mark at a time
                    }
                    self.mark = Some(self.arrived.len());
                    self.coming.pop_front();
                    wakes = true;
                }
                Some(Coming::Descriptors) => {
                    self.stops.push_back(self.arrived.len());
                    self.coming.pop_front();
                }
                Some(Coming::Fin) => {
                    self.has_fin = true;
                    self.coming.pop_front();
                    wakes = true;
                }
            }
        }
        if self.is_reading {
            self.peer_reads(usize::MAX);
        }
        if self.is_gone && !self.is_reset && !self.sent.is_empty() {
            self.peer_resets(); // data of the loop has reached a peer that is closed
            wakes = true;
        }
        if self.wants_room && self.has_room() {
            self.wants_room = false;
            wakes = true;
        }
        wakes
    }

    // --- the peer's end ----------------------------------------------------------------------

    /// The peer reads up to `most` bytes.
    pub(crate) fn peer_reads(&mut self, most: usize) {
        if self.is_gone {
            return;
        }
        let count = self.sent.len().min(most);
        self.got.extend(self.sent.drain(..count));
        if self.sent.is_empty() && self.has_sent_fin && !self.is_reset {
            self.saw_fin = true;
        }
    }

    /// The peer resets. Bytes that have arrived can still be read. Bytes that the loop sent are lost.
    pub(crate) fn peer_resets(&mut self) {
        if self.is_reset {
            return;
        }
        self.is_gone = true;
        self.is_reset = true;
        self.mark = None;
        self.coming.clear();
        self.sent.clear();
        self.error = Some(match (self.is_connecting, self.has_fin) {
            (true, _) => Errno::CONNREFUSED.raw(),
            (_, true) => Errno::PIPE.raw(),
            _ => Errno::CONNRESET.raw(),
        });
        self.is_connecting = false;
    }

    fn reset_peer(&mut self) {
        self.saw_reset = true;
        self.is_reset = true;
        self.sent.clear();
        self.coming.clear();
    }
}
