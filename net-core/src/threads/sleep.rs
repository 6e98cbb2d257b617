//! The word by which a loop tells other threads that it sleeps, so that they wake only a loop that sleeps.
//!
//! Waking costs a system call; a busy loop needs none, because it looks at its queues every turn
//! anyway. So a loop declares that it is about to sleep, and a sender wakes (writes the loop's
//! eventfd) only after having seen that declaration. This module promises:
//!
//! - **no lost wake-up**: a loop which sleeps with an item waiting has a wake on its way;
//! - **one wake per sleep**: of N senders that find the loop asleep, exactly one is told to wake.
//!
//! The module knows neither the queues nor the eventfd. The caller publishes before it asks
//! [`SleepWord::must_wake`], and says in [`SleepWord::try_sleep`] how to look for work. One word serves any
//! number of queues.
//!
//! # Why nothing is lost
//!
//! Each side writes one place and then reads the other's:
//!
//! ```text
//!        the loop                               a sender
//!
//!   1.  word := ASLEEP                     a.  publish the item
//!   2.  ===== fence(SeqCst) =====          b.  ===== fence(SeqCst) =====
//!   3.  look for items again  (reads a)    c.  look at the word  (reads 1)
//!   4.  none? sleep until a wake           d.  ASLEEP? make it AWAKE; on success wake the loop
//! ```
//!
//! A wake-up is lost only if *both* looks miss: 3 sees no item and c sees no sleeper. This is the
//! store-buffering shape (Dekker's), and Release/Acquire does not forbid it: each store may still
//! sit in its core's store buffer while the load behind it already runs; x86 does that too. Two
//! SeqCst fences forbid it. All such fences have one order that all threads agree on, and a load
//! behind the later fence sees any store before the earlier one (or something newer). So
//!
//! - if 2 comes first, c sees ASLEEP or something newer, and the sender wakes the loop unless a newer
//!   sender did;
//! - if b comes first, 3 sees the item, and the loop does not sleep.
//!
//! "Something newer" than this ASLEEP at c is an AWAKE. Another sender may have put it there: its wake for
//! this sleep is then on its way. Or the loop has put it there: the loop is awake, and has another 1-2-3
//! ahead of it before it can sleep again. c did not see the ASLEEP of *that* round either, so b comes before
//! that round's fence, and the loop's second look finds the item.
//!
//! What each part is for, and what is lost without it:
//!
//! - **fence 2**: look 3 may run before declaration 1 is visible; the item is missed, and its
//!   sender saw AWAKE.
//! - **fence b**: look c may run before publication a is visible; the sleeper is missed, and its
//!   look saw no item.
//! - **second look 3, behind 1**: an item published after the last look of the turn, whose sender
//!   looked before 1, waits until something else wakes the loop.
//! - **a before c**: a sender may look before the loop declares, and publish after the loop has
//!   looked.
//! - **compare-and-swap in d**: by a plain store, two senders would both believe that they must wake the
//!   loop.
//!
//! # Late and stale wakes
//!
//! A sender may take the ASLEEP and then be delayed before it writes the eventfd, while the loop
//! wakes for another reason, works, and sleeps again. Its wake then ends the *next* sleep early:
//! one wake-up for nothing, and harmless. The same happens when the second look finds work after
//! that. None is lost the other way round: a wake stays in the eventfd's counter until the loop
//! reads it, and a read which takes a wake happens after the publication before that wake, so the
//! look that follows finds the item. This puts one duty on the loop: *read the eventfd first, then
//! take from the queues*, and never between the second look and the sleep.
//!
//! A wake that is meant for this sleep cannot be used up by an earlier sleep: its sender took *this* ASLEEP
//! away, so the sender wrote the eventfd after the loop's last read.
//!
//! libuv coalesces wake-ups by a bit too, but `uv_async_send` looks at it by a relaxed load without
//! a fence; fence b is left to its callers, who may not know. When BIND 9 lost wake-ups
//! (libuv#4584), an optimisation of how the eventfd is read (e5cb1d3d3) was reverted (18d48bc13);
//! its maintainers then suspected that it had only moved the timing, and that a fence was missing
//! in the caller (libuv#4589). Here both fences are inside the two calls, so no caller can leave
//! one out, and `tests/loom_sleep.rs` shows that the model fails without either of them, and
//! without the second look.

