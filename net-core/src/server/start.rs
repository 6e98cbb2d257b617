//! Starting: everything that can be refused is tried before `start` returns.

use super::capacity::Capacity;
use super::datagrams;
use super::{Accept, Ended, FdTable, Listens, Place, Running, Server, Wanted};
use crate::accepting::Listening;
use crate::acceptor::Acceptor;
use crate::addr::{Addr, AddrError};
use crate::admin::{Admin, Serving};
use crate::closed::Closed;
use crate::courier::{self, CourierEnd};
use crate::driver::{COURIER, Driver, listener_token};
use crate::error::StartError;
use crate::event_loop::EventLoop;
use crate::gate::Gate;
use crate::handler::Handler;
use crate::handover::Handover;
use crate::hub::{Bridge, Hub, Order, Remote};
use crate::limits::Limits;
use crate::stats::Stats;
use crate::sys::descriptors::{self, LeftBehind, Traveller};
use crate::sys::signals::Signals;
use crate::sys::{ListenOptions, PrivateTables, Socket, Waker};
use crate::trusted::TrustedProxies;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;

type Catch = fn(&Arc<Waker>) -> io::Result<Signals>;

pub(super) fn start<H, D, F>(
    server: Server,
    factory: F,
    catch: Option<Catch>,
) -> Result<Running<H::Message>, StartError>
where
    H: Handler,
    D: Driver + Send + 'static,
    F: Fn(&Place<H::Message>) -> H + Send + Sync + 'static,
{
    if cfg!(panic = "abort") {
        tracing::warn!("built with panic=abort: a callback that panics ends the whole process");
    }
    server.check()?;
    descriptors::fill_standard().map_err(|e| StartError::new("open /dev/null for 0, 1, 2", e))?;
    let loops = server.loop_count()?;
    let wanted: Vec<Door> = server
        .listen
        .iter()
        .cloned()
        .map(|Wanted { at, proxies }| Ok(Door { at: at?, proxies }))
        .collect::<Result<_, AddrError>>()
        .map_err(|error| StartError::plain(format!("listen: {error}")))?;
    let capacity = Capacity::of(&server, loops)?;
    let max = capacity.say(&server, loops);
    say_migration(&server);
    let gate = Gate::new(max, &server.limits).telling(server.refusal.clone());
    let hub = Hub::new(loops, gate, &server.limits)
        .map_err(|error| StartError::new(format!("make eventfds for {loops} loops"), error))?;
    let signals = match catch {
        Some(catch) => Some(
            catch(&hub.acceptor_waker)
                .map_err(|e| StartError::new("catch SIGTERM, SIGINT and SIGQUIT", e))?,
        ),
        None => None,
    };
    let listens = server.listens(loops);
    let Doors { driver, listeners, addrs, held } =
        open_doors::<H, D>(&server, &hub, &wanted, listens)?;
    let doors: Vec<Door> = match listens {
        Listens::Acceptor => Vec::new(),
        // With the ports that were chosen.
        Listens::EachLoop => addrs
            .iter()
            .zip(wanted)
            .filter(|(at, _)| at.inet().is_some())
            .map(|(at, door)| Door { at: at.clone(), ..door })
            .collect(),
        Listens::OnlyLoop => wanted,
    };
    let (held_too, endpoints) = datagrams::hold::<D>(&server)?;
    let admin = bind_admin(&server)?;

    let mut team = Team { hub: Arc::clone(&hub), threads: Vec::new() };
    let Stand { couriers, opened } =
        start_loops::<H, D, F>(&server, &hub, &doors, &endpoints, factory, &mut team)?;
    drop((held, held_too)); // every loop listens now
    let in_flight_max = (capacity.nofile / 2).max(1);
    let handover = Handover::new(
        Arc::clone(&hub),
        server.balance,
        couriers,
        // With those for whom a place is made on arrival.
        capacity.per_table + server.limits.when_full.spare() as u64,
        in_flight_max,
    );
    let addrs = if listens == Listens::OnlyLoop { opened } else { addrs };
    let ids = team.threads.iter().map(|thread| thread.thread().id()).collect();
    let acceptor = Acceptor::new(
        driver,
        Arc::clone(&hub),
        listeners,
        handover,
        server.limits.clone(),
        server.drain_timeout,
        signals,
    );
    let admin_at = admin.as_ref().map(Admin::at);
    let admin = admin.map(|admin| admin.serve(Arc::clone(&hub) as _)).transpose()?;
    let acceptor = thread::Builder::new()
        .name("net-acceptor".into())
        .spawn(move || supervise(team, acceptor, admin))
        .map_err(|error| StartError::new("start the acceptor's thread", error))?;
    for at in &addrs {
        tracing::info!(loops, connections_max = max, "listening on {at}");
    }
    if let Some(at) = &admin_at {
        tracing::info!("the admin endpoint listens on {at}");
    }
    let acceptor = Some(acceptor);
    let datagrams = endpoints.into_iter().map(Addr::from).collect();
    Ok(Running { remote: Remote(hub), addrs, datagrams, admin: admin_at, acceptor, threads: ids })
}

