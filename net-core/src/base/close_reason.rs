//! The reasons why a connection closed, and the names of the callbacks.

use crate::sys::Errno;
use std::fmt;

/// Why a connection ended. The reason is given to `on_close`, and counted under [`CloseReason::label`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended the connection first, and all output for the peer was sent.
    PeerEnded,
    /// The peer reset the connection, or vanished while output for the peer was unsent.
    PeerReset,
    /// The handler ended the connection by `finish`, `close` or `reset`.
    Local,
    /// A deadline passed.
    Deadline(DeadlineKind),
    /// Unsent bytes reached [`output_limit`](crate::Limits::output_limit).
    OutputLimit,
    /// Unread bytes reached [`input_bytes_max`](crate::Limits::input_bytes_max).
    InputLimit,
    /// The connection was accepted and closed at once.
    Refused(RefuseReason),
    /// The listener requires a PROXY header, and the header of this connection was not valid.
    ProxyHeader(BadHeader),
    /// The dialled name has no address, or the resolver could not look it up. The log has the resolver's
    /// error; [`Conn::dialled_name`](crate::Conn::dialled_name) is the name.
    Unresolved,
    /// A file ended before the range that was to be sent. The connection is reset, so that the peer does not
    /// mistake what it received for the whole range.
    FileEnded,
    /// The server drained and the connection had nothing left to do.
    Draining,
    /// The server drained, and the connection had not finished by the drain's deadline.
    DrainDeadline,
    /// The server was stopped at once.
    Stopped,
    /// The loop's share of the [`memory_budget`](crate::Limits::memory_budget) was used up, and this
    /// connection had the most unsent bytes, or was being sent to.
    MemoryBudget,
    /// The server was full when another client came, and this connection had been idle for the longest time
    /// among those sampled: [`when_full`](crate::Limits::when_full).
    Reused,
    /// A callback of this connection panicked.
    Panicked(Callback),
    /// The kernel returned this error for the connection.
    Machine(Errno),
}

/// The deadlines of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum DeadlineKind {
    /// No byte was received or sent for the idle timeout.
    Idle,
    /// The first byte did not come in time.
    FirstByte,
    /// The deadline that the handler set by `set_deadline`.
    Own,
    /// A dialled connection was not established in time.
    Connect,
    /// The peer of a closing connection did not take the remaining output in time.
    Write,
    /// A message had begun to arrive and was not complete in time.
    Message,
    /// Unsent bytes rose above the high watermark and did not fall to the low watermark in time.
    Stuck,
    /// The connection reached its maximum lifetime.
    Lifetime,
}

/// Why an accepted connection was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum RefuseReason {
    /// `connections_max` connections are open.
    Full,
    /// `per_source_max` connections from the same source are open.
    PerSource,
    /// The handler's `admit` refused it.
    Handler,
    /// The listener is for proxies, and does not trust the address from which this connection came.
    Untrusted,
}

/// What is wrong with the PROXY header of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum BadHeader {
    /// The received bytes do not begin with a PROXY header.
    Missing,
    /// The bytes begin like a PROXY header, but the rest is not valid.
    Malformed,
    /// The header has more than 107 bytes in version 1, or announces more than 4,096 bytes in version 2.
    TooLong,
    /// The header was not complete within [`proxy_header_timeout`](crate::Limits::proxy_header_timeout).
    Late,
}

/// The callbacks of a [`Handler`](crate::Handler).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)] // each variant is the callback of that name
pub enum Callback {
    Admit,
    Open,
    Data,
    Writable,
    End,
    Deadline,
    Sent,
    Draining,
    Heartbeat,
    Close,
    Message,
    Timer,
    Datagram,
    /// A slice of a job.
    Job,
    /// The closure that receives a thread pool's answer.
    Answer,
    /// The drop of a session, a message, a job or an answer.
    Drop,
}

impl CloseReason {
    /// Whether the connection ended by a decision and not by a failure.
    pub(crate) fn is_orderly(self) -> bool {
        matches!(
            self,
            CloseReason::PeerEnded
                | CloseReason::Local
                | CloseReason::Draining
                | CloseReason::Reused
                | CloseReason::Deadline(DeadlineKind::Idle)
        )
    }
}

