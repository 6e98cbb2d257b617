//! The loop's share of the memory budget: what the loop has buffered, and what it does if that is much.
//!
//! Every loop has the same share for itself. So the sum holds, and needs no counting together. Above three
//! quarters of the share, a connection with unsent bytes is not read, and the pool keeps nothing. Above
//! thirteen sixteenths, messages that may be dropped make no queue longer. Above seven eighths, the
//! connection with the most waiting bytes loses its messages that may be dropped, or else is reset, and then
//! the next. Bytes that a callback would queue beyond the share are refused, and the connection to which they
//! were sent ends.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::close_reason::CloseReason;
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::connection::life::{Event, State};
use crate::connection::slot::Status;
use crate::driver::Driver;
use crate::observe::connection_query::Largest;
use crate::observe::counters::Counter;
use net_buffer::Unread;

/// The largest connections that one walk over the table finds. The next walk is due when all of these are
/// gone. So of a million connections, each reset costs only a part of a walk.
const FOUND: usize = 64;

/// Entries of the table that are looked at in a turn when memory is no longer tight.
const RELIEVED_PER_TURN: usize = 1024;

/// How much a loop may buffer, and how far it has got.
pub(super) struct Share {
    /// Above it, reading is held back.
    soft: usize,
    /// Above it, connections are shed.
    hard: usize,
    /// Memory was tight. Connections that have waited since are looked at again, from this slot on.
    relieved_from: Option<u32>,
    /// Some of the largest connections, the largest last, and what each had when it was found.
    largest: Vec<(usize, ConnId)>,
}

impl Share {
    pub(super) fn of(limits: &Limits, loops: usize) -> Option<Self> {
        limits.memory_budget?;
        let share = limits.memory_share(loops);
        Some(Self {
            soft: share / 4 * 3,
            hard: share / 8 * 7,
            relieved_from: None,
            largest: Vec::new(),
        })
    }
}

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Before each wait: looks at what is buffered, and does what is due.
    pub(super) fn weigh(&mut self) {
        let Some(Share { soft, hard, .. }) = self.share else { return };
        let pool = &mut self.state.outbox.pool;
        let most = pool.memory(); // before anything is freed: this number is exported
        if most > soft {
            pool.trim(0);
        }
        if pool.memory() > hard {
            self.shed(hard);
        }
        let outbox = &mut self.state.outbox;
        let is_tight = outbox.pool.memory() > soft;
        if outbox.be_tight(is_tight)
            && !is_tight
            && let Some(share) = &mut self.share
        {
            share.relieved_from = Some(0);
        }
        self.state.inbox.counters.set(Counter::Buffered, most as u64);
    }

    /// True if memory is no longer tight, and connections are still to be looked at again.
    #[cold]
    pub(super) fn is_relieving(&self) -> bool {
        self.share.as_ref().is_some_and(|share| share.relieved_from.is_some())
    }

    /// Lets connections go on that are held only because memory was tight, some entries of the table in a
    /// turn. Their output need not fall for that, so no other event would let them go on.
    pub(super) fn relieve(&mut self) {
        let Some(share) = &mut self.share else { return };
        let Some(mut from) = share.relieved_from.take() else { return };
        for _ in 0..RELIEVED_PER_TURN {
            let Some(id) = self.state.table.next_live(from) else { return };
            from = id.slot() + 1;
            if self.state.head(id).is_some_and(|head| head.status.has(Status::HELD)) {
                self.list_to_flush(id);
            }
        }
        if let Some(share) = &mut self.share {
            share.relieved_from = Some(from);
        }
    }

    /// Bytes were kept that could not be passed on: with a budget, perhaps too many.
    #[inline]
    pub(super) fn grew(&mut self) {
        if self.share.is_some() {
            self.weigh();
        }
    }

    /// Resets connections, the most expensive first, until no more than `most` bytes are buffered.
    #[cold]
    fn shed(&mut self, most: usize) {
        while self.state.outbox.pool.memory() > most {
            let Some(id) = self.most_expensive() else { return };
            if self.sheds_messages(id, most) {
                continue;
            }
            self.state.cut_short_because(id, CloseReason::MemoryBudget);
            self.tell_of_limit(id);
            self.step(id, Event::OutputFull);
            self.state.outbox.pool.trim(0);
        }
    }

    /// Drops messages of the connection that may be dropped, and the connection lives: by their policy that
    /// comes before a reset. False: it has no such message.
    fn sheds_messages(&mut self, id: ConnId, most: usize) -> bool {
        let shed = self.state.with(id, |outbox, head| outbox.shed_messages(head, id, most));
        let has_shed = shed == Some(true);
        if has_shed {
            self.list_to_flush(id); // less waits: perhaps less than the low mark
        }
        has_shed
    }

    /// The connection with the most memory, here and in the kernel.
    fn most_expensive(&mut self) -> Option<ConnId> {
        loop {
            while let Some((found, id)) = self.share.as_mut()?.largest.pop() {
                // The connection may have freed most of it since, and then others are more expensive.
                if self.expense(id).is_some_and(|expense| expense * 2 > found) {
                    return Some(id);
                }
            }
            let largest = self.find_largest();
            if largest.is_empty() {
                return None;
            }
            self.share.as_mut()?.largest = largest;
        }
    }

    /// The largest connections here. Of these, the ones with at least half the expense of the most expensive,
    /// bytes in the kernel included. The bytes in the kernel tell a peer that never reads from a peer that
    /// happens to be owed something, if each has one block here.
    fn find_largest(&mut self) -> Vec<(usize, ConnId)> {
        let mut found = Largest::new(FOUND);
        let mut from = 0;
        while let Some(id) = self.state.table.next_live(from) {
            from = id.slot() + 1;
            if let Some(memory) = self.memory_of(id) {
                found.show(memory, id);
            }
        }
        let ids = found.into_ids();
        let mut largest: Vec<_> = ids.filter_map(|id| Some((self.expense(id)?, id))).collect();
        largest.sort_unstable();
        let most = largest.last().map_or(0, |(most, _)| *most);
        largest.retain(|(expense, _)| expense * 2 >= most);
        largest
    }

    /// Memory that a reset would free, here and in the kernel. `None`: none here.
    fn expense(&mut self, id: ConnId) -> Option<usize> {
        let memory = self.memory_of(id)?;
        let head = self.state.head(id)?;
        Some(memory + self.driver.unacknowledged(&head.socket))
    }

    /// Memory that a connection has here, if it has some and could be shed.
    fn memory_of(&mut self, id: ConnId) -> Option<usize> {
        let head = self.state.head(id)?;
        if head.status.state() == State::Dead || !head.status.has(Status::UNSENT | Status::UNREAD) {
            return None;
        }
        let marks = self.state.outbox.memory_of_marks(id);
        let cold = self.state.head(id)?.cold.as_deref()?;
        // Reference-counted payloads are in no block, and the bytes of a file are in no memory.
        let output = &cold.output;
        let own = output.memory() + output.bookkeeping();
        let unsent = own.max(output.len() - output.in_files());
        let unread = cold.unread.as_ref().map_or(0, Unread::memory);
        Some(unsent + unread + marks).filter(|memory| *memory > 0)
    }
}
