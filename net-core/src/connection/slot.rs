//! The state of one connection: 48 bytes, and a cold box while something is unfinished.

use crate::base::close_reason::{CloseReason, DeadlineKind};
use crate::base::id::ConnId;
use crate::connection::life::State;
use crate::driver::readiness::Link;
use crate::features::dial::Dialling;
use crate::sys::Socket;
use net_buffer::{Output, Unread};
use net_timer::{Entries, Links, Slot, Tick};
use std::num::NonZeroU32;

/// One slot of the table: what the loop needs, and the user's session beside it.
pub(crate) struct Connection<S> {
    pub(crate) head: Head,
    pub(crate) session: S,
}

/// The hot part. Its size is the price of an idle connection, and a test holds it.
pub(crate) struct Head {
    pub(crate) socket: Socket,
    pub(crate) link: Link,
    /// The generation that makes this connection's id unique. Equal to the table's for the slot.
    pub(crate) generation: NonZeroU32,
    pub(crate) status: Status,
    /// The connection's place in the wheel's lists.
    pub(crate) links: Links,
    /// When it must be looked at. The wheel files it no later than this, so that moving it later
    /// is this one store; moving it earlier files it anew.
    pub(crate) deadline: Tick,
    pub(crate) slot: Slot,
    /// The connection's list of waiting bytes in the loop's cork, plus one; 0: none. Valid with `CORKED`.
    pub(crate) corked: u16,
    /// Why the connection is ending, from the moment that is decided.
    pub(crate) why: Option<CloseReason>,
    /// `Some` while something is unfinished.
    pub(crate) cold: Option<Box<Cold>>,
}

/// The rare part: unfinished input and output, and deadlines other than the idle one.
#[derive(Default)]
pub(crate) struct Cold {
    pub(crate) unread: Option<Unread>,
    pub(crate) output: Output,
    /// Deadlines that no traffic moves.
    pub(crate) deadlines: Deadlines,
    /// The idle (or first-byte) deadline, while `Head::deadline` is the nearest of several.
    pub(crate) idle_deadline: Option<Tick>,
    /// Bytes thrown away since closing began.
    pub(crate) discarded: usize,
    /// Until when the idle deadline was put off, and how many bytes were unacknowledged then.
    pub(crate) looked: Option<(Tick, usize)>,
    /// The connection's dial, until the connection is up.
    pub(crate) dialling: Option<Box<Dialling>>,
    /// With `HELD`: the connection's own input waits until the low watermark, since some of the waiting bytes
    /// answer it, or there is no room for more.
    pub(crate) answers: bool,
    /// The length of a message that was taken although the hard cap alone would not have let it in.
    pub(crate) long: usize,
    /// The connection from which this one gets its input, and to which it gives its own. `Some` exactly with
    /// `PAIRED`. Then the partner lives too, and has this connection as its partner.
    pub(crate) partner: Option<ConnId>,
}

impl Cold {
    pub(crate) fn is_idle(&self) -> bool {
        self.unread.is_none()
            && self.output.is_empty()
            && self.deadlines.nearest() == Tick::MAX
            && self.idle_deadline.is_none()
            && self.discarded == 0
            && self.looked.is_none()
            && !self.answers
            && self.dialling.is_none()
            && self.partner.is_none()
    }
}

/// The deadlines of one connection that no traffic moves. `MAX`: none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// The handler's own.
    pub(crate) own: Tick,
    /// Until when the message that has begun must be whole.
    pub(crate) message: Tick,
    /// The handler says where a message begins and ends: the bytes it takes move nothing.
    pub(crate) message_is_marked: bool,
    /// Until when the unsent bytes must have fallen to the low watermark.
    pub(crate) stuck: Tick,
    pub(crate) lifetime: Tick,
    /// When the connection is idle because no heartbeat was answered. Traffic does not move this one, but
    /// ends it.
    pub(crate) unanswered: Tick,
    /// When a rate limit lets the connection go on.
    pub(crate) refill: Tick,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            own: Tick::MAX,
            message: Tick::MAX,
            message_is_marked: false,
            stuck: Tick::MAX,
            lifetime: Tick::MAX,
            unanswered: Tick::MAX,
            refill: Tick::MAX,
        }
    }
}

impl Deadlines {
    pub(crate) fn nearest(&self) -> Tick {
        let own = self.own.min(self.message).min(self.stuck).min(self.lifetime);
        own.min(self.unanswered).min(self.refill)
    }