/// Takes the admin endpoint's address, if it has one: whatever can be refused is refused before a
/// loop starts.
fn bind_admin(server: &Server) -> Result<Option<Admin>, StartError> {
    match &server.admin {
        None => Ok(None),
        Some(Ok(at)) => Admin::bind(at).map(Some),
        Some(Err(error)) => Err(StartError::plain(format!("admin: {error}"))),
    }
}

/// Says what becomes of connects under way when loops that accept for themselves end listening.
fn say_migration(server: &Server) {
    const SETTING: &str = "/proc/sys/net/ipv4/tcp_migrate_req";
    if server.accept == Accept::ReusePort
        && std::fs::read_to_string(SETTING).is_ok_and(|value| value.trim() == "0")
    {
        tracing::info!(
            "net.ipv4.tcp_migrate_req is 0: connects that are under way when a listener ends are \
             reset; with 1 another listener of the address takes them, such as the next server's"
        );
    }
}

/// Where to listen, and for which proxies, if for such alone.
#[derive(Clone)]
struct Door {
    at: Addr,
    proxies: Option<Arc<TrustedProxies>>,
}

/// What is open before any loop is: addresses are free, and ports chosen.
struct Doors<D> {
    driver: D,
    listeners: Vec<Listening>,
    /// In the order of `Server::listen`.
    addrs: Vec<Addr>,
    /// Addresses at which every loop will listen itself, only held meanwhile, so that a port chosen
    /// by the kernel is one and the same for all.
    held: Vec<Socket>,
}

/// Opens the acceptor's listeners: all; or, where each loop listens, those on Unix sockets, which
/// know no SO_REUSEPORT; or none, where the only loop opens its doors itself.
fn open_doors<H: Handler, D: Driver>(
    server: &Server,
    hub: &Hub<H::Message>,
    wanted: &[Door],
    listens: Listens,
) -> Result<Doors<D>, StartError> {
    let mut driver = D::open(&server.limits, Arc::clone(&hub.acceptor_waker))
        .map_err(|error| StartError::new("make the acceptor's epoll", error))?;
    let (mut listeners, mut addrs, mut held) = (Vec::new(), Vec::new(), Vec::new());
    let options = listen_options(server);
    let wanted = if listens == Listens::OnlyLoop { &[] } else { wanted };
    for Door { at, proxies } in wanted {
        let shared = at.inet().filter(|_| listens == Listens::EachLoop);
        let socket = match shared {
            None => driver.listen(listener_token(listeners.len()), at, &options),
            Some(at) => Socket::bind(at, &options),
        }
        .map_err(|error| StartError::new(format!("listen on {at}"), error))?;
        let at =
            D::local(&socket).map_err(|e| StartError::new(format!("ask the port of {at}"), e))?;
        addrs.push(at.clone());
        match shared {
            None => {
                let listening = Listening::new(at, socket, &server.limits);
                listeners.push(listening.behind(proxies.clone()));
            }
            Some(_) => held.push(socket),
        }
    }
    Ok(Doors { driver, listeners, addrs, held })
}

fn listen_options(server: &Server) -> ListenOptions {
    let reuse_port = server.accept == Accept::ReusePort;
    ListenOptions {
        backlog: server.backlog,
        reuse_port,
        sockets: server.sockets.clone(),
        ..ListenOptions::default()
    }
}

/// The loops' threads. Dropped before the acceptor has taken them over, they are stopped.
struct Team<M> {
    hub: Arc<Hub<M>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl<M> Team<M> {
    /// Makes the loops end that have not, and waits for all. The numbers of those that panicked.
    fn join(&mut self) -> Vec<usize> {
        for bridge in &self.hub.loops {
            bridge.arrivals_ended.store(true, Ordering::Release);
        }
        self.hub.order(Order::Stop);
        let joined = self.threads.drain(..).enumerate();
        joined.filter_map(|(k, thread)| thread.join().is_err().then_some(k)).collect()
    }
}

impl<M> Drop for Team<M> {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.join();
        }
    }
}

