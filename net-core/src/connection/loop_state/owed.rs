//! What is still to come for a connection: answers that are made elsewhere, a finish when nothing is owed any
//! more, and the last word.

use super::LoopState;
use crate::base::id::ConnId;
use crate::connection::slot::Status;
use bytes::Bytes;
use std::any::Any;

/// Kept beside the table, while the connection has a job under way or is to finish when nothing is owed.
#[derive(Default)]
pub(crate) struct Owed {
    /// Jobs of this connection that are under way, in slices or in a pool.
    jobs: u32,
    /// What the handler has said last by `set_busy`. `Status::BUSY` is set while this is true, or while a job
    /// is under way.
    is_busy: bool,
    /// The connection finishes as soon as nothing is owed.
    finishes: bool,
}

/// What is sent to a peer at the moment at which its connection is found idle, and closes.
pub(crate) enum LastWord {
    Bytes(Bytes),
    /// A callback that sends it: a `SaysLast` of the handler.
    By(Box<dyn Any>),
}

impl<S, M> LoopState<S, M> {
    /// A job of this connection has begun: the connection is busy until the job is done.
    pub(crate) fn job_begun(&mut self, id: ConnId) {
        let Some(head) = self.table.get(id).map(|connection| &mut connection.head) else { return };
        let owed = self.owed.entry(id).or_default();
        if owed.jobs == 0 {
            owed.is_busy = head.status.has(Status::BUSY);
            head.status.set(Status::BUSY);
        }
        owed.jobs += 1;
    }

    /// A job of this connection is done, or given up. The caller then looks at the connection again.
    pub(crate) fn job_done(&mut self, id: ConnId) {
        let Some(owed) = self.owed.get_mut(&id).filter(|owed| owed.jobs > 0) else { return };
        owed.jobs -= 1;
        if owed.jobs > 0 {
            return;
        }
        let (is_busy, finishes) = (owed.is_busy, owed.finishes);
        if !finishes {
            self.owed.remove(&id);
        }
        if !is_busy && let Some(head) = self.head(id) {
            head.status.clear(Status::BUSY);
        }
    }

    /// The handler says whether it works for this connection elsewhere.
    pub(crate) fn say_busy(&mut self, id: ConnId, is_busy: bool) {
        if !self.owed.is_empty()
            && let Some(owed) = self.owed.get_mut(&id).filter(|owed| owed.jobs > 0)
        {
            owed.is_busy = is_busy;
            return;
        }
        let Some(head) = self.head(id) else { return };
        if is_busy {
            head.status.set(Status::BUSY);
        } else {
            head.status.clear(Status::BUSY);
        }
    }

    /// Whether an answer may still come for this connection: it is busy, or `on_writable` or `on_sent` is
    /// due, in which a handler goes on with a long answer.
    pub(crate) fn is_owed(&mut self, id: ConnId) -> bool {
        let Some(head) = self.table.get(id).map(|connection| &connection.head) else {
            return false;
        };
        let marks = &self.outbox.marks;
        head.status.has(Status::BUSY | Status::HELD) || (!marks.is_empty() && marks.has(id))
    }

    pub(crate) fn finishes_later(&mut self, id: ConnId) {
        self.owed.entry(id).or_default().finishes = true;
    }

    /// Whether the connection is to finish when nothing is owed.
    pub(crate) fn is_to_finish(&self, id: ConnId) -> bool {
        !self.owed.is_empty() && self.owed.get(&id).is_some_and(|owed| owed.finishes)
    }

    /// The connection has been finished.
    pub(crate) fn finishes_no_more(&mut self, id: ConnId) {
        if let Some(owed) = self.owed.get_mut(&id) {
            owed.finishes = false;
            if owed.jobs == 0 {
                self.owed.remove(&id);
            }
        }
    }
}
