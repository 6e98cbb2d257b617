//! What an edge-triggered event means for one connection: pure logic, no socket.
//!
//! An edge comes once. If the loop stops before the kernel has said EAGAIN, it must either know that a new
//! edge will come, or come back by itself. The rules, each with its source:
//!
//! - A receive that returned fewer bytes than were asked for has emptied a TCP stream. So the loop saves the
//!   next call, which would only return EAGAIN (epoll(7), Q9). *Except* after the kernel has announced a FIN,
//!   a reset or urgent data: these may lie behind the bytes just read, and their edge is spent. A receive
//!   also stops short *at* the urgent mark, with more bytes behind it. So after such a bit, this connection
//!   is read to EAGAIN for the rest of its life.
//! - A Unix stream stops at each message that carried descriptors, with more bytes behind it and no edge to
//!   come (`unix_stream_read_generic`). So a Unix stream is read to EAGAIN from the start.
//! - EPOLLOUT comes with every EPOLLIN of a socket with room. It means something only if the last send ended
//!   short. Then the kernel has noted that the loop waits for room, and one edge will come.

use std::ops::{BitOr, BitOrAssign};

/// All that one event reports, as bits. The values are those of epoll, so that the epoll driver translates
/// nothing. Other drivers build the bits from what they know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct What(u32);

impl What {
    /// There may be bytes to receive, or clients to accept.
    pub(crate) const ARRIVED: What = What(0x1);
    /// Urgent data (TCP out-of-band) was announced.
    pub(crate) const URGENT: What = What(0x2);
    /// There may be room to send, or a dialled connection may be up.
    pub(crate) const ROOM: What = What(0x4);
    /// The connection failed. Bytes received before can still be read.
    pub(crate) const GONE: What = What(0x8);
    /// Both directions are shut.
    pub(crate) const HUNG_UP: What = What(0x10);
    /// The peer will send no more. Bytes may lie before its FIN.
    pub(crate) const ENDED: What = What(0x2000);

    const LATER_BYTES: What = What(Self::URGENT.0 | Self::GONE.0 | Self::HUNG_UP.0 | Self::ENDED.0);

    /// The bits of an epoll event.
    #[inline]
    pub(crate) const fn from_bits(bits: u32) -> Self {
        What(bits)
    }

    /// The bits, as epoll has them.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// Only bytes have arrived. The loop need not [observe](Link::observe) such an event for a connection
    /// whose last send was not short.
    #[inline]
    pub(crate) const fn is_plain_arrival(self) -> bool {
        self.0 & !Self::ROOM.0 == Self::ARRIVED.0
    }

    /// Whether any bit of `other` is set.
    #[inline]
    pub(crate) const fn has(self, other: What) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for What {
    type Output = What;
    fn bitor(self, other: What) -> What {
        What(self.0 | other.0)
    }
}

impl BitOrAssign for What {
    fn bitor_assign(&mut self, other: What) {
        self.0 |= other.0;
    }
}

/// The state of a connection that a driver keeps between events: four bytes in the connection's entry.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Link(u32);

/// Whether the loop must receive again after a receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AfterReceive {
    /// Yes: only another receive can tell.
    AskAgain,
    /// No: the stream is empty, and an edge will come when it is not.
    Drained,
}

impl Link {
    /// The last send ended short. A ROOM edge will come.
    const FULL: u32 = 1;
    /// A short receive does not mean that this stream is empty.
    const TO_THE_END: u32 = 2;
    /// The kernel has announced an error, and that edge is spent.
    const GONE: u32 = 4;

    /// Notes an event. Returns what the loop must do about it: ROOM only if the connection waited for room,
    /// and ARRIVED if a read has to fetch an end or an error.
    #[inline]
    pub(crate) fn observe(&mut self, what: What) -> What {
        let mut left = what;
        if what.has(What::LATER_BYTES) {
            self.0 |= Self::TO_THE_END;
            if what.has(What::GONE) {
                self.0 |= Self::GONE;
            }
            left |= What::ARRIVED;
        }
        let is_waited_for = self.0 & Self::FULL != 0;
        #[cfg(test)]
        let is_waited_for = is_waited_for || ROOM_ALWAYS.get();
        if !is_waited_for {
            left.0 &= !What::ROOM.0;
        } else if left.has(What::ROOM) {
            self.0 &= !Self::FULL;
        }
        left
    }

    /// The kernel has announced an error at some time. A loop that stops reading must ask for the error.
    pub(crate) fn is_gone(self) -> bool {
        self.0 & Self::GONE != 0
    }

    /// The socket is no TCP stream, so only EAGAIN shows that it is empty.
    pub(crate) fn read_to_the_end(&mut self) {
        self.0 |= Self::TO_THE_END;
    }

    /// A dialled connection waits for its first ROOM.
    pub(crate) fn await_room(&mut self) {
        self.0 |= Self::FULL;
    }

    /// A receive that asked for `asked` bytes returned `got` of them, at least one.
    #[inline]
    pub(crate) fn after_receive(self, asked: usize, got: usize) -> AfterReceive {
        if got < asked && self.0 & Self::TO_THE_END == 0 {
            AfterReceive::Drained
        } else {
            AfterReceive::AskAgain
        }
    }

    /// A send took `sent` of `offered` bytes (0 for EAGAIN). Returns whether the socket is full.
    #[inline]
    pub(crate) fn after_send(&mut self, offered: usize, sent: usize) -> bool {
        let is_full = sent < offered;
        if is_full {
            self.0 |= Self::FULL;
        }
        is_full
    }

    /// The last send ended short, and its edge has not come yet. Another send would find no room.
    #[inline]
    pub(crate) fn is_full(self) -> bool {
        self.0 & Self::FULL != 0
    }
}

#[cfg(test)]
thread_local! {
    /// A mutation for tests: ROOM is passed on even if the connection did not wait for it. A test must fail.
    pub(crate) static ROOM_ALWAYS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_beside_every_arrival_is_nothing_unless_it_was_waited_for() {
        let mut link = Link::default();
        let event = What::ARRIVED | What::ROOM;
        assert_eq!(link.observe(event), What::ARRIVED);
        assert!(link.after_send(10, 3));
        assert!(link.is_full());
        assert_eq!(link.observe(event), event);
        assert!(!link.is_full());
        assert_eq!(link.observe(event), What::ARRIVED);
    }

    #[test]
    fn a_short_receive_ends_the_drain_only_while_nothing_else_was_announced() {
        let plain = Link::default();
        assert_eq!(plain.after_receive(10, 9), AfterReceive::Drained);
        assert_eq!(plain.after_receive(10, 10), AfterReceive::AskAgain);
        for announced in [What::ENDED, What::GONE, What::HUNG_UP, What::URGENT] {
            let mut link = Link::default();
            assert!(link.observe(announced).has(What::ARRIVED));
            link.observe(What::ARRIVED);
            assert_eq!(link.after_receive(10, 9), AfterReceive::AskAgain, "{announced:?}");
        }
    }

    #[test]
    fn a_short_receive_from_a_unix_stream_ends_nothing() {
        let mut link = Link::default();
        link.read_to_the_end();
        link.observe(What::ARRIVED);
        assert_eq!(link.after_receive(10, 9), AfterReceive::AskAgain);
        assert!(!link.is_gone() && !link.is_full());
    }

    #[test]
    fn a_whole_send_waits_for_nothing() {
        let mut link = Link::default();
        assert!(!link.after_send(10, 10));
        assert!(!link.is_full());
        assert!(link.after_send(1, 0));
    }
}
