//! `Server`: threads, pinning, start, drain and stop.

pub(crate) mod acceptor;
pub(crate) mod admin;
mod capacity;
mod current_thread;
mod datagrams;
pub(crate) mod dispatcher;
mod doctor;
mod listeners;
pub(crate) mod load_balancer;
mod loop_threads;
pub(crate) mod machine;
pub(crate) mod stall_detector;
mod start;
pub(crate) mod stuck_loop;

use crate::accept::trusted_proxies::TrustedProxies;
use crate::api::handler::Handler;
use crate::api::server_handle::ServerHandle;
use crate::base::error::StartError;
use crate::config::limits::Limits;
use crate::driver::Epoll;
use crate::observe::counters::Snapshot;
use crate::server::admin::Access;
use crate::sys::SocketOptions;
use crate::sys::addr::{Addr, AddrError};
use crate::sys::signals::Signals;
use crate::threads::control::Phase;
use bytes::Bytes;
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

pub use crate::base::error::{AdoptError, AdoptRejected};
pub use crate::sys::{PrivateTables, Unfit};
pub use doctor::{CapacityReport, Wall};
pub use load_balancer::Balance;

/// The longest refusal, in bytes. The send buffer of every new socket has room for more.
const REFUSAL_MAX: usize = 4096;

/// How many loops a server has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loops {
    /// One loop for each core that this process may use, as the system reports it (affinity and cgroups),
    /// and at most 256 loops.
    #[default]
    PerCore,
    /// This number of loops, from 1 to 256.
    Count(usize),
}

impl Loops {
    /// The number of loops when the process may use `processors` processors. A number given by
    /// [`Loops::Count`] is not checked here.
    fn on(self, processors: usize) -> usize {
        match self {
            Loops::Count(n) => n,
            Loops::PerCore => processors.clamp(1, crate::base::id::LOOPS_MAX),
        }
    }
}

/// Which thread accepts connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Accept {
    /// One thread accepts for all loops and hands the connections over, by default in exact rotation
    /// ([`Balance`]). With one loop there is no choice, and the loop accepts by itself.
    #[default]
    Acceptor,
    /// Each loop has its own listener on the same address (`SO_REUSEPORT`), and the kernel spreads the
    /// connections by a hash. No connection is handed over between threads. The spread is uneven for few
    /// connections. If a loop is stuck in a callback, the connections that the kernel gives to this loop
    /// wait for it. The acceptor would choose another loop. Unix sockets have no `SO_REUSEPORT`, so the
    /// acceptor serves them.
    ReusePort,
}

/// Which thread owns the listeners.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listens {
    /// The acceptor, which hands connections over.
    Acceptor,
    /// Each loop has its own listener, on a shared address.
    EachLoop,
    /// The only loop. Handing a connection over would cost a wake-up of each thread, and two threads that
    /// take turns on one core, with no choice of loops to gain.
    OnlyLoop,
}

/// Which descriptor table the loops use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FdTable {
    /// The table of the process. RLIMIT_NOFILE limits all loops together.
    #[default]
    Shared,
    /// Each loop has its own table. RLIMIT_NOFILE limits each loop separately, and the loops do not
    /// contend for the table's lock. This needs a promise ([`PrivateTables`]), because descriptors no
    /// longer pass between threads.
    PerLoop(PrivateTables),
}

/// The loop for which a handler's factory is to make a handler.
pub struct LoopInfo<M> {
    number: usize,
    handle: ServerHandle<M>,
}

impl<M: Send> LoopInfo<M> {
    /// The loop's number, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// How many loops there are.
    pub fn loops(&self) -> usize {
        self.handle.loops()
    }

    /// A handle that reaches all loops.
    pub fn handle(&self) -> ServerHandle<M> {
        self.handle.clone()
    }
}

/// An address to listen on, as the caller gave it.
#[derive(Clone, Debug)]
struct Wanted {
    at: Result<Addr, AddrError>,
    proxies: Option<Arc<TrustedProxies>>,
}

