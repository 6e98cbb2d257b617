//! `Outbox`: the bytes that callbacks queued and the wishes that callbacks noted, for the turn to carry out.
//!
//! All waiting bytes of one connection are in one place, so that their order is always known. They are in the
//! loop's cork, or in the connection's own `Output` once something is queued there.

mod marks;
mod piped;
mod policy;
mod room;

use crate::base::close_reason::CloseReason;
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
/// Most handlers can ignore it. Bytes are refused only if the connection is ending; `on_close` reports that,
/// and the bytes are counted. A handler that sends much must stop at `AboveHighWatermark`, and continue in
/// `on_writable`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendOutcome {
    /// The bytes were taken.
    Queued,
    /// The bytes were taken, and the connection is above its high watermark: wait for `on_writable`.
    AboveHighWatermark,
    /// The bytes were not taken: the connection is ending, or has reached its output limit and ends now.
    Refused,
    /// The message was not taken: the connection is at its output limit, and the message's
    /// [`OverflowPolicy`](crate::limits::OverflowPolicy) says to drop the message. The connection stays open.
    Dropped,
}

impl SendOutcome {
    /// Returns whether the bytes were taken.
    pub fn is_taken(self) -> bool {
        matches!(self, SendOutcome::Queued | SendOutcome::AboveHighWatermark)
    }
}

pub(crate) struct Outbox {
    pub(crate) cork: Cork,
    pub(crate) pool: Pool,
    /// Connections to flush at the end of the turn. The cork itself lists the connections with bytes in it.
    pub(crate) to_flush: VecDeque<ConnId>,
    /// Connections with a wish to carry out, or with a sent mark that is reached.
    pub(crate) wishes: VecDeque<ConnId>,
    /// The connection whose callback runs.
    running: Option<ConnId>,
    /// The callback brings the outcome of a job, and no input. (`begin` clears it; `call` sets it.)
    pub(crate) brings_outcome: bool,
    /// The running connection is not ending, and nothing waits that must be sent before its echo. So its
    /// input may be sent back from where it lies.
    may_direct: bool,
    /// The bytes lent to the running callback: address and length. Only these bytes can be sent back from
    /// where they lie, even if a handler makes an `Input` of its own.
    lent: (usize, usize),
    /// The range of the running callback's input to be sent back from where it lies.
    pub(crate) direct: Direct,
    /// Bytes and messages that were to be sent and were dropped.
    pub(crate) drops: Drops,
    /// The sent marks: handlers want to be told when all output before a mark is sent.
    pub(crate) marks: Marks,
    /// Connections with a payload whose drop panicked. The turn counts the panic and closes the connection.
    pub(crate) panicked: Vec<ConnId>,
    /// How many bytes of the running connection waited when its callback began (set by `begin`). All bytes
    /// after these are output of this callback.
    pub(crate) begun: usize,
    /// The watermarks in force, and the watermarks used while memory is not tight.
    watermarks: Watermarks,
    usual: Watermarks,
    /// Bytes of files that may still be sent in this turn.
    pub(crate) files_left: usize,
    output_limit: usize,
    /// The limit of the pool's memory for what callbacks send. `MAX`: no limit.
    memory_max: usize,
    /// The limit of the pool's memory for messages that may be dropped. It is below the level at which
    /// connections are reset.
    memory_for_lossy: usize,
}

/// What a queue may take in addition to its bytes, however low the output limit.
const LISTS_LEAST: usize = 64 << 10;

/// What a sent mark takes: its place in a list that has just grown.
const MARK_BYTES: usize = 32;

