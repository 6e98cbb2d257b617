//! The phases of a run, in their order.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::super::figures::grouped;
use super::super::half::{Half, Who};
use super::super::observer::{Observer, View};
use super::super::phrase::announcement;
use super::super::process_stat::{ProcessStat, cpu_seconds};
use super::super::report::{Broadcast, Hold, Phase, Report, RttUs};
use super::super::talk::{ServerOrder, ServerSetup, SwarmOrder, SwarmSetup};
use super::super::trouble::Trouble;
use super::summary::Measured;
use super::{Conductor, END_PATIENCE};

/// Announcements per second. It is half of what two cores can send, so that the clients keep up.
const ANNOUNCEMENTS_PER_SECOND: u64 = 100_000;

/// Phrases under way at once while verifying: enough to keep two cores busy, and few enough that a round trip
/// is not all queueing.
const PHRASES_IN_FLIGHT_MAX: u64 = 256;

impl Conductor<'_> {
    /// Runs all phases. The report says what happened, good or bad.
    pub(super) fn phases(&mut self) -> Result<Report, Trouble> {
        let mut measured = Measured::default();
        if self.wanted.plan.role.serves() {
            measured.idle_bytes = self.idle_server()?;
            let connections = self.wanted.plan.connections;
            self.server = Some(self.start_server(None, connections)?);
            if let Some(at) = &self.wanted.admin {
                self.progress.say(&format!("the server shows itself at {at}"));
            }
        }
        self.start_swarm()?;
        let server = self.server.as_ref().map(Half::pid);
        let swarm = self.swarm.as_ref().map_or(0, Half::pid);
        let ends = self.wanted.plan.role.ends();
        self.observer = Some(Observer::new(self.began, server, swarm, ends)?);
        self.sample()?;
        self.connect()?;
        self.verify(&mut measured)?;
        self.hold(&mut measured)?;
        self.broadcast(&mut measured)?;
        self.close()?;
        Ok(self.report(measured))
    }

    fn enter(&mut self, phase: Phase, say: &str) -> Result<(), Trouble> {
        self.sample()?;
        self.phase = phase;
        self.progress.say(say);
        Ok(())
    }

    fn open_goal(&self) -> u64 {
        self.wanted.plan.connections
    }

    // --- starting ------------------------------------------------------------------------------

    /// The private memory of the same server when it expects one connection and has none.
    fn idle_server(&mut self) -> Result<u64, Trouble> {
        let mut idle = self.start_server(Some(1), 1)?;
        let stat = ProcessStat::sample("/".as_ref(), idle.pid()).map_err(|e| e.to_string())?;
        idle.tell(&ServerOrder::Drain { per_second: 1 });
        self.server = Some(idle);
        self.until(|this| (u64::from(this.server_books.is_some()), 1))?;
        self.server = None;
        self.server_books = None;
        self.server_state = None;
        // The end of its output must not be taken for that of the next server.
        (self.sender, self.events) = mpsc::channel();
        Ok(stat.unwrap_or_default().private_bytes)
    }

    fn start_server(&mut self, max: Option<u64>, connections: u64) -> Result<Half, Trouble> {
        let plan = &self.wanted.plan;
        let tables = plan.server.expect("a plan whose role serves has the server's tables");
        let mut server = Half::start(Who::Server, self.sender.clone())?;
        self.server_at = None;
        server.tell(&ServerOrder::Begin(ServerSetup {
            listen: self.wanted.server,
            tables,
            accept: plan.accept,
            connections_max: max,
            connections,
            admin: self.wanted.admin.clone(),
            time_callbacks: self.wanted.time_callbacks,
        }));
        self.server = Some(server);
        if !self.until(|this| (u64::from(this.server_at.is_some()), 1))? {
            return Err(Trouble::Failed("the server does not start".to_owned()));
        }
        Ok(self.server.take().expect("it was put there above"))
    }

    fn start_swarm(&mut self) -> Result<(), Trouble> {
        let plan = &self.wanted.plan;
        let setup = SwarmSetup {
            target: self.server_at.unwrap_or(self.wanted.server),
            tables: plan.swarm.expect("a plan whose role swarms has the swarm's tables"),
            shares: plan.shares(),
            sources: self.wanted.sources.clone(),
            seed: self.wanted.seed,
            connects_in_flight_max: plan.pace.connects_in_flight_max,
            phrases_in_flight_max: PHRASES_IN_FLIGHT_MAX.min(plan.pace.unread_messages_max),
        };
        self.swarm = Some(Half::start(Who::Swarm, self.sender.clone())?);
        self.order(&SwarmOrder::Begin(setup))
    }

    // --- phases --------------------------------------------------------------------------------

    fn connect(&mut self) -> Result<(), Trouble> {
        self.order(&SwarmOrder::Connect)?;
        let is_complete = self.until(|this| {
            let state = &this.swarm_state;
            // A connection that was given up will not come any more, so the phase does not wait.
            if state.given_up > 0 { (1, 1) } else { (state.connected, this.open_goal()) }
        })?;
        let state = &self.swarm_state;
        if state.given_up == 0 && is_complete {
            return Ok(());
        }
        let (target, goal) = (self.server_at.unwrap_or(self.wanted.server), self.open_goal());
        let up = format!("{} of {} connections came up", grouped(state.connected), grouped(goal));
        Err(Trouble::Failed(match &state.dial_failure {
            Some(why) => format!("connect to {target}: {why}; {up}"),
            None => format!("connect to {target}: nothing moves any more; {up}"),
        }))
    }

    fn verify(&mut self, measured: &mut Measured) -> Result<(), Trouble> {
        self.enter(Phase::Verify, "all are up; each of them sends and compares")?;
        measured.swarm_up = self.swarm_state.open;
        let before = self.swarm_state.wrong;
        self.order(&SwarmOrder::Verify)?;
        self.until(|this| {
            let state = &this.swarm_state;
            (state.right + state.wrong - before + state.lost, this.open_goal())
        })?;
        measured.verify = self.figures()?;
        measured.full = self.look()?;
        Ok(())
    }

    fn hold(&mut self, measured: &mut Measured) -> Result<(), Trouble> {
        let active = self.wanted.active;
        let text = format!("all are held, {} of them active", grouped(active));
        self.enter(Phase::Hold, &text)?;
        let (lost, pings) = (self.swarm_state.lost, self.swarm_state.pings);
        let cpu_before = self.server_cpu()?;
        let period_ms = u64::try_from(self.wanted.ping_every.as_millis()).unwrap_or(u64::MAX);
        self.held = Some(u64::MAX);
        self.sample()?;
        let began = Instant::now();
        self.order(&SwarmOrder::Hold { active, period_ms })?;
        while began.elapsed() < self.wanted.hold {
            let left = self.wanted.hold.saturating_sub(began.elapsed());
            self.step(left.min(Duration::from_millis(50)))?;
        }
        self.order(&SwarmOrder::Rest)?;
        let seconds = began.elapsed().as_secs_f64();
        self.until(|this| {
            (this.swarm_state.pongs + this.swarm_state.lost, this.swarm_state.pings)
        })?;
        self.sample()?;
        let server_cpu_seconds = self.server_cpu()?.zip(cpu_before).map(|(now, then)| now - then);
        measured.held_at_once = self.held.take().unwrap_or(0);
        measured.pings_missing = self.swarm_state.pings.saturating_sub(self.swarm_state.pongs);
        let lost = self.swarm_state.lost - lost;
        let pings = self.swarm_state.pings - pings;
        let figures = self.figures()?;
        measured.hold_round_trips = figures;
        let p99_us = figures.p99;
        measured.hold = Hold { seconds, active, p99_us, lost, pings, server_cpu_seconds };
        Ok(())
    }

    fn broadcast(&mut self, measured: &mut Measured) -> Result<(), Trouble> {
        if self.server.is_none() {
            return Ok(());
        }
        self.enter(Phase::Broadcast, "one payload goes to everyone")?;
        let payload = announcement(self.wanted.seed);
        self.order(&SwarmOrder::Expect { payload: payload.clone() })?;
        let began = Instant::now();
        self.tell_server(&ServerOrder::Broadcast {
            payload,
            per_second: ANNOUNCEMENTS_PER_SECOND,
            unread_messages_max: self.wanted.plan.pace.unread_messages_max,
        });
        self.until(|this| (this.swarm_state.delivered + this.swarm_state.lost, this.open_goal()))?;
        let (delivered, seconds) = (self.swarm_state.delivered, began.elapsed().as_secs_f64());
        measured.broadcast = Broadcast { delivered, seconds };
        Ok(())
    }

    fn close(&mut self) -> Result<(), Trouble> {
        self.enter(Phase::Close, "half are closed by the clients, then the server drains")?;
        let per_second = self.wanted.plan.pace.closes_per_second;
        let half = self.server.is_some();
        let open = self.swarm_state.open;
        self.order(&SwarmOrder::Close { per_second, half })?;
        self.until(|this| {
            let state = &this.swarm_state;
            let goal = if half { open / 2 } else { open };
            (state.closed, goal.saturating_sub(state.lost))
        })?;
        if half {
            self.order(&SwarmOrder::ServerEnds)?;
            self.tell_server(&ServerOrder::Drain { per_second });
            let open_now = |this: &Self| {
                let open = this.server_state.map_or(0, |state| state.open);
                this.open_goal().saturating_sub(open.max(this.swarm_state.open))
            };
            self.until(|this| match this.server_books {
                Some(_) => (1, 1),
                None => (open_now(this), u64::MAX),
            })?;
            self.until(|this| {
                let state = &this.swarm_state;
                (state.connected - state.open, state.connected)
            })?;
        }
        self.sample()?;
        self.tell_swarm(&SwarmOrder::Leave);
        self.until(|this| (u64::from(this.swarm_books.is_some()), 1))?;
        for half in [&mut self.swarm, &mut self.server] {
            if let Some(mut half) = half.take() {
                half.wait(END_PATIENCE); // killed on drop if that is not enough
            }
        }
        Ok(())
    }

    // --- measuring -----------------------------------------------------------------------------

    fn figures(&mut self) -> Result<RttUs, Trouble> {
        self.order(&SwarmOrder::Figures)?;
        Ok(self.round_trips.take().unwrap_or_default())
    }

    fn server_cpu(&self) -> Result<Option<f64>, Trouble> {
        let Some(server) = &self.server else { return Ok(None) };
        Ok(cpu_seconds("/".as_ref(), server.pid()).map_err(|error| error.to_string())?)
    }

    fn look(&mut self) -> Result<View, Trouble> {
        let observer = self.observer.as_ref().expect("it watches since before the first connect");
        Ok(observer.look()?)
    }
}
