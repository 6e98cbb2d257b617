//! Sends every datagram back to where it says it comes from.
//!
//!     cargo run --release --bin udp_echo -- --listen 127.0.0.1:9000
//!     nc -u 127.0.0.1 9000
//!
//! Of the flags, those about connections have nothing to act on. Anybody can forge where a datagram
//! comes from: on an open network, a server should answer no more bytes than it was sent.

use clap::Parser;
use examples::flags::{self, ServerFlags};
use net_core::{Conn, Datagram, Handler, Input, Loop, Peer};
use std::convert::Infallible;
use std::process::ExitCode;

/// Sends every datagram back.
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
        None // nothing listens for connections
    }

    fn on_data(&mut self, _conn: &mut Conn<'_, Self>, _input: &mut Input<'_>) {}

    fn on_datagram(&mut self, _here: &mut Loop<'_, Self>, mut datagram: Datagram<'_>) {
        let _ = datagram.reply(datagram.bytes()); // what is dropped is counted
    }
}

fn main() -> ExitCode {
    let mut flags = Flags::parse().server;
    flags.datagrams = true;
    flags::run(&flags, |_place| Echo)
}
