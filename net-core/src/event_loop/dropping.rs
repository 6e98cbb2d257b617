//! Drops of values of the user: each may panic, and costs no more than a callback that panics.

use super::{EventLoop, guard};
use crate::api::handler::Handler;
use crate::base::close_reason::{Callback, CloseReason};
use crate::base::id::ConnId;
use crate::config::policy::OverflowPolicy;
use crate::connection::life::{Event, State};
use crate::connection::outbox::SendOutcome;
use crate::connection::slot::{Connection, Status};
use crate::driver::Driver;
use crate::observe::counters::{Counter, Counters};
use bytes::Bytes;
use std::sync::Arc;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Payloads of these connections panicked when they were dropped, sent or not. Each is counted as a
    /// panic.
    #[cold]
    pub(super) fn payloads_panicked(&mut self) {
        for id in std::mem::take(&mut self.state.outbox.panicked) {
            self.count_panic(Callback::Drop, None);
            let Some(head) = self.state.head(id) else { continue };
            if head.status.state() != State::Dead {
                head.why = Some(CloseReason::Panicked(Callback::Drop));
                self.step(id, Event::Panicked);
            }
        }
    }

    /// Drops a value of the user.
    pub(super) fn drop_of_user<T>(&mut self, value: T) {
        if guard(|| drop(value)).is_none() {
            self.count_panic(Callback::Drop, None);
        }
    }

    /// Queues bytes from another thread, or a last word. Bytes that are refused are dropped here.
    pub(super) fn sent_from_afar(&mut self, id: ConnId, bytes: Bytes, at_limit: OverflowPolicy) {
        let len = bytes.len() as u64;
        let state = &mut self.state;
        let queued = guard(|| {
            state.with(id, |outbox, head| match at_limit {
                OverflowPolicy::Close => outbox.send_shared(head, id, bytes),
                at_limit => outbox.send_with(head, id, bytes, at_limit).0,
            })
        });
        if !queued.flatten().is_some_and(SendOutcome::is_taken) {
            self.state.outbox.drops.add_bytes(len);
        }
        if queued.is_none() {
            self.count_panic(Callback::Drop, None);
            // The bytes were refused, most often since the connection ends. If it does not, it ends now.
            self.state.with(id, |outbox, head| {
                if head.status.state() != State::Dead {
                    outbox.wish(head, id, Status::WISH_CLOSE);
                }
            });
        }
    }

    /// The loop is over, or has died. The user's values that are left are dropped one by one: two panics in
    /// one drop would end the process.
    pub(crate) fn dismantle(self) {
        let Self { mut state, handler, fan_outs, .. } = self;
        let inbox = Arc::clone(&state.inbox);
        let mut from = 0;
        while let Some(id) = state.table.next_live(from) {
            from = id.slot() + 1;
            let Some(Connection { mut head, session }) = state.table.remove(id) else { continue };
            state.outbox.drop_all(&mut head, id);
            last_drop(&inbox.counters, session);
        }
        let payloads = state.outbox.panicked.len() as u64;
        inbox.counters.add(Counter::Panics, payloads);
        state.jobs.drain(..).for_each(|job| last_drop(&inbox.counters, job));
        state.last_words.drain().for_each(|(_, unsaid)| last_drop(&inbox.counters, unsaid));
        fan_outs.into_iter().for_each(|fan_out| last_drop(&inbox.counters, fan_out));
        last_drop(&inbox.counters, handler);
    }
}

/// Drops a value of the user. The handler cannot be asked any more whether the server goes on.
fn last_drop<T>(counters: &Counters, value: T) {
    if guard(|| drop(value)).is_none() {
        counters.add(Counter::Panics, 1);
        tracing::error!(
            said = crate::base::panics::take_said(),
            "a drop panicked at the end of a loop"
        );
    }
}
