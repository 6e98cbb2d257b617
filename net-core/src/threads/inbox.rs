//! `Inbox`: everything by which other threads reach one loop, and what they may read of it.

use crate::accept::admission::Arrival;
use crate::config::limits::Limits;
use crate::observe::counters::Counters;
use crate::observe::loop_activity::LoopActivity;
use crate::sys::Waker;
use crate::threads::control::{Control, Phase};
use crate::threads::mail::{Mail, MailWeight};
use crate::threads::mailbox::Mailbox;
use crate::threads::sleep::SleepWord;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What other threads have for one loop, which reads it each turn in this order: control, arrivals, mail.
pub(crate) struct Inbox<M> {
    pub(crate) waker: LoopWaker,
    pub(crate) control: Control,
    /// Connections for this loop, if it shares the acceptor's descriptor table.
    pub(crate) arrivals: ArrayQueue<Arrival>,
    /// No more arrivals will come by the queue. Stored (Release) after the last push.
    pub(crate) arrivals_ended: AtomicBool,
    pub(crate) mail: Mailbox<Mail<M>>,
    /// Bytes that wait in the mailbox, and in broadcasts that are under way.
    pub(crate) mail_weight: MailWeight,
    pub(crate) counters: Counters,
    /// What the loop does now, while stalls are looked for.
    pub(crate) activity: LoopActivity,
    /// Arrivals that the loop has taken so far. Stored (Release) after the open count that includes them, so
    /// that a thread that reads this first never counts a connection as neither.
    pub(crate) taken: AtomicU64,
    /// The loop's thread is past its last turn, or gone.
    pub(crate) is_over: AtomicBool,
}

impl<M> Inbox<M> {
    pub(crate) fn new(limits: &Limits) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            waker: LoopWaker::new(Arc::new(Waker::new()?)),
            control: Control::new(),
            arrivals: ArrayQueue::new(limits.arrivals_queue),
            arrivals_ended: AtomicBool::new(false),
            mail: Mailbox::new(limits.mail_queue),
            mail_weight: MailWeight::new(limits.mail_bytes),
            counters: Counters::default(),
            activity: LoopActivity::default(),
            taken: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }))
    }

    /// The second look before sleep: is there anything that the loop has not seen?
    /// The fd channel, a descriptor, wakes by itself.
    pub(crate) fn has_news(&self, obeyed: Phase, saw_the_end: bool) -> bool {
        self.control.phase() != obeyed
            || !self.arrivals.is_empty()
            || !self.mail.is_empty()
            || (!saw_the_end && self.arrivals_ended.load(Ordering::Acquire))
    }
}

/// The sleep word of one loop beside the eventfd that ends its sleep.
#[derive(Debug)]
pub(crate) struct LoopWaker {
    word: SleepWord,
    eventfd: Arc<Waker>,
}

impl LoopWaker {
    pub(crate) fn new(eventfd: Arc<Waker>) -> Self {
        Self { word: SleepWord::new(), eventfd }
    }

    /// Wakes the loop if it sleeps, after something was put where the loop looks. Any thread.
    pub(crate) fn wake(&self) {
        if self.word.must_wake() {
            self.eventfd.wake();
        }
    }

    pub(crate) fn word(&self) -> &SleepWord {
        &self.word
    }

    pub(crate) fn eventfd(&self) -> &Arc<Waker> {
        &self.eventfd
    }
}
