//! Sends everything back, and closes clients that say nothing for eight seconds, or for `--idle-timeout`.
//!
//!     cargo run --release --bin idle -- --listen 127.0.0.1:9000
//!     nc 127.0.0.1 9000

use clap::Parser;
use examples::flags::{self, ServerFlags};
use net_core::{Conn, Handler, Input, Peer};
use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

/// The idle timeout, without `--idle-timeout`.
const PATIENCE: Duration = Duration::from_secs(8);

/// Sends everything back, and sends those away who say nothing.
#[derive(Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    server: ServerFlags,
}

struct Idle;

impl Handler for Idle {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let _ = conn.echo(input); // refused only when the connection is ending
    }

    /// No byte has moved for the whole timeout. Each byte puts the deadline off by one store in the
    /// connection's entry. There is no list in which the entry moves, and no timer that is set anew.
    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>) {
        let _ = conn.send(b"you were idle\n"); // a client that does not read is closed without it
        conn.close();
    }
}

fn main() -> ExitCode {
    let mut flags = Flags::parse().server;
    if flags.idle_timeout.is_zero() {
        flags.idle_timeout = PATIENCE;
    }
    flags::run(&flags, |_place| Idle)
}
