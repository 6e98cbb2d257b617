//! The close gate of a mailbox: lets senders pass until it is closed, and knows how many are still
//! inside.
//!
//! Closing has to answer one question exactly: is there a sender that was let in and has not finished? With a
//! closed flag beside a count, a sender would write the one and read the other while the owner does the
//! reverse, and both would need a full fence. In one word they need none.
//!
//! ```text
//!   word = senders inside × INSIDE | CLOSED
//!
//!   a sender                               the owner
//!     enter: + INSIDE, unless CLOSED         close: | CLOSED
//!     push                                   wait until no sender is inside
//!     leave: - INSIDE                        drain the queue: it is final
//! ```
//!
//! Why that is enough: all changes of one word have one order. A sender that enters before the close is
//! counted in the word, so the owner waits for it. A sender that comes after the close is not let in, and
//! pushes nothing. Hence *once closed, the count only falls*, and the wait is bounded by the senders already
//! inside, however many others try. Each leaves by a Release, and every later change of the word carries that
//! on (a release sequence). So when the owner's Acquire reads a count of zero, each push happened before, and
//! the drain sees it.

use crate::threads::sync::{AtomicUsize, Ordering, yield_now};

/// No sender is let in any more. Never taken back.
const CLOSED: usize = 1;
/// One sender between `enter` and `leave`.
const INSIDE: usize = 2;

/// Lets senders in until it is closed. On its own cache line: two writes of every sender must not
/// disturb the queue.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct CloseGate {
    /// Senders inside, times INSIDE, plus CLOSED.
    word: AtomicUsize,
}

impl CloseGate {
    /// An open close gate with no sender inside.
    pub(super) fn new() -> Self {
        CloseGate { word: AtomicUsize::new(0) }
    }

    /// For a sender: true if it was let in, and then it must [`leave`](Self::leave). False if the
    /// close gate is closed.
    ///
    /// A read, not a write, once the close gate is closed.
    #[must_use = "whoever was let in must leave, or the owner waits for ever"]
    pub(super) fn enter(&self) -> bool {
        // Relaxed: the sender reads nothing that the owner wrote. Its push cannot get ahead of
        // being let in (it depends on it), and is held before the owner's drain by `leave`.
        let let_in = |word| {
            if word & CLOSED == 0 { Some(word + INSIDE) } else { None }
        };
        self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, let_in).is_ok()
    }

    /// Whether no sender is let in any more. Relaxed: for callers that only report it.
    #[allow(dead_code)] // in the model
    pub(super) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// For a sender that was let in: its push is done.
    pub(super) fn leave(&self) {
        // Pairs with the load in `wait_until_empty`. Relaxed, the owner could see the count fall
        // before it sees the push.
        self.word.fetch_sub(INSIDE, Ordering::Release);
    }

    /// From now on no sender is let in. Any thread, any number of times.
    pub(super) fn close(&self) {
        // Relaxed: the change only has to have its place in the order of this word.
        self.word.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// For the owner, after [`close`](Self::close): returns when every sender that was let in has left, and
    /// all their pushes are visible. A sender needs a few instructions, so this yields rather than sleeps.
    pub(super) fn wait_until_empty(&self) {
        // Pairs with `leave`. The owner has set the closed bit, so the word is exactly CLOSED when no sender
        // is inside.
        while self.word.load(Ordering::Acquire) != CLOSED {
            yield_now();
        }
    }
}
