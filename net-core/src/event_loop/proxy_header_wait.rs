//! Where a connection waits that its proxy has not announced yet.
//!
//! The client must be known before `admit`, and before there is a session. So a connection is not in the
//! table until its PROXY header has come whole. Most connections never wait, since the header is there when
//! they are accepted. The others are watched under tokens of their own. A loop without proxies has none of
//! this.

use super::EventLoop;
use crate::accept::admission::Arrival;
use crate::accept::proxy_header::{self, HEADER_MAX, ProxyHeader};
use crate::api::handler::Handler;
use crate::base::close_reason::{BadHeader, CloseReason, DeadlineKind, RefuseReason};
use crate::driver::{Driver, Link, Received, waiting_token};
use crate::threads::control::Phase;
use net_timer::{Entries, Links, Slot, Tick, Wheel};
use slab::Slab;

/// The connections that wait, and until when.
pub(super) struct ProxyHeaderWait {
    waiting: Slab<Waiting>,
    wheel: Wheel,
}

struct Waiting {
    arrival: Arrival,
    link: Link,
    /// The bytes that have come: the beginning of a header, and never more than the longest header.
    heard: Vec<u8>,
    /// Until when the header must be whole, and the close reason if it is not.
    until: (Tick, CloseReason),
    /// The connection's place in the wheel.
    links: Links,
    slot: Slot,
}

/// Lets the wheel find the connections that wait.
struct Filed<'a>(&'a mut Slab<Waiting>);

impl Entries for Filed<'_> {
    fn links(&mut self, index: u32) -> (&mut Links, &mut Slot) {
        let waiting = &mut self.0[index as usize];
        (&mut waiting.links, &mut waiting.slot)
    }
}

impl ProxyHeaderWait {
    fn new(now: Tick) -> Self {
        Self { waiting: Slab::new(), wheel: Wheel::new(now) }
    }

    fn enter(&mut self, waiting: Waiting) -> u32 {
        let (until, _) = waiting.until;
        let n = self.waiting.insert(waiting) as u32;
        self.wheel.insert(&mut Filed(&mut self.waiting), n, until);
        n
    }

    fn leave(&mut self, n: u32) -> Waiting {
        self.wheel.cancel(&mut Filed(&mut self.waiting), n);
        self.waiting.remove(n as usize)
    }

    /// A connection whose time is over, and the close reason.
    fn pop_due(&mut self, now: Tick) -> Option<(u32, CloseReason)> {
        loop {
            let n = self.wheel.pop_due(&mut Filed(&mut self.waiting), now)?;
            let (until, why) = self.waiting[n as usize].until;
            if until <= now {
                return Some((n, why));
            }
            // Not due: filed coarsely, the connection was only brought closer.
            self.wheel.insert(&mut Filed(&mut self.waiting), n, until);
        }
    }
}