impl Callback {
    /// Every callback, in order.
    pub const ALL: &'static [Callback] = &[
        Callback::Admit,
        Callback::Open,
        Callback::Data,
        Callback::Writable,
        Callback::End,
        Callback::Deadline,
        Callback::Sent,
        Callback::Draining,
        Callback::Heartbeat,
        Callback::Close,
        Callback::Message,
        Callback::Timer,
        Callback::Datagram,
        Callback::Job,
        Callback::Answer,
        Callback::Drop,
    ];

    /// The name under which the callback is exported: the name of the method.
    pub fn label(self) -> &'static str {
        match self {
            Callback::Admit => "admit",
            Callback::Open => "on_open",
            Callback::Data => "on_data",
            Callback::Writable => "on_writable",
            Callback::End => "on_end",
            Callback::Deadline => "on_deadline",
            Callback::Sent => "on_sent",
            Callback::Draining => "on_draining",
            Callback::Heartbeat => "on_heartbeat",
            Callback::Close => "on_close",
            Callback::Message => "on_message",
            Callback::Timer => "on_timer",
            Callback::Datagram => "on_datagram",
            Callback::Job => "job",
            Callback::Answer => "answer",
            Callback::Drop => "drop",
        }
    }
}

impl CloseReason {
    /// The number of different labels.
    pub const KINDS: usize = 24;

    /// The index of the label in [`CloseReason::LABELS`], below [`CloseReason::KINDS`].
    pub fn kind(self) -> usize {
        match self {
            CloseReason::PeerEnded => 0,
            CloseReason::PeerReset => 1,
            CloseReason::Local => 2,
            CloseReason::Deadline(DeadlineKind::Idle) => 3,
            CloseReason::Deadline(DeadlineKind::FirstByte) => 4,
            CloseReason::Deadline(DeadlineKind::Own) => 5,
            CloseReason::Deadline(DeadlineKind::Connect) => 6,
            CloseReason::Deadline(DeadlineKind::Write) => 7,
            CloseReason::OutputLimit => 8,
            CloseReason::InputLimit => 9,
            CloseReason::Refused(_) => 10,
            CloseReason::Draining => 11,
            CloseReason::DrainDeadline => 12,
            CloseReason::Stopped => 13,
            CloseReason::Panicked(_) => 14,
            CloseReason::Machine(_) => 15,
            CloseReason::Deadline(DeadlineKind::Message) => 16,
            CloseReason::Deadline(DeadlineKind::Stuck) => 17,
            CloseReason::Deadline(DeadlineKind::Lifetime) => 18,
            CloseReason::ProxyHeader(_) => 19,
            CloseReason::Unresolved => 20,
            CloseReason::Reused => 21,
            CloseReason::MemoryBudget => 22,
            CloseReason::FileEnded => 23,
        }
    }

    /// The names under which reasons are counted, indexed by kind.
    pub const LABELS: [&'static str; Self::KINDS] = [
        "peer_ended",
        "peer_reset",
        "local",
        "idle",
        "first_byte",
        "own_deadline",
        "connect_timeout",
        "write_timeout",
        "output_limit",
        "input_limit",
        "refused",
        "draining",
        "drain_deadline",
        "stopped",
        "panicked",
        "machine",
        "message_timeout",
        "stuck",
        "lifetime",
        "proxy_header",
        "unresolved",
        "reused",
        "memory_budget",
        "file_ended",
    ];

    /// The name under which the reason is counted.
    pub fn label(self) -> &'static str {
        Self::LABELS[self.kind()]
    }

    /// The close reason for an `errno` that the kernel reported on an established connection.
    pub(crate) fn by_error(errno: Errno) -> Self {
        match errno {
            Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED | Errno::TIMEDOUT => {
                CloseReason::PeerReset
            }
            _ => CloseReason::Machine(errno),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Machine(errno) => write!(f, "machine: {errno}"),
            CloseReason::Panicked(callback) => write!(f, "panicked in {callback:?}"),
            CloseReason::Refused(why) => write!(f, "refused: {why:?}"),
            CloseReason::ProxyHeader(what) => write!(f, "proxy header: {what:?}"),
            other => f.write_str(other.label()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_fits_beside_the_entry() {
        assert_eq!(size_of::<Option<CloseReason>>(), 4);
    }

    #[test]
    fn every_callback_is_in_its_place_and_has_a_label_of_its_own() {
        for (n, &callback) in Callback::ALL.iter().enumerate() {
            assert_eq!(callback as usize, n);
            let same = |other: &&Callback| other.label() == callback.label();
            assert_eq!(Callback::ALL.iter().filter(same).count(), 1);
        }
        assert_eq!(Callback::ALL.last(), Some(&Callback::Drop), "the last of the enum");
    }

    #[test]
    fn every_kind_has_its_own_label() {
        let mut labels = CloseReason::LABELS.to_vec();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), CloseReason::KINDS);
        assert_eq!(CloseReason::Machine(Errno::NOSPC).label(), "machine");
    }
}
