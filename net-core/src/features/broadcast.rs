//! `Broadcast`: sends one payload to very many connections and counts what became of it.
//!
//! The bytes exist once. Each loop gets a [`Part`] by mail. In each turn the loop sends the payload to a few
//! of its connections and counts the results. A part that is lost (a full mailbox, a loop that ends) is
//! counted as missed when it is dropped, so the account always closes.

use crate::base::panics::{guard, take_said};
use crate::config::policy::OverflowPolicy;
use bytes::Bytes;
use parking_lot::Mutex;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The payload of a broadcast and its receivers.
///
/// By default the receivers are all open connections of the server, except connections above their high
/// watermark.
///
/// A loop works on one broadcast at a time, the oldest first. It sends the payload to at most
/// [`broadcast_per_turn`](crate::Limits::broadcast_per_turn) connections per turn. So all connections of a
/// loop get the broadcasts in the same order, and a broadcast to few connections waits behind a broadcast to
/// very many. A loop holds at most [`broadcasts_max`](crate::Limits::broadcasts_max) broadcasts. A further
/// broadcast is not sent on that loop, and [`BroadcastReport::loops_missed`] counts the loop.
pub struct Broadcast {
    bytes: Bytes,
    topic: Option<Bytes>,
    to_the_slow: Option<OverflowPolicy>,
    then: Option<Then>,
}

type Then = Box<dyn FnOnce(BroadcastReport) + Send>;

impl Broadcast {
    /// Sends these bytes to all open connections. Each receiver gets all of the bytes or none of them.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), topic: None, to_the_slow: None, then: None }
    }

    /// Sends only to connections that have [subscribed](crate::Conn::subscribe) to this topic.
    pub fn to_topic(mut self, topic: impl Into<Bytes>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Sends also to connections above their high watermark.
    ///
    /// A connection that reaches its [`output_limit`](crate::Limits::output_limit) is closed, as with any
    /// other send. Use this where a lost connection is better than a lost message.
    pub fn also_to_the_slow(self) -> Self {
        self.at_limit(OverflowPolicy::Close)
    }

    /// Sends also to connections above their high watermark. On a connection at its
    /// [`output_limit`](crate::Limits::output_limit), this message or older messages are dropped, as
    /// `at_limit` says.
    pub fn at_limit(mut self, at_limit: OverflowPolicy) -> Self {
        self.to_the_slow = Some(at_limit);
        self
    }

    /// Calls `then` once with the final report.
    ///
    /// `then` runs on the thread that closes the account. That is usually a loop's thread, so `then` must not
    /// block. To tell a handler, post a message in `then`. `then` may begin the next broadcast. If no loop
    /// takes that broadcast (the mailboxes are full, or the server has ended), its account closes at once and
    /// its `then` is called inside this call. At most 16 calls are nested in this way; further calls are
    /// left out.
    pub fn then(mut self, then: impl FnOnce(BroadcastReport) + Send + 'static) -> Self {
        self.then = Some(Box::new(then));
        self
    }

    /// Makes a part for each of `loops` loops, and the handle that reports on all of them.
    pub(crate) fn divide(self, loops: usize) -> (BroadcastHandle, Vec<Part>) {
        let account = Arc::new(Account {
            bytes: self.bytes,
            topic: self.topic,
            to_the_slow: self.to_the_slow,
            delivered: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            displaced: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            loops_missed: AtomicUsize::new(0),
            loops_left: AtomicUsize::new(loops),
            is_cancelled: AtomicBool::new(false),
            then: Mutex::new(self.then),
        });
        let part = |_| Part { account: Arc::clone(&account), is_finished: false };
        let parts = (0..loops).map(part).collect();
        (BroadcastHandle(account), parts)
    }
}

impl<B: Into<Bytes>> From<B> for Broadcast {
    fn from(bytes: B) -> Self {
        Broadcast::new(bytes)
    }
}

impl fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast")
            .field("bytes", &self.bytes.len())
            .field("topic", &self.topic)
            .field("to_the_slow", &self.to_the_slow)
            .finish_non_exhaustive()
    }
}

