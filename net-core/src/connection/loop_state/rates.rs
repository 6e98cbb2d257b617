//! Rate limits of a connection, where bytes pass between the connection and the kernel.
//!
//! A direction whose bucket is empty waits for the wheel, which has the connection once, by the nearest of
//! its deadlines. Until then the direction is as if paused, or as if the kernel were full.

use super::LoopState;
use crate::base::id::ConnId;
use crate::config::rate::{Bucket, Rate};
use crate::connection::life::State;
use crate::connection::slot::Status;
use crate::observe::counters::Counter;
use net_timer::Tick;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    In,
    Out,
}

/// The buckets of a connection that has a limit.
#[derive(Default)]
pub(crate) struct Rates {
    ways: [Option<Bucket>; 2],
    /// The deadline of a closing connection that waits for a token. The token is due before it.
    write_by: Option<Tick>,
}

impl Rates {
    /// Output waits for a token.
    #[cfg(test)]
    pub(crate) fn holds_output(&self) -> bool {
        self.ways[Way::Out as usize].as_ref().is_some_and(|bucket| bucket.is_waiting)
    }
}

impl<S, M> LoopState<S, M> {
    fn rates(&mut self, id: ConnId) -> Option<&mut Rates> {
        self.rates.get_mut(&id)
    }

    /// Sets the rate of one direction, or takes it away. Bytes that waited are offered anew.
    pub(crate) fn limit(&mut self, id: ConnId, way: Way, rate: Option<Rate>) {
        let now = self.now;
        if self.head(id).is_none_or(|head| head.status.state() == State::Dead) {
            return;
        }
        let rates = self.rates.entry(id).or_default();
        // The connection waited for a token of the former limit, and is looked at anew.
        let write_by = rates.write_by.take();
        let bucket = &mut rates.ways[way as usize];
        let was_limited = bucket.is_some();
        *bucket = rate.map(|rate| Bucket::new(rate, now, bucket.take()));
        let is_limited = rates.ways.iter().any(Option::is_some);
        if !is_limited {
            self.rates.remove(&id);
        }
        if let Some(write_by) = write_by {
            self.file(id, write_by);
        }
        self.set_deadlines(id, |deadlines| deadlines.refill = Tick::MAX);
        self.with(id, |outbox, head| {
            if is_limited {
                head.status.set(Status::RATED)
            } else {
                head.status.clear(Status::RATED)
            }
            if was_limited {
                outbox.offer_again(head, id);
                outbox.wish(head, id, Status::WISH_RESUME);
            }
        });
        if is_limited {
            self.await_tokens(id);
        }
    }

    /// Bytes for which that direction has tokens. Zero: the direction waits for the wheel.
    pub(crate) fn tokens(&mut self, id: ConnId, way: Way) -> usize {
        let now = self.now;
        let Some(bucket) = self.rates(id).and_then(|rates| rates.ways[way as usize].as_mut())
        else {
            return usize::MAX;
        };
        let waited = bucket.is_waiting;
        let room = bucket.room(now);
        if room == 0 && !waited {
            self.begins_to_wait(id);
        }
        room
    }

    /// `bytes` have gone that way.
    pub(crate) fn take_tokens(&mut self, id: ConnId, way: Way, bytes: usize) {
        let now = self.now;
        if let Some(bucket) = self.rates(id).and_then(|rates| rates.ways[way as usize].as_mut()) {
            bucket.take(bytes, now);
            if bucket.is_waiting {
                self.begins_to_wait(id);
            }
        }
    }

    #[cold]
    fn begins_to_wait(&mut self, id: ConnId) {
        self.inbox.counters.add(Counter::RateWaits, 1);
        self.await_tokens(id);
    }

    /// Files when the first waiting bucket has tokens again.
    fn await_tokens(&mut self, id: ConnId) {
        let Some(rates) = self.rates(id) else { return };
        let waiting = rates.ways.iter().flatten().filter(|bucket| bucket.is_waiting);
        let next = waiting.map(Bucket::goes_on_at).min().unwrap_or(Tick::MAX);
        let Some(head) = self.head(id) else { return };
        if head.status.state().is_closing() {
            let write_by = head.deadline;
            if next < write_by {
                if let Some(rates) = self.rates(id) {
                    rates.write_by.get_or_insert(write_by);
                }
                self.file(id, next);
            }
            return;
        }
        self.set_deadlines(id, |deadlines| deadlines.refill = next);
    }

    /// The connection's deadline has come. Returns which directions may go on: in, and out.
    pub(crate) fn refill(&mut self, id: ConnId) -> (bool, bool) {
        let now = self.now;
        let Some(rates) = self.rates(id) else { return (false, false) };
        let went_on = rates.ways.each_mut().map(|bucket| {
            let due = bucket.as_mut().filter(|b| b.is_waiting && b.goes_on_at() <= now);
            due.is_some_and(|bucket| {
                bucket.is_waiting = false;
                true
            })
        });
        if let Some(write_by) = rates.write_by.take() {
            self.file(id, write_by);
        }
        let [goes_in, goes_out] = went_on;
        if goes_in || goes_out {
            self.await_tokens(id);
        }
        (goes_in, goes_out)
    }

    /// Sets when a closing connection ends. The connection may wait for a token.
    pub(crate) fn file_closing(&mut self, id: ConnId, write_by: Tick) {
        let Some(before) = self.head(id).map(|head| head.deadline) else { return };
        let until = match self.rates(id).and_then(|rates| rates.write_by.as_mut()) {
            Some(waits) => {
                *waits = write_by;
                write_by.min(before)
            }
            None => write_by,
        };
        self.file(id, until);
    }

    /// The connection begins to close. Its input is thrown away, at any rate. Its unsent bytes still go out
    /// at the rate it had.
    pub(crate) fn limit_closing(&mut self, id: ConnId) {
        let Some(rates) = self.rates(id) else { return };
        rates.ways[Way::In as usize] = None;
        rates.write_by = None;
        if let Some(bucket) = &mut rates.ways[Way::Out as usize] {
            bucket.is_waiting = false;
        }
        self.with(id, |outbox, head| outbox.offer_again(head, id));
    }
}
