//! The handler of the endpoint: who is served, how long, and what they get.

use super::http::{Heard, Reply, Request, Status, hear};
use super::metrics;
use super::watched::Watched;
use crate::conn::Conn;
use crate::handler::{Handler, Peer};
use crate::id::ConnId;
use crate::outbox::Queued;
use crate::sys::process::Process;
use bytes::Bytes;
use net_buffer::Input;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Clients that are served at once. One more takes the place of the one that has been silent
/// longest: clients that only hold places keep nobody out.
pub(super) const CLIENTS_MAX: usize = 16;

/// From a connect, or a request's first byte, to its last.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// From a request to the next one's first byte: more than the minute between two scrapes. The
/// answer must have been read by then too.
const NEXT_TIME: Duration = Duration::from_secs(90);

/// What `GET /` says.
const CONTENTS: &str = "/metrics  all counts, for Prometheus\n\
                        /healthz  200 while it serves, 503 once it is told to end\n";

pub(super) struct Desk {
    server: Arc<dyn Watched>,
    process: Process,
    /// Who is connected; who has been silent longest comes first.
    clients: VecDeque<ConnId>,
}

/// What is remembered of a client.
#[derive(Default)]
pub(super) struct Client {
    /// A part of a request has come, and the deadline is that of the rest.
    has_begun: bool,
}

impl Desk {
    pub(super) fn new(server: Arc<dyn Watched>, process: Process) -> Self {
        Self { server, process, clients: VecDeque::new() }
    }

    fn answer(&self, request: &Request<'_>) -> Reply {
        let page: fn(&Self) -> Reply = match request.path {
            "/" => |_| Reply::text(Status::Ok, CONTENTS),
            "/metrics" => Self::metrics,
            "/healthz" => Self::health,
            _ => return Reply::status(Status::NotFound),
        };
        match request.method {
            "GET" | "HEAD" => page(self),
            _ => Reply { allow: Some("GET, HEAD"), ..Reply::status(Status::WrongMethod) },
        }
    }

    fn metrics(&self) -> Reply {
        let body = metrics::page(self.server.as_ref(), &self.process.usage());
        Reply { kind: metrics::KIND, ..Reply::text(Status::Ok, body) }
    }

    fn health(&self) -> Reply {
        match self.server.is_ending() {
            false => Reply::text(Status::Ok, "ok\n"),
            true => Reply::text(Status::Unavailable, "draining\n"),
        }
    }

    /// It has just asked something: it is the last to be sent away.
    fn has_spoken(&mut self, id: ConnId) {
        self.clients.retain(|client| *client != id);
        self.clients.push_back(id);
    }
}

impl Handler for Desk {
    type Session = Client;
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<Client> {
        Some(Client::default())
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        conn.set_deadline(Some(REQUEST_TIME));
        self.clients.push_back(conn.id());
        if self.clients.len() > CLIENTS_MAX
            && let Some(silent) = self.clients.pop_front()
            && let Some(mut silent) = conn.other(silent)
        {
            silent.reset();
        }
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        while !input.is_empty() {
            let (reply, keeps_alive, is_head) = match hear(input.peek()) {
                Heard::Part => {
                    if !std::mem::replace(&mut conn.session().has_begun, true) {
                        conn.set_deadline(Some(REQUEST_TIME));
                    }
                    return;
                }
                Heard::Request(request, length) => {
                    input.consume(length);
                    self.has_spoken(conn.id());
                    (self.answer(&request), request.keeps_alive, request.method == "HEAD")
                }
                Heard::Noise(status) => (Reply::status(status), false, false),
            };
            conn.session().has_begun = false;
            conn.set_deadline(Some(NEXT_TIME));
            let queued = conn.send_shared(Bytes::from(reply.bytes(keeps_alive, is_head)));
            if !keeps_alive {
                return conn.close();
            }
            // Above its mark, what it asked besides waits in `input` until the answer is read.
            if queued != Queued::Queued {
                return;
            }
        }
    }

    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>) {
        if conn.session().has_begun {
            let late = Reply::status(Status::TooLate);
            // Refused, it is ending already.
            let _ = conn.send(&late.bytes(false, false));
        }
        conn.close();
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, _why: &crate::closed::Closed) {
        let id = conn.id();
        self.clients.retain(|client| *client != id);
    }
}
