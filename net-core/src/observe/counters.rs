//! The counters of a loop or an acceptor. Any thread may read them while the loop runs.

use crate::base::close_reason::{CloseReason, RefuseReason};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident = $label:literal,)*) => {
        /// What is counted. All counters only grow, except the [levels](Counter::is_level).
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $doc])* $name,)* }

        impl Counter {
            /// Every counter, in order.
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)*];
            /// The name under which the counter is exported.
            pub fn label(self) -> &'static str {
                match self { $(Counter::$name => $label,)* }
            }
            /// What the counter counts, in a sentence.
            pub fn help(self) -> String {
                let lines: &[&str] = match self { $(Counter::$name => &[$($doc),*],)* };
                lines.concat().trim_start().to_owned()
            }
            /// Whether the value rises and falls.
            pub fn is_level(self) -> bool {
                matches!(
                    self,
                    Counter::Open
                        | Counter::Timers
                        | Counter::Mailbox
                        | Counter::Buffered
                        | Counter::Jobs
                )
            }
        }
    };
}

counters! {
    /// Connections accepted by this thread.
    Accepted = "accepted",
    /// Connections dialled from this loop.
    Dialled = "dialled",
    /// Connections made elsewhere and given to the server.
    Adopted = "adopted",
    /// Connections that this loop has taken over from the acceptor.
    HandedOver = "handed_over",
    /// Connections open now, in every state except dead.
    Open = "open",
    /// Bytes received.
    BytesIn = "bytes_in",
    /// Bytes that the kernel took to send.
    BytesOut = "bytes_out",
    /// Receive calls that returned bytes.
    Receives = "receives",
    /// Send calls in which the kernel took bytes.
    Sends = "sends",
    /// Bytes that a tunnel received by splice, without a copy into this process.
    BytesSpliced = "bytes_spliced",
    /// Large receives of tunnels that were copied because no pipe was available.
    PipesMissing = "pipes_missing",
    /// Bytes buffered for connections before the last wait. Counted only with a memory budget.
    Buffered = "buffered_bytes",
    /// Datagrams received.
    DatagramsIn = "datagrams_in",
    /// Datagrams dropped unread because their source address is an endpoint of the server itself.
    DatagramsOwn = "datagrams_own",
    /// Datagrams dropped unread because they were beyond a turn's budget when the endpoint closed.
    DatagramsUnheard = "datagrams_unheard",
    /// Datagrams that the kernel took.
    DatagramsOut = "datagrams_out",
    /// Datagrams that were not sent because the socket and its queue were full.
    DatagramsDropped = "datagrams_dropped",
    /// Datagrams that the kernel refused to send.
    DatagramsFailed = "datagrams_failed",
    /// Errors while receiving datagrams, such as errors caused by datagrams sent before.
    DatagramErrors = "datagram_errors",
    /// Turns of the loop.
    Turns = "turns",
    /// Turns that began because another thread woke the loop.
    Wakeups = "wakeups",
    /// Messages taken from the mailbox.
    Mail = "mail",
    /// Messages waiting at the end of the last turn.
    Mailbox = "mailbox_depth",
    /// Connections to which a broadcast was sent.
    BroadcastSent = "broadcast_sent",
    /// Connections to which a broadcast was not sent: above their high watermark, at their limit, or ended.
    BroadcastDropped = "broadcast_dropped",
    /// Messages and timers lost to a panic, and messages left when the loop ended.
    MailLost = "mail_lost",
    /// Sliced jobs under way at the end of the last turn that had such a job.
    Jobs = "jobs",
    /// Slices of jobs that have run.
    Slices = "slices",
    /// Jobs dropped unfinished because their connection or the loop had ended.
    JobsDropped = "jobs_dropped",
    /// Loop timers and deadlines armed now.
    Timers = "timers_armed",
    /// Loop timers and deadlines that fired.
    Fired = "timers_fired",
    /// Heartbeats that came due: calls of `on_heartbeat`.
    Heartbeats = "heartbeats",
    /// Times that a connection had to wait for its rate limit.
    RateWaits = "rate_waits",
    /// Callbacks that panicked.
    Panics = "panics",
    /// Bytes taken from a handler that never reached the kernel: the peer was gone, its queue was full, or a
    /// newer message replaced an older one ([`OverflowPolicy`](crate::limits::OverflowPolicy)).
    BytesDropped = "bytes_dropped",
    /// Messages dropped at the output limit, as their `OverflowPolicy` says.
    MessagesDropped = "messages_dropped",
    /// Messages replaced by a newer message with the same key.
    MessagesReplaced = "messages_replaced",
    /// Accepts that failed because of the connection to be accepted.
    AcceptSkipped = "accept_skipped",
    /// Listeners that ended because they could never accept again, and endpoints that could never
    /// receive again.
    ListenersBroken = "listeners_broken",
    /// Times that descriptors or memory ran out during accept.
    Starved = "accept_starved",
    /// Clients accepted and closed at once because descriptors had run out.
    Shed = "accept_shed",
    /// Times that a listener paused because clients came faster than the accept rate allows.
    AcceptPaused = "accept_paused",
    /// Refused clients to which the refusal message was sent.
    RefusalsSent = "refusals_sent",
    /// Times that a loop was skipped because it had no room for a connection.
    LoopSkipped = "loop_skipped",
    /// Connections that the kernel closed on the way to their loop.
    LostOnTheWay = "lost_on_the_way",
    /// Connections refused because `connections_max` were open.
    RefusedFull = "refused_full",
    /// Connections refused because `per_source_max` were open from the same source.
    RefusedPerSource = "refused_per_source",
    /// Connections that the handler's `admit` refused.
    RefusedByHandler = "refused_by_handler",
    /// Connections refused because a listener for proxies does not trust their source address.
    RefusedUntrusted = "refused_untrusted",
}