/// What one read of the header brought.
enum Heard {
    /// The header is whole.
    All(ProxyHeader),
    /// The rest is to come.
    Part,
    /// It will never be whole.
    Never(CloseReason),
}

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// A connection from a proxy: its header is read, if it is there already.
    #[cold]
    #[inline(never)]
    pub(super) fn hear(&mut self, arrival: Arrival) {
        let (links, slot, until) = (Links::default(), Slot::NONE, self.header_timeout());
        let (link, heard) = (Link::default(), Vec::new());
        let mut waiting = Waiting { arrival, link, heard, until, links, slot };
        match self.read_header(&mut waiting) {
            Heard::Part if self.phase == Phase::Run => self.let_wait(waiting),
            heard => self.heard(waiting, heard),
        }
    }

    fn let_wait(&mut self, waiting: Waiting) {
        let now = self.state.now;
        let pending = self.proxy_headers.get_or_insert_with(|| Box::new(ProxyHeaderWait::new(now)));
        let n = pending.enter(waiting);
        let attached =
            self.driver.attach(waiting_token(n), &pending.waiting[n as usize].arrival.socket);
        self.state.table.count_in();
        if let Err(errno) = attached {
            if let Some(held_back) = self.trouble.allow(now) {
                tracing::warn!(%errno, held_back, "a connection from a proxy is not watched");
            }
            return self.leave(n, Heard::Never(CloseReason::Machine(errno)));
        }
        self.set_next_due();
    }

    /// Until when the header of a connection that comes now must be whole, and the close reason if it is not:
    /// by the soonest deadline that the connection has.
    fn header_timeout(&self) -> (Tick, CloseReason) {
        let limits = &self.state.limits;
        let deadlines = [
            (limits.lifetime_max, CloseReason::Deadline(DeadlineKind::Lifetime)),
            (limits.idle_timeout, CloseReason::Deadline(DeadlineKind::Idle)),
            (limits.first_byte_timeout, CloseReason::Deadline(DeadlineKind::FirstByte)),
        ];
        let mut soonest = (limits.proxy_header_timeout, CloseReason::ProxyHeader(BadHeader::Late));
        for (timeout, why) in deadlines {
            // Of equal timeouts the last one, whose reason says most.
            if let Some(timeout) = timeout.filter(|timeout| *timeout <= soonest.0) {
                soonest = (timeout, why);
            }
        }
        (self.state.now.after(soonest.0), soonest.1)
    }

    /// A signal has come for number `n`, or for an earlier connection with this number.
    #[cold]
    #[inline(never)]
    pub(super) fn waiting_signalled(&mut self, n: u32) {
        match self.hear_again(n) {
            None | Some(Heard::Part) => {}
            Some(decided) => self.leave(n, decided),
        }
    }

    fn hear_again(&mut self, n: u32) -> Option<Heard> {
        let mut pending = self.proxy_headers.take()?;
        let waiting = pending.waiting.get_mut(n as usize);
        let heard = waiting.map(|waiting| self.read_header(waiting));
        self.proxy_headers = Some(pending);
        heard
    }

    /// Number `n` waits no longer.
    fn leave(&mut self, n: u32, heard: Heard) {
        let Some(pending) = &mut self.proxy_headers else { return };
        let waiting = pending.leave(n);
        self.state.table.count_out();
        self.set_next_due();
        self.heard(waiting, heard);
    }

    /// Lets the connection in, or closes it.
    fn heard(&mut self, waiting: Waiting, heard: Heard) {
        let Waiting { mut arrival, heard: bytes, .. } = waiting;
        let why = match heard {
            Heard::All(ProxyHeader { len, client }) => {
                if let Some(client) = &client
                    && !arrival.permit.comes_from(client)
                {
                    return self
                        .refuse(arrival.socket, CloseReason::Refused(RefuseReason::PerSource));
                }
                return self.let_in(arrival, client, &bytes[len..]);
            }
            Heard::Never(why) => why,
            Heard::Part => CloseReason::Draining,
        };
        if let CloseReason::ProxyHeader(what) = why
            && let Some(held_back) = self.trouble.allow(self.state.now)
        {
            tracing::info!(proxy = %arrival.peer, ?what, held_back, "a PROXY header is none");
        }
        self.refuse(arrival.socket, why);
    }

    /// Reads until the header is whole, or nothing more is there. It reads to the end: so a peer that sends
    /// only half and then ends is noticed, whatever its signals say.
    fn read_header(&mut self, waiting: &mut Waiting) -> Heard {
        let Waiting { arrival, link, heard, .. } = waiting;
        loop {
            let lease = match self.driver.receive(&arrival.socket, link, HEADER_MAX) {
                Received::Bytes(lease) => lease,
                Received::Drained => return Heard::Part,
                Received::End => return Heard::Never(CloseReason::PeerEnded),
                Received::Failed(errno) => return Heard::Never(CloseReason::by_error(errno)),
            };
            self.state.tally.receives += 1;
            self.state.tally.received_bytes += u64::from(lease.len);
            heard.extend_from_slice(self.driver.leased(&lease));
            self.driver.settle(lease);
            match proxy_header::parse(heard) {
                Ok(Some(header)) => return Heard::All(header),
                Err(what) => return Heard::Never(CloseReason::ProxyHeader(what)),
                Ok(None) => {}
            }
        }
    }

    /// True if connections wait for a proxy to announce them.
    pub(super) fn has_waiting(&self) -> bool {
        self.proxy_headers.as_deref().is_some_and(|pending| !pending.waiting.is_empty())
    }

    /// The server ends, and nothing is under way for the connections that wait. A connection that is not
    /// announced now is not let in. Some in each turn.
    #[cold]
    #[inline(never)]
    pub(super) fn end_waiting(&mut self) {
        let Some(pending) = &self.proxy_headers else { return };
        let waiting = pending.waiting.iter().map(|(n, _)| n as u32);
        let some: Vec<u32> = waiting.take(self.state.limits.drained_per_turn).collect();
        for n in some {
            let heard = match self.phase {
                Phase::ForceClose => Heard::Never(CloseReason::DrainDeadline),
                Phase::Stop => Heard::Never(CloseReason::Stopped),
                Phase::Run | Phase::Drain => self.hear_again(n).unwrap_or(Heard::Part),
            };
            self.leave(n, heard);
        }
    }

    /// Serves connections whose time to be announced is over: each is read once more and then closed, or let
    /// in. Few in a turn, as of the connections in the table.
    pub(super) fn end_overdue_headers(&mut self) {
        let now = self.state.now;
        let few = self.state.a_few(self.state.limits.endings_per_turn);
        for _ in 0..few {
            let due = self.proxy_headers.as_mut().and_then(|pending| pending.pop_due(now));
            let Some((n, why)) = due else { break };
            self.state.tally.fired += 1;
            // The kernel may hold bytes that came in time, when this loop was late to look.
            let heard = match self.hear_again(n) {
                Some(Heard::Part) | None => Heard::Never(why),
                Some(decided) => decided,
            };
            self.leave(n, heard);
        }
    }
}

impl ProxyHeaderWait {
    /// When the first of the waiting connections is overdue.
    pub(super) fn next_due(&self) -> Option<Tick> {
        self.wheel.next_due()
    }
}
