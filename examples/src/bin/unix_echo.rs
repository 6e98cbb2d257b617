//! Sends everything back, over Unix sockets. The same handler would serve TCP: only the listener and
//! `Peer` know the difference.
//!
//!     cargo run --release --bin unix_echo -- --listen unix:/tmp/echo.sock
//!     nc -U /tmp/echo.sock
//!
//! A file that a dead server has left is replaced. A file of a living server is not. The server's own file is
//! removed when the server ends. `unix:@NAME` has no file: it is an abstract name, on Linux only.

use clap::Parser;
use examples::flags::{self, ServerFlags};
use net_core::{Addr, Conn, Handler, Input, Peer};
use std::convert::Infallible;
use std::process::ExitCode;

/// Sends everything back, over Unix sockets.
#[derive(Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    server: ServerFlags,
}

struct Echo;

impl Handler for Echo {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let _ = conn.echo(input); // refused only when the connection is ending
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse().server;
    if let Some(other) = flags.listen.iter().find(|at| !matches!(at, Addr::Unix(_))) {
        return flags::fail(
            1,
            &format!("--listen {other}: not a Unix socket (unix:PATH or unix:@NAME)"),
        );
    }
    flags::run(&flags, |_place| Echo)
}