/// What the loops have, once all of them stand.
struct Stand {
    /// The acceptor's ends of the couriers.
    couriers: Vec<Socket>,
    /// Where the first loop listens.
    opened: Vec<Addr>,
}

/// Starts every loop, listening at its doors, and waits until each has said that it stands.
fn start_loops<H, D, F>(
    server: &Server,
    hub: &Arc<Hub<H::Message>>,
    doors: &[Door],
    endpoints: &[SocketAddr],
    factory: F,
    team: &mut Team<H::Message>,
) -> Result<Stand, StartError>
where
    H: Handler,
    D: Driver,
    F: Fn(&Place<H::Message>) -> H + Send + Sync + 'static,
{
    let cores = if server.pin { core_affinity::get_core_ids().unwrap_or_default() } else { vec![] };
    let factory = Arc::new(factory);
    let (report, reports) = mpsc::channel();
    let mut couriers = Vec::new();
    for number in 0..hub.loops.len() {
        let courier = match server.fd_table {
            FdTable::Shared => None,
            FdTable::PerLoop(promise) => {
                let (near, far) = courier::pair()
                    .map_err(|e| StartError::new(format!("make loop {number}'s courier"), e))?;
                couriers.push(near);
                Some((Traveller::new(far), promise))
            }
        };
        let core = cores.get(number % cores.len().max(1)).copied();
        let steered_to = core.filter(|_| server.steer).map(|core| core.id);
        let seed = Seed {
            number,
            core,
            courier,
            doors: doors.to_vec(),
            endpoints: endpoints.to_vec(),
            options: ListenOptions { core: steered_to, ..listen_options(server) },
            limits: server.limits.clone(),
            hub: Arc::clone(hub),
        };
        let (factory, report) = (Arc::clone(&factory), report.clone());
        let thread = thread::Builder::new()
            .name(format!("net-loop-{number}"))
            .spawn(move || loop_thread::<H, D, F>(seed, &factory, report))
            .map_err(|error| {
                StartError::new(format!("start the thread of loop {number}"), error)
            })?;
        team.threads.push(thread);
    }
    drop(report);
    let mut left_behind = Vec::new();
    let mut opened = Vec::new();
    for _ in 0..hub.loops.len() {
        match reports.recv() {
            Ok(Ok(stands)) => {
                left_behind.extend(stands.left_behind);
                opened = stands.addrs; // the same for each
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(StartError::plain("a loop's thread ended while it started")),
        }
    }
    // Only now, when every loop has made its copy of this table, can no number be mistaken.
    left_behind.into_iter().for_each(LeftBehind::close);
    Ok(Stand { couriers, opened })
}

/// What a loop's thread is born with.
struct Seed<M> {
    number: usize,
    core: Option<core_affinity::CoreId>,
    courier: Option<(Traveller, PrivateTables)>,
    doors: Vec<Door>,
    endpoints: Vec<SocketAddr>,
    options: ListenOptions,
    limits: Limits,
    hub: Arc<Hub<M>>,
}

/// What a loop's thread says once it stands.
struct Stands {
    /// The copy of its courier's end that it has left.
    left_behind: Option<LeftBehind>,
    /// Where it listens itself.
    addrs: Vec<Addr>,
}

fn loop_thread<H, D, F>(
    seed: Seed<H::Message>,
    factory: &F,
    report: mpsc::Sender<Result<Stands, StartError>>,
) where
    H: Handler,
    D: Driver,
    F: Fn(&Place<H::Message>) -> H,
{
    let hub = Arc::clone(&seed.hub);
    let number = seed.number;
    let _farewell = Farewell { hub: &hub, number };
    let (mut event_loop, stands) = match grow::<H, D, F>(seed, factory) {
        Ok(grown) => grown,
        Err(error) => {
            let _ = report.send(Err(error)); // nobody listens: another loop has failed first
            return;
        }
    };
    if report.send(Ok(stands)).is_err() {
        return;
    }
    drop(report);
    if let Err(error) = event_loop.run() {
        tracing::error!(in_loop = number, %error, "the loop's wait has failed; the loop ends");
        panic!("loop {number}: epoll_wait: {error}");
    }
}

/// However a loop's thread ends, the acceptor learns of it, and posts to it are given back.
struct Farewell<'a, M> {
    hub: &'a Hub<M>,
    number: usize,
}

