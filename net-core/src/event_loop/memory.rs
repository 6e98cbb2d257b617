//! The loop's share of the memory budget: what it has buffered, and what is done when that is much.
//!
//! Every loop has the same share for itself, so the sum needs no counting together, and holds. Above
//! three quarters of it, whoever has anything unsent is not read, and the pool keeps nothing. Above
//! thirteen sixteenths, messages of which one may be dropped make no queue longer. Above seven eighths,
//! the one with the most waiting loses those that wait for it, or else is reset, and then the next. What
//! a callback would queue beyond the share is refused, and ends the connection to which it was sent.

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

/// The largest connections that one walk over the table finds. The next walk is due when all of them
/// are gone: so of a million connections, each costs a part of a walk only.
const FOUND: usize = 64;

/// Entries of the table that are looked at in a turn when memory is no longer tight.
const RELIEVED_PER_TURN: usize = 1024;

/// What a loop may buffer, and where it stands.
pub(super) struct Share {
    /// Above it, reading is held back.
    soft: usize,
    /// Above it, connections are shed.
    hard: usize,
    /// Memory was tight: whoever waits since then is looked at again, from this slot on.
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
        let most = pool.memory(); // as it has come to, and is exported
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

    /// Memory is no longer tight, and some are still to be looked at again.
    #[cold]
    pub(super) fn is_relieving(&self) -> bool {
        self.share.as_ref().is_some_and(|share| share.relieved_from.is_some())
    }

    /// Those who are held only because memory was tight go on, some entries of the table in a turn: no
    /// output of theirs need fall for it, and nothing else would tell of it.
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

    /// It loses messages of which one may be lost, and lives: by their policy that comes before a reset.
    /// False: it has none.
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
                // It may have got rid of most since, and then others are more expensive.
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

    /// Those that are among the largest here; of these, those with at least half of what the most
    /// expensive has, its bytes in the kernel included. By these one who never reads is told from
    /// one who happens to be owed something, where each has one block here.
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

    /// What a reset would give back, here and in the kernel. `None`: nothing here.
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
        // Counted payloads are in no block; and what lies in a file is in no memory.
        let output = &cold.output;
        let own = output.memory() + output.bookkeeping();
        let unsent = own.max(output.len() - output.in_files());
        let unread = cold.unread.as_ref().map_or(0, Unread::memory);
        Some(unsent + unread + marks).filter(|memory| *memory > 0)
    }
}
