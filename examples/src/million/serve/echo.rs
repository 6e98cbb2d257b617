//! What runs on each of the server's loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use net_core::{Bytes, Conn, Handler, Input, LoopContext, Peer, TimerId};

use super::super::pacer::Pacer;

/// The state that the loops and the thread that leads them share. It has counts only. They publish nothing
/// else, so all accesses are relaxed.
#[derive(Debug, Default)]
pub(super) struct Board {
    announced: AtomicU64,
    is_held: AtomicBool,
    closes_per_second: AtomicU64,
}

impl Board {
    /// The connections to which the announcement was sent.
    pub(super) fn announced(&self) -> u64 {
        self.announced.load(Ordering::Relaxed)
    }

    /// Holds announcements back, or lets them go on.
    pub(super) fn hold_announcements(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }

    /// The rate at which a drain closes connections, over all loops.
    pub(super) fn set_closes_per_second(&self, per_second: u64) {
        self.closes_per_second.store(per_second, Ordering::Relaxed);
    }
}

/// A payload for every connection.
#[derive(Clone, Debug)]
pub(super) struct Announcement {
    pub(super) payload: Bytes,
    /// The rate over all loops.
    pub(super) per_second: u64,
}

/// Sends everything back; announces and drains at a pace.
pub(super) struct Echo {
    loops: usize,
    board: Arc<Board>,
    announcing: Option<Walk<Bytes>>,
    draining: Option<Walk<()>>,
}

/// A walk over the table in slices, with a timer between them.
struct Walk<T> {
    what: T,
    pacer: Pacer,
    timer: TimerId,
    /// The slot from which to go on.
    next: u32,
}

const ANNOUNCE: u64 = 1;
const DRAIN: u64 = 2;

/// The time between two slices: short enough that a slice is a handful of connections.
const SLICE_EVERY: Duration = Duration::from_millis(5);

impl Echo {
    pub(super) fn new(loops: usize, board: Arc<Board>) -> Self {
        Self { loops, board, announcing: None, draining: None }
    }

    fn announce(&mut self, here: &mut LoopContext<'_, Self>) {
        let Some(walk) = &mut self.announcing else { return };
        if self.board.is_held.load(Ordering::Relaxed) {
            return walk.pacer.skip(here.now());
        }
        let mut sent = 0;
        let payload = &walk.what;
        let quota = walk.pacer.quota(here.now());
        let next = visit(here, walk.next, quota, |conn| {
            sent += u64::from(conn.send_shared(payload.clone()).is_taken());
        });
        self.board.announced.fetch_add(sent, Ordering::Relaxed);
        match next {
            Some(next) => walk.next = next,
            None => {
                here.cancel(walk.timer);
                self.announcing = None;
            }
        }
    }

    fn drain(&mut self, here: &mut LoopContext<'_, Self>) {
        let Some(walk) = &mut self.draining else { return };
        let quota = walk.pacer.quota(here.now());
        // At the end of the table it begins again. Connections come in behind the walk until the loop has
        // seen the end of arrivals.
        walk.next = visit(here, walk.next, quota, |conn| conn.close_when_idle()).unwrap_or(0);
    }
}

/// Visits the next `count` open connections from slot `next` on. `None` at the end of the table.
fn visit<H: Handler>(
    here: &mut LoopContext<'_, H>,
    mut next: u32,
    count: usize,
    mut each: impl FnMut(&mut Conn<'_, H>),
) -> Option<u32> {
    let mut visited = 0;
    while visited < count {
        // This number of slots holds at most that many connections. Empty slots are skipped.
        next = here.visit_from(next, count - visited, |conn| {
            visited += 1;
            each(conn);
        })?;
    }
    Some(next)
}

impl Handler for Echo {
    type Session = ();
    type Message = Announcement;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let _ = conn.echo(input); // refused only when the connection is ending
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, announcement: Announcement) {
        let pacer = Pacer::share(announcement.per_second, self.loops, here.now());
        let timer = here.every(SLICE_EVERY, ANNOUNCE);
        self.announcing = Some(Walk { what: announcement.payload, pacer, timer, next: 0 });
    }

    fn on_timer(&mut self, here: &mut LoopContext<'_, Self>, tag: u64) {
        if tag == ANNOUNCE {
            self.announce(here);
        } else {
            self.drain(here);
        }
    }

    /// Called for every connection within a few turns. Closing all of them at once would exceed the kernel's
    /// bound on orphans. So the walk closes them, at a pace.
    fn on_draining(&mut self, conn: &mut Conn<'_, Self>) {
        if self.draining.is_none() {
            let per_second = self.board.closes_per_second.load(Ordering::Relaxed);
            let mut here = conn.event_loop();
            let pacer = Pacer::share(per_second, self.loops, here.now());
            let timer = here.every(SLICE_EVERY, DRAIN);
            self.draining = Some(Walk { what: (), pacer, timer, next: 0 });
        }
    }
}
