//! The handler of the endpoint: how many clients are served, for how long, and with which answers.

use super::access::Access;
use super::http::{Heard, Reply, Request, Status, hear};
use super::queries::{self, Asker, Queries};
use super::watched::Watched;
use super::{metrics, pages};
use crate::api::conn::Conn;
use crate::api::handler::{Handler, Peer};
use crate::api::loop_context::LoopContext;
use crate::base::id::ConnId;
use crate::connection::outbox::SendOutcome;
use crate::observe::connection_query::Query;
use crate::observe::counters::Counter;
use crate::sys::process::Process;
use bytes::Bytes;
use net_buffer::Input;
use net_timer::Tick;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Clients that are served at once. A 17th client replaces a client that has its last answer, or else the
/// client that has been silent longest. A client that waits for a loop's answer is never replaced. So clients
/// that only hold places keep no new client out.
pub(super) const CLIENTS_MAX: usize = 16;

/// The time from a connect, or from a request's first byte, to the request's last byte.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The time from a request to the first byte of the next request: more than the minute between two scrapes.
/// The client must have read the answer within this time too.
const NEXT_TIME: Duration = Duration::from_secs(90);

/// The page of `GET /`. It reads the other pages once a second.
const PAGE: &str = include_str!("page.html");

/// How often the endpoint checks whether the loops have answered, while a client waits for the answer.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

pub(super) struct AdminHandler {
    server: Arc<dyn Watched>,
    process: Process,
    access: Access,
    /// Clients that are connected and not sent away. The client that has been silent longest comes first.
    clients: VecDeque<ConnId>,
    queries: Queries,
    /// A timer is armed to check for answers.
    is_looking: bool,
}

/// The outcome of a request.
enum Outcome {
    Reply(Reply),
    /// The loops must be asked first.
    Ask(Query),
}

/// The state that is kept for a client.
#[derive(Default)]
pub(super) struct Client {
    /// A part of a request has come. The deadline is for the rest of the request.
    has_begun: bool,
}

impl AdminHandler {
    pub(super) fn new(server: Arc<dyn Watched>, process: Process, access: Access) -> Self {
        Self {
            server,
            process,
            access,
            clients: VecDeque::new(),
            queries: Queries::default(),
            is_looking: false,
        }
    }

    fn answer(&self, request: &Request<'_>, now: Tick) -> Outcome {
        if let Some(refusal) = self.access.refusal(request) {
            return Outcome::Reply(refusal);
        }
        if let Some(id) = killed(request.path) {
            return kill(request, id);
        }
        let is_known =
            matches!(request.path, "/" | "/metrics" | "/healthz" | "/loops" | "/connections");
        if !is_known {
            return Outcome::Reply(Reply::status(Status::NotFound));
        }
        if !matches!(request.method, "GET" | "HEAD") {
            return Outcome::Reply(Reply::wrong_method("GET, HEAD"));
        }
        Outcome::Reply(match request.path {
            "/metrics" => self.metrics(),
            "/healthz" => self.health(),
            "/loops" => {
                let body = pages::loops(self.server.as_ref(), now);
                Reply { kind: pages::KIND, ..Reply::text(Status::Ok, body) }
            }
            "/connections" => match queries::top(request.query) {
                Ok(question) => return Outcome::Ask(question),
                Err(what) => Reply::text(Status::BadRequest, what),
            },
            _ => Reply { kind: Reply::PAGE, ..Reply::text(Status::Ok, PAGE) },
        })
    }

    fn metrics(&self) -> Reply {
        let body = metrics::page(self.server.as_ref(), &self.process.usage());
        Reply { kind: metrics::KIND, ..Reply::text(Status::Ok, body) }
    }

    fn health(&self) -> Reply {
        if self.server.is_ending() {
            Reply::text(Status::Unavailable, "draining\n")
        } else if self.has_broken_listener() {
            Reply::text(Status::Unavailable, "a listener is broken\n")
        } else {
            Reply::text(Status::Ok, "ok\n")
        }
    }

    fn has_broken_listener(&self) -> bool {
        let of_loops = (0..self.server.loops()).map(|n| self.server.of_loop(n).0);
        let mut all = of_loops.chain([self.server.of_acceptor()]);
        all.any(|counts| counts.get(Counter::ListenersBroken) > 0)
    }

    /// The loops were asked. This client's next request waits until they answer.
    fn wait(&mut self, conn: &mut Conn<'_, Self>) {
        conn.set_busy(true);
        conn.pause();
        if !std::mem::replace(&mut self.is_looking, true) {
            conn.event_loop().after(LOOK_AGAIN, 0);
        }
    }

