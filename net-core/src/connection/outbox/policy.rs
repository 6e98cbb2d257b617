//! What happens to a message that does not fit below the hard cap.

use super::{Outbox, SendOutcome};
use crate::base::id::ConnId;
use crate::config::policy::OverflowPolicy;
use crate::connection::slot::{Head, Status};
use bytes::Bytes;
use net_buffer::Replaced;
use std::collections::HashMap;

/// What handlers have sent, and never reaches the kernel.
#[derive(Default)]
pub(crate) struct Drops {
    /// Something below is to be published.
    pub(crate) is_noted: bool,
    pub(crate) bytes: u64,
    /// Messages that a policy has dropped, new ones and old ones.
    pub(crate) messages: u64,
    /// Messages that a newer one has replaced.
    pub(crate) replaced: u64,
    /// Messages dropped or replaced, of each living connection that has lost any.
    of: HashMap<ConnId, u64>,
}

impl Drops {
    pub(crate) fn add_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.is_noted |= bytes > 0;
    }

    fn dropped(&mut self, id: ConnId, taken: usize) {
        self.messages += 1;
        self.lost(id, taken);
    }

    fn replaced(&mut self, id: ConnId, taken: usize) {
        self.replaced += 1;
        self.lost(id, taken);
    }

    /// A connection has lost a message, of which `taken` bytes had been taken from the handler.
    fn lost(&mut self, id: ConnId, taken: usize) {
        self.is_noted = true;
        *self.of.entry(id).or_default() += 1;
        self.add_bytes(taken as u64);
    }

    /// Messages of that connection which were dropped or replaced.
    pub(crate) fn of(&self, id: ConnId) -> u64 {
        self.of.get(&id).copied().unwrap_or(0)
    }

    /// Discards the count of a connection that is over.
    pub(crate) fn forget(&mut self, id: ConnId) {
        if !self.of.is_empty() {
            self.of.remove(&id);
        }
    }
}

impl Outbox {
    /// Queues a message, or does at the hard cap as the policy says. Returns also how many older messages
    /// that has cost.
    pub(crate) fn send_with(
        &mut self,
        head: &mut Head,
        id: ConnId,
        bytes: Bytes,
        at_limit: OverflowPolicy,
    ) -> (SendOutcome, u64) {
        let key = match at_limit {
            OverflowPolicy::Close => return (self.send_shared(head, id, bytes), 0),
            OverflowPolicy::Conflate(key) => Some(key),
            OverflowPolicy::DropNewest | OverflowPolicy::DropOldest => None,
        };
        if let Some(answer) = self.answer_at_once(head, id, bytes.len()) {
            return (answer, 0);
        }
        if let Some(key) = key
            && let Some(answer) = self.replace(head, id, key, &bytes)
        {
            return answer;
        }
        let excess = self.excess(head, &bytes, at_limit);
        let mut cost = 0;
        if excess > 0 {
            let made_room = at_limit == OverflowPolicy::DropOldest && {
                self.spill(head);
                self.drop_oldest(head, id, excess, &mut cost)
            };
            self.blame(head, id);
            if !made_room {
                self.drops.dropped(id, 0);
                if head.status.has(Status::UNSENT) {
                    // Some of the waiting bytes may have left the cork, which would have sent them, and some
                    // may be dropped.
                    self.list_unsent(head, id);
                }
                return (SendOutcome::Dropped, cost);
            }
        }
        if !self.has_memory(self.pool.cost_of(&bytes)) {
            head.drop_idle_cold(); // in the cold box its length may be noted
            self.drops.dropped(id, 0);
            return (SendOutcome::Dropped, cost);
        }
        self.spill(head);
        let output = &mut head.cold.get_or_insert_default().output;
        if at_limit == OverflowPolicy::DropNewest {
            output.push_shared(bytes, &mut self.pool); // once it is queued, it is never dropped
        } else {
            output.push_message(bytes, key, &mut self.pool);
        }
        self.list_unsent(head, id);
        self.blame(head, id);
        (self.mark(head, id), cost)
    }

