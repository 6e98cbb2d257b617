//! Answers queries about the loop's connections by a walk over the table. The walk goes in slices, so that a
//! million connections delay no turn.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::id::ConnId;
use crate::connection::life::State;
use crate::connection::slot::Status;
use crate::driver::Driver;
use crate::observe::connection_query::{By, Largest, PendingQuery, Query, QueryResult, Row};
use std::sync::Arc;

/// Connections that a walk looks at in a turn, if each costs a few loads.
const SLICE: usize = 1024;
/// The same, if each costs a system call.
const SLICE_OF_CALLS: usize = 128;

/// A walk that is under way.
pub(super) struct Walk {
    asked: Arc<PendingQuery>,
    by: By,
    /// The slot from which the walk goes on.
    from: u32,
    largest: Largest<u64>,
}

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// A query has come. Its walk, if it needs one, begins in this turn.
    pub(super) fn asked(&mut self, asked: Arc<PendingQuery>) {
        match asked.question {
            Query::Kill(id) => {
                let found = self.state.with(id, |outbox, head| {
                    let lives = head.status.state() != State::Dead;
                    if lives {
                        outbox.wish(head, id, Status::WISH_RESET);
                    }
                    lives
                });
                asked.answer(QueryResult::Killed(found == Some(true)));
            }
            Query::Top { by, most } => {
                // The asker bounds its own queries, but may forget some and ask anew.
                self.walks.retain(|walk| !walk.asked.is_forgotten());
                self.walks.push_back(Walk { asked, by, from: 0, largest: Largest::new(most) });
            }
        }
    }

    /// Goes on with the oldest walk, for one slice.
    #[cold]
    pub(super) fn walk_on(&mut self) {
        self.watch_own_work();
        let Some(mut walk) = self.walks.pop_front() else { return };
        if walk.asked.is_forgotten() {
            return;
        }
        let slice = if walk.by == By::Bytes { SLICE_OF_CALLS } else { SLICE };
        for _ in 0..slice {
            let Some(id) = self.state.table.next_live(walk.from) else {
                // Some of these connections may have ended meanwhile.
                let rows = walk.largest.into_ids().filter_map(|id| self.row(id));
                return walk.asked.answer(QueryResult::Top(rows.collect()));
            };
            walk.from = id.slot() + 1;
            let Some(size) = self.size(id, walk.by) else { continue };
            walk.largest.show(size, id);
        }
        self.walks.push_front(walk);
    }

    fn size(&mut self, id: ConnId, by: By) -> Option<u64> {
        match by {
            By::Queue => {
                let unsent = self.state.with(id, |outbox, head| outbox.pending(head))?;
                Some((unsent + self.unread(id)) as u64)
            }
            By::Bytes => {
                let moved = self.driver.moved(&self.state.head(id)?.socket).unwrap_or_default();
                Some(moved.received + moved.acknowledged)
            }
            By::Cpu => self.cpu_accounting.as_ref().map(|cpu_accounting| cpu_accounting.of(id)),
        }
    }

    fn unread(&mut self, id: ConnId) -> usize {
        let cold = self.state.head(id).and_then(|head| head.cold.as_deref());
        cold.and_then(|cold| cold.unread.as_ref()).map_or(0, |unread| unread.len())
    }

    fn row(&mut self, id: ConnId) -> Option<Row> {
        let unsent = self.state.with(id, |outbox, head| outbox.pending(head))?;
        let unread = self.unread(id);
        let peer = self.state.peer(id);
        let head = self.state.head(id)?;
        let state = head.status.state().label();
        let moved = self.driver.moved(&head.socket);
        let nanos = self.cpu_accounting.as_ref().map(|cpu_accounting| cpu_accounting.of(id));
        Some(Row { id, peer, state, unsent, unread, moved, nanos })
    }
}
