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
use crate::api::remote::Remote;
use crate::base::error::StartError;
use crate::config::limits::Limits;
use crate::driver::Epoll;
use crate::observe::counters::Snapshot;
use crate::server::admin::Access;
use crate::server::load_balancer::Balance;
use crate::sys::addr::{Addr, AddrError};
use crate::sys::signals::Signals;
use crate::sys::{PrivateTables, SocketOptions};
use crate::threads::control::Phase;
use bytes::Bytes;
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

pub use doctor::{Diagnosis, Wall};

/// What a refused client may be told, in bytes: less than any new socket's buffer has room for.
const REFUSAL_MAX: usize = 4096;

/// How many loops a server has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loops {
    /// One for each core that this process may use, as the system says (affinity and cgroups); on a
    /// machine with more than 256, 256.
    #[default]
    PerCore,
    /// So many: 1 to 256.
    Count(usize),
}

impl Loops {
    /// How many these are where the process may use so many processors; what was asked for is not checked.
    fn on(self, processors: usize) -> usize {
        match self {
            Loops::Count(n) => n,
            Loops::PerCore => processors.clamp(1, crate::base::id::LOOPS_MAX),
        }
    }
}

/// Who accepts connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Accept {
    /// One thread accepts for all loops and hands over, by default in exact rotation ([`Balance`]).
    /// Of one loop there is nothing to choose, and it accepts for itself.
    #[default]
    Acceptor,
    /// Each loop has a listener of its own on the same address (`SO_REUSEPORT`); the kernel
    /// spreads connections by a hash. No hand-over; uneven for few connections. Whom the kernel gives to a
    /// loop that is stuck in a callback waits for it, where the acceptor would choose another loop. Unix
    /// sockets know no such thing: these the acceptor serves as ever.
    ReusePort,
}

/// Whose the listeners are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listens {
    /// The acceptor's, which hands over.
    Acceptor,
    /// Each loop's own, on an address that they share.
    EachLoop,
    /// The only loop's. To hand a connection over would cost a wake-up of each thread, and two
    /// threads that take turns on one core; there is nobody to choose among.
    OnlyLoop,
}

/// Which descriptor table the loops use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FdTable {
    /// The process's. RLIMIT_NOFILE holds for all loops together.
    #[default]
    Shared,
    /// Each loop has its own. RLIMIT_NOFILE holds for each loop, and loops do not contend for
    /// the table's lock. Asks for a promise, because descriptors no longer pass between threads.
    PerLoop(PrivateTables),
}

/// What a handler's factory is told: which loop it is made for.
pub struct Place<M> {
    number: usize,
    remote: Remote<M>,
}

impl<M: Send> Place<M> {
    /// The loop's number, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// How many loops there are.
    pub fn loops(&self) -> usize {
        self.remote.loops()
    }

    /// The way into all loops.
    pub fn remote(&self) -> Remote<M> {
        self.remote.clone()
    }
}

/// A place to listen at, as it was asked for.
#[derive(Clone, Debug)]
struct Wanted {
    at: Result<Addr, AddrError>,
    proxies: Option<Arc<TrustedProxies>>,
}

/// Builds a server: an acceptor and N loops, one thread each.
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
/// fn main() -> Result<net_core::Ended, net_core::StartError> {
///     Server::new().listen("127.0.0.1:9000").loops(Loops::PerCore).run(|_place| Echo)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Server {
    listen: Vec<Wanted>,
    loops: Loops,
    /// `None`: where the loops fill the processors.
    pin: Option<bool>,
    accept: Accept,
    balance: Balance,
    fd_table: FdTable,
    limits: Limits,
    drain_timeout: Duration,
    backlog: i32,
    sockets: SocketOptions,
    steer: bool,
    admin: Option<Result<Addr, AddrError>>,
    admin_access: Access,
    refusal: Bytes,
    datagrams: Vec<Result<Addr, AddrError>>,
    /// `None`: if it is run, and not if it is only started.
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
            steer: false,
            admin: None,
            admin_access: Access::default(),
            refusal: Bytes::new(),
            datagrams: Vec::new(),
            signals: None,
        }
    }
}

