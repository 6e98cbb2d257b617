//! Output that does not come from the handler: the bytes that the other end of a tunnel has received.

use super::{ENDING, Outbox};
use crate::base::id::ConnId;
use crate::connection::slot::{Cold, Head, Status};
use net_buffer::Unread;

impl Outbox {
    /// How many of `len` bytes that the partner has received are to be queued now: no more than there is room
    /// for below the hard cap. `None`: the connection takes no more, ever.
    pub(crate) fn room_for(&self, head: &Head, len: usize) -> Option<usize> {
        let takes = head.status.state().takes_output() && !head.status.has(ENDING);
        takes.then(|| self.room(head).min(len))
    }

    /// Queues the kept bytes of the partner, whose end has come. They do not wait for room, since the end may
    /// not overtake them. So the queue may pass the hard cap by as much as may be kept.
    pub(crate) fn queue_kept(&mut self, head: &mut Head, id: ConnId, kept: Unread) {
        if self.room_for(head, 0).is_some() {
            self.spill(head);
            head.cold.get_or_insert_default().output.push(kept.as_slice(), &mut self.pool);
            self.list_unsent(head, id);
            let _ = self.hold_if_above(head);
        } else {
            self.drops.add_bytes(kept.len() as u64);
        }
        kept.release(&mut self.pool);
    }

    /// Lends the connection's queue to a splice, which gives it back by `return_queue`. `None`: it takes no
    /// more.
    pub(crate) fn lend_queue(&mut self, head: &mut Head) -> Option<Box<Cold>> {
        self.room_for(head, usize::MAX)?;
        self.spill(head);
        Some(head.cold.take().unwrap_or_default())
    }

    /// Takes the queue back. Bytes that the splice has put into it go out at the end of the turn.
    pub(crate) fn return_queue(&mut self, head: &mut Head, id: ConnId, queue: Box<Cold>) {
        let waits = !queue.output.is_empty();
        head.cold = Some(queue);
        if waits {
            head.status.set(Status::UNSENT);
            self.list_to_flush(head, id);
            let _ = self.hold_if_above(head);
        } else {
            head.drop_idle_cold();
        }
    }
}
