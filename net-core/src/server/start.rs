//! Starts a server: everything that can be refused is tried before `start` returns.

use super::capacity::Capacity;
use super::datagrams;
use super::doctor::warn_of_walls;
use super::listeners::{self, ListenSpec, Listeners, open_listeners};
use super::loop_threads::{LoopThreads, OwnLoop, StartedLoops, close_arrivals, start_loops};
use super::{Accept, Ended, Listens, LoopInfo, Running, Server};
use crate::accept::admission::Admission;
use crate::api::handler::Handler;
use crate::api::server_handle::ServerHandle;
use crate::base::error::StartError;
use crate::base::panics::Quiet;
use crate::driver::Driver;
use crate::server::acceptor::Acceptor;
use crate::server::admin::{Admin, Serving};
use crate::server::dispatcher::Dispatcher;
use crate::sys::addr::Addr;
use crate::sys::signals::{Signals, exit_at_once};
use crate::sys::{Waker, child, descriptors};
use crate::threads::shared::Shared;
use std::io;
use std::sync::Arc;
use std::thread;

pub(super) type CatchSignals = fn(&Arc<Waker>) -> io::Result<Signals>;

pub(super) fn start<H, D, F>(
    server: Server,
    factory: F,
    catch: Option<CatchSignals>,
) -> Result<Running<H::Message>, StartError>
where
    H: Handler,
    D: Driver + Send + 'static,
    F: Fn(&LoopInfo<H::Message>) -> H + Send + Sync + 'static,
{
    type Nobody<H> = fn(&LoopInfo<<H as Handler>::Message>) -> H;
    begin::<H, D, F, Nobody<H>>(server, factory, None, catch).map(|(running, _)| running)
}

/// The running server, and the loop that is to run on the calling thread, if there is one.
type Begun<H, D> = (Running<<H as Handler>::Message>, Option<OwnLoop<H, D>>);

/// As `start`. With `here`, the last loop is made by `here` on the calling thread, and is returned so
/// that the caller can run it.
pub(super) fn begin<H, D, F, G>(
    server: Server,
    factory: F,
    here: Option<G>,
    catch: Option<CatchSignals>,
) -> Result<Begun<H, D>, StartError>
where
    H: Handler,
    D: Driver + Send + 'static,
    F: Fn(&LoopInfo<H::Message>) -> H + Send + Sync + 'static,
    G: FnOnce(&LoopInfo<H::Message>) -> H,
{
    if cfg!(panic = "abort") {
        tracing::warn!("built with panic=abort: a callback that panics ends the whole process");
    }
    server.check()?;
    child::remember();
    descriptors::fill_standard().map_err(|e| StartError::new("open /dev/null for 0, 1, 2", e))?;
    let loops = server.loop_count()?;
    let wanted = listeners::wanted(&server)?;
    let capacity = Capacity::of(&server, loops)?;
    let max = capacity.say(&server, loops);
    if let Some(asked) = server.limits.connections_max {
        warn_of_walls(&server, &capacity, asked);
    }
    say_migration(&server);
    let admission = Admission::new(max, &server.limits).with_refusal(server.refusal.clone());
    let shared = Shared::new(loops, admission, &server.limits)
        .map_err(|error| StartError::new(format!("make eventfds for {loops} loops"), error))?;
    let signals = match catch {
        Some(catch) => Some(
            catch(&shared.acceptor_waker)
                .map_err(|e| StartError::new("catch SIGTERM, SIGINT and SIGQUIT", e))?,
        ),
        None => None,
    };
    let listens = server.listens(loops);
    let Listeners { driver, listeners, addrs, held } =
        open_listeners::<H, D>(&server, &shared, &wanted, listens)?;
    let specs: Vec<ListenSpec> = match listens {
        Listens::Acceptor => Vec::new(),
        // The addresses with the ports that the kernel chose.
        Listens::EachLoop => addrs
            .iter()
            .zip(wanted)
            .filter(|(at, _)| at.inet().is_some())
            .map(|(at, door)| ListenSpec { at: at.clone(), ..door })
            .collect(),
        Listens::OnlyLoop => wanted,
    };
    let (held_too, endpoints) = datagrams::hold::<D>(&server)?;
    let admin = bind_admin(&server)?;

    let mut team = LoopThreads::new(Arc::clone(&shared));
    let StartedLoops { fd_channels, opened, own } =
        start_loops::<H, D, F, G>(&server, &specs, &endpoints, factory, here, &mut team)?;
    drop((held, held_too)); // every loop listens now
    let in_flight_max = (capacity.nofile / 2).max(1);
    let dispatcher = Dispatcher::new(
        Arc::clone(&shared),
        server.balance,
        fd_channels,
        // Including the connections for which a place is made on arrival.
        capacity.per_table + server.limits.when_full.spare() as u64,
        in_flight_max,
        server.limits.log_every,
    );
    let addrs = if listens == Listens::OnlyLoop { opened } else { addrs };
    let ids = team.threads.iter().map(|thread| thread.thread().id()).collect();
    let acceptor = Acceptor::new(
        driver,
        Arc::clone(&shared),
        listeners,
        dispatcher,
        server.limits.clone(),
        server.drain_timeout,
        signals,
    );
    let admin_at = admin.as_ref().map(Admin::at);
    let admin = admin.map(|admin| admin.serve(Arc::clone(&shared) as _)).transpose()?;
    let crew = Supervisor { acceptor, admin, team };
    let acceptor = thread::Builder::new()
        .name("net-acceptor".into())
        .spawn(move || {
            let _quiet = Quiet::here();
            crew.supervise()
        })
        .map_err(|error| StartError::new("start the acceptor's thread", error))?;
    for at in &addrs {
        tracing::info!(loops, connections_max = max, "listening on {at}");
    }
    if let Some(at) = &admin_at {
        tracing::info!("the admin endpoint listens on {at}");
    }
    let acceptor = Some(acceptor);
    let datagrams = endpoints.into_iter().map(Addr::from).collect();
    let running = Running {
        handle: ServerHandle(shared),
        addrs,
        datagrams,
        admin: admin_at,
        acceptor,
        threads: ids,
    };
    Ok((running, own))
}

