//! What callbacks leave behind: bytes to send and wishes about connections. The turn carries
//! them out.
//!
//! Bytes of one connection always wait in one place, so that their order is never in question:
//! either in the loop's cork, or, once something is queued there, in its own `Output`.

mod marks;
mod piped;
mod policy;
mod room;

use crate::base::closed::Closed;
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::connection::cork::Cork;
use crate::connection::slot::{Head, Status};
use bytes::Bytes;
pub(crate) use marks::Marks;
use net_buffer::{FileRange, FrameError, LengthPrefix, Pool};
pub(crate) use policy::Drops;
use room::Watermarks;
use std::collections::VecDeque;

/// What became of bytes that were given to `send`.
///
/// Most handlers need not look: bytes are refused only where the connection is ending, of which
/// `on_close` tells, and they are counted. A handler that sends much looks for `Above`, and goes on in
/// `on_room`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queued {
    /// Taken.
    Queued,
    /// Taken, and the connection is above its high mark: wait for `on_room`.
    Above,
    /// Not taken: the connection is ending, or has reached its hard cap and ends now.
    Refused,
    /// Not taken: the connection is at its hard cap, and the message's
    /// [`AtLimit`](crate::AtLimit) says to drop it. The connection goes on.
    Dropped,
}

impl Queued {
    /// Whether the bytes were taken.
    pub fn is_taken(self) -> bool {
        matches!(self, Queued::Queued | Queued::Above)
    }
}

pub(crate) struct Outbox {
    pub(crate) cork: Cork,
    pub(crate) pool: Pool,
    /// Connections with bytes for the end of the turn; those in the cork are known to the cork.
    pub(crate) to_flush: VecDeque<ConnId>,
    /// Connections of which something was wished, or a mark is reached.
    pub(crate) wishes: VecDeque<ConnId>,
    /// The connection whose callback runs.
    running: Option<ConnId>,
    /// The callback brings the outcome of a job, and no input. (Set by `call`, as `begin` leaves it.)
    pub(crate) brings_outcome: bool,
    /// Nothing of the running connection's waits before what it echoes, nor is it ending: its
    /// input may go back from where it lies.
    may_direct: bool,
    /// The bytes that the running callback was lent: their address and how many. Only these can
    /// go back from where they lie, whatever `Input` a handler may make itself.
    lent: (usize, usize),
    /// Of the running callback's input, the stretch that is to be sent back as it lies.
    pub(crate) direct: Direct,
    /// What was to be sent and never will be.
    pub(crate) drops: Drops,
    /// Where handlers want to be told that all before has left.
    pub(crate) marks: Marks,
    /// Connections of whose payloads one has panicked when it was dropped, to be counted and closed.
    pub(crate) panicked: Vec<ConnId>,
    /// Bytes of the running connection that had waited when its callback began, as `begin` has seen
    /// it: what comes behind them is this callback's.
    pub(crate) begun: usize,
    /// The watermarks that are in force, and those that are when memory is not tight.
    watermarks: Watermarks,
    usual: Watermarks,
    /// Bytes of files that may still be sent in this turn.
    pub(crate) files_left: usize,
    output_limit: usize,
    /// What the pool may come to by what callbacks send. `MAX`: as much as they like.
    memory_max: usize,
    /// What it may come to by messages of which one may be dropped: below the mark at which connections
    /// are reset.
    memory_for_lossy: usize,
}

/// However low the hard cap, a queue may take so much beside its bytes.
const LISTS_LEAST: usize = 64 << 10;

/// What a mark takes: its place in a list that has just grown.
const MARK_BYTES: usize = 32;

/// A stretch of the running callback's input. Empty: `from == to`.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Direct {
    pub(crate) from: usize,
    pub(crate) to: usize,
}

impl Direct {
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.from == self.to
    }
}