    /// Bytes of older messages that are to go for this one. They are what would be above the hard cap, in
    /// bytes or in the queue's other memory. While memory is short, they are at least as many as the message
    /// brings, so that a queue grows no more. A connection for which nothing waits may have the message all
    /// the same: a prompt reader is not the one to pay.
    fn excess(&self, head: &mut Head, bytes: &Bytes, at_limit: OverflowPolicy) -> usize {
        let waits = self.in_memory(head);
        let mut excess = self.excess_over_cap(head, bytes.len());
        // Once it is queued, such a message is never dropped, so it may share a block with others.
        let takes_a_place = at_limit != OverflowPolicy::DropNewest;
        if takes_a_place && self.bookkeeping(head) > self.lists_max() {
            excess = excess.max(1);
        }
        let cost = self.pool.cost_of(bytes);
        let is_short = self.pool.memory().saturating_add(cost) > self.memory_for_lossy;
        if is_short && waits > 0 {
            excess = excess.max(bytes.len());
        }
        excess
    }

    /// Replaces an older message of the same key. `None`: there is none.
    fn replace(
        &mut self,
        head: &mut Head,
        id: ConnId,
        key: u64,
        bytes: &Bytes,
    ) -> Option<(SendOutcome, u64)> {
        let spare = self.memory_for_lossy.saturating_sub(self.pool.memory());
        let is_known = self.pool.cost_of(bytes) < bytes.len();
        let cold = head.cold.as_deref_mut()?;
        let (output, long) = (&mut cold.output, cold.long);
        let len_max = self.output_limit.saturating_add(output.in_files()).saturating_add(long);
        let by_memory = if is_known { usize::MAX } else { output.len().saturating_add(spare) };
        let len_max = len_max.min(by_memory);
        match output.replace_message(key, bytes.clone(), len_max, &mut self.pool) {
            Replaced::Nothing => None,
            Replaced::TooLong => {
                self.drops.dropped(id, 0);
                Some((SendOutcome::Dropped, 0))
            }
            Replaced::Old(old) => {
                self.drops.replaced(id, old.len);
                self.moved(head, id, old.before, old.len, bytes.len());
                // Listed although nothing may have been added: less may wait than the low watermark.
                self.list_unsent(head, id);
                self.blame(head, id);
                Some((self.mark(head, id), 1))
            }
        }
    }

    fn drop_oldest(&mut self, head: &mut Head, id: ConnId, bytes: usize, cost: &mut u64) -> bool {
        let Some(cold) = head.cold.as_deref_mut() else { return false };
        let mut dropped = Vec::new();
        let made_room =
            cold.output.drop_messages(bytes, &mut self.pool, |waiting| dropped.push(waiting));
        for old in dropped {
            self.drops.dropped(id, old.len);
            self.moved(head, id, old.before, old.len, 0);
            *cost += 1;
        }
        made_room
    }

    /// Memory is needed again: drops the connection's oldest messages that may be dropped, until the loop has
    /// no more than `memory`, or none is left. True: some were dropped.
    pub(crate) fn shed_messages(&mut self, head: &mut Head, id: ConnId, memory: usize) -> bool {
        let Some(cold) = head.cold.as_deref_mut() else { return false };
        let mut dropped = Vec::new();
        cold.output.shed_messages(memory, &mut self.pool, |waiting| dropped.push(waiting));
        for old in &dropped {
            self.drops.dropped(id, old.len);
            self.moved(head, id, old.before, old.len, 0);
        }
        self.blame(head, id);
        !dropped.is_empty()
    }

    /// Of a connection's unsent bytes, the `old` bytes behind the first `before` have become `new` bytes.
    fn moved(&mut self, head: &mut Head, id: ConnId, before: usize, old: usize, new: usize) {
        if self.running == Some(id) && before < self.begun {
            // On the straight path `begun` is of another callback, and means nothing.
            self.begun = self.begun.saturating_sub(old) + new;
        }
        if self.marks.moved(id, before, old, new) {
            self.list_wish(head, id);
        }
    }
}