/// What has become of a broadcast so far.
///
/// The figures count receivers, except where the field names messages or loops. In the final report of a
/// broadcast that was not cancelled, `delivered + queued + dropped + gone` is the number of all receivers.
/// The receivers are the connections that were open (with a topic: subscribed) when their loop took the
/// broadcast from its mailbox. Connections that joined before the loop had reached their slot in the table
/// count too. Connections of loops that missed the broadcast are not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BroadcastReport {
    /// Receivers whose copy was taken by the kernel completely.
    pub delivered: u64,
    /// Receivers that read slowly: some bytes were still queued in this process. The rest is sent later,
    /// unless the connection ends first.
    pub queued: u64,
    /// Receivers that did not get the payload: the connection was above its high watermark, was at its
    /// output limit, or ended before the kernel had taken all bytes.
    pub dropped: u64,
    /// Receivers that were ending, had ended, or had unsubscribed before the loop reached them. A connection
    /// that subscribes again in a later callback counts as a further receiver. A connection that subscribes
    /// again in the same callback has not left.
    pub gone: u64,
    /// Older messages that were dropped or replaced to make room for this message
    /// ([`Broadcast::at_limit`]).
    pub displaced: u64,
    /// Loops that did not take the broadcast: their mailbox was full, they already had
    /// [`broadcasts_max`](crate::Limits::broadcasts_max) broadcasts, or they had ended. In a drain a loop
    /// ends when it has no connections left. No receiver misses the broadcast on such a loop.
    pub loops_missed: usize,
    /// Loops that have not finished. At 0 the report is final.
    pub loops_left: usize,
    /// The broadcast was cancelled. Receivers that had not been reached by then are in no figure.
    pub is_cancelled: bool,
}

/// A handle to a broadcast that is under way. Any thread may use it. Dropping it does not stop the broadcast.
#[derive(Clone)]
pub struct BroadcastHandle(Arc<Account>);

impl BroadcastHandle {
    /// Returns what has become of the broadcast so far.
    pub fn report(&self) -> BroadcastReport {
        self.0.report()
    }

    /// Returns whether every loop has finished.
    pub fn is_over(&self) -> bool {
        self.report().loops_left == 0
    }

    /// Ends the broadcast early: each loop stops in its next turn. Sends that are done are not undone.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed); // no other memory depends on it
    }
}

impl fmt::Debug for BroadcastHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BroadcastHandle").field(&self.report()).finish()
    }
}

struct Account {
    bytes: Bytes,
    topic: Option<Bytes>,
    to_the_slow: Option<OverflowPolicy>,
    delivered: AtomicU64,
    queued: AtomicU64,
    dropped: AtomicU64,
    displaced: AtomicU64,
    gone: AtomicU64,
    loops_missed: AtomicUsize,
    /// Decremented (Release) after a loop's last count. `report` reads it first (Acquire), so at 0 all
    /// counts are visible.
    loops_left: AtomicUsize,
    is_cancelled: AtomicBool,
    /// Taken out when the account closes.
    then: Mutex<Option<Then>>,
}

impl Account {
    fn report(&self) -> BroadcastReport {
        let loops_left = self.loops_left.load(Ordering::Acquire);
        BroadcastReport {
            delivered: self.delivered.load(Ordering::Relaxed),
            queued: self.queued.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            gone: self.gone.load(Ordering::Relaxed),
            displaced: self.displaced.load(Ordering::Relaxed),
            loops_missed: self.loops_missed.load(Ordering::Relaxed),
            loops_left,
            is_cancelled: self.is_cancelled.load(Ordering::Relaxed),
        }
    }
}

/// One loop's part of a broadcast. A part that is dropped without [`Part::finish`] counts as missed.
pub(crate) struct Part {
    account: Arc<Account>,
    is_finished: bool,
}

/// What became of a broadcast for one receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Delivered,
    Queued,
    Dropped,
    Gone,
}