    /// When a closing connection ends, although its peer takes some of the rest.
    pub(crate) fn of_closing(&self) -> Tick {
        self.stuck.min(self.lifetime)
    }

    /// Takes a due deadline that by itself ends a connection, and returns which it was.
    pub(crate) fn take_due(&mut self, now: Tick) -> Option<DeadlineKind> {
        let all = [
            (&mut self.lifetime, DeadlineKind::Lifetime),
            (&mut self.own, DeadlineKind::Own),
            (&mut self.stuck, DeadlineKind::Stuck),
            (&mut self.message, DeadlineKind::Message),
        ];
        let (deadline, which) = all.into_iter().find(|(deadline, _)| **deadline <= now)?;
        *deadline = Tick::MAX;
        Some(which)
    }
}

/// The state and every flag in one word, so that the straight path is one test: zero, but for
/// `FULL_DUPLEX`, means open, and nothing kept, queued, paused, wished for or special.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Status(u32);

impl Status {
    /// The connection has a rate limit.
    pub(crate) const RATED: u32 = 1 << 4;
    /// Its answers are held back until its quiet time is over.
    pub(crate) const HOLDS: u32 = 1 << 5;
    /// The bytes it receives go to its partner, and not to the handler.
    pub(crate) const TUNNEL: u32 = 1 << 6;
    /// It is one end of a tunnel, and its last receive brought much: the next is a splice.
    pub(crate) const BULK: u32 = 1 << 7;
    /// Unread input is kept in the cold box.
    pub(crate) const UNREAD: u32 = 1 << 8;
    /// Unsent output is queued in the cold box.
    pub(crate) const UNSENT: u32 = 1 << 9;
    /// Unsent output waits in the loop's cork.
    pub(crate) const CORKED: u32 = 1 << 10;
    /// The handler has paused it.
    pub(crate) const PAUSED: u32 = 1 << 11;
    /// Its output passed the high watermark, and `on_writable` is owed. Its partner's input is held back, or
    /// its own input if that helps (see decision 0061).
    pub(crate) const HELD: u32 = 1 << 12;
    /// It is on the ready list: to be received from without an edge.
    pub(crate) const READY: u32 = 1 << 13;
    /// It is on the list of connections to flush at the end of the turn.
    pub(crate) const TO_FLUSH: u32 = 1 << 14;
    /// It is on the list of wishes.
    pub(crate) const WISHED: u32 = 1 << 15;
    pub(crate) const WISH_FINISH: u32 = 1 << 16;
    pub(crate) const WISH_CLOSE: u32 = 1 << 17;
    pub(crate) const WISH_RESET: u32 = 1 << 18;
    /// Output reached the hard cap.
    pub(crate) const WISH_CAP: u32 = 1 << 19;
    /// Reading goes on, as if an edge had come.
    pub(crate) const WISH_RESUME: u32 = 1 << 20;
    /// Close as soon as nothing is under way.
    pub(crate) const WHEN_IDLE: u32 = 1 << 21;
    /// The handler works for the connection elsewhere: it is not idle.
    pub(crate) const BUSY: u32 = 1 << 22;
    /// It was told of the drain.
    pub(crate) const TOLD: u32 = 1 << 23;
    /// No byte has come yet, and a first-byte deadline runs.
    pub(crate) const FIRST_BYTE: u32 = 1 << 24;
    /// `Head::deadline` is the nearest of several deadlines, which are in the cold box.
    pub(crate) const SEVERAL: u32 = 1 << 25;
    /// The handler gets the unread bytes again, although nothing was added to them.
    pub(crate) const AGAIN: u32 = 1 << 27;
    /// The close is a reset.
    pub(crate) const RESET: u32 = 1 << 26;
    /// More bytes are to be expected: the connection is not idle before a quiet time has passed.
    pub(crate) const FLOWS: u32 = 1 << 28;
    /// Bytes have flowed again since that quiet time began.
    pub(crate) const FLOWS_ON: u32 = 1 << 29;
    /// It has a partner: `HELD` holds back the partner's input, and not its own.
    pub(crate) const PAIRED: u32 = 1 << 30;
    /// Its input does not wait for its output: its peer waits for us to read. (Of no interest to the straight
    /// path, on which no output waits.)
    pub(crate) const FULL_DUPLEX: u32 = 1 << 31;

