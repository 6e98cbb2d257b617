//! The loop of `fan_in`: a bounded number of questions under way, over pooled connections.

use net_core::dial::{Checkin, Checkout, UpstreamLimits, UpstreamPool};
use net_core::{Addr, CloseReason, Conn, ConnId, Dial, Handler, Input, LoopContext, Peer};
use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// What is to be asked of whom, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The servers.
    pub upstreams: Vec<Addr>,
    /// What each of them is asked.
    pub queries: Vec<String>,
    /// Questions under way at once.
    pub at_once: usize,
    /// Connections to each server.
    pub connections: usize,
    /// How long an answer or a connect may take.
    pub timeout: Duration,
    /// How often a question is asked before it is given up.
    pub attempts: u8,
}

impl Plan {
    /// Every question to every server; all servers first, so that none waits for another.
    pub fn jobs(&self) -> impl Iterator<Item = Ask> {
        let (upstreams, queries) = (self.upstreams.len(), self.queries.len());
        (0..queries).flat_map(move |query| {
            (0..upstreams).map(move |upstream| Ask { upstream, query, attempts: 0, began: None })
        })
    }
}

/// One question to one server.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The server, by its place in the plan.
    pub upstream: usize,
    /// The question, by its place in the plan.
    pub query: usize,
    attempts: u8,
    began: Option<net_core::Tick>,
}

/// What came of a question.
#[derive(Debug)]
pub struct Outcome {
    /// The question.
    pub ask: Ask,
    /// From its first attempt to this.
    pub millis: u64,
    /// The answer, or why there is none.
    pub answer: Result<String, String>,
}

/// Asks, on one loop.
pub struct FanIn {
    plan: Plan,
    pools: Vec<UpstreamPool<Ask>>,
    /// Not begun yet.
    ahead: VecDeque<Ask>,
    under_way: usize,
    say: Sender<Outcome>,
}

/// Whose connection it is, and the question that it works at.
pub struct Session {
    upstream: usize,
    ask: Option<Ask>,
}

impl FanIn {
    /// Begins when the jobs are posted to it.
    pub fn new(plan: Plan, say: Sender<Outcome>) -> Self {
        let limits = UpstreamLimits {
            connections_max: plan.connections,
            idle_max: plan.connections,
            waiting_max: plan.at_once,
            // Those in front have attempts and timeouts of their own, so this only must not be less.
            wait_max: Duration::MAX,
        };
        let pools = plan.upstreams.iter().map(|_| UpstreamPool::new(limits.clone())).collect();
        Self { plan, pools, ahead: VecDeque::new(), under_way: 0, say }
    }

    /// Begins as many as may be under way; when none is left, that was all.
    fn go_on(&mut self, here: &mut LoopContext<'_, Self>) {
        while self.under_way < self.plan.at_once
            && let Some(ask) = self.ahead.pop_front()
        {
            self.under_way += 1;
            self.ask(here, Ask { began: Some(here.now()), ..ask });
        }
        if self.under_way == 0 {
            here.drain();
        }
    }

    fn ask(&mut self, here: &mut LoopContext<'_, Self>, ask: Ask) {
        match self.pools[ask.upstream].checkout(ask, here.now()) {
            Checkout::Use(id, ask) => self.put(here, id, ask),
            Checkout::Dial(ask) => self.dial(here, ask),
            Checkout::Waits => {}
            Checkout::Full(ask) => self.ended(here, ask, Err("too many wait".into())),
        }
    }

    /// Dials for a question, which goes out as soon as the connection is up.
    fn dial(&mut self, here: &mut LoopContext<'_, Self>, ask: Ask) {
        let upstream = ask.upstream;
        let dial = Dial::to(self.plan.upstreams[upstream].clone()).timeout(self.plan.timeout);
        match here.dial(dial, Session { upstream, ask: None }) {
            Ok(id) => {
                self.pools[upstream].dialled(id);
                self.put(here, id, ask);
            }
            Err(refused) => {
                let next = self.pools[upstream].not_dialled(here.now());
                self.ended(here, ask, Err(refused.to_string()));
                if let Some(next) = next {
                    self.dial(here, next);
                }
            }
        }
    }

    fn put(&mut self, here: &mut LoopContext<'_, Self>, id: ConnId, mut ask: Ask) {
        ask.attempts += 1;
        let Some(mut conn) = here.connection(id) else {
            // Over in this turn, and its on_close is still to come.
            return self.failed(here, ask, "the connection had just ended".into());
        };
        let line = format!("{}\n", self.plan.queries[ask.query]);
        conn.session().ask = Some(ask);
        conn.set_deadline(Some(self.plan.timeout));
        let _ = conn.send(line.as_bytes()); // refused: it is ending, and on_close asks again
    }

    /// Where one connection turned out to be dead, others as old may be, too. They make room for new ones.
    fn close_stale(&mut self, here: &mut LoopContext<'_, Self>, upstream: usize) {
        while let Some(id) = self.pools[upstream].stale(here.now()) {
            if let Some(mut conn) = here.connection(id) {
                conn.reset();
            }
        }
    }

    /// An attempt has failed: asks again, or gives up.
    fn failed(&mut self, here: &mut LoopContext<'_, Self>, ask: Ask, why: String) {
        if ask.attempts < self.plan.attempts {
            self.ask(here, ask);
        } else {
            self.ended(here, ask, Err(why));
        }
    }

    fn ended(
        &mut self,
        here: &mut LoopContext<'_, Self>,
        ask: Ask,
        answer: Result<String, String>,
    ) {
        let millis = ask.began.map_or(0, |began| here.now().saturating_since(began));
        let _ = self.say.send(Outcome { ask, millis, answer }); // nobody waits: it all ends
        self.under_way -= 1;
    }
}

impl Handler for FanIn {
    type Session = Session;
    type Message = VecDeque<Ask>;

    fn admit(&mut self, _peer: &Peer) -> Option<Session> {
        None // it listens nowhere
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, jobs: VecDeque<Ask>) {
        self.ahead.extend(jobs);
        self.go_on(here);
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let Some(line) = input.take_line() else { return };
        let answer = String::from_utf8_lossy(line).into_owned();
        let Some(ask) = conn.session().ask.take() else {
            return conn.reset(); // an answer that nobody has asked for
        };
        conn.set_deadline(None);
        let (id, upstream) = (conn.id(), ask.upstream);
        let here = &mut conn.event_loop();
        self.ended(here, ask, Ok(answer));
        match self.pools[upstream].checkin(id, here.now()) {
            Checkin::Serve(next) => self.put(here, id, next),
            Checkin::Kept => {}
            Checkin::Close => conn.close(),
        }
        self.go_on(&mut conn.event_loop());
    }

    fn on_end(&mut self, conn: &mut Conn<'_, Self>) {
        conn.close(); // a server that has ended does not answer any more
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, why: &CloseReason) {
        let id = conn.id();
        let Session { upstream, ask } = conn.session();
        let (upstream, ask) = (*upstream, ask.take());
        let here = &mut conn.event_loop();
        if let Some(next) = self.pools[upstream].closed(id, here.now()) {
            self.dial(here, next);
        }
        self.close_stale(here, upstream);
        if let Some(ask) = ask {
            self.failed(here, ask, why.to_string());
        }
        self.go_on(here);
    }
}
