//! The threads of the loops: how each thread starts, and how it ends.

use super::listeners::{ListenSpec, listen_options};
use super::{FdTable, LoopInfo, Server, processors};
use crate::accept::fd_channel::{self, FdReceiver};
use crate::accept::listener::Listener;
use crate::api::handler::Handler;
use crate::api::server_handle::ServerHandle;
use crate::base::close_reason::CloseReason;
use crate::base::error::StartError;
use crate::base::panics::{Quiet, take_message, take_said};
use crate::config::limits::Limits;
use crate::driver::{Driver, FD_CHANNEL, listener_token};
use crate::event_loop::{EventLoop, forget, guard};
use crate::observe::counters::{Counter, Counters};
use crate::sys::addr::Addr;
use crate::sys::affinity::Affinity;
use crate::sys::descriptors::{LeftBehind, Traveller};
use crate::sys::{DatagramOptions, ListenOptions, PrivateTables, Socket};
use crate::threads::control::Phase;
use crate::threads::inbox::Inbox;
use crate::threads::shared::Shared;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

/// The loops' threads. If this is dropped before the acceptor has taken it over, the loops are stopped.
pub(super) struct LoopThreads<M> {
    pub(super) shared: Arc<Shared<M>>,
    /// In the order of the loops' numbers. All loops, or all except the last.
    pub(super) threads: Vec<JoinHandle<io::Result<()>>>,
    /// Descriptors that loops with private tables leave behind in the table of the thread that starts the
    /// loops.
    left_behind: Vec<LeftBehind>,
}

impl<M> LoopThreads<M> {
    /// No threads yet.
    pub(super) fn new(shared: Arc<Shared<M>>) -> Self {
        Self { shared, threads: Vec::new(), left_behind: Vec::new() }
    }

    /// Closes the descriptors that the loops left behind. To be called after every loop has made its copy
    /// of this table: then no number can be mistaken for another.
    fn close_left_behind(&mut self) {
        self.left_behind.drain(..).for_each(LeftBehind::close);
    }

    /// Makes all loops end, and waits for their threads, except for the threads of loops that were
    /// `given_up`: these end by themselves when their callbacks return. Returns an error for each loop
    /// that ended badly.
    pub(super) fn join(&mut self, given_up: &[usize]) -> Vec<StartError> {
        for inbox in &self.shared.loops {
            inbox.arrivals_ended.store(true, Ordering::Release);
        }
        self.shared.raise(Phase::Stop);
        self.shared.resolver.end(); // not waited for: a name server may be silent long
        let threads = self.threads.drain(..).enumerate();
        let waited_for = threads.filter(|(number, _)| !given_up.contains(number));
        waited_for.filter_map(|(number, thread)| result_of(number, thread.join()).err()).collect()
    }
}

/// The result of a loop's thread. If the loop ended badly, the error says how.
pub(super) fn result_of(
    number: usize,
    ended: thread::Result<io::Result<()>>,
) -> Result<(), StartError> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(StartError::new(format!("loop {number} ended: its wait"), error)),
        Err(payload) => {
            let said = payload.downcast_ref::<&str>().copied();
            let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let said = said.unwrap_or("it did not say why");
            let error = StartError::plain(format!("loop {number} died of a panic: {said}"));
            forget(payload);
            Err(error)
        }
    }
}

impl<M> Drop for LoopThreads<M> {
    fn drop(&mut self) {
        for error in self.join(&[]) {
            tracing::error!("{error}");
        }
        self.close_left_behind();
    }
}

/// What the start of the loops gives, once all loops are ready.
pub(super) struct StartedLoops<H: Handler, D: Driver> {
    /// The acceptor's ends of the fd channels.
    pub(super) fd_channels: Vec<Socket>,
    /// Where the first loop listens.
    pub(super) opened: Vec<Addr>,
    /// The last loop, if it is to run on the calling thread.
    pub(super) own: Option<OwnLoop<H, D>>,
}

