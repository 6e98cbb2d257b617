//! Leads a run from its parent process: starts both halves, takes them through the phases, and keeps the
//! results.
//!
//! Connect, verify, hold, broadcast, close: `phases` has this order. This file has what all phases need. No
//! phase waits for ever. If nothing moves for too long, the phase ends with what there is, and the report
//! says what is missing.

mod phases;
mod summary;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::half::{Event, Half, Who};
use super::observer::Observer;
use super::plan::Plan;
use super::progress::Progress;
use super::report::{Phase, Report, RttUs, Sample};
use super::talk::{Books, ServerNews, ServerOrder, ServerState, SwarmNews, SwarmOrder, SwarmState};
use super::trouble::Trouble;
use net_core::process::Machine;

/// How often the run is sampled from outside.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// How long a half may take to end after the order to end.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// What a run is asked to do.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What was planned.
    pub plan: Plan,
    /// The machine it was planned for.
    pub machine: Machine,
    /// Where the server listens, or where a server listens already, as the plan's role says.
    pub server: SocketAddr,
    /// The address of the server's admin endpoint, if there is one.
    pub admin: Option<String>,
    /// Callbacks are timed, for the admin endpoint.
    pub time_callbacks: bool,
    /// Local addresses of the swarm; see `SwarmSetup::sources`.
    pub sources: Vec<IpAddr>,
    /// How long all connections are held.
    pub hold: Duration,
    /// Connections that are active in the hold.
    pub active: u64,
    /// Time between two pings of an active connection.
    pub ping_every: Duration,
    /// How long nothing may move before a phase ends.
    pub patience: Duration,
    /// The seed of the messages.
    pub seed: u64,
    /// The command line, for the report.
    pub command: String,
}

/// Runs it. The report may be of a run that failed: its verdict says so.
///
/// # Errors
/// If the run could not be finished.
pub fn run(wanted: &Wanted) -> Result<Report, Trouble> {
    let interrupted = catch_interrupts().map_err(|e| format!("catch SIGINT and SIGTERM: {e}"))?;
    let mut conductor = Conductor::new(wanted, interrupted);
    let outcome = conductor.phases();
    if outcome.is_err() {
        conductor.stop();
    }
    conductor.progress.finish();
    outcome
}

/// True once SIGINT or SIGTERM has come. A further SIGINT ends the program at once. The halves then lose
/// their parent, and stop.
fn catch_interrupts() -> std::io::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let came = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&came))?;
    signal_hook::flag::register(SIGINT, Arc::clone(&came))?;
    signal_hook::flag::register(SIGTERM, Arc::clone(&came))?;
    Ok(came)
}

struct Conductor<'a> {
    wanted: &'a Wanted,
    interrupted: Arc<AtomicBool>,
    began: Instant,
    sender: Sender<Event>,
    events: Receiver<Event>,
    server: Option<Half>,
    swarm: Option<Half>,
    server_at: Option<SocketAddr>,
    server_state: Option<ServerState>,
    swarm_state: SwarmState,
    round_trips: Option<RttUs>,
    server_books: Option<Books>,
    swarm_books: Option<Books>,
    /// The swarm has taken its last order.
    is_done: bool,
    observer: Option<Observer>,
    sampled: Instant,
    phase: Phase,
    /// While this is `Some`: the fewest connections open at once, by the lowest of the counts.
    held: Option<u64>,
    progress: Progress,
}

impl<'a> Conductor<'a> {
    fn new(wanted: &'a Wanted, interrupted: Arc<AtomicBool>) -> Self {
        let (sender, events) = mpsc::channel();
        let now = Instant::now();
        Self {
            wanted,
            interrupted,
            began: now,
            sender,
            events,
            server: None,
            swarm: None,
            server_at: None,
            server_state: None,
            swarm_state: SwarmState::default(),
            round_trips: None,
            server_books: None,
            swarm_books: None,
            is_done: false,
            observer: None,
            sampled: now,
            phase: Phase::Connect,
            held: None,
            progress: Progress::on_stderr(wanted.plan.connections),
        }
    }

    fn tell_server(&mut self, order: &ServerOrder) {
        if let Some(server) = &mut self.server {
            server.tell(order);
        }
    }

    fn tell_swarm(&mut self, order: &SwarmOrder) {
        self.is_done = false;
        if let Some(swarm) = &mut self.swarm {
            swarm.tell(order);
        }
    }

