//! Sends one payload to many connections, a few in each turn, so that the loop's other connections wait only
//! for these few.

use super::{EventLoop, guard};
use crate::api::handler::Handler;
use crate::base::close_reason::Callback;
use crate::base::id::ConnId;
use crate::connection::life::State;
use crate::connection::loop_state::LoopState;
use crate::driver::Driver;
use crate::features::broadcast::{Fate, Part};
use crate::observe::counters::Counter;
use crate::threads::control::Phase;

/// Connections that a broadcast looks at in a turn. Only some of them are receivers.
const LOOKS: usize = 1024;

/// A broadcast that is under way on this loop.
pub(super) struct FanOut {
    part: Part,
    /// The slot from which the broadcast goes on. `None`: it has passed all slots.
    from: Option<u32>,
    /// Connections that were given the payload in the last turn. The loop has sent since.
    given: Vec<ConnId>,
}

impl FanOut {
    fn is_to_come_to(&self, slot: u32) -> bool {
        self.from.is_some_and(|from| slot >= from)
    }
}

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// A broadcast has come. It begins when the broadcasts before it are over, so that all receivers get
    /// broadcasts in the same order.
    pub(super) fn broadcast(&mut self, part: Part) {
        self.count_those_who_left(); // they left before this broadcast, and are not its receivers
        if self.fan_outs.len() < self.state.limits.broadcasts_max {
            self.fan_outs.push_back(FanOut { part, from: Some(0), given: Vec::new() });
            self.state.topics.notes_leaves = true;
        } else {
            self.state.inbox.mail_weight.leave(part.bytes().len());
            if let Some(held_back) = self.trouble.allow(self.state.now) {
                let in_loop = self.state.number;
                tracing::warn!(in_loop, held_back, "a broadcast too many is not sent");
            }
            self.drop_of_user(part); // perhaps the last reference to its bytes
        }
    }

    /// Goes on with the oldest broadcast, for some more receivers.
    #[cold]
    pub(super) fn fan_out(&mut self) {
        self.watch_own_work();
        self.count_those_who_left();
        let Some(mut fan_out) = self.fan_outs.pop_front() else { return };
        for id in fan_out.given.drain(..) {
            let fate = fate_of(&mut self.state, id);
            self.count(&fan_out.part, fate);
        }
        if self.phase >= Phase::ForceClose {
            // The broadcast's receivers are reset now, and each is counted as gone when it is buried.
            self.fan_outs.push_front(fan_out);
        } else if fan_out.from.is_some() && !fan_out.part.is_cancelled() {
            // If loops share a core, a loop that always has work keeps the other loops from their work until
            // the scheduler's next tick, milliseconds later.
            std::thread::yield_now();
            self.give(&mut fan_out);
            self.fan_outs.push_front(fan_out);
        } else {
            let FanOut { part, .. } = fan_out;
            self.state.inbox.mail_weight.leave(part.bytes().len());
            if guard(|| part.finish()).is_none() {
                self.count_panic(Callback::Drop, None);
            }
            self.state.topics.notes_leaves = !self.fan_outs.is_empty();
            self.broadcast_is_through();
        }
    }

    /// A connection that was up is over. Broadcasts that have not reached its slot yet will not find it.
    #[cold]
    pub(super) fn is_gone_for_broadcasts(&mut self, id: ConnId) {
        self.count_those_who_left(); // before its slot has another connection
        let topics = &self.state.topics;
        for fan_out in &self.fan_outs {
            let is_for = fan_out.part.topic().is_none_or(|name| topics.is_member(id.slot(), name));
            if is_for && fan_out.is_to_come_to(id.slot()) {
                fan_out.part.count(Fate::Gone);
            }
        }
    }

    /// Counts connections that have unsubscribed: broadcasts will not find them either.
    fn count_those_who_left(&mut self) {
        for (slot, name) in self.state.topics.take_left() {
            for fan_out in &self.fan_outs {
                if fan_out.part.topic() == Some(&name) && fan_out.is_to_come_to(slot) {
                    fan_out.part.count(Fate::Gone);
                }
            }
        }
    }

    /// The loop is told to stop and has no connection left, so no broadcast goes on. Connections that were
    /// given the payload in the last turn are still counted.
    #[cold]
    pub(super) fn end_broadcasts(&mut self) {
        while let Some(mut fan_out) = self.fan_outs.pop_front() {
            for id in fan_out.given.drain(..) {
                let fate = fate_of(&mut self.state, id);
                self.count(&fan_out.part, fate);
            }
            self.state.inbox.mail_weight.leave(fan_out.part.bytes().len());
            if guard(|| fan_out.part.finish()).is_none() {
                self.count_panic(Callback::Drop, None);
            }
        }
    }

    fn give(&mut self, fan_out: &mut FanOut) {
        let bytes = fan_out.part.bytes().clone();
        let limits = &self.state.limits;
        let share = limits.send_bytes_per_turn / bytes.len().max(1);
        let most = limits.broadcast_per_turn.min(share).max(1);
        for _ in 0..LOOKS {
            if fan_out.given.len() >= most {
                return;
            }
            let Some(id) = next(&mut self.state, fan_out) else {
                fan_out.from = None;
                return;
            };
            fan_out.from = id.slot().checked_add(1);
            let to_the_slow = fan_out.part.to_the_slow();
            let taken = self.state.with(id, |outbox, head| {
                match head.status.state() {
                    State::Open | State::PeerEnded => {}
                    // Not open yet, or over and counted already.
                    State::Connecting | State::Dead => return None,
                    _ => return Some(Fate::Gone),
                }
                if to_the_slow.is_none() && !outbox.has_room(head, bytes.len()) {
                    return Some(Fate::Dropped);
                }
                let at_limit = to_the_slow.unwrap_or_default();
                let (queued, displaced) = outbox.send_with(head, id, bytes.clone(), at_limit);
                fan_out.part.displaced(displaced);
                Some(if queued.is_taken() { Fate::Queued } else { Fate::Dropped })
            });
            match taken.flatten() {
                Some(Fate::Queued) => fan_out.given.push(id),
                Some(fate) => self.count(&fan_out.part, fate),
                None => {}
            }
        }
    }

    fn count(&self, part: &Part, fate: Fate) {
        part.count(fate);
        let counter = match fate {
            Fate::Dropped => Counter::BroadcastDropped,
            Fate::Delivered | Fate::Queued => Counter::BroadcastSent,
            Fate::Gone => return, // the connection is counted as closed
        };
        self.state.inbox.counters.add(counter, 1);
    }
}

/// The next connection that may be a receiver.
fn next<S, M>(state: &mut LoopState<S, M>, fan_out: &FanOut) -> Option<ConnId> {
    let from = fan_out.from?;
    match fan_out.part.topic() {
        None => state.table.next_live(from),
        Some(topic) => {
            let slot = state.topics.next_member(topic, from)?;
            Some(state.table.id_of(slot).expect("who is over has left its topics"))
        }
    }
}

/// What became of the payload at one receiver, after the turn has sent what it could.
fn fate_of<S, M>(state: &mut LoopState<S, M>, id: ConnId) -> Fate {
    let pending = state.with(id, |outbox, head| {
        (head.status.state() != State::Dead).then(|| outbox.pending(head))
    });
    match pending.flatten() {
        Some(0) => Fate::Delivered,
        Some(_) => Fate::Queued,
        None => Fate::Dropped,
    }
}