/// Starts every loop with its own listeners, and waits until each loop reports that it is ready. With
/// `here`, the last loop is made by `here` on the calling thread, and is not started.
pub(super) fn start_loops<H, D, F, G>(
    server: &Server,
    specs: &[ListenSpec],
    endpoints: &[SocketAddr],
    factory: F,
    here: Option<G>,
    team: &mut LoopThreads<H::Message>,
) -> Result<StartedLoops<H, D>, StartError>
where
    H: Handler,
    D: Driver,
    F: Fn(&LoopInfo<H::Message>) -> H + Send + Sync + 'static,
    G: FnOnce(&LoopInfo<H::Message>) -> H,
{
    let shared = Arc::clone(&team.shared);
    let cores = cores_for(server, shared.loops.len());
    let spec = |number: usize, fd_channel| {
        let core = cores.get(number % cores.len().max(1)).copied();
        let steered_to = core.filter(|_| server.incoming_cpu).map(|core| core.id);
        LoopSpec {
            number,
            core,
            fd_channel,
            specs: specs.to_vec(),
            endpoints: endpoints.to_vec(),
            options: ListenOptions { core: steered_to, ..listen_options(server) },
            limits: server.limits.clone(),
            shared: Arc::clone(&shared),
        }
    };
    let factory = Arc::new(factory);
    let (report, reports) = mpsc::channel();
    let mut fd_channels = Vec::new();
    let threads = shared.loops.len() - usize::from(here.is_some());
    for number in 0..threads {
        let fd_channel = match server.fd_table {
            FdTable::Shared => None,
            FdTable::PerLoop(promise) => {
                let (near, far) = fd_channel::pair()
                    .map_err(|e| StartError::new(format!("make loop {number}'s fd channel"), e))?;
                fd_channels.push(near);
                let (far, left_behind) = Traveller::new(far);
                team.left_behind.push(left_behind);
                Some((far, promise))
            }
        };
        let spec = spec(number, fd_channel);
        let (factory, report) = (Arc::clone(&factory), report.clone());
        let thread = thread::Builder::new()
            .name(format!("net-loop-{number}"))
            .spawn(move || {
                let _quiet = Quiet::here();
                let run = || loop_thread::<H, D, F>(spec, &factory, report);
                let ran = catch_unwind(AssertUnwindSafe(run));
                drop_factory(factory);
                ran.unwrap_or_else(|died| resume_unwind(died))
            })
            .map_err(|error| {
                StartError::new(format!("start the thread of loop {number}"), error)
            })?;
        team.threads.push(thread);
    }
    drop(report);
    let own = here.map(|make| OwnLoop::start(spec(threads, None), make)).transpose()?;
    let mut opened = own.as_ref().map(|(_, ready)| ready.addrs.clone()).unwrap_or_default();
    for _ in 0..threads {
        match reports.recv() {
            Ok(Ok(ready)) => opened = ready.addrs, // the same for each
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                drop(fd_channels); // the ready loops wait for this
                let died = team.join(&[]).into_iter().next();
                return Err(died.expect("a loop that says nothing has panicked"));
            }
        }
    }
    team.close_left_behind();
    drop_factory(factory);
    Ok(StartedLoops { fd_channels, opened, own: own.map(|(own, _)| own) })
}

/// Drops the handlers' factory. The factory holds the user's values, whose drop may panic. A second panic
/// in a thread that unwinds already would abort the process.
fn drop_factory<F>(factory: Arc<F>) {
    if guard(|| drop(factory)).is_none() {
        tracing::error!(said = take_said(), "the drop of the handlers' factory panicked");
    }
}

/// The cores to which the loops are pinned, in turn. Empty: the system places the loops.
fn cores_for(server: &Server, loops: usize) -> Vec<core_affinity::CoreId> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let (allowed, processors) = (cores.len(), processors());
    let is_pinned = server.pins(loops, allowed, processors);
    let how = if is_pinned { "each loop stays on its core" } else { "the system places the loops" };
    tracing::info!(loops, cores = allowed, processors, "{how}");
    if is_pinned { cores } else { Vec::new() }
}

/// What a loop's thread gets at its start.
pub(super) struct LoopSpec<M> {
    pub(super) number: usize,
    pub(super) core: Option<core_affinity::CoreId>,
    fd_channel: Option<(Traveller, PrivateTables)>,
    specs: Vec<ListenSpec>,
    endpoints: Vec<SocketAddr>,
    options: ListenOptions,
    limits: Limits,
    pub(super) shared: Arc<Shared<M>>,
}

