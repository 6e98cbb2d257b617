//! Counters of a loop or an acceptor, readable from any thread while it runs.

use crate::base::closed::{Closed, Why};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident = $label:literal,)*) => {
        /// What is counted. All grow for ever but the [levels](Counter::is_level).
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $doc])* $name,)* }

        impl Counter {
            /// Every counter, in order.
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)*];
            /// Its name, as it is exported.
            pub fn label(self) -> &'static str {
                match self { $(Counter::$name => $label,)* }
            }
            /// What it counts, in a sentence.
            pub fn help(self) -> String {
                let lines: &[&str] = match self { $(Counter::$name => &[$($doc),*],)* };
                lines.concat().trim_start().to_owned()
            }
            /// It rises and falls.
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
    /// Connections made elsewhere that were given to the server.
    Given = "given",
    /// Connections that this loop has taken over from the acceptor.
    Adopted = "adopted",
    /// Connections open now, in every state but dead.
    Open = "open",
    /// Bytes received.
    BytesIn = "bytes_in",
    /// Bytes the kernel took.
    BytesOut = "bytes_out",
    /// Receives that brought bytes.
    Receives = "receives",
    /// Sends that took bytes.
    Sends = "sends",
    /// Bytes that a tunnel has received past this process, by splice.
    BytesSpliced = "bytes_spliced",
    /// Large receives of tunnels that were copied, since there was no pipe for them.
    PipesMissing = "pipes_missing",
    /// Bytes buffered for connections, before the last wait; counted with a memory budget.
    Buffered = "buffered_bytes",
    /// Datagrams received.
    DatagramsIn = "datagrams_in",
    /// Datagrams dropped unheard, since they say that they come from an endpoint of the server itself.
    DatagramsOwn = "datagrams_own",
    /// Datagrams received beyond a turn's budget when the endpoint closed, and dropped unheard.
    DatagramsUnheard = "datagrams_unheard",
    /// Datagrams that the kernel took.
    DatagramsOut = "datagrams_out",
    /// Datagrams that were to be sent and were dropped, since the socket and its queue were full.
    DatagramsDropped = "datagrams_dropped",
    /// Datagrams that the kernel refused to send.
    DatagramsFailed = "datagrams_failed",
    /// Errors at receiving datagrams, such as those of datagrams that were sent before.
    DatagramErrors = "datagram_errors",
    /// Turns of the loop.
    Turns = "turns",
    /// Turns that were begun by another thread's ring.
    Wakeups = "wakeups",
    /// Messages taken from the mailbox.
    Mail = "mail",
    /// Messages waiting at the end of the last turn.
    Mailbox = "mailbox_depth",
    /// Connections to which a broadcast was sent.
    BroadcastSent = "broadcast_sent",
    /// Connections to which a broadcast was not sent: above their mark, at their limit, or ended.
    BroadcastDropped = "broadcast_dropped",
    /// Messages and timers lost to a panic, and messages left when the loop ended.
    MailLost = "mail_lost",
    /// Jobs in slices that are under way, at the end of the last turn that had one.
    Jobs = "jobs",
    /// Slices of jobs that were done.
    Slices = "slices",
    /// Jobs dropped unfinished: their connection, or the loop, had ended.
    JobsDropped = "jobs_dropped",
    /// Loop timers and deadlines armed now.
    Timers = "timers_armed",
    /// Loop timers and deadlines that fired.
    Fired = "timers_fired",
    /// Heartbeats that were due: calls of `on_heartbeat`.
    Heartbeats = "heartbeats",
    /// Times that a connection had to wait for its rate limit.
    RateWaits = "rate_waits",
    /// Callbacks that panicked.
    Panics = "panics",
    /// Bytes taken from a handler that never reached the kernel: the peer was gone, or its queue was full, or
    /// a newer message took the place of an older one ([`AtLimit`](crate::AtLimit)).
    BytesDropped = "bytes_dropped",
    /// Messages that were dropped at the hard cap, as their policy says.
    MessagesDropped = "messages_dropped",
    /// Messages in whose place a newer one with the same key was sent.
    MessagesReplaced = "messages_replaced",
    /// Accepts that failed for the connection's own reasons.
    AcceptSkipped = "accept_skipped",
    /// Listeners that ended because they could never accept again, and endpoints that could never
    /// receive again.
    ListenersBroken = "listeners_broken",
    /// Times that descriptors or memory ran out at accept.
    Starved = "accept_starved",
    /// Clients accepted and closed at once because descriptors had run out.
    Shed = "accept_shed",
    /// Times that a listener rested because clients came faster than they may be accepted.
    AcceptPaused = "accept_paused",
    /// Refused clients that were told so.
    RefusalsSent = "refusals_sent",
    /// Times that a loop was passed over because it had no room.
    LoopSkipped = "loop_skipped",
    /// Connections that the kernel closed on their way to a loop.
    LostOnTheWay = "lost_on_the_way",
    /// Connections refused because `connections_max` were open.
    RefusedFull = "refused_full",
    /// Connections refused because as many were open from the same source as may be.
    RefusedPerSource = "refused_per_source",
    /// Connections that the handler's `admit` refused.
    RefusedByHandler = "refused_by_handler",
    /// Connections refused because a listener for proxies does not trust where they came from.
    RefusedUntrusted = "refused_untrusted",
}

