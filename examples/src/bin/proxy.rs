//! Connects each client to another server, and forwards both ways.
//!
//!     cargo run --release --bin proxy -- --listen 127.0.0.1:9000 --upstream 127.0.0.1:8080
//!     curl http://127.0.0.1:9000/
//!
//! The two connections are a tunnel: bytes in bulk are spliced from one socket to the other, and not taken
//! into this process. `--copy` does not splice, like a proxy that must look at the bytes.
//!
//! A side that reads slowly holds the other side back, so memory is bounded for any traffic. Each direction
//! ends by itself, and an error on one side is a reset on the other side. SIGTERM, SIGINT and SIGQUIT let the
//! conversations under way end, for at most `--drain-timeout`.

use clap::Parser;
use examples::flags::{self, ServerFlags};
use net_core::handler::DeadlineKind;
use net_core::{CloseReason, Conn, ConnId, Dial, Handler, Input, Peer};
use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

/// Forwards to another server.
#[derive(Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    server: ServerFlags,
    /// Where to forward to.
    #[arg(
        long,
        help = "Where to forward to: HOST:PORT, looked up for each client, [V6]:PORT or unix:PATH",
        value_name = "ADDR",
        value_parser = parse_upstream
    )]
    upstream: Dial,
    /// How long a connect to it may take (5s, 500ms)
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = flags::parse_time)]
    connect_timeout: Duration,
    /// Take all bytes into the process, as a proxy must that looks at them, and splice nothing
    #[arg(long)]
    copy: bool,
}

fn parse_upstream(text: &str) -> Result<Dial, String> {
    Dial::to_host(text).map_err(|error| error.to_string())
}

struct Proxy {
    upstream: Dial,
    copies: bool,
}

/// The state that is kept for each side.
#[derive(Default)]
struct Side {
    /// For a client, the upstream connection once it is dialled. For the upstream connection, the client.
    other: Option<ConnId>,
    is_up: bool,
    /// The peer has ended before the other side was up. The other side must still be told.
    owes_end: bool,
}

impl Proxy {
    fn other<'a>(conn: &'a mut Conn<'_, Self>) -> Option<Conn<'a, Self>> {
        let other = conn.session().other?;
        conn.other(other)
    }
}

impl Handler for Proxy {
    type Session = Side;
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<Side> {
        Some(Side::default())
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        conn.session().is_up = true;
        if conn.session().other.is_some() {
            // The upstream side is up. The bytes that the client has sent meanwhile go out now.
            if Self::other(conn).is_some_and(|mut client| client.session().owes_end) {
                conn.finish();
            }
            return;
        }
        let client = conn.id();
        let side = Side { other: Some(client), ..Side::default() };
        match conn.event_loop().dial(self.upstream.clone(), side) {
            Ok(upstream) => {
                conn.session().other = Some(upstream);
                if self.copies {
                    conn.pair_with(upstream);
                } else {
                    conn.tunnel_with(upstream);
                }
            }
            Err(refused) => {
                tracing::info!(%client, "{refused}");
                conn.reset();
            }
        }
    }

    // The next two are called with `--copy` only. A tunnel forwards bytes and ends by itself.

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        // The other side is over: its on_close comes in this turn, and ends this side.
        let Some(mut other) = Self::other(conn) else { return };
        let _ = other.send(input.take_all()); // refused: the other side is ending, and so this side will end
    }

    fn on_end(&mut self, conn: &mut Conn<'_, Self>) {
        let is_up = Self::other(conn).map(|mut other| other.session().is_up);
        match (is_up, Self::other(conn)) {
            (Some(true), Some(mut other)) => other.finish(),
            // A finish of a side that is not up would end it, and with it the bytes that wait for it.
            (Some(false), _) => conn.session().owes_end = true,
            _ => conn.close(),
        }
    }

    fn on_draining(&mut self, _conn: &mut Conn<'_, Self>) {
        // A silent connection may still be waited for. The conversation ends when both of its ends say so.
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, why: &CloseReason) {
        let (id, other) = (conn.id(), conn.session().other);
        let is_orderly = matches!(
            why,
            CloseReason::PeerEnded | CloseReason::Local | CloseReason::Deadline(DeadlineKind::Idle)
        );
        if !is_orderly && let Some(other) = other {
            tracing::info!(%id, %other, %why, "one side failed: resets the other");
        }
        match Self::other(conn) {
            Some(mut other) if is_orderly => other.close(),
            Some(mut other) => other.reset(),
            None => {} // it has ended already, as in a tunnel, which ends it by itself
        }
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let upstream = flags.upstream.timeout(flags.connect_timeout);
    let copies = flags.copy;
    flags::run(&flags.server, move |_place| Proxy { upstream: upstream.clone(), copies })
}
