//! How much more a connection may be given: the marks between which its input waits, and the cap.

use super::{Outbox, Queued};
use crate::connection::{Head, Status};
use crate::id::ConnId;
use crate::limits::Limits;

/// Unsent bytes of a connection above which its input is held back, and at which it goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Watermarks {
    high: usize,
    low: usize,
}

impl Watermarks {
    /// Below the cap in any case, so that whoever is at the cap is above its marks.
    pub(super) fn of(limits: &Limits) -> Self {
        let below_cap = limits.output_limit.saturating_sub(1);
        let (high, low) = (limits.high_watermark, limits.low_watermark);
        Self { high: high.min(below_cap), low: low.min(below_cap) }
    }

    /// Whoever has anything unsent is held back.
    const TIGHT: Watermarks = Watermarks { high: 0, low: 0 };
}

impl Outbox {
    /// While memory is tight, the marks are at 0. True: that has changed.
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

    pub(super) fn mark(&self, head: &mut Head) -> Queued {
        if self.pending(head) > self.watermarks.high {
            head.status.set(Status::HELD);
            return Queued::Above;
        }
        Queued::Queued
    }

    /// Bytes that a connection takes before it refuses: none above its high mark.
    pub(crate) fn room(&self, head: &Head) -> usize {
        if head.status.has(Status::HELD) {
            return 0;
        }
        self.output_limit.saturating_sub(self.in_memory(head))
    }

    /// Bytes that a connection may receive whose handler answers with as much as it gets, and which has
    /// `kept` bytes of an unfinished message. None: it is held until the low mark.
    pub(crate) fn room_for_input(&mut self, head: &mut Head, id: ConnId, kept: usize) -> usize {
        if head.status.has(Status::HELD) {
            return 0;
        }
        let Watermarks { high, low } = self.watermarks;
        let (pending, room) = (self.pending(head), self.room(head));
        if pending > high || (pending > low && room <= kept) {
            head.status.set(Status::HELD);
            self.list_to_flush(head, id); // where the time begins in which it may be stuck
            return 0;
        }
        // With next to nothing unsent, to wait would not help: the message is longer than the cap.
        if room > kept { room - kept } else { room }
    }

    /// Above its high mark it is held until the low one.
    pub(crate) fn hold_if_above(&self, head: &mut Head) {
        let _ = self.mark(head);
    }
}
