//! `Limits`: every bound of the framework, with its default and the reason for it.

use crate::config::policy::WhenFull;
use crate::config::rate::Rate;
use std::time::Duration;

/// The smallest share of the memory budget that a loop may have. An eighth of it must be more than one
/// receive can add.
const MEMORY_SHARE_LEAST: usize = 4 << 20;

/// Largest capacity of a queue between threads, and largest number of events of one wait. Their memory is
/// taken at the start. A million of the largest items take some hundred MB.
const QUEUE_MOST: usize = 1 << 20;

/// The largest block of a loop: 1 GiB. Offsets in a block are 32-bit numbers, and the kernel moves less
/// than 2 GiB in a call.
const BLOCK_MOST: usize = 1 << 30;

/// The bounds of a server: connections, timeouts, bytes, and work per turn. Everything has a bound, and every
/// bound is here.
///
/// A size in bytes is a number of bytes, not of kilobytes. A bound "of a loop" holds for each loop by itself.
/// [`Server::limits`](crate::Server::limits) sets the limits before the start. [`check`](Self::check) refuses
/// limits that contradict each other, and a 0 with which nothing would ever move.
///
/// When an idle, first-byte, message, stuck or lifetime deadline of an open connection comes,
/// [`on_deadline`](crate::Handler::on_deadline) is called. By default it closes the connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Maximum number of connections of the whole process, open or on their way to a loop. A client above
    /// it is accepted and closed at once, so that the client learns of the refusal. `None`: as many as the
    /// descriptor tables hold. A larger number is lowered to that, with a warning. Dialled connections
    /// count, but the limit does not refuse them.
    ///
    /// Default: none.
    pub connections_max: Option<usize>,
    /// What happens to a client that connects when `connections_max` connections are open.
    ///
    /// Default: `Refuse`.
    pub when_full: WhenFull,
    /// Maximum number of open connections from one source. A client above it is accepted and closed at
    /// once, as above `connections_max`. `None`: sources are not counted.
    ///
    /// A source is a prefix of an IP address, [`source_prefix_v4`](Self::source_prefix_v4) or
    /// [`source_prefix_v6`](Self::source_prefix_v6) bits long. For a client that a proxy announces, it is
    /// the announced address. A client on a Unix socket has no source and is not limited. With this limit,
    /// each connection takes 16 bytes more beside its entry, and each source some 50.
    ///
    /// Default: none.
    pub per_source_max: Option<usize>,
    /// Number of leading bits of an IPv4 address that are one source: 1 to 32. The default is a whole
    /// address. Many clients may share one address.
    ///
    /// Default: 32.
    pub source_prefix_v4: u8,
    /// Number of leading bits of an IPv6 address that are one source: 1 to 128. The default is the smallest
    /// prefix that one customer gets. The customer can use every address in it.
    ///
    /// Default: 64.
    pub source_prefix_v6: u8,
    /// Clients accepted per second, over all listeners. A client that is refused after accept counts too.
    /// Above the rate the listeners pause, and new clients wait in the kernel's backlog as long as the
    /// backlog has room. `None`: no limit.
    ///
    /// Default: none.
    pub accept_rate: Option<u32>,
    /// Clients that may be accepted at once after a quiet time. The minimum is the number of clients that
    /// arrive in 2 ms at `accept_rate`. A listener pauses for whole milliseconds, so with a smaller burst
    /// the rate would not be reached.
    ///
    /// Default: 1,000.
    pub accept_burst: u32,

    /// How long a connection may be idle before it meets its idle deadline. A connection is idle while
    /// neither side moves a byte. Received bytes count as traffic, and so do bytes that the peer's kernel
    /// took. `None`: no limit.
    ///
    /// The deadline is exact to the tick, and never early, if the peer's kernel has all bytes that were
    /// sent. If some bytes are unacknowledged at that time, the peer may be reading slowly out of a full
    /// kernel buffer, and no event tells of that. The connection is then checked again half a timeout
    /// later. It meets its deadline at that check, one and a half timeouts after the last byte, unless the
    /// peer has acknowledged bytes in between. To be exact in this case too, the loop would have to check
    /// every connection halfway through every timeout.
    ///
    /// Default: none.
    pub idle_timeout: Option<Duration>,
    /// How long a new connection may take to send its first byte. `None`, or longer than the idle timeout:
    /// the idle timeout applies.
    ///
    /// Default: none.
    pub first_byte_timeout: Option<Duration>,
    /// How long a PROXY header may take to be complete, counted from accept. If another deadline of the new
    /// connection is sooner, that deadline applies. The protocol's own text asks for at least 3 s, in which
    /// a lost segment is sent again.
    ///
    /// Default: 5 s.
    pub proxy_header_timeout: Duration,
    /// How long a message may take to be complete. The time runs from the moment at which `on_data` left
    /// bytes in `input` to the moment at which `on_data` took some. Bytes that trickle in extend the idle
    /// timeout, but not this one. The time does not count while the handler has paused the connection, or
    /// while backpressure holds the connection's input back. `None`: no limit.
    ///
    /// A handler that takes a message in parts, as they arrive, restarts the time with each part. For this
    /// timeout a message is over when `on_data` has taken some of it. Such a handler can say itself where a
    /// message begins and ends: [`message_began`](crate::Conn::message_began),
    /// [`message_ended`](crate::Conn::message_ended).
    ///
    /// Default: none.
    pub message_timeout: Option<Duration>,
    /// How long unsent bytes that have passed the high watermark may take to fall to the low watermark. A
    /// reader that is slower than that is not idle, but it keeps memory. The time also runs while the
    /// connection finishes or closes. A connection that is closing then is reset. `None`: no limit.
    ///
    /// Default: none.
    pub stuck_timeout: Option<Duration>,
    /// Maximum age of a connection, whatever the connection does. A connection that is already closing at
    /// that age is reset. A connection that closes because of its age has one `write_timeout` for its
    /// unsent bytes, whatever its peer takes. With this limit, each connection has a box of memory beside
    /// its entry. `None`: no limit.
    ///
    /// Default: none.
    pub lifetime_max: Option<Duration>,
    /// How long a connection may be silent before `on_heartbeat` is called on it. The call comes when
    /// neither side has moved a byte for between half of this interval and all of it. The handler may then
    /// send a keep-alive. The keep-alive keeps the connection in the tables of NATs and firewalls on the
    /// way, and it finds a peer that has vanished. Must be less than the idle timeout. `None`: never.
    ///
    /// The moment in that half is each connection's own, so that a million connections that fall silent
    /// together do not get their calls together. With an idle timeout, bytes that `on_heartbeat` sends do
    /// not count as traffic. So a connection whose peer answers no heartbeat meets its idle deadline, at
    /// most half an interval later than without heartbeats.
    ///
    /// Default: none.
    pub heartbeat_interval: Option<Duration>,
    /// How long an attempt to connect may take. The default is less than the kernel's two minutes. It
    /// leaves time for two lost SYNs: the first is sent again after 1 s, and the second after 3 s.
    ///
    /// Default: 10 s.
    pub connect_timeout: Duration,
    /// How long a closing connection waits while its peer takes no byte of what is unsent. The default is
    /// as long as other servers wait for a slow reader. For a peer that takes some bytes, the bounds are
    /// `stuck_timeout` and `lifetime_max`.
    ///
    /// Default: 60 s.
    pub write_timeout: Duration,
    /// How long a closed connection waits for the peer's FIN. Without this wait, a late byte of the peer
    /// would turn the reply into a reset. The default is well above a round trip.
    ///
    /// Default: 1 s.
    pub linger_timeout: Duration,
    /// Bytes that are read and discarded during that wait. A peer that sends more is cut off.
    ///
    /// Default: 1 MiB.
    pub linger_bytes_max: usize,

    /// How long a connection with a stream in progress must be silent before it counts as idle. It matters
    /// only for a connection that is to close when it is idle, for example in a drain. The default is
    /// longer than the gaps in a stream, and short enough to end without delay.
    ///
    /// Default: 30 ms.
    pub quiet_time: Duration,
    /// The time over which a drain notifies its connections, evenly, so that their clients do not all
    /// reconnect at the same moment. A connection that has not been notified yet is served as before. 0: as
    /// fast as possible. Must be less than the server's drain timeout.
    ///
    /// Default: 0.
    pub drain_spread: Duration,

    /// Rate limit for the bytes received on each incoming connection. Bytes above the rate stay in the
    /// kernel until the rate allows them. `None`: no limit.
    ///
    /// A connection with a rate limit has a token bucket beside the table, some hundred bytes, and its
    /// messages take a slower path through the loop.
    ///
    /// Default: none.
    pub receive_rate: Option<Rate>,
    /// Rate limit for the bytes sent on each incoming connection. Bytes above the rate wait unsent. `None`:
    /// no limit.
    ///
    /// Default: none.
    pub send_rate: Option<Rate>,

    /// High watermark: unsent bytes of one connection above which `send` returns `AboveHighWatermark` and
    /// input waits. If the bytes answer the connection's own input (they were sent in `on_data`), that
    /// connection is not read. In a pair, the other side is not read. Reading goes on when the unsent bytes
    /// have fallen to [`low_watermark`](Self::low_watermark). Must not be above `output_limit`.
    ///
    /// A [full duplex](crate::Conn::full_duplex) connection is read for longer. Dialled connections are
    /// full duplex. A connection to which bytes were sent outside its `on_data` is also read for longer.
    ///
    /// Default: 64 KiB.
    pub high_watermark: usize,
    /// Low watermark: when a connection that was above the high watermark has no more unsent bytes than
    /// this, `on_writable` is called and reading goes on. Must not be above `high_watermark`.
    ///
    /// Default: 16 KiB.
    pub low_watermark: usize,
    /// Hard cap: maximum number of unsent bytes of one connection. A send that would exceed it is refused
    /// and ends the connection with `CloseReason::OutputLimit`, unless a policy
    /// ([`OverflowPolicy`](crate::limits::OverflowPolicy)) drops the message. The cap bounds the queue of a
    /// slow reader, and not the length of a message. A connection at or below its high watermark takes one
    /// message of any length, so at most this limit and one message wait.
    ///
    /// A handler that waits for `on_writable` after `AboveHighWatermark` never reaches the cap. A handler
    /// that answers with as many bytes as it gets never reaches it either, because a receive brings no more
    /// bytes than fit below the cap.
    ///
    /// A queue takes memory beside its bytes for messages that may be dropped, ranges of files, and marks:
    /// a hundred bytes or so for each. That memory is bounded by the same number, or by 64 KiB if that is
    /// more.
    ///
    /// Default: 1 MiB.
    pub output_limit: usize,
    /// Maximum number of unread bytes of one connection, and so the length of the longest frame. A
    /// connection with more unread bytes ends with `CloseReason::InputLimit`.
    ///
    /// Default: 64 KiB.
    pub input_bytes_max: usize,

    /// Size of the block into which a loop receives for all its connections. The default is large enough
    /// for a burst in one call, and small enough for a core's second-level cache. No larger than
    /// `output_limit`. At most 1 GiB.
    ///
    /// Default: 64 KiB.
    pub receive_block_bytes: usize,
    /// Bytes that one connection may receive in a turn. All connections that have more to receive share one
    /// budget of this size in the next turn, after the connections with new events.
    ///
    /// Default: 64 KiB.
    pub receive_bytes_per_turn: usize,
    /// Bytes that a connection with more to receive may receive, over several turns, before the next such
    /// connection is served.
    ///
    /// Default: 256 KiB.
    pub receive_bytes_in_a_row: usize,
    /// Bytes that one connection may send in a turn.
    ///
    /// Default: 256 KiB.
    pub send_bytes_per_turn: usize,
    /// Bytes of files that a loop sends in a turn, to all its connections together. Bytes that are not in
    /// the page cache are read from the disk meanwhile, and all connections of the loop wait.
    ///
    /// Default: 256 KiB.
    pub file_bytes_per_turn: usize,
    /// Pipes by which each loop's tunnels ([`Conn::tunnel_with`](crate::Conn::tunnel_with)) move large
    /// amounts past this process. A pipe has two descriptors and serves one direction of a tunnel that has
    /// bytes under way. If no pipe is free, or with 0, the bytes are copied.
    ///
    /// Default: 64.
    pub pipes_max: usize,
    /// Size of the block in which a loop collects small writes to other connections until the end of the
    /// turn. At most 1 GiB.
    ///
    /// Default: 64 KiB.
    pub cork_bytes: usize,
    /// Free memory that a loop's pool keeps for the next burst.
    ///
    /// Default: 1 MiB.
    pub pool_retain_bytes: usize,

    /// Bytes that all loops together may buffer for their connections. Each loop has an equal share.
    /// `None`: as much as the other limits allow for each connection.
    ///
    /// These bytes count: the blocks of unread and unsent bytes, the free blocks in the pool, and
    /// reference-counted payloads, once for each connection to which they are owed. These bytes do not
    /// count: each loop's receive and cork blocks, messages in mailboxes, what handlers keep themselves,
    /// and the kernel's buffers. The kernel's buffers are kept small
    /// ([`notsent_lowat`](crate::socket::SocketOptions::notsent_lowat)).
    ///
    /// - Above three quarters of its share, a loop does not read from a connection that has unsent bytes
    ///   (the watermarks are then 0), unless the connection is full duplex. The loop then keeps no free
    ///   memory.
    /// - Above seven eighths, the loop resets connections (`CloseReason::MemoryBudget`), beginning with the
    ///   connection that has the most bytes waiting. Messages that a policy
    ///   ([`OverflowPolicy`](crate::limits::OverflowPolicy)) may drop go first.
    /// - Bytes that a callback queues beyond the share are refused, and the connection to which they were
    ///   sent ends. If a policy may drop the message, only the message is dropped.
    ///
    /// The server does not start if a share is below 4 MiB, or has no room for two connections at their
    /// `output_limit` and `input_bytes_max`.
    ///
    /// Default: none.
    pub memory_budget: Option<usize>,

    /// Events taken from the kernel at once. At most 2²⁰.
    ///
    /// Default: 256.
    pub events_per_wait: usize,
    /// Connections accepted in one batch. In a turn the acceptor accepts up to one batch for each loop. A
    /// loop that accepts for itself accepts no more than `arrivals_per_turn`.
    ///
    /// Default: 64.
    pub accepts_per_turn: usize,
    /// Accepted connections that may wait for one loop, in its queue or on their way by fd channel. The
    /// bound is never more than the loop's part of half of all connections that the server may have. At
    /// most 2²⁰: the memory is taken at the start.
    ///
    /// If the queue is full, the acceptor passes the loop over, so a bound below one batch makes accepting
    /// slow. The acceptor also passes over a loop that has stood still for 0.2 s while connections wait for
    /// it, and gives the connections in its queue to other loops. Connections given by
    /// [`ServerHandle::adopt`](crate::ServerHandle::adopt) wait in a queue of the same size until the
    /// acceptor takes them.
    ///
    /// Default: 1,024.
    pub arrivals_queue: usize,
    /// New connections that a loop takes in a turn, from its queue or its listeners, plus one for every
    /// eight messages that it has received in the turn. By fd channel a loop takes the connections of four
    /// messages.
    ///
    /// Default: 4.
    pub arrivals_per_turn: usize,
    /// Connects that a loop begins in a turn, plus one for every eight messages that it has received in the
    /// turn. A connect takes several system calls.
    ///
    /// Default: 4.
    pub dials_per_turn: usize,
    /// Host names that may wait to be looked up, over all loops. Dials of the same name count as one. Names
    /// of one domain (the last two labels) may take half of the queue. If the queue is full, the next dial
    /// ends with `CloseReason::Unresolved`.
    ///
    /// Default: 1,024.
    pub names_queue: usize,
    /// Maximum number of threads that look host names up. Threads start one by one while names wait, and
    /// none starts before a name is dialled. A silent name server holds a thread for many seconds, so names
    /// of one domain may use half of the threads.
    ///
    /// Default: 16.
    pub resolver_threads: usize,
    /// Messages that may wait in the mailbox of a loop. If the mailbox is full, `post` gives the message
    /// back. At most 2²⁰: the memory is taken at the start.
    ///
    /// Default: 4,096.
    pub mail_queue: usize,
    /// Bytes that may wait in the mailbox of a loop. Messages of
    /// [`ServerHandle::send`](crate::ServerHandle::send) and `send_with` count, and broadcasts count until
    /// the loop has sent them to all their receivers. If the mailbox is full, the bytes are given back as
    /// at `mail_queue`, and a broadcast misses that loop. A message of any length is taken if no such bytes
    /// wait.
    ///
    /// The size of a message of the handler's own type is not known, so only `mail_queue` bounds such
    /// messages. The default is 4 KiB for each message of a full queue.
    ///
    /// Default: 16 MiB.
    pub mail_bytes: usize,
    /// Messages that a loop takes from its mailbox in a turn.
    ///
    /// Default: 256.
    pub mail_per_turn: usize,
    /// Connections of a loop to which a broadcast is sent in a turn. Each send is a system call.
    /// `send_bytes_per_turn` bounds the bytes to all these connections together.
    ///
    /// Default: 4.
    pub broadcast_per_turn: usize,
    /// Broadcasts that may be under way or wait on a loop. The next broadcast misses the loop, and its
    /// report says so.
    ///
    /// Default: 64.
    pub broadcasts_max: usize,
    /// Topics that all connections of a loop may have together. A subscription to one more topic is
    /// refused.
    ///
    /// Default: 65,536.
    pub topics_max: usize,
    /// Topics that one connection may have. A subscription to one more topic is refused.
    ///
    /// Default: 64.
    pub topics_per_connection_max: usize,
    /// Maximum number of timers that a loop looks at in a turn. Deadlines of connections have the same
    /// bound, counted separately.
    ///
    /// Default: 1,024.
    pub timers_per_turn: usize,
    /// How much deferred work a loop does at the end of a turn. The number bounds each of three kinds of
    /// work:
    ///
    /// - wishes of callbacks that are granted (a close, a resume), together with marks that `on_sent` tells
    ///   of,
    /// - connections to which their waiting bytes are offered,
    /// - slices of jobs.
    ///
    /// Each may be a system call and a callback that asks for more. The rest waits in order for the next
    /// turn, and the loop does not sleep before that turn. The default is as many as the events of a turn.
    /// 0 is refused.
    ///
    /// Default: 256.
    pub deferred_per_turn: usize,
    /// Time that all jobs in slices together have in a turn. A slice that has begun runs to its end, so the
    /// jobs may take this time and one slice more. Of shorter slices at most `deferred_per_turn` run.
    ///
    /// Default: 1 ms.
    pub slice_time_per_turn: Duration,
    /// Jobs in slices that may be under way on a loop. The next job is given back.
    ///
    /// Default: 1,024.
    pub jobs_max: usize,
    /// Datagrams of each endpoint that the handler gets in a turn. Datagrams are received in batches of 32
    /// messages. If the kernel joins datagrams (`UDP_GRO`), a message has up to 64. Datagrams that were
    /// received beyond this number wait for the next turn, in up to 2 MiB for each endpoint.
    ///
    /// Default: 128.
    pub datagrams_per_turn: usize,
    /// Bytes of datagrams that may wait while an endpoint's socket is full. Each datagram counts 64 bytes
    /// more than its own. Further datagrams are dropped and counted. One batch of the largest datagrams
    /// takes 2 MiB.
    ///
    /// Default: 4 MiB.
    pub datagram_queue_bytes: usize,
    /// Connections that a loop notifies of a drain in a turn, or resets in a turn at the end of the drain.
    ///
    /// Default: 256.
    pub drained_per_turn: usize,
    /// Connections that a loop ends in a turn: at most this many because of a deadline, and at most this
    /// many that are closed. The second number grows by an eighth of the closed connections that wait. Both
    /// numbers grow by one for every eight messages that the loop has received in the turn. Each ending is
    /// a callback and some of the most expensive system calls of a connection's life.
    ///
    /// Default: 4.
    pub endings_per_turn: usize,

    /// How long a listener pauses when descriptors or memory have run out, before it accepts again. A
    /// listener also pauses for this time after 16 accepts in a row have failed because of their clients.
    /// So does a UDP endpoint after 16 failed receives in a row.
    ///
    /// Default: 50 ms.
    pub starved_pause: Duration,
    /// Clients that are accepted and closed at once in each such pause, when descriptors have run out.
    ///
    /// Default: 64.
    pub shed_per_pause: usize,
    /// How long a turn of a loop may take before it is counted and logged as a stall, with the callback
    /// that runs and its connection. The acceptor's thread looks for stalls, four times in this time. At
    /// least 4 ms. `None`: no stall detection, and no cost. With stall detection, the time that a small
    /// message takes grows by half.
    ///
    /// Default: none.
    pub stall_threshold: Option<Duration>,
    /// Measures the time that each callback and each connection takes of its loop: for `/metrics`, the live
    /// page and `/connections?by=cpu`. Off, it costs nothing. On, a small message takes a quarter more CPU
    /// time, and each slot of the table takes 16 bytes more.
    ///
    /// Default: off.
    pub time_callbacks: bool,
    /// Minimum time between two log lines about the same trouble.
    ///
    /// Default: 5 s.
    pub log_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: None,
            when_full: WhenFull::Refuse,
            per_source_max: None,
            source_prefix_v4: 32,
            source_prefix_v6: 64,
            accept_rate: None,
            accept_burst: 1000,
            idle_timeout: None,
            first_byte_timeout: None,
            proxy_header_timeout: Duration::from_secs(5),
            message_timeout: None,
            stuck_timeout: None,
            lifetime_max: None,
            heartbeat_interval: None,
            connect_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
            linger_timeout: Duration::from_secs(1),
            linger_bytes_max: 1 << 20,
            quiet_time: Duration::from_millis(30),
            drain_spread: Duration::ZERO,
            receive_rate: None,
            send_rate: None,
            high_watermark: 64 << 10,
            low_watermark: 16 << 10,
            output_limit: 1 << 20,
            input_bytes_max: 64 << 10,
            receive_block_bytes: 64 << 10,
            receive_bytes_per_turn: 64 << 10,
            receive_bytes_in_a_row: 256 << 10,
            send_bytes_per_turn: 256 << 10,
            file_bytes_per_turn: 256 << 10,
            pipes_max: 64,
            cork_bytes: 64 << 10,
            pool_retain_bytes: 1 << 20,
            memory_budget: None,
            events_per_wait: 256,
            accepts_per_turn: 64,
            arrivals_queue: 1024,
            arrivals_per_turn: 4,
            dials_per_turn: 4,
            names_queue: 1024,
            resolver_threads: 16,
            mail_queue: 4096,
            mail_bytes: 16 << 20,
            mail_per_turn: 256,
            broadcast_per_turn: 4,
            broadcasts_max: 64,
            topics_max: 1 << 16,
            topics_per_connection_max: 64,
            timers_per_turn: 1024,
            deferred_per_turn: 256,
            slice_time_per_turn: Duration::from_millis(1),
            jobs_max: 1024,
            datagrams_per_turn: 128,
            datagram_queue_bytes: 4 << 20,
            drained_per_turn: 256,
            endings_per_turn: 4,
            starved_pause: Duration::from_millis(50),
            shed_per_pause: 64,
            stall_threshold: None,
            time_callbacks: false,
            log_every: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// The largest number of bytes that one receive takes. It is also the size of the receive block.
    pub(crate) fn receive_max(&self) -> usize {
        self.receive_block_bytes.min(self.receive_bytes_per_turn).min(self.output_limit)
    }

    /// Checks the limits. It fails if two limits contradict each other, or if a limit is out of its bounds.
    /// The error is one sentence with the names of the fields and their values. A server starts with all
    /// limits that this function accepts, except for what depends on its other settings
    /// ([`Server::check`](crate::Server::check)).
    pub fn check(&self) -> Result<(), String> {
        let refuse = |what: String| Err(what);
        if self.low_watermark > self.high_watermark {
            return refuse(format!(
                "the low watermark ({}) is above the high watermark ({}): low_watermark, high_watermark",
                self.low_watermark, self.high_watermark
            ));
        }
        if self.high_watermark > self.output_limit {
            return refuse(format!(
                "the high watermark ({}) is above the output limit ({}): high_watermark, output_limit",
                self.high_watermark, self.output_limit
            ));
        }
        for (name, most) in
            [("connections_max", self.connections_max), ("per_source_max", self.per_source_max)]
        {
            if most == Some(0) {
                return refuse(format!("{name} is 0: a server of 0 connections can serve nobody"));
            }
        }
        if !(1..=32).contains(&self.source_prefix_v4) || !(1..=128).contains(&self.source_prefix_v6)
        {
            return refuse(format!(
                "a source has the first 1 to 32 bits of an IPv4 address and 1 to 128 of an IPv6 one, \
                 not {} and {} (source_prefix_v4, source_prefix_v6)",
                self.source_prefix_v4, self.source_prefix_v6
            ));
        }
        self.check_rate()?;
        let positive = [
            ("high_watermark", self.high_watermark),
            ("input_bytes_max", self.input_bytes_max),
            ("receive_block_bytes", self.receive_block_bytes),
            ("receive_bytes_per_turn", self.receive_bytes_per_turn),
            ("receive_bytes_in_a_row", self.receive_bytes_in_a_row),
            ("send_bytes_per_turn", self.send_bytes_per_turn),
            ("file_bytes_per_turn", self.file_bytes_per_turn),
            ("cork_bytes", self.cork_bytes),
            ("events_per_wait", self.events_per_wait),
            ("accepts_per_turn", self.accepts_per_turn),
            ("arrivals_queue", self.arrivals_queue),
            ("arrivals_per_turn", self.arrivals_per_turn),
            ("dials_per_turn", self.dials_per_turn),
            ("names_queue", self.names_queue),
            ("resolver_threads", self.resolver_threads),
            ("mail_queue", self.mail_queue),
            ("mail_per_turn", self.mail_per_turn),
            ("datagrams_per_turn", self.datagrams_per_turn),
            ("broadcast_per_turn", self.broadcast_per_turn),
            ("broadcasts_max", self.broadcasts_max),
            ("timers_per_turn", self.timers_per_turn),
            ("deferred_per_turn", self.deferred_per_turn),
            ("drained_per_turn", self.drained_per_turn),
            ("endings_per_turn", self.endings_per_turn),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return refuse(format!("{name} is 0: nothing would ever move"));
        }
        let at_start = [
            ("events_per_wait", self.events_per_wait, QUEUE_MOST),
            ("arrivals_queue", self.arrivals_queue, QUEUE_MOST),
            ("mail_queue", self.mail_queue, QUEUE_MOST),
            ("receive_block_bytes", self.receive_block_bytes, BLOCK_MOST),
            ("cork_bytes", self.cork_bytes, BLOCK_MOST),
        ];
        if let Some((name, value, most)) = at_start.iter().find(|(_, value, most)| value > most) {
            return refuse(format!(
                "{name} is {value}: its memory is taken at the start, for at most {most}"
            ));
        }
        if self.stall_threshold.is_some_and(|threshold| threshold < Duration::from_millis(4)) {
            return refuse(
                "the stall threshold is below 4 ms: looking would take longer (stall_threshold)"
                    .into(),
            );
        }
        for (name, timeout) in [
            ("idle_timeout", self.idle_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("proxy_header_timeout", Some(self.proxy_header_timeout)),
            ("message_timeout", self.message_timeout),
            ("stuck_timeout", self.stuck_timeout),
            ("lifetime_max", self.lifetime_max),
            ("heartbeat_interval", self.heartbeat_interval),
        ] {
            if timeout == Some(Duration::ZERO) {
                return refuse(format!("{name} is 0: every connection would meet it at once"));
            }
        }
        if let (Some(beat), Some(idle)) = (self.heartbeat_interval, self.idle_timeout)
            && idle <= beat
        {
            return refuse(format!(
                "the idle timeout ({idle:?}) is not above the heartbeat interval ({beat:?}): a \
                 connection would end before it could answer (idle_timeout, heartbeat_interval)"
            ));
        }
        Ok(())
    }

    /// Checks that the memory budget is large enough for `loops` equal shares.
    pub(crate) fn check_memory(&self, loops: usize) -> Result<(), String> {
        let of_one = self.output_limit.saturating_add(self.input_bytes_max);
        let least = of_one.saturating_mul(2).max(MEMORY_SHARE_LEAST);
        if self.memory_budget.is_none() || self.memory_share(loops) >= least {
            return Ok(());
        }
        Err(format!(
            "a memory_budget of {} is {} for each of {loops} loops, and each needs {least}: room for \
             two connections at their limits",
            self.memory_budget.unwrap_or_default(),
            self.memory_share(loops)
        ))
    }

    /// Bytes that each of `loops` loops may buffer. `usize::MAX`: no limit.
    pub(crate) fn memory_share(&self, loops: usize) -> usize {
        self.memory_budget.map_or(usize::MAX, |budget| budget / loops)
    }

    fn check_rate(&self) -> Result<(), String> {
        let Some(rate) = self.accept_rate else { return Ok(()) };
        if rate == 0 || self.accept_burst == 0 {
            return Err(format!(
                "a server that accepts 0 connections a second can serve nobody (accept_rate {rate}, \
                 accept_burst {})",
                self.accept_burst
            ));
        }
        let least = rate.div_ceil(500);
        if self.accept_burst < least {
            return Err(format!(
                "an accept_burst of {} is too small for an accept_rate of {rate}: with rests of whole \
                 milliseconds it takes {least}",
                self.accept_burst
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod edges;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_agree_with_each_other() {
        Limits::default().check().unwrap();
    }

    #[test]
    fn equal_marks_are_fine_and_crossed_ones_are_named() {
        let equal =
            Limits { low_watermark: 9, high_watermark: 9, output_limit: 9, ..Limits::default() };
        equal.check().unwrap();
        let crossed = Limits { low_watermark: 10, ..equal.clone() };
        assert!(crossed.check().unwrap_err().contains("low watermark (10)"));
        let capped = Limits { output_limit: 8, ..equal };
        assert!(capped.check().unwrap_err().contains("output limit (8)"));
    }

    #[test]
    fn zeros_that_stop_everything_are_refused() {
        assert!(Limits { mail_per_turn: 0, ..Limits::default() }.check().is_err());
        let at_once = Limits { idle_timeout: Some(Duration::ZERO), ..Limits::default() };
        assert!(at_once.check().unwrap_err().contains("idle_timeout"));
        let ms = Duration::from_millis;
        let beats = |beat, idle| Limits {
            heartbeat_interval: Some(ms(beat)),
            idle_timeout: Some(ms(idle)),
            ..Limits::default()
        };
        beats(30, 31).check().unwrap();
        assert!(beats(30, 30).check().unwrap_err().contains("heartbeat interval (30ms)"));
        let of =
            |ms| Limits { stall_threshold: Some(Duration::from_millis(ms)), ..Limits::default() };
        assert!(of(3).check().unwrap_err().contains("stall threshold"));
        of(4).check().unwrap();
        assert!(Limits { connections_max: Some(0), ..Limits::default() }.check().is_err());
        assert!(Limits { per_source_max: Some(0), ..Limits::default() }.check().is_err());
    }

    #[test]
    fn a_memory_budget_has_room_for_two_connections_on_each_loop() {
        let limits = Limits { memory_budget: Some(16 << 20), ..Limits::default() };
        assert!(limits.check_memory(4).is_ok());
        assert!(limits.check_memory(5).unwrap_err().contains("each of 5 loops"));
        let large = Limits { output_limit: 8 << 20, ..limits };
        assert!(large.check_memory(1).is_err());
        assert!(Limits::default().check_memory(256).is_ok());
    }

    #[test]
    fn sources_and_rates_that_cannot_be_are_refused_with_their_numbers() {
        let of = |v4, v6| {
            let limits = Limits { source_prefix_v4: v4, source_prefix_v6: v6, ..Limits::default() };
            limits.check()
        };
        assert!(of(1, 1).is_ok() && of(32, 128).is_ok());
        assert!(of(0, 64).is_err() && of(33, 64).unwrap_err().contains("33"));
        assert!(of(32, 0).is_err() && of(32, 129).unwrap_err().contains("129"));
        let of = |accept_rate, accept_burst| {
            let accept_rate = Some(accept_rate);
            Limits { accept_rate, accept_burst, ..Limits::default() }.check()
        };
        assert!(of(1, 1).is_ok() && of(500, 1).is_ok() && of(501, 2).is_ok());
        assert!(of(501, 1).unwrap_err().contains("it takes 2"));
        assert!(of(0, 1).is_err() && of(1, 0).is_err());
    }
}