/// Builds a server: an acceptor and N loops, each on its own thread.
///
/// ```no_run
/// use net_core::{Conn, Handler, Input, Loops, Peer, Server};
/// # use std::convert::Infallible;
///
/// struct Echo;
///
/// impl Handler for Echo {
///     type Session = ();
///     type Message = Infallible;
///
///     fn admit(&mut self, _peer: &Peer) -> Option<()> {
///         Some(())
///     }
///
///     fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
///         let _ = conn.echo(input); // refused only when the connection is ending
///     }
/// }
///
/// fn main() -> Result<net_core::server::Ended, net_core::StartError> {
///     Server::new().listen("127.0.0.1:9000").loops(Loops::PerCore).run(|_place| Echo)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Server {
    listen: Vec<Wanted>,
    loops: Loops,
    /// `None`: pin the loops only if they fill the processors.
    pin: Option<bool>,
    accept: Accept,
    balance: Balance,
    fd_table: FdTable,
    limits: Limits,
    drain_timeout: Duration,
    backlog: i32,
    sockets: SocketOptions,
    incoming_cpu: bool,
    admin: Option<Result<Addr, AddrError>>,
    admin_access: Access,
    refusal: Bytes,
    datagrams: Vec<Result<Addr, AddrError>>,
    /// `None`: catch signals in `run`, and not in `start`.
    signals: Option<bool>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            loops: Loops::default(),
            pin: None,
            accept: Accept::default(),
            balance: Balance::default(),
            fd_table: FdTable::default(),
            limits: Limits::default(),
            drain_timeout: Duration::from_secs(10),
            backlog: 4096,
            sockets: SocketOptions::default(),
            incoming_cpu: false,
            admin: None,
            admin_access: Access::default(),
            refusal: Bytes::new(),
            datagrams: Vec::new(),
            signals: None,
        }
    }
}

impl Server {
    /// A server with the default limits and no listener. A server that never gets a listener is a client:
    /// its loops dial when a message posted to them asks for it ([`Running::handle`]), until the server
    /// is drained.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an address to listen on: `HOST:PORT`, `[V6]:PORT`, `unix:PATH` or `unix:@NAME`. With port 0
    /// the kernel chooses the port. A wrong address, or an address that is named twice, is an error at
    /// start.
    ///
    /// A Unix socket's file on which no process listens any more is replaced. Any other existing file is
    /// an error. The umask decides who may connect. The file is removed when listening ends.
    ///
    /// If a listener fails for good (accept returns EBADF, EINVAL or the like), only this listener ends.
    /// When the last of all listeners and endpoints for [datagrams](Self::datagrams) fails, the server
    /// drains and returns an error, even if it also dials or adopts connections.
    pub fn listen(mut self, at: &str) -> Self {
        self.listen.push(Wanted { at: at.parse(), proxies: None });
        self
    }

    /// As [`listen`](Self::listen), on an address that is parsed already.
    pub fn listen_at(mut self, at: Addr) -> Self {
        self.listen.push(Wanted { at: Ok(at), proxies: None });
        self
    }

    /// Adds an address on which only these proxies may connect. Each connection must begin with a header
    /// of the PROXY protocol, version 1 or 2, which names the client. `admit` and [`Conn::peer`] then
    /// show the client's address. They show the proxy's own address if the header says that the proxy
    /// speaks for itself (`LOCAL`) or does not know the client (`UNKNOWN`).
    ///
    /// A peer that is not one of these proxies is closed at accept (`Refused(Untrusted)`), because it
    /// could claim any address. The whole header must arrive within
    /// [`proxy_header_timeout`](crate::Limits::proxy_header_timeout) (5 s). The first-byte timeout, the
    /// idle timeout and the longest lifetime apply during this time too, and start again after the
    /// header. The handler hears nothing of the connection before the header is complete. With no header
    /// or a bad one, the connection is closed and counted as [`CloseReason::ProxyHeader`]. There is no
    /// `on_close` for it, because no session was made.
    ///
    /// [`Conn::peer`]: crate::Conn::peer
    /// [`CloseReason::ProxyHeader`]: crate::CloseReason::ProxyHeader
    pub fn listen_proxied(mut self, at: Addr, proxies: TrustedProxies) -> Self {
        self.listen.push(Wanted { at: Ok(at), proxies: Some(Arc::new(proxies)) });
        self
    }

    /// The number of loops.
    pub fn loops(mut self, loops: Loops) -> Self {
        self.loops = loops;
        self
    }