use std::marker::PhantomData;

use crate::threads::sync::{AtomicU32, Ordering, fence};

/// The loop looks at its queues before it next sleeps; no sender needs to wake it.
const AWAKE: u32 = 0;
/// The loop sleeps, or is about to unless its second look finds work. A sender that replaces this by AWAKE
/// must wake the loop.
const ASLEEP: u32 = 1;

/// Whether one loop sleeps. The loop calls [`try_sleep`](Self::try_sleep) and [`woke`](Self::woke),
/// any other thread [`must_wake`](Self::must_wake).
///
/// Alone on its cache line, because every sender reads it with every item, and must not pay for
/// what lies beside it.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct SleepWord<F: Fences = SeqCst> {
    /// AWAKE or ASLEEP. Only the loop writes ASLEEP. Every access is relaxed: the order between
    /// this word and the queues comes from the two fences alone, and which sender took the ASLEEP
    /// away is a matter of this word alone.
    word: AtomicU32,
    fences: PhantomData<F>,
}

impl<F: Fences> SleepWord<F> {
    /// The word of a loop that is awake.
    pub(crate) fn new() -> Self {
        SleepWord { word: AtomicU32::new(AWAKE), fences: PhantomData }
    }

    /// For the loop: declares it asleep, then looks again. True: nothing waits, and a sender that publishes
    /// from now on wakes the loop. So the loop may sleep, and calls [`woke`](Self::woke) afterwards. False:
    /// there is work, and the loop is awake.
    ///
    /// `has_work` must look at *every* inbox whose senders ask this word. A turn which is not
    /// going to sleep need not call this at all.
    #[must_use = "a loop that sleeps although there is work may sleep for ever"]
    pub(crate) fn try_sleep(&self, has_work: impl FnOnce() -> bool) -> bool {
        // Pairs with the load in `must_wake`, by way of the fences. After the look, the store would come too
        // late.
        self.word.store(ASLEEP, Ordering::Relaxed);
        F::sleeper();
        if has_work() {
            self.woke();
            return false;
        }
        true
    }

    /// For the loop: it is awake again, for whatever reason, and senders can save their wakes.
    ///
    /// Forgetting this costs one wake for nothing per wake-up, and loses none.
    pub(crate) fn woke(&self) {
        // May overwrite the AWAKE of a sender whose wake is still to come: that wake ends the next
        // sleep early.
        self.word.store(AWAKE, Ordering::Relaxed);
    }

    /// For a sender, *after* it has published its item: true if it must wake the loop now. Of all senders
    /// that meet the same sleep, exactly one gets true.
    #[must_use = "the loop sleeps until the one who was told so has rung"]
    pub(crate) fn must_wake(&self) -> bool {
        F::sender();
        // The load pairs with the store in `try_sleep`, by way of the fences, and keeps the line
        // shared while the loop is awake. The exchange writes only if it takes an ASLEEP: loom
        // cannot place the needless AWAKE of a swap among the loop's plain stores, and would report
        // a loss that the memory model rules out.
        self.word.load(Ordering::Relaxed) == ASLEEP
            && self
                .word
                .compare_exchange(ASLEEP, AWAKE, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// The two fences of a [`SleepWord`]. A parameter only so that the models can leave one out and
/// show that they notice.
pub(crate) trait Fences {
    /// Stands between the loop's declaration and its second look.
    fn sleeper();
    /// Stands between a sender's publication and its look at the word.
    fn sender();
}

/// The fences as they must be.
#[derive(Debug)]
pub(crate) struct SeqCst;

impl Fences for SeqCst {
    fn sleeper() {
        fence(Ordering::SeqCst);
    }

    fn sender() {
        fence(Ordering::SeqCst);
    }
}
