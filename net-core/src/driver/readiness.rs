//! What an edge-triggered event means for one connection: pure logic, no socket.
//!
//! Edges come once. Whoever stops before the kernel said "no more" must either know that a new
//! edge will come, or come back by itself. The rules, each with its source:
//!
//! - A receive that filled less than was asked for has emptied a TCP stream, so the call that
//!   would only say EAGAIN is saved (epoll(7), Q9). *Except* when a FIN, a reset or urgent data
//!   was announced: those may lie behind the bytes just read, and their edge is spent. A receive
//!   also stops short *at* the urgent mark, with more bytes behind it. So once such a bit was
//!   seen, this connection is read to EAGAIN for the rest of its life.
//! - A Unix stream stops at each message that carried descriptors, with more bytes behind it and no
//!   edge to come (`unix_stream_read_generic`). So it is read to EAGAIN from the start.
//! - EPOLLOUT stands beside every EPOLLIN of a socket with room. It means something only where
//!   the last send ended short; then the kernel has noted that we wait, and one edge will come.

use std::ops::{BitOr, BitOrAssign};

/// All that one event said, as bits. The values are those of epoll, so that driver translates
/// nothing; other drivers build them from what they know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct What(u32);

impl What {
    /// There may be bytes to receive, or clients to accept.
    pub(crate) const ARRIVED: What = What(0x1);
    /// Urgent data (TCP out-of-band) was announced.
    pub(crate) const URGENT: What = What(0x2);
    /// There may be room to send; a dialled connection may be up.
    pub(crate) const ROOM: What = What(0x4);
    /// The connection failed. What was received before can still be read.
    pub(crate) const GONE: What = What(0x8);
    /// Both directions are shut.
    pub(crate) const HUNG_UP: What = What(0x10);
    /// The peer will send no more; bytes may lie before its FIN.
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

    /// Bytes arrived and nothing else is to be thought of: there is no need to
    /// [observe](Link::observe) it for a connection whose last send was whole.
    #[inline]
    pub(crate) const fn is_plain_arrival(self) -> bool {
        self.0 & !Self::ROOM.0 == Self::ARRIVED.0
    }

    /// Whether any of `other`'s bits are here.
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

/// What a driver remembers of a connection between events: four bytes in the connection's entry.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Link(u32);

/// After a receive: is there reason to ask again?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AfterReceive {
    /// Only another receive can tell.
    AskAgain,
    /// The stream is empty, and an edge will come when it is not.
    Drained,
}

impl Link {
    /// The last send ended short; a ROOM edge will come.
    const FULL: u32 = 1;
    /// A short receive proves nothing here.
    const TO_THE_END: u32 = 2;
    /// An error was announced, and the edge that did so is spent.
    const GONE: u32 = 4;

    /// Takes an event in. What comes back is what is left to be done about it: ROOM only where
    /// it was waited for, and ARRIVED where an end or an error is to be fetched by reading.
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

    /// An error was announced at some time. Who stops reading must ask for it.
    pub(crate) fn is_gone(self) -> bool {
        self.0 & Self::GONE != 0
    }

    /// It is no TCP stream: only EAGAIN ends a drain.
    pub(crate) fn read_to_the_end(&mut self) {
        self.0 |= Self::TO_THE_END;
    }

    /// A dialled connection: its first ROOM is waited for.
    pub(crate) fn await_room(&mut self) {
        self.0 |= Self::FULL;
    }

    /// A receive that asked for `asked` bytes brought `got` of them, at least one.
    #[inline]
    pub(crate) fn after_receive(self, asked: usize, got: usize) -> AfterReceive {
        if got < asked && self.0 & Self::TO_THE_END == 0 {
            AfterReceive::Drained
        } else {
            AfterReceive::AskAgain
        }
    }

    /// A send took `sent` of `offered` bytes (0 for EAGAIN). True if it ended full.
    #[inline]
    pub(crate) fn after_send(&mut self, offered: usize, sent: usize) -> bool {
        let is_full = sent < offered;
        if is_full {
            self.0 |= Self::FULL;
        }
        is_full
    }

    /// The last send ended short, and its edge has not come yet: another send would be in vain.
    #[inline]
    pub(crate) fn is_full(self) -> bool {
        self.0 & Self::FULL != 0
    }
}

#[cfg(test)]
thread_local! {
    /// A mutation: ROOM is passed on whether or not it was waited for. A test must notice.
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