    /// Whether loop i stays on the (i mod n)-th of the n allowed cores.
    ///
    /// Default: yes if the loops fill these cores, or if connections are [steered](Self::incoming_cpu). The
    /// loops fill the cores if there are at least as many loops as cores, and no cgroup quota grants less
    /// CPU time. Otherwise the system places the loops. A server does not know whether another process
    /// also pins its threads from the first core. Two such servers share this core while other cores
    /// idle. The start logs the choice, at `info`.
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = Some(pin);
        self
    }

    /// Which thread accepts connections.
    pub fn accept(mut self, accept: Accept) -> Self {
        self.accept = accept;
        self
    }

    /// How the acceptor spreads connections over the loops.
    pub fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// The bounds of what the server may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The bytes sent to a client that is refused because of `connections_max`, `per_source_max`, or the
    /// handler's `admit`. At most 4 KiB.
    ///
    /// The server makes one send into the new socket's empty buffer, which cannot block, and closes the
    /// connection. If the client has sent more than one receive takes, or sends more later, the kernel
    /// resets the connection, and the client may not see these bytes. Default: empty, and nothing is
    /// sent.
    pub fn refusal(mut self, refusal: impl Into<Bytes>) -> Self {
        self.refusal = refusal.into();
        self
    }

    /// How long a drain may take before the connections that are left are reset. Default: 10 s.
    ///
    /// Mail and broadcasts taken before the drain are carried out before any connection is told of the
    /// drain. If the backlog of broadcasts takes longer than this timeout, no connection is told: the
    /// connections are reset, and the reports count their receivers as gone.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// The backlog of each listener: the length of the accept queue, in which the kernel holds completed
    /// connections. The kernel cuts it to `net.core.somaxconn`. 0 counts as 1. Default: 4096.
    pub fn backlog(mut self, backlog: u16) -> Self {
        self.backlog = i32::from(backlog.max(1));
        self
    }

    /// Socket options of the listeners and of the connections that they accept.
    pub fn sockets(mut self, options: SocketOptions) -> Self {
        self.sockets = options;
        self
    }

    /// With [`Accept::ReusePort`]: whether a connection goes to the loop on the core on which the kernel
    /// received it (`SO_INCOMING_CPU`; Linux 6.2), instead of by a hash. Default: no.
    ///
    /// A connection's interrupt, kernel work and loop then share a core and its caches, if the network
    /// card spreads the traffic over the same cores. If the card does not, the loops are as uneven as the
    /// card. Steering pins the loops. It is an error at start with `pin(false)`, or without
    /// [`Accept::ReusePort`].
    pub fn incoming_cpu(mut self, incoming_cpu: bool) -> Self {
        self.incoming_cpu = incoming_cpu;
        self
    }

    /// Which descriptor table the loops use.
    pub fn fd_table(mut self, fd_table: FdTable) -> Self {
        self.fd_table = fd_table;
        self
    }

    /// Serves `/metrics` (Prometheus), `/healthz`, `/loops` and `/connections` over HTTP on this address,
    /// while the server runs and drains. The endpoint has its own thread, 16 places for clients, and its
    /// own spare descriptors. A wrong address is an error at start.
    ///
    /// Without a [token](Self::admin_token), every client that reaches the endpoint may use it, and may
    /// also kill connections. Choose an address that only your own people and machines reach, such as a
    /// Unix socket (`unix:PATH`, for `curl --unix-socket PATH http://localhost/connections`), or require
    /// a token. Without a token, a request for a page that names clients must call the server by an
    /// address, by `localhost`, or by one of its [names](Self::admin_name). Any other such request is
    /// refused.
    pub fn admin(mut self, at: &str) -> Self {
        self.admin = Some(at.parse());
        self
    }

    /// As [`admin`](Self::admin), on an address that is parsed already.
    pub fn admin_at(mut self, at: Addr) -> Self {
        self.admin = Some(Ok(at));
        self
    }

    /// Requires this token for every page of the admin endpoint except `/healthz` and the live page's
    /// empty frame (`/`). A client sends it as `Authorization: Bearer TOKEN`. The token is at least one
    /// visible ASCII character, and only such characters, or the server does not start.
    ///
    /// The live page takes the token from behind a `#` in its address (`http://ADDR/#TOKEN`), which a
    /// browser does not send. HTTP is not encrypted: anybody who can read the traffic gets the token.
    pub fn admin_token(mut self, token: impl Into<String>) -> Self {
        self.admin_access.token = Some(token.into());
        self
    }

    /// Adds a host name, without a port, by which a browser may call the admin endpoint. Call this once
    /// for each name.
    ///
    /// Without a [token](Self::admin_token), a request under any other name gets 403 for the pages that
    /// name clients. An address and `localhost` are always allowed. The owner of another name may have
    /// pointed the name to this server to read these pages (DNS rebinding). `/metrics` and `/healthz`
    /// name no client and are served under any name.
    pub fn admin_name(mut self, name: impl Into<String>) -> Self {
        self.admin_access.names.push(name.into());
        self
    }

    /// The number of connections for which the descriptor tables have places in this configuration.
    /// Raises RLIMIT_NOFILE to its hard limit first.
    pub fn capacity(&self) -> Result<usize, StartError> {
        Ok(capacity::Capacity::of(self, self.loop_count()?)?.in_all())
    }

    /// Whether SIGTERM, SIGINT and SIGQUIT end the server, as described at [`run`](Self::run).
    ///
    /// Default: yes for [`run`](Self::run), because the end of the server is then the end of the program.
    /// No for [`start`](Self::start), because the program then has its own way to end.
    pub fn signals(mut self, catch: bool) -> Self {
        self.signals = Some(catch);
        self
    }

    /// The function that catches the signals; `None` if they are not to be caught.
    fn catches(&self, by_default: bool) -> Option<start::CatchSignals> {
        self.signals.unwrap_or(by_default).then_some(Signals::catch)
    }

    /// Starts the server, and returns once it listens. `factory` is called once on each loop's thread.
    ///
    /// Signals are left alone, unless [`signals`](Self::signals) says otherwise: SIGTERM then ends the
    /// process without a drain.
    pub fn start<H, F>(self, factory: F) -> Result<Running<H::Message>, StartError>
    where
        H: Handler,
        F: Fn(&LoopInfo<H::Message>) -> H + Send + Sync + 'static,
    {
        let catch = self.catches(false);
        start::start::<H, Epoll, F>(self, factory, catch)
    }

    /// Runs the server until it has ended.
    ///
    /// The first SIGTERM, SIGINT or SIGQUIT drains the server: it stops listening, finishes the work
    /// under way, and ends. A second signal ends it at once. This holds also if the parent process had
    /// these signals blocked or ignored. A signal that comes during the start is obeyed after the start,
    /// and a second signal during the start ends the process. SIGHUP is left alone: by default it ends
    /// the process without a drain when its terminal is closed.
    ///
    /// A callback that does not return cannot hold the server for ever. The server waits for its loop
    /// until 3 s after the drain's deadline, or until half a second after a second signal. After that the
    /// loop's thread is left as it is. After a drain, the result is then an error that names the loop. A
    /// third signal ends the process immediately.
    pub fn run<H, F>(self, factory: F) -> Result<Ended, StartError>
    where
        H: Handler,
        F: Fn(&LoopInfo<H::Message>) -> H + Send + Sync + 'static,
    {
        self.run_with(factory, |_| {})
    }

    /// As [`run`](Self::run), and calls `ready` once the server listens: for example to report that, or
    /// to keep the [`ServerHandle`].
    pub fn run_with<H, F>(
        self,
        factory: F,
        ready: impl FnOnce(&Running<H::Message>),
    ) -> Result<Ended, StartError>
    where
        H: Handler,
        F: Fn(&LoopInfo<H::Message>) -> H + Send + Sync + 'static,
    {
        let catch = self.catches(true);
        let running = start::start::<H, Epoll, F>(self, factory, catch)?;
        ready(&running);
        running.wait()
    }

    /// Returns an error, in one sentence, if settings contradict each other. The start makes the same
    /// check.
    pub fn check(&self) -> Result<(), StartError> {
        self.limits.check().map_err(|what| StartError::plain(format!("limits: {what}")))?;
        let loops = self.loop_count()?;
        self.limits.check_memory(loops).map_err(StartError::plain)?;
        if !self.limits.drain_spread.is_zero() && self.limits.drain_spread >= self.drain_timeout {
            return Err(StartError::plain(format!(
                "a drain spread over {:?} does not end before the drain timeout ({:?}), which resets \
                 (drain_spread)",
                self.limits.drain_spread, self.drain_timeout
            )));
        }
        self.sockets
            .check()
            .map_err(|what| StartError::plain(format!("socket options: {what}")))?;
        if self.refusal.len() > REFUSAL_MAX {
            return Err(StartError::plain(format!(
                "a refusal of {} bytes: at most {REFUSAL_MAX} surely go out at once",
                self.refusal.len()
            )));
        }
        if self.incoming_cpu && !(self.accept == Accept::ReusePort && self.pin != Some(false)) {
            return Err(StartError::plain(
                "incoming_cpu: only pinned loops that accept for themselves (reuseport) have a core \
                 to ask for",
            ));
        }
        let name = match self.balance {
            Balance::RoundRobin => return Ok(()),
            Balance::LeastConnections => "least-connections",
            Balance::SourceHash => "source-hash",
        };
        if self.accept == Accept::ReusePort {
            return Err(StartError::plain(format!(
                "balance {name}: where each loop accepts for itself (reuseport), the kernel places \
                 connections, by a hash of its own; use the acceptor"
            )));
        }
        Ok(())
    }

    fn listens(&self, loops: usize) -> Listens {
        match self.accept {
            Accept::ReusePort => Listens::EachLoop,
            Accept::Acceptor if loops == 1 => Listens::OnlyLoop,
            Accept::Acceptor => Listens::Acceptor,
        }
    }

    fn loop_count(&self) -> Result<usize, StartError> {
        let count = self.loops.on(processors());
        if !(1..=crate::base::id::LOOPS_MAX).contains(&count) {
            let max = crate::base::id::LOOPS_MAX;
            return Err(StartError::plain(format!("{count} loops: a server has 1 to {max}")));
        }
        Ok(count)
    }

    /// Whether `loops` loops are pinned, if the process may use `allowed` cores and the CPU time of
    /// `processors` processors.
    fn pins(&self, loops: usize, allowed: usize, processors: usize) -> bool {
        let fill = loops >= allowed && processors >= allowed;
        self.pin.unwrap_or(self.incoming_cpu || fill)
    }
}

