//! `Broadcast`: one payload to very many connections, and the account of what became of it.
//!
//! The bytes exist once. Each loop gets a [`Part`] by mail, goes over its connections a few in each
//! turn, and counts. A part that is lost on any way (a full mailbox, a loop that ends) says so when
//! it is dropped, so the account always closes.

use crate::base::panics::{guard, take_said};
use crate::config::policy::AtLimit;
use bytes::Bytes;
use parking_lot::Mutex;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// What is to be sent, and to whom: by default to every open connection of the server, except
/// connections above their high mark.
///
/// A loop works on one broadcast at a time, the oldest first, and gives it to
/// [`broadcast_per_turn`](crate::Limits::broadcast_per_turn) connections in each turn. So every connection
/// gets broadcasts in one order, and a broadcast to few waits behind a broadcast to very many. At most
/// [`broadcasts_max`](crate::Limits::broadcasts_max) wait on a loop; one more is not sent there, which
/// [`Report::loops_missed`] counts.
pub struct Broadcast {
    bytes: Bytes,
    topic: Option<Bytes>,
    to_the_slow: Option<AtLimit>,
    then: Option<Then>,
}

type Then = Box<dyn FnOnce(Report) + Send>;

impl Broadcast {
    /// These bytes to everybody. They are whole for each receiver, or not there at all.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), topic: None, to_the_slow: None, then: None }
    }

    /// Only to those who have [subscribed](crate::Conn::subscribe) to this topic.
    pub fn to_topic(mut self, topic: impl Into<Bytes>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Also to those above their high mark. At their
    /// [`output_limit`](crate::Limits::output_limit) they are closed, as by any other send. For
    /// those who would rather lose a connection than one message.
    pub fn also_to_the_slow(self) -> Self {
        self.at_limit(AtLimit::Close)
    }

    /// Also to those above their high mark; at their [`output_limit`](crate::Limits::output_limit),
    /// this message or older ones are dropped, as the policy says.
    pub fn at_limit(mut self, at_limit: AtLimit) -> Self {
        self.to_the_slow = Some(at_limit);
        self
    }

    /// Calls `then` once with the whole account, on the thread that closes it: most often a loop's,
    /// so it must not block. To tell a handler, let it post a message. It may begin the next broadcast.
    /// Where no loop takes that (the mailboxes are full, or the server has ended), its account closes at
    /// once, and what is to follow is called inside of this: 16 times in all, and then no more.
    pub fn then(mut self, then: impl FnOnce(Report) + Send + 'static) -> Self {
        self.then = Some(Box::new(then));
        self
    }

    /// A part for each of so many loops, and the view of them all.
    pub(crate) fn divide(self, loops: usize) -> (Delivery, Vec<Part>) {
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
        (Delivery(account), parts)
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

/// What has become of a broadcast so far. Receivers, but where it says loops.
///
/// When it is whole and was not cancelled, `delivered + queued + dropped + gone` are all for whom it was:
/// those who were open, or had subscribed, when their loop took it from its mailbox, and those who joined
/// before it had come to their place in the table. The loops that missed it are not in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The kernel has taken all of it.
    pub delivered: u64,
    /// Something waits in this process still: the receiver reads slowly. It gets the rest unless it
    /// ends before.
    pub queued: u64,
    /// Not sent: above its high mark, or at its limit, or it has ended before the kernel took all.
    pub dropped: u64,
    /// Those who were ending, had ended, or had unsubscribed before it came to them. A connection that
    /// subscribes again in a later callback is one more receiver; in the same callback it has never left.
    pub gone: u64,
    /// Older messages that were dropped, or replaced, to make room for this one
    /// ([`Broadcast::at_limit`]).
    pub displaced: u64,
    /// Loops that could not take it: their mailbox was full, they had
    /// [`broadcasts_max`](crate::Limits::broadcasts_max) under way, or they have ended. In a drain a loop ends
    /// when nobody is on it any more: then nobody has missed anything there.
    pub loops_missed: usize,
    /// Loops that are not through. At 0 the report is whole.
    pub loops_left: usize,
    /// It was cancelled; those who had not got it by then are in no figure.
    pub is_cancelled: bool,
}

/// A broadcast that is under way. Any thread may look at it; it goes on when this is dropped.
#[derive(Clone)]
pub struct Delivery(Arc<Account>);

impl Delivery {
    /// What has become of it so far.
    pub fn report(&self) -> Report {
        self.0.report()
    }

    /// Whether every loop is through.
    pub fn is_over(&self) -> bool {
        self.report().loops_left == 0
    }

    /// Ends it early: each loop stops in its next turn. What was sent is sent.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed); // a flag by itself
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivery").field(&self.report()).finish()
    }
}

struct Account {
    bytes: Bytes,
    topic: Option<Bytes>,
    to_the_slow: Option<AtLimit>,
    delivered: AtomicU64,
    queued: AtomicU64,
    dropped: AtomicU64,
    displaced: AtomicU64,
    gone: AtomicU64,
    loops_missed: AtomicUsize,
    /// Lowered (Release) after a loop's last count, and read first (Acquire): at 0 all counts are
    /// seen.
    loops_left: AtomicUsize,
    is_cancelled: AtomicBool,
    /// Until the account closes.
    then: Mutex<Option<Then>>,
}

impl Account {
    fn report(&self) -> Report {
        let loops_left = self.loops_left.load(Ordering::Acquire);
        Report {
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

/// One loop's part of a broadcast. Dropped before [`Part::finish`], it counts as missed.
pub(crate) struct Part {
    account: Arc<Account>,
    is_finished: bool,
}

/// What became of it for one receiver.
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

    /// What to do for those above their mark. `None`: pass them over.
    pub(crate) fn to_the_slow(&self) -> Option<AtLimit> {
        self.account.to_the_slow
    }

    /// It has cost so many older messages.
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

    /// The loop is through with it.
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

/// What follows a broadcast may begin another that no loop takes, whose account closes at once. So many
/// are called inside of the first.
const NESTED_MAX: usize = 16;

thread_local! {
    /// How many are called inside of the one that runs on this thread, and that one.
    static CALLED: Cell<usize> = const { Cell::new(0) };
}

fn follow(then: Then, report: Report) {
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
        let report = Report {
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

    /// A server that has ended takes no broadcast: each account closed inside of the call that began it,
    /// and one that was begun again by what follows it ran out of stack.
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