impl Outbox {
    /// `memory_max`: what all that is queued here may come to.
    pub(crate) fn new(limits: &Limits, memory_max: usize) -> Self {
        let mut pool = Pool::new(limits.pool_retain_bytes);
        pool.allow_pipes(limits.pipes_max);
        if memory_max < usize::MAX {
            pool.count_payloads_once();
        }
        let usual = Watermarks::of(limits);
        Self {
            cork: Cork::new(limits.cork_bytes),
            pool,
            to_flush: VecDeque::new(),
            wishes: VecDeque::new(),
            running: None,
            brings_outcome: false,
            may_direct: false,
            lent: (0, 0),
            direct: Direct::default(),
            drops: Drops::default(),
            marks: Marks::default(),
            panicked: Vec::new(),
            begun: 0,
            watermarks: usual,
            usual,
            files_left: limits.file_bytes_per_turn,
            output_limit: limits.output_limit,
            memory_max,
            memory_for_lossy: memory_max / 16 * 13,
        }
    }

    /// Queues a copy of `bytes`.
    pub(crate) fn send(&mut self, head: &mut Head, id: ConnId, bytes: &[u8]) -> Queued {
        if let Some(answer) = self.refusal(head, id, bytes.len()) {
            return answer;
        }
        if !head.status.has(Status::UNSENT) {
            if let Some(owner) = self.cork.add(self.owner_of(head), id, bytes) {
                head.corked = owner;
                head.status.set(Status::CORKED);
                return self.mark(head, id);
            }
            self.spill(head);
        }
        if !self.has_memory(bytes.len()) {
            return self.out_of_memory(head, id);
        }
        head.cold.get_or_insert_default().output.push(bytes, &mut self.pool);
        self.list_unsent(head, id);
        self.mark(head, id)
    }

    /// Queues a counted payload: no copy for each receiver.
    pub(crate) fn send_shared(&mut self, head: &mut Head, id: ConnId, bytes: Bytes) -> Queued {
        if let Some(answer) = self.refusal(head, id, bytes.len()) {
            return answer;
        }
        self.spill(head);
        if !self.has_memory(self.pool.cost_of(&bytes)) {
            return self.out_of_memory(head, id);
        }
        head.cold.get_or_insert_default().output.push_shared(bytes, &mut self.pool);
        self.list_unsent(head, id);
        self.blame(head, id);
        self.mark(head, id)
    }

    /// Queues a prefix and a counted payload behind it: both, or neither.
    pub(crate) fn send_frame(
        &mut self,
        head: &mut Head,
        id: ConnId,
        shape: &LengthPrefix,
        payload: Bytes,
    ) -> Result<Queued, FrameError> {
        let (_, width) = shape.encode_header(payload.len())?;
        if let Some(answer) = self.refusal(head, id, payload.len().saturating_add(width)) {
            return Ok(answer);
        }
        self.spill(head);
        if !self.has_memory(self.pool.cost_of(&payload).saturating_add(width)) {
            return Ok(self.out_of_memory(head, id));
        }
        head.cold.get_or_insert_default().output.push_frame(shape, payload, &mut self.pool)?;
        self.list_unsent(head, id);
        self.blame(head, id);
        Ok(self.mark(head, id))
    }

    /// Queues a stretch of a file. Its bytes take no memory, so the hard cap does not know them; what
    /// its place in the queue takes, the cap knows.
    pub(crate) fn send_file(&mut self, head: &mut Head, id: ConnId, range: FileRange) -> Queued {
        if let Some(answer) = self.refusal_of(head, id, range.len(), 0) {
            return answer;
        }
        if self.bookkeeping(head) > self.lists_max() {
            self.wish(head, id, Status::WISH_CAP);
            return Queued::Refused;
        }
        self.spill(head);
        let output = &mut head.cold.get_or_insert_default().output;
        if !output.has_room_for_file(&range) {
            // No file has so many bytes: it could only end too early.
            head.cut_short(Closed::FileEnded);
            self.wish(head, id, Status::WISH_CAP);
            return Queued::Refused;
        }
        if !self.has_memory(0) {
            return self.out_of_memory(head, id);
        }
        head.cold.get_or_insert_default().output.push_file(range, &mut self.pool);
        self.list_unsent(head, id);
        self.mark(head, id)
    }