impl Part {
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.account.bytes
    }

    pub(crate) fn topic(&self) -> Option<&Bytes> {
        self.account.topic.as_ref()
    }

    /// What to do with receivers above their high watermark. `None`: skip them.
    pub(crate) fn to_the_slow(&self) -> Option<OverflowPolicy> {
        self.account.to_the_slow
    }

    /// Counts older messages that were dropped or replaced for this one.
    pub(crate) fn displaced(&self, messages: u64) {
        if messages > 0 {
            self.account.displaced.fetch_add(messages, Ordering::Relaxed); // published by `loops_left`
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.account.is_cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, fate: Fate) {
        let account = &self.account;
        let counter = match fate {
            Fate::Delivered => &account.delivered,
            Fate::Queued => &account.queued,
            Fate::Dropped => &account.dropped,
            Fate::Gone => &account.gone,
        };
        counter.fetch_add(1, Ordering::Relaxed); // published by `loops_left`
    }

    /// The loop has finished its part.
    pub(crate) fn finish(mut self) {
        self.is_finished = true;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let account = &self.account;
        if !self.is_finished {
            account.loops_missed.fetch_add(1, Ordering::Relaxed); // published just below
        }
        if account.loops_left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let then = account.then.lock().take();
        if let Some(then) = then {
            follow(then, account.report());
        }
    }
}

/// The most `then` calls that may be nested inside the first one. A `then` may begin a broadcast that no loop
/// takes; the account of that broadcast closes at once and calls its own `then`.
const NESTED_MAX: usize = 16;

thread_local! {
    /// How many `then` calls run on this thread now, one inside another.
    static CALLED: Cell<usize> = const { Cell::new(0) };
}

fn follow(then: Then, report: BroadcastReport) {
    let before = CALLED.get();
    if before > NESTED_MAX {
        tracing::error!("broadcasts that nobody takes follow one another without end");
        return;
    }
    CALLED.set(before + 1);
    if guard(|| then(report)).is_none() {
        tracing::error!(said = take_said(), "what was to follow a broadcast panicked");
    }
    if before == 0 {
        CALLED.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_closes_whatever_becomes_of_the_parts() {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&reports);
        let broadcast = Broadcast::new("all").then(move |report| told.lock().push(report));
        let (delivery, mut parts) = broadcast.divide(3);
        let last = parts.pop().unwrap();
        let fates = [Fate::Delivered, Fate::Delivered, Fate::Queued, Fate::Dropped, Fate::Gone];
        for fate in fates {
            last.count(fate);
        }
        drop(parts.pop().unwrap());
        parts.pop().unwrap().finish();
        assert!(!delivery.is_over() && reports.lock().is_empty());
        last.finish();
        let report = BroadcastReport {
            delivered: 2,
            queued: 1,
            dropped: 1,
            gone: 1,
            displaced: 0,
            loops_missed: 1,
            loops_left: 0,
            is_cancelled: false,
        };
        assert_eq!(delivery.report(), report);
        assert_eq!(*reports.lock(), [report], "and it is told once");
    }

    /// A server that has ended takes no broadcast, so each account closes inside the call that began the
    /// broadcast. A `then` that began the broadcast again used up the stack.
    #[test]
    fn broadcasts_that_nobody_takes_do_not_follow_one_another_for_ever() {
        fn again(called: &Arc<AtomicUsize>) {
            called.fetch_add(1, Ordering::Relaxed);
            let next = Arc::clone(called);
            drop(Broadcast::new("all").then(move |_| again(&next)).divide(1));
        }
        let called = Arc::new(AtomicUsize::new(0));
        for round in 1..=2 {
            again(&called);
            assert_eq!(called.load(Ordering::Relaxed), round * (2 + NESTED_MAX));
        }
    }

    #[test]
    fn what_follows_may_panic() {
        let (delivery, parts) = Broadcast::new("all").then(|_| panic!("on purpose")).divide(1);
        drop(parts);
        assert!(delivery.is_over());
    }
}