/// The number of processors whose time this process may use: the allowed processors, or fewer if a cgroup
/// quota is worth less.
fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A running server. Dropping it stops the server at once and waits for its threads, as
/// [`wait`](Self::wait) does.
pub struct Running<M> {
    handle: ServerHandle<M>,
    addrs: Vec<Addr>,
    admin: Option<Addr>,
    datagrams: Vec<Addr>,
    acceptor: Option<JoinHandle<Result<Ended, StartError>>>,
    threads: Vec<ThreadId>,
}

impl<M: Send> Running<M> {
    /// The addresses on which the server listens, with the ports that were chosen. In the order in which
    /// they were given.
    pub fn addrs(&self) -> &[Addr] {
        &self.addrs
    }

    /// The address on which the admin endpoint listens, if there is one.
    pub fn admin_addr(&self) -> Option<&Addr> {
        self.admin.as_ref()
    }

    /// A handle that reaches the server's loops.
    pub fn handle(&self) -> ServerHandle<M> {
        self.handle.clone()
    }

    /// Waits until the server has ended.
    ///
    /// [`ServerHandle::drain`] and [`ServerHandle::stop`] end it. A signal ends it too, if the server was
    /// run or [told to catch signals](Server::signals); a server that was only started leaves signals
    /// alone.
    ///
    /// An error names any other cause. A loop died, which stops the server. Or the last listener failed,
    /// which drains the server. Or a loop did not end, because its callback did not return within 3 s of
    /// the drain's deadline or of the stop; the thread of this loop is left as it is, and ends by itself
    /// when the callback returns.
    pub fn wait(mut self) -> Result<Ended, StartError> {
        self.join()
    }
}