    /// Sends one client away to make room for `newcomer`, which is last in the list.
    fn make_room_for(&mut self, newcomer: &mut Conn<'_, Self>) {
        let others = || self.clients.iter().take(CLIENTS_MAX);
        let is_done = |id: &ConnId| newcomer.other(*id).is_none_or(|mut conn| conn.has_arrived());
        let at = others().position(is_done);
        let at = at.or_else(|| others().position(|id| !self.queries.has_from(*id)));
        if let Some(id) = at.and_then(|at| self.clients.remove(at))
            && let Some(mut other) = newcomer.other(id)
        {
            other.reset();
        }
    }

    /// The client has just asked something, so it moves to the end of the list.
    fn has_spoken(&mut self, id: ConnId) {
        self.clients.retain(|client| *client != id);
        self.clients.push_back(id);
    }
}

impl Handler for AdminHandler {
    type Session = Client;
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<Client> {
        Some(Client::default())
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        conn.set_deadline(Some(REQUEST_TIME));
        self.clients.push_back(conn.id());
        if self.clients.len() > CLIENTS_MAX {
            self.make_room_for(conn);
        }
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        while !input.is_empty() {
            let (outcome, keeps_alive, is_head) = match hear(input.peek()) {
                Heard::Part => {
                    if !std::mem::replace(&mut conn.session().has_begun, true) {
                        conn.set_deadline(Some(REQUEST_TIME));
                    }
                    return;
                }
                Heard::Request(request, length) => {
                    input.consume(length);
                    self.has_spoken(conn.id());
                    let outcome = self.answer(&request, conn.event_loop().now());
                    (outcome, request.keeps_alive, request.method == "HEAD")
                }
                Heard::Noise(status) => (Outcome::Reply(Reply::status(status)), false, false),
            };
            conn.session().has_begun = false;
            conn.set_deadline(Some(NEXT_TIME));
            let asker = Asker { client: conn.id(), keeps_alive, is_head };
            let reply = match outcome {
                Outcome::Reply(reply) => reply,
                Outcome::Ask(question) => {
                    let now = conn.event_loop().now();
                    match self.queries.ask(self.server.as_ref(), now, asker, question) {
                        Err(reply) => reply,
                        Ok(()) => return self.wait(conn),
                    }
                }
            };
            // Above its high watermark, the client's further requests wait in `input` until it has read the
            // answer.
            if !send(conn, asker, &reply) {
                return;
            }
        }
    }

    fn on_timer(&mut self, here: &mut LoopContext<'_, Self>, _tag: u64) {
        for (asker, reply) in self.queries.answered(here.now()) {
            if let Some(mut conn) = here.connection(asker.client) {
                conn.set_busy(false);
                send(&mut conn, asker, &reply);
                conn.resume();
            }
        }
        self.is_looking = !self.queries.is_empty();
        if self.is_looking {
            here.after(LOOK_AGAIN, 0);
        }
    }

    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>) {
        if conn.session().has_begun {
            let late = Reply::status(Status::TooLate);
            // Refused only when the connection is ending already.
            let _ = conn.send(&late.bytes(false, false));
        }
        conn.close();
    }

    fn on_close(
        &mut self,
        conn: &mut Conn<'_, Self>,
        _why: &crate::base::close_reason::CloseReason,
    ) {
        let id = conn.id();
        self.queries.forget(id);
        self.clients.retain(|client| *client != id);
    }
}

/// Sends an answer. Returns whether the client's next request may be answered now.
fn send(conn: &mut Conn<'_, AdminHandler>, asker: Asker, reply: &Reply) -> bool {
    let bytes = reply.bytes(asker.keeps_alive, asker.is_head);
    let queued = conn.send_shared(Bytes::from(bytes));
    if !asker.keeps_alive {
        conn.close();
    }
    asker.keeps_alive && queued == SendOutcome::Queued
}

/// The connection's id in `/connections/ID/kill`.
fn killed(path: &str) -> Option<&str> {
    path.strip_prefix("/connections/")?.strip_suffix("/kill")
}

fn kill(request: &Request<'_>, id: &str) -> Outcome {
    Outcome::Reply(match id.parse() {
        Err(error) => Reply::text(Status::NotFound, format!("{id}: {error}\n")),
        Ok(_) if request.method != "POST" => Reply::wrong_method("POST"),
        Ok(_) if request.is_foreign => Reply::status(Status::Forbidden),
        Ok(id) => return Outcome::Ask(Query::Kill(id)),
    })
}