const COUNTERS: usize = Counter::ALL.len();

/// The counters of one thread. Only that thread writes them, with a plain load and store and no locked
/// instruction. They have cache lines of their own, so that a write does not slow another loop.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Counters {
    // No counter publishes other memory, so all accesses are relaxed.
    counters: [AtomicU64; COUNTERS],
    closed: [AtomicU64; CloseReason::KINDS],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            counters: [const { AtomicU64::new(0) }; COUNTERS],
            closed: [const { AtomicU64::new(0) }; CloseReason::KINDS],
        }
    }
}

impl Counters {
    #[inline]
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        let place = &self.counters[counter as usize];
        place.store(place.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn set(&self, counter: Counter, n: u64) {
        self.counters[counter as usize].store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn closed(&self, why: CloseReason) {
        let place = &self.closed[why.kind()];
        place.store(place.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        match why {
            CloseReason::Refused(RefuseReason::Full) => self.add(Counter::RefusedFull, 1),
            CloseReason::Refused(RefuseReason::PerSource) => self.add(Counter::RefusedPerSource, 1),
            CloseReason::Refused(RefuseReason::Handler) => self.add(Counter::RefusedByHandler, 1),
            CloseReason::Refused(RefuseReason::Untrusted) => self.add(Counter::RefusedUntrusted, 1),
            _ => {}
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let read = |place: &AtomicU64| place.load(Ordering::Relaxed);
        Snapshot {
            counters: self.counters.each_ref().map(read),
            closed: self.closed.each_ref().map(read),
        }
    }
}

/// The counters of one thread at one moment, or the sum of several threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    counters: [u64; COUNTERS],
    closed: [u64; CloseReason::KINDS],
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { counters: [0; COUNTERS], closed: [0; CloseReason::KINDS] }
    }
}

impl Snapshot {
    /// The value of one counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// How many connections closed for each reason, as pairs of label and count.
    pub fn closed(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CloseReason::LABELS.into_iter().zip(self.closed)
    }

    /// How many connections closed for the reason `why`.
    pub fn closed_by(&self, why: CloseReason) -> u64 {
        self.closed[why.kind()]
    }

    /// How many connections closed, for all reasons together.
    pub fn closed_in_all(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// Adds another thread's counters.
    pub fn add(&mut self, other: &Snapshot) {
        for (a, b) in self.counters.iter_mut().zip(other.counters) {
            *a = a.wrapping_add(b);
        }
        for (a, b) in self.closed.iter_mut().zip(other.closed) {
            *a = a.wrapping_add(b);
        }
    }

    /// Whether the books balance: accepted + dialled + given = open + closed.
    ///
    /// Exact for the sum over all threads after the server has ended. While the server runs, connections on
    /// their way to a loop are missing on the right side.
    pub fn is_balanced(&self) -> bool {
        let came = [Counter::Accepted, Counter::Dialled, Counter::Adopted].map(|way| self.get(way));
        came.iter().sum::<u64>() == self.get(Counter::Open) + self.closed_in_all()
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = Counter::ALL.iter().map(|&c| (c.label(), self.get(c)));
        let mut first = true;
        for (label, n) in counters.filter(|(_, n)| *n > 0) {
            write!(f, "{}{label}={n}", if first { "" } else { " " })?;
            first = false;
        }
        for (label, n) in self.closed().filter(|(_, n)| *n > 0) {
            write!(f, " closed({label})={n}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_books_balance_to_the_unit() {
        let counters = Counters::default();
        counters.add(Counter::Accepted, 3);
        counters.set(Counter::Open, 1);
        counters.closed(CloseReason::Local);
        assert!(!counters.snapshot().is_balanced());
        counters.closed(CloseReason::PeerEnded);
        assert!(counters.snapshot().is_balanced());
        let mut sum = counters.snapshot();
        sum.add(&counters.snapshot());
        assert!(sum.is_balanced());
        assert_eq!(sum.closed_in_all(), 4);
        assert!(sum.to_string().contains("closed(local)=2"), "{sum}");
    }
}