impl<M> Running<M> {
    fn join(&mut self) -> Result<Ended, StartError> {
        let Some(acceptor) = self.acceptor.take() else {
            return Err(StartError::plain("the server has been waited for already"));
        };
        acceptor.join().unwrap_or_else(|payload| {
            crate::base::panics::forget(payload);
            Err(StartError::plain("the acceptor's thread panicked"))
        })
    }
}

impl<M> Drop for Running<M> {
    fn drop(&mut self) {
        if self.acceptor.is_none() {
            return;
        }
        self.handle.0.ask(Phase::Stop);
        // A callback that drops its own server must not wait for itself. The threads end by themselves in
        // any case.
        if !self.threads.contains(&thread::current().id()) {
            let _ = self.join(); // a caller that needs the result calls `wait`
        }
    }
}

/// How a server ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The last counts of all threads. They balance, unless a loop was left in a callback that does not
    /// return: the counts of that loop are from its last turn.
    pub counts: Snapshot,
    /// The signal that ended the server at once, if a second signal came.
    pub cut_by_signal: Option<i32>,
}

impl Termination for Ended {
    /// The exit code: 0, or after a second signal 128 plus its number, as in a shell.
    fn report(self) -> ExitCode {
        match self.cut_by_signal {
            Some(signal) => ExitCode::from(128u8.wrapping_add(signal as u8)),
            None => ExitCode::SUCCESS,
        }
    }
}

#[cfg(test)]
mod tests;
