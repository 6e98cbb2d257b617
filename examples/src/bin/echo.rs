//! Sends everything back.
//!
//!     cargo run --release --bin echo -- --listen 127.0.0.1:9000
//!     nc 127.0.0.1 9000

use clap::Parser;
use examples::flags::{self, ServerFlags};
use net_core::{Conn, Handler, Input, Peer};
use std::convert::Infallible;
use std::process::ExitCode;

/// Sends everything back.
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
    flags::run(&Flags::parse().server, |_place| Echo)
}
