//! What becomes of one too many: a client, or a message.

use std::time::Duration;

/// Connections that may be in over `connections_max` until their loops have made room for them.
const REUSED_AT_ONCE: usize = 64;

/// What becomes of a client that comes when `connections_max` are open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// It is refused.
    #[default]
    Refuse,
    /// It gets the place of a connection on which nothing has moved for `min_idle`, and with which
    /// nothing is under way: the longest idle of 16 that its loop looks at. That one is closed, and
    /// counted as `Closed::Reused`. If there is none, the client is refused, although another loop may
    /// have one: loops ask each other nothing. The acceptor's rotation keeps them alike; where the
    /// kernel spreads by a hash ([`ReusePort`](crate::Accept::ReusePort)), and a loop has few
    /// connections, it may have none to give.
    ///
    /// The kernel is asked how long it is idle, so connections that are in use pay nothing; it knows
    /// of TCP alone, and a client on a Unix socket keeps its place. Up to 64 clients at once may be in
    /// over the limit, for a moment, and each descriptor table has that many places fewer. What a
    /// heartbeat sends moves too: with an interval below `min_idle` nobody is idle for so long.
    ReuseIdle {
        /// At the least; zero is any time.
        min_idle: Duration,
    },
}

impl WhenFull {
    /// Connections that may be in over the limit for a moment.
    pub(crate) fn spare(self) -> usize {
        match self {
            WhenFull::Refuse => 0,
            WhenFull::ReuseIdle { .. } => REUSED_AT_ONCE,
        }
    }
}

/// What becomes of a message for a connection that is above its high mark and whose unsent bytes would
/// pass [`output_limit`](crate::Limits::output_limit) with it; or to which something is owed already
/// while its loop is near its share of the [`memory_budget`](crate::Limits::memory_budget), at thirteen
/// sixteenths. A message is what one `send_or` or one broadcast brings. The peer gets it whole or not at
/// all: one of which a byte has left is never dropped.
///
/// A message that may be dropped or replaced takes up to a hundred bytes beside its own, which
/// `output_limit` bounds too, by themselves: of one-byte messages some ten thousand wait at 1 MiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AtLimit {
    /// The connection ends, with `Closed::OutputLimit`: as any other send.
    #[default]
    Close,
    /// The new message is dropped.
    DropNewest,
    /// The oldest messages that were sent with this policy and wait whole are dropped, until there
    /// is room. If that would not make room, the new message is dropped. While memory is short each new
    /// one costs as many bytes of older ones; and they go before their connection would be reset.
    DropOldest,
    /// A message takes the place of the one with the same key that waits whole, also below the
    /// limit; so of each key at most one waits, the newest, and one that changes often keeps its
    /// place in the line. Without such a one, and above the limit, the new message is dropped.
    /// The key is looked for among all that waits: some nanoseconds for each message.
    Conflate(u64),
}