    /// Gives the swarm an order and waits until all its loops have taken it.
    fn order(&mut self, order: &SwarmOrder) -> Result<(), Trouble> {
        self.tell_swarm(order);
        match self.until(|this| (u64::from(this.is_done), 1))? {
            true => Ok(()),
            false => Err(Trouble::Failed("the swarm does not answer".to_owned())),
        }
    }

    /// Runs until `progress` (done, of all) is complete: true. Or until it has not changed for too long:
    /// false.
    fn until(&mut self, progress: impl Fn(&Self) -> (u64, u64)) -> Result<bool, Trouble> {
        let mut last = progress(self);
        let mut moved = Instant::now();
        loop {
            let now = progress(self);
            if now.0 >= now.1 {
                return Ok(true);
            }
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > self.wanted.patience {
                return Ok(false);
            }
            self.step(Duration::from_millis(20))?;
        }
    }

    /// Takes the events that come within `time`.
    fn step(&mut self, time: Duration) -> Result<(), Trouble> {
        match self.events.recv_timeout(time) {
            Ok(event) => {
                self.take(event)?;
                // Further events that are there already are taken too, so that the state is newer.
                while let Ok(event) = self.events.try_recv() {
                    self.take(event)?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("one sender is held here"),
        }
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Trouble::Interrupted);
        }
        if self.sampled.elapsed() >= SAMPLE_EVERY {
            self.sample()?;
        }
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<(), Trouble> {
        let (half, who, is_over) = match event {
            Event::Server(news) => return self.take_server(news),
            Event::Swarm(news) => return self.take_swarm(*news),
            Event::Silent(Who::Server) => {
                (&mut self.server, Who::Server, self.server_books.is_some())
            }
            Event::Silent(Who::Swarm) => (&mut self.swarm, Who::Swarm, self.swarm_books.is_some()),
        };
        if is_over {
            return Ok(());
        }
        let obituary = half.as_mut().map(Half::obituary);
        Err(Trouble::Failed(obituary.unwrap_or_else(|| format!("the {who} is gone"))))
    }

    fn take_server(&mut self, news: ServerNews) -> Result<(), Trouble> {
        match news {
            ServerNews::Listening(at) => self.server_at = Some(at),
            ServerNews::State(state) => self.server_state = Some(state),
            ServerNews::Ended(books) => self.server_books = Some(books),
            ServerNews::Failed(what) => return Err(Trouble::Failed(format!("the server: {what}"))),
        }
        Ok(())
    }

    fn take_swarm(&mut self, news: SwarmNews) -> Result<(), Trouble> {
        match news {
            SwarmNews::Done => self.is_done = true,
            SwarmNews::State(state) => {
                self.swarm_state = state;
                if self.phase == Phase::Connect {
                    self.show();
                }
            }
            SwarmNews::RoundTrips(figures) => {
                self.round_trips = Some(figures);
                self.is_done = true;
            }
            SwarmNews::Ended(books) => self.swarm_books = Some(books),
            SwarmNews::Failed(what) => return Err(Trouble::Failed(format!("the swarm: {what}"))),
        }
        Ok(())
    }

    fn show(&mut self) {
        let last = self.observer.as_ref().and_then(|observer| observer.samples.last());
        if let Some(last) = last {
            let connections = self.swarm_state.open;
            self.progress.show(&Sample { connections, ..*last });
        }
    }

    /// Takes a sample of the run from outside.
    fn sample(&mut self) -> Result<(), Trouble> {
        self.sampled = Instant::now();
        let Some(observer) = &mut self.observer else { return Ok(()) };
        let sample = observer.sample(self.phase, self.server_state, &self.swarm_state)?;
        if let Some(held) = &mut self.held {
            let by_server = self.server_state.map_or(u64::MAX, |state| state.open);
            let by_loops = by_server.min(self.swarm_state.open);
            *held = (*held).min(by_loops).min(observer.kernel_open());
        }
        self.progress.show(&sample);
        Ok(())
    }

    /// Ends both halves, in any state.
    fn stop(&mut self) {
        self.tell_swarm(&SwarmOrder::Stop);
        self.tell_server(&ServerOrder::Stop);
        for half in [&mut self.swarm, &mut self.server] {
            if let Some(mut half) = half.take() {
                half.wait(END_PATIENCE); // killed on drop if that is not enough
            }
        }
    }
}