/// A range of the running callback's input. Empty: `from == to`.
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
    /// `memory_max`: the limit of the memory of all queued output.
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
    pub(crate) fn send(&mut self, head: &mut Head, id: ConnId, bytes: &[u8]) -> SendOutcome {
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

    /// Queues a reference-counted payload, without a copy for each receiver.
    pub(crate) fn send_shared(&mut self, head: &mut Head, id: ConnId, bytes: Bytes) -> SendOutcome {
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

    /// Queues a length prefix followed by a reference-counted payload: both or neither.
    pub(crate) fn send_frame(
        &mut self,
        head: &mut Head,
        id: ConnId,
        shape: &LengthPrefix,
        payload: Bytes,
    ) -> Result<SendOutcome, FrameError> {
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

    /// Queues a range of a file. Its bytes take no memory, so they do not count against the output limit. Its
    /// place in the queue does.
    pub(crate) fn send_file(
        &mut self,
        head: &mut Head,
        id: ConnId,
        range: FileRange,
    ) -> SendOutcome {
        if let Some(answer) = self.refusal_of(head, id, range.len(), 0) {
            return answer;
        }
        if self.bookkeeping(head) > self.lists_max() {
            self.wish(head, id, Status::WISH_CAP);
            return SendOutcome::Refused;
        }
        self.spill(head);
        let output = &mut head.cold.get_or_insert_default().output;
        if !output.has_room_for_file(&range) {
            // No file has so many bytes, so the file would end too early.
            head.cut_short(CloseReason::FileEnded);
            self.wish(head, id, Status::WISH_CAP);
            return SendOutcome::Refused;
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

    /// Like `begin`, for a connection on the straight path, which has nothing waiting.
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

    /// Marks a range of the running callback's input to be sent back from where it lies.
    ///
    /// Returns false if that would break the order, or if the bytes are not bytes that the callback was lent.
    /// Then send a copy.
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

    /// Output of this connection is queued that must be sent before a later echo.
    #[inline]
    fn bars_echo(&mut self, id: ConnId) {
        if self.running == Some(id) {
            self.may_direct = false;
        }
    }

    /// Returns the answer for bytes that are not to be queued; `None`: queue them.
    fn refusal(&mut self, head: &mut Head, id: ConnId, len: usize) -> Option<SendOutcome> {
        self.refusal_of(head, id, len, len)
    }

    /// Like `refusal`, for `len` bytes of which `in_memory` are in memory.
    fn refusal_of(
        &mut self,
        head: &mut Head,
        id: ConnId,
        len: usize,
        in_memory: usize,
    ) -> Option<SendOutcome> {
        if let Some(answer) = self.answer_at_once(head, id, len) {
            return Some(answer);
        }
        if self.excess_over_cap(head, in_memory) > 0 {
            // To continue after a gap is worse than to end: the peer could not see the gap.
            self.wish(head, id, Status::WISH_CAP);
            return Some(SendOutcome::Refused);
        }
        None
    }

    /// Returns the answer if the connection is ending or `len` is 0. If it returns `None`, the bytes are to
    /// be queued before anything that the running callback echoes later.
    fn answer_at_once(&mut self, head: &Head, id: ConnId, len: usize) -> Option<SendOutcome> {
        if !head.status.state().takes_output() || head.status.has(ENDING) {
            return Some(SendOutcome::Refused);
        }
        if len == 0 {
            return Some(SendOutcome::Queued);
        }
        self.bars_echo(id);
        None
    }

    /// Whether the loop may queue `bytes` more bytes.
    fn has_memory(&self, bytes: usize) -> bool {
        self.beyond_share(bytes) == 0
    }

    /// By how much `bytes` more bytes would exceed the memory that the loop may queue.
    fn beyond_share(&self, bytes: usize) -> usize {
        self.pool.memory().saturating_add(bytes).saturating_sub(self.memory_max)
    }

    /// The loop has queued as much as it may. This connection is ended, as at its own output limit, because
    /// no other connection can be ended in the middle of a callback.
    #[cold]
    fn out_of_memory(&mut self, head: &mut Head, id: ConnId) -> SendOutcome {
        head.cut_short(CloseReason::MemoryBudget);
        self.wish(head, id, Status::WISH_CAP);
        SendOutcome::Refused
    }

    /// How many bytes of this connection wait to be sent.
    pub(crate) fn pending(&self, head: &Head) -> usize {
        if head.status.has(Status::CORKED) { self.cork.len(head.corked) } else { head.unsent() }
    }

    /// How many of the pending bytes are in memory, and not in a file.
    fn in_memory(&self, head: &Head) -> usize {
        self.pending(head) - head.cold.as_deref().map_or(0, |cold| cold.output.in_files())
    }

    /// The memory that the connection's queue takes in addition to its bytes.
    fn bookkeeping(&self, head: &Head) -> usize {
        head.cold.as_deref().map_or(0, |cold| cold.output.bookkeeping())
    }

    /// The limit of that memory, and of the memory of the connection's sent marks.
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

    /// Offers the waiting bytes to the kernel again at the end of the turn, although none were added.
    pub(crate) fn offer_again(&mut self, head: &mut Head, id: ConnId) {
        self.spill(head);
        if head.status.has(Status::UNSENT) {
            self.list_to_flush(head, id);
        }
    }

    /// Lists the connection to be flushed at the end of the turn.
    pub(crate) fn list_to_flush(&mut self, head: &mut Head, id: ConnId) {
        if !head.status.has(Status::TO_FLUSH) {
            head.status.set(Status::TO_FLUSH);
            self.to_flush.push_back(id);
        }
    }

    /// Moves the connection's bytes from the cork to its own queue.
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

    /// Discards the connection's bytes in the cork.
    pub(crate) fn uncork(&mut self, head: &mut Head) {
        self.cork.let_go(head.corked);
        head.status.clear(Status::CORKED);
    }

    /// Puts bytes in front of everything that waits: the unsent rest of bytes that were offered first.
    pub(crate) fn put_back(&mut self, head: &mut Head, rest: &[u8]) {
        self.spill(head);
        head.cold.get_or_insert_default().output.push_front(rest, &mut self.pool);
        head.status.set(Status::UNSENT);
        if self.hold_if_above(head) {
            self.hold_own_input(head);
            let cold = head.cold();
            // These bytes were taken when nothing waited, so their length was not limited.
            cold.long = cold.long.max(rest.len());
        }
    }

    /// Sets a sent mark at the end of the output queued so far. If the marks take more memory than their
    /// limit, the connection ends.
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
        // This takes the connection off the straight path, which does not count sent bytes. It also lets the
        // turn look at the mark, which is reached already if nothing waits.
        self.wish(head, id, 0);
    }

    /// Takes the first reached mark of a connection.
    pub(crate) fn take_mark(&mut self, id: ConnId) -> Option<u64> {
        let tag = self.marks.take_reached(id)?;
        self.pool.discharge(MARK_BYTES);
        Some(tag)
    }

    /// Discards the notes about a connection that is over.
    pub(crate) fn forget(&mut self, id: ConnId) {
        self.drops.forget(id);
        self.forget_marks(id);
    }

    /// The memory that the sent marks of a connection take.
    pub(crate) fn memory_of_marks(&self, id: ConnId) -> usize {
        self.marks.of(id) * MARK_BYTES
    }

    /// Discards the sent marks of a connection. The handler is not told of them.
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

    /// Removes what was queued after the first `pending` bytes: the output of a callback that has panicked.
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

    /// Notes this connection if the drop of a payload has just panicked: the payload was this connection's.
    /// The turn counts the panic and closes the connection.
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
        self.list_wish(head, id); // so that the turn looks at this connection
    }

    /// Drops everything that waits on the connection.
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

    /// Notes a wish, to be carried out at the end of the callback or of the turn.
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

/// Wishes after which no further output is taken.
const ENDING: u32 =
    Status::WISH_FINISH | Status::WISH_CLOSE | Status::WISH_RESET | Status::WISH_CAP;
