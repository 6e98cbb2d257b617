//! Policies for a full server and for a full connection: `WhenFull` for clients, `OverflowPolicy` for
//! messages.

use std::time::Duration;

/// Connections that may be admitted above `connections_max` until their loops have made room for them.
const REUSED_AT_ONCE: usize = 64;

/// What happens to a client that connects when `connections_max` connections are open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// The client is refused.
    #[default]
    Refuse,
    /// An idle connection is evicted, and the client gets its place.
    ///
    /// The client's loop looks at 16 of its own connections. It closes the connection that has been idle for
    /// longest, and counts it as `CloseReason::Reused`. Idle means that nothing has moved on the connection
    /// for `min_idle`, and that nothing is under way on it. If the loop finds no such connection, the
    /// client is refused, even if another loop has one, because loops do not ask each other. The acceptor's
    /// rotation gives all loops similar connections. If the kernel spreads clients by a hash
    /// ([`ReusePort`](crate::server::Accept::ReusePort)), a loop with few connections may have none to evict.
    ///
    /// The kernel is asked how long a connection has been idle, so connections in use pay nothing. The kernel
    /// knows this only of TCP, so the connection of a client on a Unix socket is never evicted. Up to 64
    /// clients at once may be above the limit for a moment, and each descriptor table has that many places
    /// fewer. Bytes that a heartbeat sends count as traffic. With a heartbeat interval below `min_idle`, no
    /// connection is ever idle for that long.
    ReuseIdle {
        /// Minimum idle time of a connection that may be evicted. With zero, any idle time is enough.
        min_idle: Duration,
    },
}

impl WhenFull {
    /// Connections that may be admitted above the limit for a moment.
    pub(crate) fn spare(self) -> usize {
        match self {
            WhenFull::Refuse => 0,
            WhenFull::ReuseIdle { .. } => REUSED_AT_ONCE,
        }
    }
}

/// What happens to a message when its connection, or the loop's memory, is at its limit.
///
/// The policy applies in two cases:
///
/// - The connection is above its high watermark, and with the message its unsent bytes would pass
///   [`output_limit`](crate::Limits::output_limit).
/// - The connection has unsent bytes already, and its loop has buffered more than thirteen sixteenths of its
///   share of the [`memory_budget`](crate::Limits::memory_budget).
///
/// A message is what one `send_with` or one broadcast sends. The peer gets a message whole or not at all: a
/// message is never dropped after one of its bytes has been sent.
///
/// A message that may be dropped or replaced takes up to a hundred bytes beside its own. `output_limit`
/// bounds the sum of these bytes too, separately: at 1 MiB, some ten thousand one-byte messages can wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OverflowPolicy {
    /// The connection is closed with `CloseReason::OutputLimit`, as by any other send.
    #[default]
    Close,
    /// The new message is dropped.
    DropNewest,
    /// The oldest messages are dropped until there is room for the new message. Only messages that were
    /// sent with this policy, and of which no byte has been sent, are dropped. If they would not make room,
    /// the new message is dropped. While memory is short, each new message costs as many bytes of older
    /// messages. When the loop would reset the connection for want of memory, these messages are dropped
    /// first.
    DropOldest,
    /// The new message replaces the queued message with the same key, also below the limit. It takes the
    /// old message's position in the queue. A message of which some bytes have been sent is not replaced.
    /// So at most one whole message of each key waits, and it is the newest. If no such message waits, and
    /// the limit is reached, the new message is dropped. The key is compared with everything that waits,
    /// which costs some nanoseconds for each queued message.
    Conflate(u64),
}
