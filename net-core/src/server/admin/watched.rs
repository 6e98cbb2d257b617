//! What the endpoint sees of a server, without the type of the server's messages.

use crate::observe::connection_query::PendingQuery;
use crate::observe::counters::Snapshot;
use crate::observe::loop_activity::{Beat, StallCounts};
use crate::threads::control::Phase;
use crate::threads::mail::Mail;
use crate::threads::shared::Shared;
use std::sync::Arc;

/// A server that another thread looks at. Every answer is a few loads of what the server's threads publish.
/// Only `ask` makes a loop do any work.
pub(crate) trait Watched: Send + Sync + 'static {
    /// How many loops there are.
    fn loops(&self) -> usize;
    /// The counts of one loop, and what waits for it now.
    fn of_loop(&self, number: usize) -> (Snapshot, Waiting);
    /// The stalls of one loop that have been found so far.
    fn stalls_of(&self, number: usize) -> StallCounts;
    /// What one loop does now, if stalls are looked for. `None` also while the loop waits.
    fn doing(&self, number: usize) -> Option<Beat>;
    /// Whether callbacks are timed.
    fn times_callbacks(&self) -> bool;
    /// The seconds that callbacks of one loop took, by the callbacks' labels.
    fn times_of(&self, number: usize) -> Vec<(&'static str, f64)>;
    /// Asks one loop, by mail. False: its mailbox is full, or it has ended.
    fn ask(&self, number: usize, asked: Arc<PendingQuery>) -> bool;
    /// The counts of the acceptor's thread.
    fn of_acceptor(&self) -> Snapshot;
    /// Connections of the whole server, from accept to close, and their limit.
    fn connections(&self) -> (usize, usize);
    /// The bytes that its loops may buffer. 0: no limit.
    fn memory_budget(&self) -> usize;
    /// Whether the server ends: it drains or stops.
    fn is_ending(&self) -> bool;
}

/// What waits in the inbox of a loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) mail: usize,
    pub(crate) arrivals: usize,
}

impl<M: Send + 'static> Watched for Shared<M> {
    fn loops(&self) -> usize {
        self.loops.len()
    }

    fn of_loop(&self, number: usize) -> (Snapshot, Waiting) {
        let inbox = &self.loops[number];
        let waiting = Waiting { mail: inbox.mail.len(), arrivals: inbox.arrivals.len() };
        (inbox.counters.snapshot(), waiting)
    }

    fn stalls_of(&self, number: usize) -> StallCounts {
        self.loops[number].activity.stalls()
    }

    fn doing(&self, number: usize) -> Option<Beat> {
        self.loops[number].activity.beat(number)
    }

    fn times_callbacks(&self) -> bool {
        self.times_callbacks
    }

    fn times_of(&self, number: usize) -> Vec<(&'static str, f64)> {
        self.loops[number].activity.times().collect()
    }

    fn ask(&self, number: usize, asked: Arc<PendingQuery>) -> bool {
        let inbox = &self.loops[number];
        let posted = inbox.mail.post(Mail::Ask(asked)).is_ok();
        inbox.waker.wake();
        posted
    }

    fn of_acceptor(&self) -> Snapshot {
        self.acceptor.snapshot()
    }

    fn connections(&self) -> (usize, usize) {
        (self.admission.inside(), self.admission.max())
    }

    fn memory_budget(&self) -> usize {
        self.memory_budget.unwrap_or(0)
    }

    fn is_ending(&self) -> bool {
        let asked = self.asked.phase() > Phase::Run;
        // A signal raises the phase of the loops, and not `asked`.
        asked || self.loops.iter().any(|inbox| inbox.control.phase() > Phase::Run)
    }
}
