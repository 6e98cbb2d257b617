//! How many more bytes a connection may be given: the watermarks between which its input waits, and the cap.

use super::{Outbox, SendOutcome};
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::connection::slot::{Head, Status};

/// Unsent bytes of a connection above which its input is held back, and at which its input goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Watermarks {
    high: usize,
    low: usize,
}

impl Watermarks {
    /// Both are below the cap, so that a connection at the cap is above its watermarks.
    pub(super) fn of(limits: &Limits) -> Self {
        let below_cap = limits.output_limit.saturating_sub(1);
        let (high, low) = (limits.high_watermark, limits.low_watermark);
        Self { high: high.min(below_cap), low: low.min(below_cap) }
    }

    /// A connection with unsent bytes is held back.
    const TIGHT: Watermarks = Watermarks { high: 0, low: 0 };
}

impl Outbox {
    /// While memory is tight, the watermarks are at 0. True: that has changed.
    pub(crate) fn be_tight(&mut self, is_tight: bool) -> bool {
        let before = self.watermarks;
        self.watermarks = if is_tight { Watermarks::TIGHT } else { self.usual };
        before != self.watermarks
    }

    pub(crate) fn low_watermark(&self) -> usize {
        self.watermarks.low
    }

    pub(crate) fn would_pass_high_mark(&self, pending: usize) -> bool {
        pending > self.watermarks.high
    }

    pub(super) fn mark(&self, head: &mut Head, id: ConnId) -> SendOutcome {
        if !self.hold_if_above(head) {
            return SendOutcome::Queued;
        }
        // Without input of its own there would be no such output, so it helps to let the next input wait.
        let is_own_callback = self.running == Some(id);
        if is_own_callback && (self.lent.1 > 0 || self.brings_outcome) {
            self.hold_own_input(head);
        }
        SendOutcome::AboveHighWatermark
    }

    /// With `more` bytes in memory, how many would be above the hard cap. A connection that is not above its
    /// high watermark takes a message of any length: its handler was not told to wait, and its reader is not
    /// slow. The bytes behind such a message are judged as if that message were not there.
    pub(super) fn excess_over_cap(&self, head: &mut Head, more: usize) -> usize {
        let waits = self.in_memory(head);
        let excess = waits.saturating_add(more).saturating_sub(self.output_limit);
        if excess == 0 {
            return 0;
        }
        self.excess_over_cap_at_last(head, waits, more)
    }

    #[cold]
    fn excess_over_cap_at_last(&self, head: &mut Head, waits: usize, more: usize) -> usize {
        if waits <= self.usual.high {
            head.cold().long = more;
            return 0;
        }
        let long = head.cold.as_deref().map_or(0, |cold| cold.long);
        let judged = waits.saturating_sub(long);
        judged.saturating_add(more).saturating_sub(self.output_limit)
    }

    /// Whether a message of `len` bytes would be taken by a connection that is not above its high watermark.
    pub(crate) fn has_room(&self, head: &Head, len: usize) -> bool {
        let waits = self.in_memory(head);
        let fits = waits.saturating_add(len) <= self.output_limit || waits <= self.usual.high;
        fits && !head.status.has(Status::HELD)
    }

    /// Bytes that a connection takes before it refuses: none above its high watermark.
    pub(crate) fn room(&self, head: &Head) -> usize {
        if head.status.has(Status::HELD) {
            return 0;
        }
        self.output_limit.saturating_sub(self.in_memory(head))
    }

    /// Bytes that a connection's partner may receive, of which this connection gets as much. The partner has
    /// `kept` bytes of an unfinished message. Zero: the partner is held until the low watermark.
    pub(crate) fn room_for_input(&mut self, head: &mut Head, id: ConnId, kept: usize) -> usize {
        if head.status.has(Status::HELD) {
            return 0;
        }
        let Watermarks { high, low } = self.watermarks;
        let (pending, room) = (self.pending(head), self.room(head));
        if pending > high || (pending > low && room <= kept) {
            head.status.set(Status::HELD);
            self.list_to_flush(head, id); // where its stuck deadline begins
            return 0;
        }
        // With almost nothing unsent, to wait would not help: the message is longer than the cap.
        if room > kept { room - kept } else { room }
    }

    /// Bytes that a connection may receive itself, if its handler may answer with as much as it gets.
    ///
    /// None above the high watermark if the unsent bytes are answers: only waiting for the reader helps. If
    /// the handler has sent them of its own accord, the peer may not read before it is read itself. So
    /// reading goes on until half of what the hard cap leaves is used up, or all of it if the connection is
    /// full duplex. Then the input is held, and comes again at the low watermark.
    pub(crate) fn room_for_own_input(&mut self, head: &mut Head, id: ConnId, kept: usize) -> usize {
        let is_full_duplex = head.status.has(Status::FULL_DUPLEX);
        let is_held = head.status.has(Status::HELD);
        if is_held && head.cold.as_deref().is_some_and(|cold| cold.answers) {
            return 0;
        }
        if !is_full_duplex && !is_held {
            let room = self.room_for_input(head, id, kept);
            if room == 0 {
                head.cold().answers = true; // otherwise it would be read, now that it is `HELD`
            }
            return room;
        }
        let most = if is_full_duplex {
            self.output_limit
        } else {
            self.usual.high + (self.output_limit - self.usual.high) / 2
        };
        let room = most.saturating_sub(self.in_memory(head));
        if room == 0 {
            // Until the low watermark, at which reading goes on.
            head.status.set(Status::HELD);
            head.cold().answers = true;
            self.list_to_flush(head, id);
        }
        if room > kept { room - kept } else { room }
    }

    /// The unsent bytes are answers to the connection's own input, which is to wait too.
    pub(super) fn hold_own_input(&self, head: &mut Head) {
        if !head.status.has(Status::FULL_DUPLEX) {
            head.cold().answers = true;
        }
    }

    /// Above its high watermark the connection is held until the low one.
    pub(crate) fn hold_if_above(&self, head: &mut Head) -> bool {
        let is_above = self.pending(head) > self.watermarks.high;
        if is_above {
            head.status.set(Status::HELD);
        }
        is_above
    }
}