impl<M> Drop for Farewell<'_, M> {
    fn drop(&mut self) {
        let bridge = &self.hub.loops[self.number];
        bridge.mail.close_and_drain(drop);
        close_arrivals(bridge, &bridge.stats);
        // Release: with it, the acceptor sees the loop's last counts.
        bridge.is_over.store(true, Ordering::Release);
        self.hub.acceptor_waker.ring();
    }
}

/// Closes the connections that no loop will take any more.
fn close_arrivals<M>(bridge: &Bridge<M>, stats: &Stats) {
    while let Some(arrival) = bridge.arrivals.pop() {
        drop(arrival);
        stats.closed(Closed::Stopped);
    }
}

/// Makes the loop, on its own thread.
fn grow<H, D, F>(
    seed: Seed<H::Message>,
    factory: &F,
) -> Result<(EventLoop<H, D>, Stands), StartError>
where
    H: Handler,
    D: Driver,
    F: Fn(&Place<H::Message>) -> H,
{
    let Seed { number, core, courier, doors, endpoints, options, limits, hub } = seed;
    let fail = |what: &str, error| StartError::new(format!("loop {number}: {what}"), error);
    let (courier, left_behind) = match courier {
        None => (None, None),
        Some((far, promise)) => {
            let wakers = hub.loops.iter().map(|bridge| bridge.doorbell.waker());
            let wakers = wakers.chain([&hub.acceptor_waker]).map(Arc::as_ref);
            let settled = far.settle(wakers, promise);
            let (end, left) = settled.map_err(|e| fail("make a descriptor table of its own", e))?;
            (Some(end), Some(left))
        }
    };
    if let Some(core) = core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!(in_loop = number, core = core.id, "cannot pin the loop to its core");
    }
    let waker = Arc::clone(hub.loops[number].doorbell.waker());
    let mut driver = D::open(&limits, waker).map_err(|e| fail("make its epoll", e))?;
    let (mut listeners, mut addrs) = (Vec::new(), Vec::new());
    for (n, Door { at, proxies }) in doors.into_iter().enumerate() {
        let socket = driver
            .listen(listener_token(n), &at, &options)
            .map_err(|e| fail(&format!("listen on {at}"), e))?;
        let at = D::local(&socket).map_err(|e| fail(&format!("ask the port of {at}"), e))?;
        addrs.push(at.clone());
        listeners.push(Listening::new(at, socket, &limits).behind(proxies));
    }
    let courier = match courier {
        None => None,
        Some(end) => {
            driver.attach(COURIER, &end).map_err(|e| fail("watch its courier", e.into()))?;
            Some(CourierEnd::new(end))
        }
    };
    let place = Place { number, remote: Remote(Arc::clone(&hub)) };
    let handler = catch_unwind(AssertUnwindSafe(|| factory(&place)))
        .map_err(|_| StartError::plain(format!("loop {number}: the handler's factory panicked")))?;
    let mut event_loop = EventLoop::new(number, driver, handler, &limits, hub, listeners, courier);
    for at in endpoints {
        let opened = event_loop.open_datagrams(at);
        opened.map_err(|e| fail(&format!("receive datagrams at {at}"), e))?;
    }
    Ok((event_loop, Stands { left_behind, addrs }))
}

/// The acceptor's thread: accepts until all is over, then waits for the loops' threads, and ends the
/// admin endpoint last. (When something panics, what comes last is dropped first: the couriers
/// close before the loops are waited for.)
fn supervise<M: Send + 'static, D: Driver>(
    mut team: Team<M>,
    mut acceptor: Acceptor<M, D>,
    admin: Option<Serving>,
) -> Result<Ended, StartError> {
    let ran = acceptor.run();
    let signals = acceptor.take_signals();
    drop(acceptor);
    team.hub.adoptions.close_and_drain(drop); // closed already, unless the wait has failed
    let died = team.join();
    team.hub.resolver.end(); // and not waited for: a name server may be silent for long
    for bridge in &team.hub.loops {
        // What was pushed after a loop had died, before that was known.
        close_arrivals(bridge, &team.hub.acceptor);
    }
    drop(admin);
    // Not before all is over: until then a second signal must not kill the process.
    drop(signals);
    let (signals, last) = ran.map_err(|error| StartError::new("the acceptor's wait", error))?;
    if let Some(number) = died.first() {
        return Err(StartError::plain(format!("loop {number} died: see the log")));
    }
    let counts = team.hub.snapshot();
    tracing::info!("ended: {counts}");
    Ok(Ended { counts, cut_by_signal: (signals > 1).then_some(last) })
}