    pub(crate) const WISHES: u32 = Self::WISH_FINISH
        | Self::WISH_CLOSE
        | Self::WISH_RESET
        | Self::WISH_CAP
        | Self::WISH_RESUME;

    const STATE: u32 = 0x0F;

    pub(crate) fn new(state: State) -> Self {
        Self(state as u32)
    }

    /// The connection is open, and no flag is set but `FULL_DUPLEX`.
    #[inline]
    pub(crate) fn is_straight(self) -> bool {
        self.0 & !Self::FULL_DUPLEX == 0
    }

    #[inline]
    pub(crate) fn has(self, flags: u32) -> bool {
        self.0 & flags != 0
    }

    #[inline]
    pub(crate) fn set(&mut self, flags: u32) {
        self.0 |= flags;
    }

    #[inline]
    pub(crate) fn clear(&mut self, flags: u32) {
        self.0 &= !flags;
    }

    #[inline]
    pub(crate) fn state(self) -> State {
        const STATES: [State; 9] = [
            State::Open,
            State::Connecting,
            State::PeerEnded,
            State::Finishing,
            State::Finished,
            State::Closing,
            State::Lingering,
            State::LastBytes,
            State::Dead,
        ];
        STATES[(self.0 & Self::STATE) as usize]
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.0 = self.0 & !Self::STATE | state as u32;
    }
}

impl Head {
    pub(crate) fn new(socket: Socket, generation: NonZeroU32, state: State) -> Self {
        Self {
            socket,
            link: Link::default(),
            generation,
            status: Status::new(state),
            links: Links::default(),
            deadline: Tick::MAX,
            slot: Slot::NONE,
            corked: 0,
            why: None,
            cold: None,
        }
    }

    pub(crate) fn cold(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    /// Drops the cold box if nothing in it is unfinished.
    pub(crate) fn drop_idle_cold(&mut self) {
        if self.cold.as_deref().is_some_and(Cold::is_idle) {
            self.cold = None;
        }
    }

    /// The connection's dial, while the connection is not up.
    pub(crate) fn dialling(&mut self) -> Option<&mut Dialling> {
        self.cold.as_deref_mut()?.dialling.as_deref_mut()
    }

    /// The deadlines that no traffic moves.
    pub(crate) fn deadlines(&self) -> Deadlines {
        self.cold.as_deref().map_or_else(Deadlines::default, |cold| cold.deadlines)
    }

    /// Notes that the connection ends, and why, unless that is decided already.
    pub(crate) fn because(&mut self, why: CloseReason) {
        self.why.get_or_insert(why);
    }

    /// As `because`, for a connection that is not left to end by itself. `why` then replaces the reason that
    /// the peer had ended before.
    pub(crate) fn cut_short(&mut self, why: CloseReason) {
        if self.why.is_none_or(|before| before == CloseReason::PeerEnded) {
            self.why = Some(why);
        }
    }

    /// Unread bytes that the handler has left for later.
    pub(crate) fn kept(&self) -> usize {
        let unread = self.cold.as_deref().and_then(|cold| cold.unread.as_ref());
        unread.map_or(0, Unread::len)
    }

    /// Bytes queued in the cold box.
    pub(crate) fn unsent(&self) -> usize {
        self.cold.as_deref().map_or(0, |cold| cold.output.len())
    }
}

/// Lets the wheel find the links of a head by its slot number.
pub(crate) trait Heads {
    fn head_at(&mut self, slot: u32) -> &mut Head;
}

pub(crate) struct Filed<'a, T>(pub(crate) &'a mut T);

impl<T: Heads> Entries for Filed<'_, T> {
    #[inline]
    fn links(&mut self, index: u32) -> (&mut Links, &mut Slot) {
        let head = self.0.head_at(index);
        (&mut head.links, &mut head.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_48_bytes() {
        assert_eq!(size_of::<Head>(), 48);
        assert_eq!(size_of::<Connection<()>>(), 48);
    }

    #[test]
    fn every_state_comes_back_beside_any_flag() {
        for state in 0..9u32 {
            let mut status = Status(state);
            status.set(Status::WISHES | Status::UNSENT);
            assert_eq!(status.state() as u32, state);
            status.clear(Status::WISHES | Status::UNSENT);
            assert_eq!(status.is_straight(), state == 0);
            status.set(Status::FULL_DUPLEX);
            assert_eq!((status.state() as u32, status.is_straight()), (state, state == 0));
        }
    }
}
