//! The admin endpoint: it shows over HTTP what a server does, on a listener and a thread of its own.
//!
//! It is another [`EventLoop`] with a [`Handler`](crate::api::handler::Handler), without an acceptor. It has
//! the limits, the deadlines and the orderly end of any server. It reads what the server's threads publish.
//! So a read costs these threads nothing. Only `/connections` and a kill ask the loops. The endpoint has its
//! own places and descriptors, so it answers when the server is full. It ends after the rest of the server.

mod access;
mod handler;
mod http;
mod json;
mod metrics;
mod pages;
mod queries;
mod watched;

use crate::accept::admission::Admission;
use crate::accept::listener::Listener;
use crate::base::error::StartError;
use crate::base::panics::Quiet;
use crate::config::limits::Limits;
use crate::driver::{Driver, Epoll, listener_token};
use crate::event_loop::EventLoop;
use crate::sys::addr::Addr;
use crate::sys::process::Process;
use crate::sys::{ListenOptions, Socket};
use crate::threads::control::Phase;
use crate::threads::shared::Shared;
pub(crate) use access::Access;
use handler::{AdminHandler, CLIENTS_MAX};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;
pub(crate) use watched::Watched;

/// Clients accepted in one turn, before the clients that they replace are gone.
const ACCEPTS: usize = 8;
/// Descriptors kept for clients that come when the process has no descriptor left.
const SPARES: usize = 4;
/// The descriptors that the endpoint takes in the process's table: its clients, the spares, the listener, the
/// epoll, two eventfds, and two files of /proc.
pub(crate) const DESCRIPTORS: usize = CLIENTS_MAX + ACCEPTS + SPARES + 6;
/// How long clients may take to read their last answers after the server has ended.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// The limits of an endpoint with a few scrapers and human users.
fn limits() -> Limits {
    Limits {
        connections_max: Some(CLIENTS_MAX + ACCEPTS),
        accepts_per_turn: ACCEPTS,
        write_timeout: Duration::from_secs(10),
        linger_bytes_max: 64 << 10,
        // Above the high watermark, further requests wait until the answers are read. The hard cap is above
        // the watermark plus the largest answer: 3 KiB for each of 256 loops, and room to grow.
        high_watermark: 16 << 10,
        low_watermark: 4 << 10,
        output_limit: 4 << 20,
        receive_block_bytes: 16 << 10,
        cork_bytes: 4 << 10,
        pool_retain_bytes: 64 << 10,
        events_per_wait: 64,
        arrivals_queue: 1,
        mail_queue: 64,
        // A client for which there is no descriptor, not even a spare, waits in the backlog.
        shed_per_pause: 0,
        ..Limits::default()
    }
}

/// An endpoint that listens already. It answers once [`serve`](Admin::serve) is called.
pub(crate) struct Admin {
    at: Addr,
    shared: Arc<Shared<Infallible>>,
    driver: Epoll,
    listener: Socket,
    process: Process,
    access: Access,
    limits: Limits,
}

impl Admin {
    /// Listens, and takes all descriptors that the endpoint needs.
    pub(crate) fn bind(at: &Addr, access: Access) -> Result<Self, StartError> {
        access.check().map_err(|what| StartError::plain(format!("admin: {what}")))?;
        let limits = limits();
        limits.check().map_err(|what| StartError::plain(format!("the admin's limits: {what}")))?;
        let shared = Shared::new(1, Admission::new(CLIENTS_MAX + ACCEPTS, &limits), &limits)
            .map_err(|e| StartError::new("make the admin endpoint's eventfds", e))?;
        let waker = Arc::clone(shared.loops[0].waker.eventfd());
        let mut driver = Epoll::open(&limits, waker)
            .map_err(|e| StartError::new("make the admin endpoint's epoll", e))?;
        let options = ListenOptions { backlog: 128, spares: SPARES, ..ListenOptions::default() };
        let listener = driver
            .listen(listener_token(0), at, &options)
            .map_err(|e| StartError::new(format!("listen on {at} for the admin endpoint"), e))?;
        let at = <Epoll as Driver>::local(&listener)
            .map_err(|e| StartError::new(format!("ask the port of {at}"), e))?;
        Ok(Self { at, shared, driver, listener, process: Process::new(), access, limits })
    }

    /// The address on which it listens, with the port that was chosen.
    pub(crate) fn at(&self) -> Addr {
        self.at.clone()
    }

    /// Starts to answer for `server`, on a thread of its own.
    pub(crate) fn serve(self, server: Arc<dyn Watched>) -> Result<Serving, StartError> {
        let Self { at, shared, driver, listener, process, access, limits } = self;
        let inbox = &shared.loops[0];
        // Connections arrive only at its own listener.
        inbox.arrivals_ended.store(true, Ordering::Release);
        let (over, is_over) = mpsc::channel();
        let in_thread = Arc::clone(&shared);
        let run = move || {
            let _over = over; // dropped when the thread ends, in whatever way
            let _quiet = Quiet::here();
            let listeners = vec![Listener::new(at, listener, &limits, &in_thread.listener_health)];
            let desk = AdminHandler::new(server, process, access);
            let mut event_loop =
                EventLoop::new(0, driver, desk, &limits, in_thread, listeners, None);
            if let Err(error) = event_loop.run() {
                tracing::error!(%error, "the admin endpoint's wait has failed; it ends");
            }
        };
        let thread = thread::Builder::new()
            .name("net-admin".into())
            .spawn(run)
            .map_err(|error| StartError::new("start the admin endpoint's thread", error))?;
        Ok(Serving { shared, is_over, thread: Some(thread) })
    }
}

/// An endpoint that answers. A drop ends it: it admits no new client, and lets clients read their last
/// answers. After a short time the connections that are left are reset.
pub(crate) struct Serving {
    shared: Arc<Shared<Infallible>>,
    /// Disconnected after the thread's last turn.
    is_over: Receiver<Infallible>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shared.raise(Phase::Drain);
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.is_over.recv_timeout(LAST_WORDS) {
            self.shared.raise(Phase::Stop);
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the admin endpoint's thread panicked");
        }
    }
}
