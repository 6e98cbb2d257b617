//! The proof that a connection lives: it sends its own phrase and compares the answer. A few connections at a
//! time.

use net_core::{Conn, Input, LoopContext};

use super::super::phrase::{PHRASE_BYTES, phrase};
use super::client::{Awaits, Clients};

impl Clients {
    pub(super) fn verify_more(&mut self, here: &mut LoopContext<'_, Self>) {
        let window = self.window(self.setup.phrases_in_flight_max);
        while self.verifying < window {
            let Some(&id) = self.ids.get(self.verify_next) else { return };
            self.verify_next += 1;
            if let Some(mut conn) = here.connection(id)
                && conn.session().awaits == Awaits::Nothing
            {
                self.verifying += 1;
                let due_ns = self.now_ns();
                self.say(&mut conn, Awaits::Verification, due_ns);
            }
        }
    }

    /// Sends the connection's next phrase, which was due at `due_ns`.
    pub(super) fn say(&mut self, conn: &mut Conn<'_, Self>, awaits: Awaits, due_ns: u64) {
        let session = conn.session();
        session.awaits = awaits;
        session.due_ns = due_ns;
        session.round += 1;
        let (nth, round) = (session.nth, session.round);
        let number = self.share.first_connection + u64::from(nth);
        let bytes = phrase(self.setup.seed, number, u32::from(round));
        // Refused only when the connection is ending. Then on_close reports it, and the answer is missing.
        let _ = conn.send(&bytes);
    }

    pub(super) fn answered(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let Some(answer) = input.take(PHRASE_BYTES) else { return };
        let now_ns = self.now_ns();
        let session = conn.session();
        let awaited = std::mem::replace(&mut session.awaits, Awaits::Nothing);
        let (nth, round, due_ns) = (session.nth, session.round, session.due_ns);
        let number = self.share.first_connection + u64::from(nth);
        let said = phrase(self.setup.seed, number, u32::from(round));
        let is_right = answer == said && input.is_empty();
        input.take_all();
        self.round_trips.saturating_record(now_ns.saturating_sub(due_ns));
        if !is_right {
            self.board.wrong.one_more();
        }
        if awaited == Awaits::Pong {
            self.board.pongs.one_more();
            return;
        }
        if is_right {
            self.board.right.one_more();
        }
        self.verifying -= 1;
        self.verify_more(&mut conn.event_loop());
    }
}