impl Server {
    /// A server of the default limits that listens nowhere yet. One that never does is a client:
    /// its loops dial, by what is posted to them ([`Running::remote`]), until it is drained.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens on `HOST:PORT`, `[V6]:PORT`, `unix:PATH` or `unix:@NAME` too; port 0 is chosen by
    /// the kernel. What is wrong with the address, or that it is named twice, is said at start.
    ///
    /// A Unix socket's file that nobody listens at any more is replaced, any other is an error; who
    /// may connect is up to the umask. The file is removed when listening ends.
    ///
    /// A listener that the kernel has broken (accept says EBADF, EINVAL or the like) ends alone. With the
    /// last one, counting endpoints for [datagrams](Self::datagrams), the server drains and its end is an
    /// error: also one that dials or adopts, since nobody can come to it by the way that was asked for.
    pub fn listen(mut self, at: &str) -> Self {
        self.listen.push(Wanted { at: at.parse(), proxies: None });
        self
    }

    /// Listens on this address too.
    pub fn listen_at(mut self, at: Addr) -> Self {
        self.listen.push(Wanted { at: Ok(at), proxies: None });
        self
    }

    /// Listens on this address too, for these proxies alone, each of which says first who the client
    /// is: by a header of the PROXY protocol, version 1 or 2. What `admit` and [`Conn::peer`] tell is
    /// then the client's address; or the proxy's own, if it says that it speaks for itself (`LOCAL`)
    /// or does not know (`UNKNOWN`).
    ///
    /// Whoever is not trusted is closed at accept, since it could say anything (`Refused(Untrusted)`).
    /// A header must be whole within
    /// [`proxy_header_timeout`](crate::Limits::proxy_header_timeout) (5 s), or sooner: the first-byte
    /// and idle timeouts and the longest lifetime hold here too, and begin anew behind it. Until then
    /// the handler hears nothing. Without one, or with a bad one, the connection is closed and
    /// counted as [`Closed::ProxyHeader`]; it has no `on_close`, as no session was made for it.
    ///
    /// [`Conn::peer`]: crate::Conn::peer
    /// [`Closed::ProxyHeader`]: crate::Closed::ProxyHeader
    pub fn listen_proxied(mut self, at: Addr, proxies: TrustedProxies) -> Self {
        self.listen.push(Wanted { at: Ok(at), proxies: Some(Arc::new(proxies)) });
        self
    }

    /// How many loops.
    pub fn loops(mut self, loops: Loops) -> Self {
        self.loops = loops;
        self
    }