const COUNTERS: usize = Counter::ALL.len();

/// The counters of one thread. Only that thread writes; a plain load and store per count, no
/// locked instruction. On cache lines of its own, so that writing disturbs no other loop.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Counters {
    // Each is a count by itself: no other memory is published through it, so all is relaxed.
    counters: [AtomicU64; COUNTERS],
    closed: [AtomicU64; Closed::KINDS],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            counters: [const { AtomicU64::new(0) }; COUNTERS],
            closed: [const { AtomicU64::new(0) }; Closed::KINDS],
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

    pub(crate) fn closed(&self, why: Closed) {
        let place = &self.closed[why.kind()];
        place.store(place.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        match why {
            Closed::Refused(Why::Full) => self.add(Counter::RefusedFull, 1),
            Closed::Refused(Why::PerSource) => self.add(Counter::RefusedPerSource, 1),
            Closed::Refused(Why::Handler) => self.add(Counter::RefusedByHandler, 1),
            Closed::Refused(Why::Untrusted) => self.add(Counter::RefusedUntrusted, 1),
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

/// The counters of one thread, or a sum of several, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    counters: [u64; COUNTERS],
    closed: [u64; Closed::KINDS],
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { counters: [0; COUNTERS], closed: [0; Closed::KINDS] }
    }
}

impl Snapshot {
    /// One counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// How many connections closed, by reason: label and count.
    pub fn closed(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Closed::LABELS.into_iter().zip(self.closed)
    }

    /// How many connections closed for the reason `why`.
    pub fn closed_by(&self, why: Closed) -> u64 {
        self.closed[why.kind()]
    }

    /// How many connections closed, for whatever reason.
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

    /// The books: what came in (accepted, dialled, given) is open or closed for a reason. Exact on the
    /// sum over all threads once the server has ended; while it runs, connections on their way to
    /// a loop are missing on the right.
    pub fn balance(&self) -> bool {
        let came = [Counter::Accepted, Counter::Dialled, Counter::Given].map(|way| self.get(way));
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
        counters.closed(Closed::Local);
        assert!(!counters.snapshot().balance());
        counters.closed(Closed::PeerEnded);
        assert!(counters.snapshot().balance());
        let mut sum = counters.snapshot();
        sum.add(&counters.snapshot());
        assert!(sum.balance());
        assert_eq!(sum.closed_in_all(), 4);
        assert!(sum.to_string().contains("closed(local)=2"), "{sum}");
    }
}
