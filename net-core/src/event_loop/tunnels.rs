//! Tunnels: two connections whose bytes and ends pass from one to the other without the handler.
//!
//! Received bytes are copied into the partner's queue, as a handler would copy them. A splice takes more
//! calls, and is worth it only if many bytes came. A splice decides nothing: it may bring few bytes, or none,
//! because the socket is empty, or the pipe full, or because urgent data is next. So after each splice that
//! was not whole a receive follows. The loop believes what the receive finds, bytes or the end.

use super::EventLoop;
use super::receiving::Source;
use crate::api::handler::Handler;
use crate::base::id::ConnId;
use crate::connection::life::State;
use crate::connection::loop_state::Way;
use crate::connection::slot::Status;
use crate::driver::{Driver, Ending, Spliced};
use crate::observe::counters::Counter;

/// After a receive of so many bytes, or of a full block, the next receive is a splice. See decision 0050.
const BULK_BYTES: usize = 32 << 10;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    pub(super) fn is_tunnel(&mut self, id: ConnId) -> bool {
        self.state.head(id).is_some_and(|head| head.status.has(Status::TUNNEL))
    }

    /// Queues the bytes received at one end for the other end. Bytes that find no room are kept, and come
    /// again when there is room.
    pub(super) fn pass_on(&mut self, id: ConnId, source: Source) {
        let bytes = source.bytes(&self.driver);
        let len = bytes.len();
        let partner = self.state.partner_of(id);
        let queued = partner.and_then(|partner| {
            self.state.with(partner, |outbox, head| {
                let room = outbox.room_for(head, len)?;
                outbox.send(head, partner, &bytes[..room]).is_taken().then_some(room)
            })?
        });
        if queued.is_none() {
            // The other end takes no more bytes. This end learns that by its own end, or has learnt it.
            self.state.outbox.drops.add_bytes(len as u64);
        }
        if len >= self.bulk_bytes()
            && let Some(head) = self.state.head(id)
        {
            head.status.set(Status::BULK);
        }
        self.keep(id, source, queued.unwrap_or(len));
        self.after(id);
    }

    /// Moves `most` received bytes at most to the other end, inside the kernel. `None`: the connection has
    /// failed. Fewer than `most`: a receive must tell why.
    #[cold]
    pub(super) fn splice(&mut self, id: ConnId, most: usize) -> Option<usize> {
        let Some(partner) = self.state.partner_of(id) else { return Some(0) };
        if self.state.head(id).is_some_and(|head| head.status.has(Status::UNREAD)) {
            return Some(0); // the kept bytes go first
        }
        let queue = self.state.with(partner, |outbox, head| outbox.lend_queue(head));
        let Some(mut queue) = queue.flatten() else { return Some(0) };
        let mut spliced = Spliced::Nothing;
        if let Some(connection) = self.state.table.get(id) {
            let (socket, pool) = (&connection.head.socket, &mut self.state.outbox.pool);
            spliced = self.driver.splice(socket, most, &mut queue.output, pool);
        }
        self.state.with(partner, |outbox, head| outbox.return_queue(head, partner, queue));
        match spliced {
            Spliced::Bytes(bytes) => {
                let is_little = bytes < most.min(self.bulk_bytes());
                self.brought(id, bytes, is_little);
                Some(bytes)
            }
            Spliced::Nothing => Some(0),
            Spliced::NoPipe => {
                self.state.inbox.counters.add(Counter::PipesMissing, 1);
                Some(0)
            }
            Spliced::Failed(errno) => {
                self.failed(id, errno);
                None
            }
        }
    }

    /// `bytes` were spliced. Does everything that a receive of them would have done.
    fn brought(&mut self, id: ConnId, bytes: usize, is_little: bool) {
        self.state.tally.receives += 1;
        self.state.tally.received_bytes += bytes as u64;
        self.state.inbox.counters.add(Counter::BytesSpliced, bytes as u64);
        let Some(head) = self.state.head(id) else { return };
        if is_little {
            head.status.clear(Status::BULK);
        }
        if head.status.has(Status::RATED) {
            self.state.take_tokens(id, Way::In, bytes);
        }
        self.first_byte(id);
        self.state.touch(id);
        self.received_some(id, bytes as u32);
    }

    fn bulk_bytes(&self) -> usize {
        BULK_BYTES.min(self.state.limits.receive_max())
    }

    /// The peer of one end sends no more. So the other end sends what it has, and then no more.
    pub(super) fn pass_end(&mut self, id: ConnId) {
        let Some(partner) = self.state.partner_of(id) else {
            return self.wish(id, Status::WISH_CLOSE);
        };
        let kept = self.state.with(id, |_, head| {
            head.status.clear(Status::UNREAD | Status::AGAIN);
            head.cold.as_deref_mut()?.unread.take()
        });
        if let Some(kept) = kept.flatten() {
            self.state.with(partner, |outbox, head| outbox.queue_kept(head, partner, kept));
        }
        if !self.is_in(partner, State::Connecting) {
            self.wish(partner, Status::WISH_FINISH);
        }
    }

    /// One end was dialled and is up. The peer of the other end may have ended before.
    pub(super) fn end_came_before(&mut self, id: ConnId) {
        let Some(partner) = self.state.partner_of(id) else { return };
        let has_ended =
            self.is_in(partner, State::PeerEnded) || self.is_in(partner, State::LastBytes);
        if has_ended {
            self.wish(id, Status::WISH_FINISH);
        }
    }

    /// One end is over, so the other end ends: after its queued bytes, or at once if something failed.
    pub(super) fn end_tunnel(&mut self, id: ConnId, partner: ConnId, how: Ending) {
        let Some(head) = self.state.head(id) else { return };
        let is_orderly = how == Ending::Close && head.why.is_none_or(|why| why.is_orderly());
        self.wish(partner, if is_orderly { Status::WISH_CLOSE } else { Status::WISH_RESET });
    }

    fn wish(&mut self, id: ConnId, wish: u32) {
        self.state.with(id, |outbox, head| {
            if head.status.state() != State::Dead {
                outbox.wish(head, id, wish);
            }
        });
    }
}
