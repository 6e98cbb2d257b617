//! How a loop of the swarm opens its share: a bounded number of connects at once, and several dials for a
//! connection that fails.

use std::net::SocketAddr;
use std::time::Duration;

use net_core::{CloseReason, Conn, Dial, Input, LoopContext};

use super::super::phrase::GREETING;
use super::client::{Awaits, Clients, RETRY, Session};

/// Dials before a connection is given up.
const ATTEMPTS_MAX: u8 = 6;
const RETRY_AFTER: Duration = Duration::from_millis(250);

impl Clients {
    pub(super) fn dial_more(&mut self, here: &mut LoopContext<'_, Self>) {
        let window = self.window(self.setup.connects_in_flight_max);
        while self.dialling < window && self.next < self.share.connections {
            let nth = self.next as u32; // a loop has fewer connections than a table has slots
            self.next += 1;
            self.dial(here, nth, 1);
        }
    }

    pub(super) fn dial(&mut self, here: &mut LoopContext<'_, Self>, nth: u32, attempts: u8) {
        self.dialling += 1;
        let mut dial = Dial::from(self.setup.target);
        if let Some(source) = self.source(nth) {
            dial = dial.source(source);
        }
        let (round, awaits) = (0, Awaits::Greeting);
        let session = Session { due_ns: 0, nth, round, attempts, awaits };
        if here.dial(dial, session).is_err() {
            self.dialling -= 1; // the loop ends: nothing waits for the rest
        }
    }

    fn source(&self, nth: u32) -> Option<SocketAddr> {
        let number = self.share.first_connection + u64::from(nth);
        let sources = &self.setup.sources;
        if !sources.is_empty() {
            return Some(SocketAddr::new(sources[(number % sources.len() as u64) as usize], 0));
        }
        let target = self.setup.target.ip();
        (target.is_loopback() && target.is_ipv4())
            .then(|| SocketAddr::new(self.share.source_of(u64::from(nth)).into(), 0))
    }

    pub(super) fn dial_failed(
        &mut self,
        session: (u32, u8),
        why: &CloseReason,
        here: &mut LoopContext<'_, Self>,
    ) {
        self.dialling -= 1;
        self.board.dial_failed(why);
        let (nth, attempts) = session;
        if attempts < ATTEMPTS_MAX {
            self.board.retried.one_more();
            if self.again.is_empty() {
                here.after(RETRY_AFTER, RETRY);
            }
            self.again.push((nth, attempts + 1));
        } else {
            self.board.given_up.one_more();
        }
        self.dial_more(here);
    }

    pub(super) fn greeted(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let is_right = input.take(GREETING.len()) == Some(GREETING) && input.is_empty();
        if !is_right {
            self.board.wrong.one_more();
            input.take_all();
        }
        conn.session().awaits = Awaits::Nothing;
        self.ids.push(conn.id());
        self.dialling -= 1;
        self.board.is_up();
        self.dial_more(&mut conn.event_loop());
    }
}
