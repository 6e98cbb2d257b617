//! What comes to be sent past the handler: the bytes that the other end of a tunnel brings.

use super::{ENDING, Outbox};
use crate::base::id::ConnId;
use crate::connection::slot::{Cold, Head, Status};
use net_buffer::Unread;

impl Outbox {
    /// How many of `len` bytes are to be queued now, that its partner has brought: no more than there
    /// is room for below the hard cap. `None`: it takes no more, ever.
    pub(crate) fn room_for(&self, head: &Head, len: usize) -> Option<usize> {
        let takes = head.status.state().takes_output() && !head.status.has(ENDING);
        takes.then(|| self.room(head).min(len))
    }

    /// Queues what was kept of its partner's, whose end has come. That does not wait for room, since the
    /// end may not overtake it: so what waits may be more than the hard cap by what may be kept.
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

    /// Gives its queue away for a splice, to be given back by `return_queue`. `None`: it takes no more.
    pub(crate) fn lend_queue(&mut self, head: &mut Head) -> Option<Box<Cold>> {
        self.room_for(head, usize::MAX)?;
        self.spill(head);
        Some(head.cold.take().unwrap_or_default())
    }

    /// Takes its queue back. What was put into it goes out at the end of the turn.
    pub(crate) fn return_queue(&mut self, head: &mut Head, id: ConnId, queue: Box<Cold>) {
        let waits = !queue.output.is_empty();
        head.cold = Some(queue);
        if waits {
            head.status.set(Status::UNSENT);
            self.list_to_flush(head, id);
            let _ = self.hold_if_above(head);
        } else {
            head.thaw();
        }
    }
}