    /// Whether loop i stays on the (i mod n)-th of the n allowed cores.
    ///
    /// Default: yes where the loops fill these cores, that is, if there are as many loops at least, and no
    /// quota of the cgroup that grants less time; and where loops are [steered](Self::steer) to. Otherwise
    /// the system places them: a server does not know who else begins at the first core, and two servers
    /// that both do share it while others idle. The start logs which it is, at `info`.
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = Some(pin);
        self
    }

    /// Who accepts.
    pub fn accept(mut self, accept: Accept) -> Self {
        self.accept = accept;
        self
    }

    /// How the acceptor spreads connections over the loops.
    pub fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// What the server may use at most.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What a client is told that is not let in: because of `connections_max`, `per_source_max`, or
    /// the handler's `admit`. At most 4 KiB. It is one send into a new socket's empty buffer, so it
    /// blocks nobody; then the connection is closed. What arrives from the client after that, or
    /// is more than one receive takes, makes the kernel reset it, and then it may not read what it was told.
    /// Default: empty, and nothing is sent.
    pub fn refusal(mut self, refusal: impl Into<Bytes>) -> Self {
        self.refusal = refusal.into();
        self
    }

    /// How long a drain may take before what is left is reset. Default: 10 s.
    ///
    /// Mail and broadcasts that were taken before the drain are carried out before any connection is told
    /// of it. A server whose backlog of broadcasts takes longer than this timeout tells nobody:
    /// its connections are reset, and the reports count their receivers as gone.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Connections which the kernel completes ahead of accept, cut to `net.core.somaxconn`.
    /// Default: 4096.
    pub fn backlog(mut self, backlog: u16) -> Self {
        self.backlog = i32::from(backlog.max(1));
        self
    }

    /// Options of the listeners, and of the connections that they accept.
    pub fn sockets(mut self, options: SocketOptions) -> Self {
        self.sockets = options;
        self
    }

    /// With [`Accept::ReusePort`]: whether a connection goes to the loop on the core at which the
    /// kernel received it (`SO_INCOMING_CPU`; Linux 6.2), instead of by a hash. So a connection's
    /// interrupt, kernel work and loop share a core and its caches, if the network card spreads
    /// what it receives over the same cores; if it does not, loops are as uneven as it is. Pins the
    /// loops; with `pin(false)` it is an error. Default: no.
    pub fn steer(mut self, steer: bool) -> Self {
        self.steer = steer;
        self
    }

    /// Which descriptor table the loops use.
    pub fn fd_table(mut self, fd_table: FdTable) -> Self {
        self.fd_table = fd_table;
        self
    }

    /// Serves `/metrics` (Prometheus), `/healthz`, `/loops` and `/connections` over HTTP on this
    /// address, while the server runs and drains. It is a thread of its own, with 16 places and spare
    /// descriptors of its own. What is wrong with the address is said at start.
    ///
    /// It lets in whoever reaches it, also to kill connections: choose an address that only your own
    /// people and machines reach, such as a Unix socket (`unix:PATH`, for
    /// `curl --unix-socket PATH http://localhost/connections`), or ask for a
    /// [token](Self::admin_token). Pages that name clients are refused to whoever calls the server by
    /// another name than an address, `localhost`, or one of its [names](Self::admin_name).
    pub fn admin(mut self, at: &str) -> Self {
        self.admin = Some(at.parse());
        self
    }

    /// As [`admin`](Self::admin), on an address that is parsed already.
    pub fn admin_at(mut self, at: Addr) -> Self {
        self.admin = Some(Ok(at));
        self
    }

    /// Everything at the admin endpoint but `/healthz` is only for those who show this token, as
    /// `Authorization: Bearer TOKEN`: of visible ASCII characters, one at least, or the server does not
    /// start. The live page takes it from behind a `#` in its address (`http://ADDR/#TOKEN`), which a
    /// browser does not send. HTTP is not encrypted: who listens on the way has the token.
    pub fn admin_token(mut self, token: impl Into<String>) -> Self {
        self.admin_access.token = Some(token.into());
        self
    }

    /// A host's name by which a browser may call the admin endpoint, without the port; again for a
    /// further one. Under any other name than these, an address and `localhost`, the pages that name
    /// clients are refused (403): its owner may have pointed it here to read them. `/metrics` and
    /// `/healthz`, which name nobody, have any name.
    pub fn admin_name(mut self, name: impl Into<String>) -> Self {
        self.admin_access.names.push(name.into());
        self
    }

    /// Connections that the descriptor tables have places for as this server is set up, after
    /// RLIMIT_NOFILE has been raised to its hard limit.
    pub fn capacity(&self) -> Result<usize, StartError> {
        Ok(capacity::Capacity::of(self, self.loop_count()?)?.in_all())
    }

    /// Whether SIGTERM, SIGINT and SIGQUIT end the server, as [`run`](Self::run) has it. Default: if it
    /// is run, since its end is then the program's; and not if it is only [started](Self::start), by a
    /// program that has its own way to end.
    pub fn signals(mut self, catch: bool) -> Self {
        self.signals = Some(catch);
        self
    }

    /// What catches the signals, if they are to be caught.
    fn catches(&self, by_default: bool) -> Option<start::CatchSignals> {
        self.signals.unwrap_or(by_default).then_some(Signals::catch)
    }

    /// Starts it, and returns once it listens. `factory` is called once on each loop's thread.
    ///
    /// Signals are left alone, so SIGTERM ends the process without a drain, unless
    /// [`signals`](Self::signals) says otherwise.
    pub fn start<H, F>(self, factory: F) -> Result<Running<H::Message>, StartError>
    where
        H: Handler,
        F: Fn(&Place<H::Message>) -> H + Send + Sync + 'static,
    {
        let catch = self.catches(false);
        start::start::<H, Epoll, F>(self, factory, catch)
    }

    /// Runs it until it has ended. SIGTERM, SIGINT and SIGQUIT drain it: it stops listening,
    /// finishes what is under way, and ends; a second signal ends it at once. So they do also where
    /// whoever started the process had them blocked or ignored. A signal that comes while it still starts is
    /// obeyed once it has, and a second one then ends the process. SIGHUP is left alone: by default it ends
    /// the process without a drain, when its terminal is closed.
    ///
    /// A callback that does not return holds nobody up for ever: its loop is waited for until 3 s after the
    /// drain's deadline, and half a second after a second signal. Then its thread is left as it is. After a
    /// drain, the end is an error that names the loop. A third signal ends the process where it stands.
    pub fn run<H, F>(self, factory: F) -> Result<Ended, StartError>
    where
        H: Handler,
        F: Fn(&Place<H::Message>) -> H + Send + Sync + 'static,
    {
        self.run_with(factory, |_| {})
    }

    /// As [`run`](Self::run), and calls `ready` once it listens: to say so, or to keep the
    /// [`Remote`].
    pub fn run_with<H, F>(
        self,
        factory: F,
        ready: impl FnOnce(&Running<H::Message>),
    ) -> Result<Ended, StartError>
    where
        H: Handler,
        F: Fn(&Place<H::Message>) -> H + Send + Sync + 'static,
    {
        let catch = self.catches(true);
        let running = start::start::<H, Epoll, F>(self, factory, catch)?;
        ready(&running);
        running.wait()
    }

    /// Says in one sentence which settings contradict each other, if any do. So does the start.
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
        if self.steer && !(self.accept == Accept::ReusePort && self.pin != Some(false)) {
            return Err(StartError::plain(
                "steer: only pinned loops that accept for themselves (reuseport) have a core to \
                 steer to",
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

    /// Whether so many loops stay on their cores, of which the process may use `allowed`, with the time of
    /// so many `processors`.
    fn pins(&self, loops: usize, allowed: usize, processors: usize) -> bool {
        let fill = loops >= allowed && processors >= allowed;
        self.pin.unwrap_or(self.steer || fill)
    }
}

/// Processors whose time this process may have: those allowed, or as many as a quota of its cgroup is worth.
fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A server that runs. Dropped, it stops at once and waits for its threads, as [`wait`](Self::wait) does.
pub struct Running<M> {
    remote: Remote<M>,
    addrs: Vec<Addr>,
    admin: Option<Addr>,
    datagrams: Vec<Addr>,
    acceptor: Option<JoinHandle<Result<Ended, StartError>>>,
    threads: Vec<ThreadId>,
}

impl<M: Send> Running<M> {
    /// Where it listens, in the order in which it was told to: with the ports that were chosen.
    pub fn addrs(&self) -> &[Addr] {
        &self.addrs
    }

    /// Where its admin endpoint listens, if it has one.
    pub fn admin_addr(&self) -> Option<&Addr> {
        self.admin.as_ref()
    }

    /// The way into its loops.
    pub fn remote(&self) -> Remote<M> {
        self.remote.clone()
    }

    /// Waits until it has ended: by [`Remote::drain`] or [`Remote::stop`], or by a signal, if the server
    /// was run or [told to heed them](Server::signals); one that was only started leaves signals alone.
    /// An error names what ended it otherwise: a loop that died, which stops the server, or its last
    /// listener that broke, which drains it; or a loop that did not end, since a callback of it does not
    /// return within 3 s of the drain's deadline or the stop. The thread of such a loop is left as it is,
    /// and ends by itself.
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
        self.remote.0.ask(Phase::Stop);
        // A callback that drops its own server cannot wait for itself. The threads end all the
        // same, and by themselves.
        if !self.threads.contains(&thread::current().id()) {
            let _ = self.join(); // whoever wants to know how it ended calls `wait`
        }
    }
}

/// How a server ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The last counts of all threads. They balance, unless a loop was left in a callback that does not
    /// return: of that one they are as of its last turn.
    pub counts: Snapshot,
    /// The signal that ended it at once, if a second one came.
    pub cut_by_signal: Option<i32>,
}

impl Termination for Ended {
    /// 0; or, after a second signal, 128 and its number, as a shell would have it.
    fn report(self) -> ExitCode {
        match self.cut_by_signal {
            Some(signal) => ExitCode::from(128u8.wrapping_add(signal as u8)),
            None => ExitCode::SUCCESS,
        }
    }
}

#[cfg(test)]
mod tests;