    /// A callback of this connection begins.
    #[inline]
    pub(crate) fn begin(&mut self, head: &Head, id: ConnId, lent: &[u8]) {
        self.running = Some(id);
        self.brings_outcome = false;
        self.lent = (lent.as_ptr() as usize, lent.len());
        self.direct = Direct::default();
        self.begun = self.pending(head);
        self.may_direct =
            !head.status.has(Status::UNSENT | Status::CORKED | Status::RATED | ENDING)
                && head.status.state().takes_output();
    }

    /// As `begin`, for a connection on the straight path, of which nothing waits.
    #[inline]
    pub(crate) fn begin_straight(&mut self, id: ConnId, lent: &[u8]) {
        self.running = Some(id);
        self.lent = (lent.as_ptr() as usize, lent.len());
        self.direct = Direct::default();
        self.may_direct = true;
    }

    /// The running callback has ended.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.running = None;
    }

    /// Marks a stretch of the running callback's input to be sent back from where it lies. False
    /// if that would break the order, or the bytes are others than it was lent: then send a copy.
    #[inline]
    pub(crate) fn echo(&mut self, id: ConnId, bytes: &[u8]) -> bool {
        let from = (bytes.as_ptr() as usize).wrapping_sub(self.lent.0);
        let to = from.wrapping_add(bytes.len());
        let is_lent = from <= to && to <= self.lent.1;
        if self.running != Some(id) || !self.may_direct || !is_lent {
            return false;
        }
        if self.direct.is_empty() {
            self.direct = Direct { from, to };
        } else if self.direct.to == from {
            self.direct.to = to;
        } else {
            return false;
        }
        true
    }

    /// Something of this connection's has come before what it may echo later.
    #[inline]
    fn bars_echo(&mut self, id: ConnId) {
        if self.running == Some(id) {
            self.may_direct = false;
        }
    }

    /// The answer for bytes that are not queued at all.
    fn refusal(&mut self, head: &mut Head, id: ConnId, len: usize) -> Option<Queued> {
        self.refusal_of(head, id, len, len)
    }

    /// The same for bytes of which so many are to be in memory.
    fn refusal_of(
        &mut self,
        head: &mut Head,
        id: ConnId,
        len: usize,
        in_memory: usize,
    ) -> Option<Queued> {
        if let Some(answer) = self.answer_at_once(head, id, len) {
            return Some(answer);
        }
        if self.excess_over_cap(head, in_memory) > 0 {
            // To go on after a gap would be worse than to end: the peer could not tell.
            self.wish(head, id, Status::WISH_CAP);
            return Some(Queued::Refused);
        }
        None
    }

    /// The answer for bytes of an ending connection, or for none. Without one, what the running
    /// callback echoes later has something before it.
    fn answer_at_once(&mut self, head: &Head, id: ConnId, len: usize) -> Option<Queued> {
        if !head.status.state().takes_output() || head.status.has(ENDING) {
            return Some(Queued::Refused);
        }
        if len == 0 {
            return Some(Queued::Queued);
        }
        self.bars_echo(id);
        None
    }

    /// So many bytes more are within what the loop may queue.
    fn has_memory(&self, bytes: usize) -> bool {
        self.beyond_share(bytes) == 0
    }

    /// With so many bytes more, what would be queued beyond what the loop may.
    fn beyond_share(&self, bytes: usize) -> usize {
        self.pool.memory().saturating_add(bytes).saturating_sub(self.memory_max)
    }

    /// The loop has queued all that it may. This connection is what ends, as at its own limit: in the
    /// middle of a callback no other can.
    #[cold]
    fn out_of_memory(&mut self, head: &mut Head, id: ConnId) -> Queued {
        head.cut_short(Closed::MemoryBudget);
        self.wish(head, id, Status::WISH_CAP);
        Queued::Refused
    }

    /// Bytes of this connection that wait to be sent.
    pub(crate) fn pending(&self, head: &Head) -> usize {
        if head.status.has(Status::CORKED) { self.cork.len(head.corked) } else { head.unsent() }
    }

    /// Those of them that are in memory, and not in a file.
    fn in_memory(&self, head: &Head) -> usize {
        self.pending(head) - head.cold.as_deref().map_or(0, |cold| cold.output.in_files())
    }

    /// What its queue takes beside bytes.
    fn bookkeeping(&self, head: &Head) -> usize {
        head.cold.as_deref().map_or(0, |cold| cold.output.bookkeeping())
    }

    /// What that may come to, and what its marks may.
    fn lists_max(&self) -> usize {
        self.output_limit.max(LISTS_LEAST)
    }

    fn owner_of(&self, head: &Head) -> u16 {
        if head.status.has(Status::CORKED) { head.corked } else { 0 }
    }

    fn list_unsent(&mut self, head: &mut Head, id: ConnId) {
        head.status.set(Status::UNSENT);
        if self.running != Some(id) {
            self.list_to_flush(head, id);
        }
    }

    /// What waits is to be offered at the turn's end, although nothing was added.
    pub(crate) fn offer_again(&mut self, head: &mut Head, id: ConnId) {
        self.spill(head);
        if head.status.has(Status::UNSENT) {
            self.list_to_flush(head, id);
        }
    }

    /// It is to be flushed at the turn's end.
    pub(crate) fn list_to_flush(&mut self, head: &mut Head, id: ConnId) {
        if !head.status.has(Status::TO_FLUSH) {
            head.status.set(Status::TO_FLUSH);
            self.to_flush.push_back(id);
        }
    }

    /// Moves what waits in the cork to the connection's own queue.
    pub(crate) fn spill(&mut self, head: &mut Head) {
        if !head.status.has(Status::CORKED) {
            return;
        }
        let output = &mut head.cold.get_or_insert_default().output;
        for piece in self.cork.pieces(head.corked) {
            output.push(piece, &mut self.pool);
        }
        self.uncork(head);
        head.status.set(Status::UNSENT);
    }

    /// Forgets what waits in the cork.
    pub(crate) fn uncork(&mut self, head: &mut Head) {
        self.cork.let_go(head.corked);
        head.status.clear(Status::CORKED);
    }

    /// Puts bytes in front of everything that waits: the unsent rest of what was offered first.
    pub(crate) fn put_back(&mut self, head: &mut Head, rest: &[u8]) {
        self.spill(head);
        head.cold.get_or_insert_default().output.push_front(rest, &mut self.pool);
        head.status.set(Status::UNSENT);
        if self.hold_if_above(head) {
            self.hold_own_input(head);
            let cold = head.cold();
            // It was taken when nothing waited, whatever its length.
            cold.long = cold.long.max(rest.len());
        }
    }

    /// Marks the end of what was given to be sent so far. At the hard cap, which knows what the marks
    /// take, the connection ends.
    pub(crate) fn mark_sent(&mut self, head: &mut Head, id: ConnId, tag: u64) {
        if self.marks.of(id).saturating_mul(MARK_BYTES) > self.lists_max() {
            return self.wish(head, id, Status::WISH_CAP);
        }
        if !self.has_memory(MARK_BYTES) {
            _ = self.out_of_memory(head, id);
            return;
        }
        let direct = if self.running == Some(id) { self.direct.to - self.direct.from } else { 0 };
        self.marks.set(id, self.pending(head) + direct, tag);
        self.pool.charge(MARK_BYTES);
        // Off the straight path, where nobody counts; and if nothing waits it is reached already.
        self.wish(head, id, 0);
    }

    /// Takes the first mark of a connection that is reached.
    pub(crate) fn take_mark(&mut self, id: ConnId) -> Option<u64> {
        let tag = self.marks.take_reached(id)?;
        self.pool.discharge(MARK_BYTES);
        Some(tag)
    }

    /// Forgets what was noted of a connection that is over.
    pub(crate) fn forget(&mut self, id: ConnId) {
        self.drops.forget(id);
        self.forget_marks(id);
    }

    /// What the marks of that connection take.
    pub(crate) fn memory_of_marks(&self, id: ConnId) -> usize {
        self.marks.of(id) * MARK_BYTES
    }

    /// That connection is told of no more marks.
    pub(crate) fn forget_marks(&mut self, id: ConnId) {
        self.pool.discharge(self.marks.forget(id) * MARK_BYTES);
    }

    /// The kernel has taken bytes of a connection.
    #[cold]
    pub(crate) fn note_sent(&mut self, head: &mut Head, id: ConnId, bytes: usize) {
        if self.marks.sent(id, bytes) {
            self.list_wish(head, id);
        }
    }

    /// Takes back what was queued after the first `pending` bytes: a callback's output, when it
    /// has panicked.
    pub(crate) fn undo(&mut self, head: &mut Head, id: ConnId, pending: usize) {
        let now = self.pending(head);
        if now <= pending {
            return;
        }
        self.drops.add_bytes((now - pending) as u64);
        self.spill(head);
        let cold = head.cold.get_or_insert_default();
        cold.output.truncate(pending, &mut self.pool);
        if cold.output.is_empty() {
            head.status.clear(Status::UNSENT);
        }
        self.blame(head, id);
    }

    /// If a payload that was just dropped has panicked, it was this connection's: the turn counts it, and
    /// closes the connection.
    #[inline]
    pub(crate) fn blame(&mut self, head: &mut Head, id: ConnId) {
        if self.pool.has_panicked() {
            self.note_panics(head, id);
        }
    }

    #[cold]
    fn note_panics(&mut self, head: &mut Head, id: ConnId) {
        let panics = self.pool.take_panics();
        self.panicked.extend(std::iter::repeat_n(id, panics));
        self.list_wish(head, id); // so that the turn looks
    }

    /// Drops all that waits.
    pub(crate) fn drop_all(&mut self, head: &mut Head, id: ConnId) {
        if head.status.has(Status::CORKED) {
            self.drops.add_bytes(self.cork.len(head.corked) as u64);
            self.uncork(head);
        }
        if let Some(cold) = head.cold.as_deref_mut() {
            self.drops.add_bytes(cold.output.clear(&mut self.pool) as u64);
            if let Some(unread) = cold.unread.take() {
                unread.release(&mut self.pool);
            }
        }
        head.status.clear(Status::UNSENT | Status::UNREAD);
        head.cold = None;
        self.blame(head, id);
    }

    /// Notes a wish, for the end of the callback or of the turn.
    pub(crate) fn wish(&mut self, head: &mut Head, id: ConnId, wish: u32) {
        self.bars_echo(id);
        head.status.set(wish);
        self.list_wish(head, id);
    }

    pub(crate) fn list_wish(&mut self, head: &mut Head, id: ConnId) {
        if !head.status.has(Status::WISHED) {
            head.status.set(Status::WISHED);
            self.wishes.push_back(id);
        }
    }

    /// Whether the turn has something to carry out.
    pub(crate) fn is_empty(&self) -> bool {
        self.to_flush.is_empty() && self.wishes.is_empty() && self.cork.owners() == 0
    }
}

/// Wishes after which nothing more is taken for sending.
const ENDING: u32 =
    Status::WISH_FINISH | Status::WISH_CLOSE | Status::WISH_RESET | Status::WISH_CAP;
