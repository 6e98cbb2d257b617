//! `Limits`: every bound of the framework, with its default and the reason for it.

use crate::config::policy::WhenFull;
use crate::config::rate::Rate;
use std::time::Duration;

/// The least that a loop's share of the memory budget may be: so much that an eighth of it is more
/// than one receive can add.
const MEMORY_SHARE_LEAST: usize = 4 << 20;

/// The most that a queue between threads may hold, and a wait may bring: the memory for it is taken at
/// the start. A million; of the largest items, some hundred MB.
const QUEUE_MOST: usize = 1 << 20;

/// The largest block of a loop: 1 GiB. Places in a block are 32-bit numbers, and the kernel moves less
/// than 2 GiB in a call.
const BLOCK_MOST: usize = 1 << 30;

/// What a server may use at most. Everything has a bound, and every bound is here.
///
/// Bytes are bytes, not kilobytes. "Per loop" bounds hold for each loop by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Connections of the whole process, open or being handed over. `None`: what the descriptor
    /// tables hold. One more is accepted and closed at once, so that the client learns.
    ///
    /// Default: none.
    pub connections_max: Option<usize>,
    /// What becomes of that one more.
    ///
    /// Default: `Refuse`.
    pub when_full: WhenFull,
    /// Connections that may be open from one source: one more is accepted and closed, as over
    /// `connections_max`. A source is the first bits of an IP address; of a client that a proxy
    /// announces, of the address that it says. Clients of Unix sockets have none, and are not
    /// limited. Each connection then takes 16 bytes beside its entry, and each source some 50.
    /// `None`: not counted.
    ///
    /// Default: none.
    pub per_source_max: Option<usize>,
    /// The first bits of an IPv4 address that are one source: 1 to 32. A whole address by default,
    /// behind which many may share one.
    ///
    /// Default: 32.
    pub source_prefix_v4: u8,
    /// The first bits of an IPv6 address that are one source: 1 to 128. By default what one customer
    /// gets at least, who has all addresses in it to choose from.
    ///
    /// Default: 64.
    pub source_prefix_v6: u8,
    /// Clients accepted in a second, over all listeners, those that are then refused included. Above
    /// it the listeners rest, and the kernel's backlog holds who comes: they wait, as long as there
    /// is room in it. `None`: as many as come.
    ///
    /// Default: none.
    pub accept_rate: Option<u32>,
    /// Clients that may be accepted at once after a quiet time. A rest is a whole number of
    /// milliseconds, so fewer than come in two of them at `accept_rate` would keep it from being
    /// reached.
    ///
    /// Default: 1,000.
    pub accept_burst: u32,

    /// A connection on which neither end has moved a byte for so long meets its deadline: bytes
    /// received count, and bytes that the peer's kernel took. `None`: never.
    ///
    /// Exact to the tick, and never early, where the peer's kernel has all that was sent. If some of it is
    /// unacknowledged then, the peer may be reading slowly out of a full buffer, of which no signal tells:
    /// the connection is looked at once more half a timeout later, and meets its deadline then, one and a
    /// half timeouts after the last byte, unless something was acknowledged in between. To be exact there
    /// too, each connection would have to be looked at halfway through every timeout.
    ///
    /// Default: none.
    pub idle_timeout: Option<Duration>,
    /// How long a new connection may take to send its first byte. `None`, or longer than the idle
    /// timeout: like any idle one.
    ///
    /// Default: none.
    pub first_byte_timeout: Option<Duration>,
    /// How long a PROXY header may take to come whole, from accept, if no other deadline of a new
    /// connection is sooner. The protocol's own text asks for at least 3 s, in which a lost segment is
    /// sent again.
    ///
    /// Default: 5 s.
    pub proxy_header_timeout: Duration,
    /// How long a message may take to come whole: from the moment at which `on_data` left bytes in
    /// `input` to that at which it took some. However busily the rest trickles in, which is what
    /// the idle timeout does not notice. Not counted while the handler has paused the connection,
    /// or it is held back. `None`: as long as it likes.
    ///
    /// A handler that takes a message in parts, as they come, puts this off with each part: for it a
    /// message is over when some of it was taken. It says itself where one begins and ends:
    /// [`message_began`](crate::Conn::message_began), [`message_ended`](crate::Conn::message_ended).
    ///
    /// Default: none.
    pub message_timeout: Option<Duration>,
    /// How long unsent bytes that have passed the high mark may take to fall to the low one: a
    /// reader so slow is not idle, but keeps memory. Also while the connection finishes or closes; a
    /// closing one is reset. `None`: as long as it likes.
    ///
    /// Default: none.
    pub stuck_timeout: Option<Duration>,
    /// How old a connection may become, whatever it does. One that is closing then is reset; one that
    /// closes because of it has one `write_timeout` for its rest, whatever its peer takes. Each has a box
    /// of memory beside its entry. `None`: as old as it likes.
    ///
    /// Default: none.
    pub lifetime_max: Option<Duration>,
    /// A connection on which neither end has moved a byte for half of this, or at the latest for
    /// all of it, is told so by `on_heartbeat`, whose handler may say something: so that the boxes on
    /// the way keep it, and a peer that has vanished is found. When in that half is each
    /// connection's own, so that a million who fall silent together are not told together. With an
    /// idle timeout, what `on_heartbeat` sends does not count as traffic: a peer that answers none
    /// of them is idle, at most half an interval later than without. `None`: never.
    ///
    /// Default: none.
    pub heartbeat_interval: Option<Duration>,
    /// How long a dialled connection may take to come up. Less than the kernel's two minutes,
    /// more than one lost SYN (1 s) and a second (3 s).
    ///
    /// Default: 10 s.
    pub connect_timeout: Duration,
    /// How long a closing connection's peer may refuse every byte of the rest. As long as other
    /// servers wait for a slow reader. A peer that takes some is bounded by `stuck_timeout` and
    /// `lifetime_max`.
    ///
    /// Default: 60 s.
    pub write_timeout: Duration,
    /// How long a closed connection waits for the peer's FIN, so that no late byte of the peer
    /// turns the reply into a reset. Well above a round trip.
    ///
    /// Default: 1 s.
    pub linger_timeout: Duration,
    /// Bytes that are read and thrown away during that wait. A peer with more to say is cut off.
    ///
    /// Default: 1 MiB.
    pub linger_bytes_max: usize,

    /// How long a stream in flow must have been quiet before its connection counts as idle when it
    /// is to close. Longer than the gaps in a stream, and short enough to end without delay.
    ///
    /// Default: 30 ms.
    pub quiet_time: Duration,
    /// Over how long a drain tells its connections of it, evenly: so their clients do not all come
    /// back in one moment. Who has not been told yet is served as ever. 0: as fast as it goes. Less
    /// than the server's drain timeout.
    ///
    /// Default: 0.
    pub drain_spread: Duration,

    /// Bytes a second that each connection which comes in may bring; more is left in the kernel until
    /// it is time. A connection with a limit has its bucket beside the table, some hundred bytes,
    /// and its messages take the longer way. `None`: as many as it likes.
    ///
    /// Default: none.
    pub receive_rate: Option<Rate>,
    /// Bytes a second that are sent to each of them. What is above waits, unsent.
    ///
    /// Default: none.
    pub send_rate: Option<Rate>,

    /// Unsent bytes of one connection above which `send` answers `Above`, and what they answer waits: the
    /// input of a connection that is answered in `on_data`, or of a pair's other side, is left unread. A
    /// connection that is [full duplex](crate::Conn::full_duplex), as dialled ones are, or that is sent to
    /// otherwise, is read on for longer. Until...
    ///
    /// Default: 64 KiB.
    pub high_watermark: usize,
    /// ...no more than so many are left. Then `on_room` is called and reading goes on.
    ///
    /// Default: 16 KiB.
    pub low_watermark: usize,
    /// Unsent bytes of one connection at which it is closed: the hard cap. It bounds the queue of a slow
    /// reader, and not the length of a message: a connection at or below its high mark takes a message of
    /// any length, so at most this and one message wait. A handler that waits for `on_room` when it is
    /// told `Above` never meets it. No receive brings more than has room below it, so a handler that
    /// answers with as much as it gets never meets it either. What the queue takes beside bytes, for
    /// messages that may be dropped, stretches of files and marks, is bounded by the same number, or
    /// 64 KiB if that is more: a hundred bytes or so for each.
    ///
    /// Default: 1 MiB.
    pub output_limit: usize,
    /// Unread bytes of one connection, that is the longest frame: more closes it.
    ///
    /// Default: 64 KiB.
    pub input_bytes_max: usize,

    /// The block of a loop into which all its connections receive. Large enough for a burst in
    /// one call, small enough for a core's second-level cache. No larger than `output_limit`. At most
    /// 1 GiB.
    ///
    /// Default: 64 KiB.
    pub receive_block_bytes: usize,
    /// Bytes that one connection may receive in a turn: all that have more than that share the
    /// next turn's, after whoever has something new.
    ///
    /// Default: 64 KiB.
    pub receive_bytes_per_turn: usize,
    /// Bytes that a connection with more than its turn's may receive, over some turns, before the
    /// next such connection is served.
    ///
    /// Default: 256 KiB.
    pub receive_bytes_in_a_row: usize,
    /// Bytes that one connection may send in a turn.
    ///
    /// Default: 256 KiB.
    pub send_bytes_per_turn: usize,
    /// Bytes of files that a loop sends in a turn, to all its connections together: those that are
    /// not in the page cache are read from the disk meanwhile, and everybody waits.
    ///
    /// Default: 256 KiB.
    pub file_bytes_per_turn: usize,
    /// Pipes by which each loop's tunnels ([`Conn::tunnel_with`](crate::Conn::tunnel_with)) move large
    /// amounts past this process, two descriptors each: one for each direction that has bytes under
    /// way. None free, or 0: they are copied.
    ///
    /// Default: 64.
    pub pipes_max: usize,
    /// The block of a loop in which small writes to other connections wait for the turn's end. At most
    /// 1 GiB.
    ///
    /// Default: 64 KiB.
    pub cork_bytes: usize,
    /// Free memory that a loop's pool keeps for the next burst.
    ///
    /// Default: 1 MiB.
    pub pool_retain_bytes: usize,

    /// Bytes that all loops may buffer for their connections, each an equal share: blocks of unread
    /// and unsent bytes, those that lie in the pool, and counted payloads, once for each connection
    /// to which they are owed. Above three quarters of its share a loop reads no more from whoever
    /// has anything unsent (its marks are then 0), and keeps no free memory; above seven eighths it
    /// resets connections, those with the most waiting first (`Closed::MemoryBudget`). What a
    /// callback queues beyond the share is refused. Not in it are the blocks of each loop above, what
    /// is in mailboxes, what handlers keep themselves, and the kernel's buffers; but these are kept
    /// small ([`notsent_lowat`](crate::SocketOptions::notsent_lowat)). `None`: as much as the other
    /// limits allow for each connection.
    ///
    /// Default: none.
    pub memory_budget: Option<usize>,

    /// Events taken from the kernel at once. At most 2²⁰.
    ///
    /// Default: 256.
    pub events_per_wait: usize,
    /// Connections accepted in one batch, for each loop by the acceptor. A loop that accepts for itself
    /// accepts no more than `arrivals_per_turn`.
    ///
    /// Default: 64.
    pub accepts_per_turn: usize,
    /// Handed-over connections that wait for a loop, or are on their way to it by fd channel; and never more
    /// than its part of half of all connections that the server may have. Full: the acceptor passes the loop
    /// over; so a bound below one batch makes accepting slow. It also passes over a loop that has stood still
    /// for 0.2 s though some wait, and places these anew. At most 2²⁰: the memory is taken at the start.
    ///
    /// Default: 1,024.
    pub arrivals_queue: usize,
    /// New connections that a loop takes in a turn, from its queue or its listeners, and one more for every
    /// eight messages that it has received in it; by fd channel, those of four messages.
    ///
    /// Default: 4.
    pub arrivals_per_turn: usize,
    /// Connects that a loop begins in a turn, and one more for every eight messages that it has received in
    /// it: each takes several system calls.
    ///
    /// Default: 4.
    pub dials_per_turn: usize,
    /// Names that wait to be looked up, over all loops; dials of the same name are one. Names of one
    /// domain (their last two labels) may be half of these. Full: one more dial is `Unresolved`.
    ///
    /// Default: 1,024.
    pub names_queue: usize,
    /// Threads that look names up, at most; started one by one while names wait, and none before a name is
    /// dialled. A silent name server holds a thread for many seconds, so names of one domain may use half
    /// of these.
    ///
    /// Default: 16.
    pub resolver_threads: usize,
    /// Messages that wait for a loop. Full: `post` gives the message back. At most 2²⁰: the memory is
    /// taken at the start.
    ///
    /// Default: 4,096.
    pub mail_queue: usize,
    /// Bytes that wait for a loop in such messages: of [`Remote::send`](crate::Remote::send) and `send_or`,
    /// and of broadcasts until the loop is through with them. Full: they are given back as at
    /// `mail_queue`, and a broadcast misses that loop. One message of any length is taken where none
    /// waits. What a message of the handler's own type takes nobody knows here: only `mail_queue`
    /// bounds those. 16 MiB, four KiB for each message of a full queue.
    ///
    /// Default: 16 MiB.
    pub mail_bytes: usize,
    /// Messages that a loop takes in a turn.
    ///
    /// Default: 256.
    pub mail_per_turn: usize,
    /// Connections of a loop that a broadcast is sent to in a turn: each is a system call. The
    /// bytes of a turn are bounded too, by `send_bytes_per_turn` for all of them.
    ///
    /// Default: 4.
    pub broadcast_per_turn: usize,
    /// Broadcasts that are under way or wait on a loop. One more misses it, and says so.
    ///
    /// Default: 64.
    pub broadcasts_max: usize,
    /// Topics that the connections of a loop have between them.
    ///
    /// Default: 65,536.
    pub topics_max: usize,
    /// Topics of one connection.
    ///
    /// Default: 64.
    pub topics_per_connection_max: usize,
    /// Timers and deadlines that a loop looks at in a turn.
    ///
    /// Default: 1,024.
    pub timers_per_turn: usize,
    /// How much of what callbacks have asked for a loop does at the end of a turn: so many wishes (a
    /// close, a resume) are granted and marks told by `on_sent`, and to so many connections what waits
    /// for them is offered. So many slices of jobs run in a turn at most, too. Each may be a system call
    /// and a callback, which asks for more: the rest waits in order for the next turn, which does not
    /// sleep. As many as the events of a turn by default; 0 is refused.
    ///
    /// Default: 256.
    pub deferred_per_turn: usize,
    /// Time that all jobs in slices together have in a turn, and one slice more; of slices that are
    /// shorter than that, `deferred_per_turn`.
    ///
    /// Default: 1 ms.
    pub slice_time_per_turn: Duration,
    /// Jobs in slices under way on a loop. One more is given back.
    ///
    /// Default: 1,024.
    pub jobs_max: usize,
    /// Datagrams of each endpoint that its handler is given in a turn. They are received in batches of 32
    /// messages, of up to 64 datagrams each where the kernel joins them: what is beyond this waits for the
    /// next turn, in up to 2 MiB for each endpoint.
    ///
    /// Default: 128.
    pub datagrams_per_turn: usize,
    /// Bytes of datagrams, and 64 for each, that wait while an endpoint's socket is full; more are
    /// dropped and counted. One batch of the largest takes 2 MiB.
    ///
    /// Default: 4 MiB.
    pub datagram_queue_bytes: usize,
    /// Connections that a loop tells of the drain, or resets at its end, in a turn.
    ///
    /// Default: 256.
    pub drained_per_turn: usize,
    /// Connections that a loop ends in a turn: so many whose deadline has come, and so many that are
    /// closed, with an eighth of those that wait for it; and of both, one more for every eight messages that
    /// it has received in the turn. Each is a callback and some of the dearest system calls of a
    /// connection's life.
    ///
    /// Default: 4.
    pub endings_per_turn: usize,

    /// How long a listener rests when descriptors or memory have run out, before it tries again.
    ///
    /// Default: 50 ms.
    pub starved_pause: Duration,
    /// Clients that are accepted and closed at once, per rest, when descriptors have run out.
    ///
    /// Default: 64.
    pub shed_per_pause: usize,
    /// A turn of a loop that takes so long is counted and logged, with the callback that runs and
    /// its connection: looked for by the acceptor's thread, four times in that time. `None`: not
    /// looked for, and then it costs nothing; otherwise a small message takes half as long again.
    ///
    /// Default: none.
    pub stall_threshold: Option<Duration>,
    /// Times what each callback and each connection takes of its loop: for `/metrics`, the live page and
    /// `/connections?by=cpu`. Off it costs nothing; on, a small message takes a quarter more CPU time,
    /// and each place of the table 16 bytes.
    ///
    /// Default: off.
    pub time_callbacks: bool,
    /// Least time between two log lines about the same trouble.
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
    /// The most that one receive takes, which is the size of the block for it.
    pub(crate) fn receive_max(&self) -> usize {
        self.receive_block_bytes.min(self.receive_bytes_per_turn).min(self.output_limit)
    }

    /// Says in one sentence which limits contradict each other, or which one is beyond its bounds, if any
    /// is: each by the name of its field, with the value. A server starts with whatever this accepts, but
    /// for what depends on its other settings ([`Server::check`](crate::Server::check)).
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

    /// Says whether so many loops can divide the memory budget between them.
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

    /// Bytes that one of so many loops may buffer. `MAX`: as much as it likes.
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
