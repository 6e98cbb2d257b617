//! The handler of each loop of the swarm. It opens its share of connections, and makes each of them do what
//! the whole swarm is told to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use net_core::{Bytes, CloseReason, Conn, ConnId, Handler, Input, LoopContext, Peer, TimerId};

use super::super::pacer::Pacer;
use super::super::phrase::GREETING;
use super::super::sources::Share;
use super::super::talk::SwarmSetup;
use super::board::{Board, histogram};
use super::pinging::Pinging;

/// An order to a loop.
#[derive(Clone, Debug)]
pub(super) enum Task {
    Connect,
    Verify,
    Hold {
        active: u64,
        period: Duration,
    },
    Rest,
    /// Hand over the round trips.
    Figures,
    Expect(Bytes),
    Close {
        per_second: u64,
        half: bool,
    },
}

/// The state of a connection.
pub(super) struct Session {
    /// When the awaited bytes were sent, or should have been sent: nanoseconds since the loop began.
    pub(super) due_ns: u64,
    /// Its number within the loop's share.
    pub(super) nth: u32,
    pub(super) round: u16,
    pub(super) attempts: u8,
    pub(super) awaits: Awaits,
}

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Awaits {
    /// To come up, and the answer to its greeting.
    Greeting,
    /// The answer to its phrase.
    Verification,
    /// The answer to a ping.
    Pong,
    /// Nothing, or the broadcast if a broadcast is expected.
    Nothing,
    /// Nothing more: the broadcast has come.
    NothingMore,
    /// Its end.
    End,
}

const HAND_IN_EVERY: Duration = Duration::from_secs(1);
const CLOSE_EVERY: Duration = Duration::from_millis(5);

pub(super) const RETRY: u64 = 1;
const HAND_IN: u64 = 2;
const PING: u64 = 3;
const CLOSE: u64 = 4;

/// One loop's clients.
pub(super) struct Clients {
    pub(super) setup: Arc<SwarmSetup>,
    pub(super) board: Arc<Board>,
    pub(super) share: Share,
    began: Instant,
    /// Connections that are up, in the order in which they came up.
    pub(super) ids: Vec<ConnId>,
    /// The number of the next connection that was never dialled.
    pub(super) next: u64,
    /// Connections to dial again, with the number of the next dial.
    pub(super) again: Vec<(u32, u8)>,
    pub(super) dialling: u64,
    /// The next of `ids` to verify. `verifying` is how many are under way.
    pub(super) verify_next: usize,
    pub(super) verifying: u64,
    is_verifying: bool,
    pub(super) pinging: Option<Pinging>,
    expected: Option<Bytes>,
    closing: Option<Closing>,
    pub(super) round_trips: Histogram<u64>,
}

struct Closing {
    pacer: Pacer,
    timer: TimerId,
    next: usize,
    step: usize,
}

impl Clients {
    pub(super) fn new(setup: Arc<SwarmSetup>, number: usize, board: Arc<Board>) -> Self {
        let share = setup.shares[number];
        Self {
            setup,
            board,
            share,
            began: Instant::now(),
            ids: Vec::new(),
            next: 0,
            again: Vec::new(),
            dialling: 0,
            verify_next: 0,
            verifying: 0,
            is_verifying: false,
            pinging: None,
            expected: None,
            closing: None,
            round_trips: histogram(),
        }
    }

    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// This loop's part of a total that all loops share.
    pub(super) fn part_of(&self, total: u64) -> u64 {
        let in_all = self.setup.shares.iter().map(|share| share.connections).sum::<u64>().max(1);
        let upto = |n: u64| (u128::from(n) * u128::from(total) / u128::from(in_all)) as u64;
        let first = self.share.first_connection;
        upto(first + self.share.connections) - upto(first)
    }

    pub(super) fn window(&self, in_all: u64) -> u64 {
        (in_all / self.setup.shares.len().max(1) as u64).max(1)
    }

    fn announced(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let Some(expected) = &self.expected else { return self.unasked(input) };
        let Some(payload) = input.take(expected.len()) else { return };
        if payload == &expected[..] && input.is_empty() {
            self.board.delivered.one_more();
            conn.session().awaits = Awaits::NothingMore;
        } else {
            self.unasked(input);
        }
    }

    fn unasked(&mut self, input: &mut Input<'_>) {
        input.take_all();
        self.board.wrong.one_more();
    }

    fn close_some(&mut self, here: &mut LoopContext<'_, Self>) {
        let Some(closing) = &mut self.closing else { return };
        for _ in 0..closing.pacer.quota(here.now()) {
            let Some(&id) = self.ids.get(closing.next) else {
                here.cancel(closing.timer);
                self.closing = None;
                return;
            };
            closing.next += closing.step;
            if let Some(mut conn) = here.connection(id)
                && conn.session().awaits != Awaits::End
            {
                conn.session().awaits = Awaits::End;
                conn.close();
            }
        }
    }
}

impl Handler for Clients {
    type Session = Session;
    type Message = Task;

    fn admit(&mut self, _peer: &Peer) -> Option<Session> {
        None // the swarm listens nowhere
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        // Refused only when the connection is ending. Then on_close reports it.
        let _ = conn.send(GREETING);
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        match conn.session().awaits {
            Awaits::Greeting => self.greeted(conn, input),
            Awaits::Verification | Awaits::Pong => self.answered(conn, input),
            Awaits::Nothing => self.announced(conn, input),
            Awaits::NothingMore | Awaits::End => self.unasked(input),
        }
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, why: &CloseReason) {
        let session = conn.session();
        let dialled = (session.nth, session.attempts);
        match session.awaits {
            Awaits::Greeting => self.dial_failed(dialled, why, &mut conn.event_loop()),
            Awaits::End => {
                self.board.closed.one_more();
            }
            _ if *why == CloseReason::PeerEnded && self.board.server_may_end() => {
                self.board.ended.one_more();
            }
            awaits => {
                self.board.lose(why);
                if awaits == Awaits::Verification {
                    self.verifying -= 1;
                    self.verify_more(&mut conn.event_loop());
                }
            }
        }
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, task: Task) {
        match task {
            Task::Connect => {
                here.every(HAND_IN_EVERY, HAND_IN);
                self.ids.reserve_exact(self.share.connections as usize);
                self.dial_more(here);
            }
            Task::Verify => {
                if !std::mem::replace(&mut self.is_verifying, true) {
                    self.verify_more(here);
                }
            }
            Task::Hold { active, period } => self.start_pinging(here, active, period, PING),
            Task::Rest => self.pinging = None,
            Task::Figures => self.board.add_round_trips(&mut self.round_trips),
            Task::Expect(payload) => self.expected = Some(payload),
            Task::Close { per_second, half } => {
                let pacer = Pacer::share(per_second, here.loops(), here.now());
                let timer = here.every(CLOSE_EVERY, CLOSE);
                let step = if half { 2 } else { 1 };
                self.closing = Some(Closing { pacer, timer, next: 0, step });
            }
        }
        self.board.taken.one_more();
    }

    fn on_timer(&mut self, here: &mut LoopContext<'_, Self>, tag: u64) {
        match tag {
            RETRY => {
                for (nth, attempts) in std::mem::take(&mut self.again) {
                    self.dial(here, nth, attempts);
                }
            }
            HAND_IN => self.board.add_round_trips(&mut self.round_trips),
            PING => self.ping(here, PING),
            _ => self.close_some(here),
        }
    }
}