/// Binds the admin endpoint's address, if there is one. An address that can be refused is refused before
/// a loop starts.
fn bind_admin(server: &Server) -> Result<Option<Admin>, StartError> {
    match &server.admin {
        None => Ok(None),
        Some(Ok(at)) => Admin::bind(at, server.admin_access.clone()).map(Some),
        Some(Err(error)) => Err(StartError::plain(format!("admin: {error}"))),
    }
}

/// Logs what happens to connects under way when loops with their own listeners end listening.
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

/// Everything that the acceptor's thread owns. If the thread does not start or panics, the fields are
/// dropped in this order, so that the fd channels close before the loops are waited for.
struct Supervisor<M, D: Driver> {
    acceptor: Acceptor<M, D>,
    admin: Option<Serving>,
    team: LoopThreads<M>,
}

impl<M: Send + 'static, D: Driver> Supervisor<M, D> {
    /// Runs the acceptor until every loop is over, then waits for the loops' threads, and ends the admin
    /// endpoint last.
    fn supervise(mut self) -> Result<Ended, StartError> {
        let ran = self.acceptor.run();
        let Self { mut acceptor, admin, mut team } = self;
        let (signals, last_failed) = (acceptor.take_signals(), acceptor.take_last_failed());
        let given_up = acceptor.take_given_up();
        drop(acceptor);
        team.shared.adoptions.close_and_drain(drop); // closed already, unless the wait has failed
        // A given-up loop that runs on the caller's thread keeps that thread.
        let keeps_caller = given_up.iter().any(|k| *k >= team.threads.len());
        let died = team.join(&given_up);
        for inbox in &team.shared.loops {
            // Closes the arrivals that were pushed after a loop had died, before the acceptor knew of it.
            close_arrivals(inbox, &team.shared.acceptor);
        }
        drop(admin);
        let (seen, last) = ran.map_err(|error| StartError::new("the acceptor's wait", error))?;
        if seen > 1 && keeps_caller {
            exit_at_once(last); // nothing else can: the caller's thread does not return
        }
        // Dropped only when all is over. Until then a second signal must not kill the process.
        drop(signals);
        died.iter().for_each(|error| tracing::error!("{error}"));
        if let Some(error) = died.into_iter().next() {
            return Err(error);
        }
        let counts = team.shared.snapshot();
        tracing::info!("ended: {counts}");
        if let Some(number) = given_up.first().filter(|_| seen < 2) {
            return Err(StartError::plain(format!(
                "loop {number} did not end: a callback of it does not return"
            )));
        }
        if let Some((at, errno)) = last_failed {
            return Err(StartError::new(
                format!("the last listener, on {at}, broke"),
                errno.into(),
            ));
        }
        Ok(Ended { counts, cut_by_signal: (seen > 1).then_some(last) })
    }
}