/// What a loop's thread reports when it is ready.
pub(super) struct ReadyLatch {
    /// The addresses of the loop's own listeners.
    pub(super) addrs: Vec<Addr>,
}

fn loop_thread<H, D, F>(
    spec: LoopSpec<H::Message>,
    factory: &F,
    report: mpsc::Sender<Result<ReadyLatch, StartError>>,
) -> io::Result<()>
where
    H: Handler,
    D: Driver,
    F: Fn(&LoopInfo<H::Message>) -> H,
{
    let _exit_notice = ExitNotice::of(&spec);
    let (event_loop, ready) = match start_loop::<H, D, _>(spec, factory) {
        Ok(grown) => grown,
        Err(error) => {
            let _ = report.send(Err(error)); // the receiver is gone: another loop has failed first
            return Ok(());
        }
    };
    if report.send(Ok(ready)).is_err() {
        event_loop.dismantle();
        return Ok(());
    }
    drop(report);
    run_to_its_end(event_loop)
}

/// Runs the loop until it is over, and then drops the user's values that it holds, also if the loop has
/// died.
pub(super) fn run_to_its_end<H: Handler, D: Driver>(
    mut event_loop: EventLoop<H, D>,
) -> io::Result<()> {
    let ran = catch_unwind(AssertUnwindSafe(|| event_loop.run()));
    event_loop.dismantle();
    ran.unwrap_or_else(|died| resume_unwind(died))
}

/// Tells the acceptor that a loop has ended, in whatever way, and closes its mailbox, so that posts to
/// the loop are given back. Dropped after the loop.
pub(super) struct ExitNotice<M> {
    shared: Arc<Shared<M>>,
    number: usize,
}

impl<M> ExitNotice<M> {
    pub(super) fn of(spec: &LoopSpec<M>) -> Self {
        Self { shared: Arc::clone(&spec.shared), number: spec.number }
    }
}

impl<M> Drop for ExitNotice<M> {
    fn drop(&mut self) {
        let inbox = &self.shared.loops[self.number];
        // Only a loop that has died still has mail here. Any other loop has closed its mailbox itself.
        // The drop of a message may panic, which would abort the process in a thread that panics already.
        inbox.mail.close_and_drain(|mail| {
            inbox.counters.add(Counter::MailLost, 1);
            if guard(|| drop(mail)).is_none() {
                inbox.counters.add(Counter::Panics, 1);
            }
        });
        close_arrivals(inbox, &inbox.counters);
        inbox.activity.rest(); // an ended loop is not stalled
        // Release: an acceptor that sees this also sees the loop's last counts.
        inbox.is_over.store(true, Ordering::Release);
        self.shared.acceptor_waker.wake();
    }
}

/// Closes the connections that the loop will not take any more.
pub(super) fn close_arrivals<M>(inbox: &Inbox<M>, counters: &Counters) {
    while let Some(arrival) = inbox.arrivals.pop() {
        drop(arrival);
        counters.closed(CloseReason::Stopped);
    }
}

/// Makes the loop. Runs on the loop's thread.
pub(super) fn start_loop<H, D, F>(
    spec: LoopSpec<H::Message>,
    factory: F,
) -> Result<(EventLoop<H, D>, ReadyLatch), StartError>
where
    H: Handler,
    D: Driver,
    F: FnOnce(&LoopInfo<H::Message>) -> H,
{
    let LoopSpec { number, core, fd_channel, specs, endpoints, options, limits, shared } = spec;
    let fail = |what: &str, error| StartError::new(format!("loop {number}: {what}"), error);
    let fd_channel = match fd_channel {
        None => None,
        Some((far, promise)) => {
            let wakers = shared.loops.iter().map(|inbox| inbox.waker.eventfd());
            let wakers = wakers.chain([&shared.acceptor_waker]).map(Arc::as_ref);
            let settled = far.settle(wakers, promise);
            Some(settled.map_err(|e| {
                fail("make a descriptor table of its own by unshare and close_range", e)
            })?)
        }
    };
    pin(number, core);
    let waker = Arc::clone(shared.loops[number].waker.eventfd());
    let mut driver = D::open(&limits, waker).map_err(|e| fail("make its epoll", e))?;
    let (mut listeners, mut addrs) = (Vec::new(), Vec::new());
    for (n, ListenSpec { at, proxies }) in specs.into_iter().enumerate() {
        let socket = driver
            .listen(listener_token(n), &at, &options)
            .map_err(|e| fail(&format!("listen on {at}"), e))?;
        let at = D::local(&socket).map_err(|e| fail(&format!("ask the port of {at}"), e))?;
        addrs.push(at.clone());
        listeners.push(Listener::new(at, socket, &limits, &shared.listener_health).behind(proxies));
    }
    let fd_channel = match fd_channel {
        None => None,
        Some(end) => {
            driver.attach(FD_CHANNEL, &end).map_err(|e| fail("watch its fd channel", e.into()))?;
            Some(FdReceiver::new(end))
        }
    };
    let loops = shared.loops.len();
    let place = LoopInfo { number, handle: ServerHandle(Arc::clone(&shared)) };
    let handler = guard(|| factory(&place)).ok_or_else(|| {
        let said = take_message();
        StartError::plain(format!("loop {number}: the handler's factory panicked: {said}"))
    })?;
    let mut event_loop =
        EventLoop::new(number, driver, handler, &limits, shared, listeners, fd_channel);
    event_loop.begin_table().map_err(|e| fail("take memory for its connections", e))?;
    for (n, at) in endpoints.into_iter().enumerate() {
        let sockets = options.sockets.clone();
        let how = DatagramOptions { sockets, hears_group: n % loops == number };
        let opened = event_loop.open_datagrams_with(at, &how);
        opened.map_err(|e| fail(&format!("receive datagrams at {at}"), e))?;
    }
    Ok((event_loop, ReadyLatch { addrs }))
}

/// Pins the calling thread, which is the loop's thread, to its core.
pub(super) fn pin(number: usize, core: Option<core_affinity::CoreId>) {
    if let Some(core) = core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!(in_loop = number, core = core.id, "cannot pin the loop to its core");
    }
}

/// A loop that is ready, and runs on the thread that has made it.
pub(super) struct OwnLoop<H: Handler, D: Driver> {
    // Dropped in this order.
    event_loop: EventLoop<H, D>,
    exit_notice: ExitNotice<H::Message>,
    number: usize,
    core: Option<core_affinity::CoreId>,
}

impl<H: Handler, D: Driver> OwnLoop<H, D> {
    /// Makes the loop on its core, like every loop, and then gives the thread its former cores back,
    /// because the threads that it starts next inherit its cores.
    pub(super) fn start(
        mut spec: LoopSpec<H::Message>,
        make: impl FnOnce(&LoopInfo<H::Message>) -> H,
    ) -> Result<(Self, ReadyLatch), StartError> {
        let lent = spec.core.and_then(|_| AffinityGuard::new());
        spec.core = spec.core.filter(|_| lent.is_some());
        let (number, core) = (spec.number, spec.core);
        let exit_notice = ExitNotice::of(&spec);
        let _quiet = Quiet::here();
        let (event_loop, ready) = start_loop(spec, make)?;
        Ok((Self { event_loop, exit_notice, number, core }, ready))
    }

    /// Runs the loop until it is over.
    pub(super) fn run(self) -> Result<(), StartError> {
        let (number, core) = (self.number, self.core);
        let lent = core.and_then(|_| AffinityGuard::new());
        pin(number, core.filter(|_| lent.is_some()));
        let _quiet = Quiet::here();
        let run = || {
            let Self { event_loop, exit_notice: _exit_notice, .. } = self;
            run_to_its_end(event_loop)
        };
        result_of(number, catch_unwind(AssertUnwindSafe(run)))
    }
}

/// Keeps the former cores of the calling thread while a loop pins it. When this is dropped, the thread
/// may run on these cores again.
struct AffinityGuard(Affinity);

impl AffinityGuard {
    /// `None`: the thread's cores cannot be read, so the thread must not be pinned.
    fn new() -> Option<Self> {
        let cores = Affinity::of_this_thread();
        if let Err(error) = &cores {
            tracing::warn!(%error, "cannot ask for this thread's cores, so the loop is not pinned");
        }
        cores.ok().map(Self)
    }
}

impl Drop for AffinityGuard {
    fn drop(&mut self) {
        if let Err(error) = self.0.set_here() {
            tracing::warn!(%error, "cannot give this thread its former cores back");
        }
    }
}
