//! Sends every datagram back to where it says it comes from.
//!
//!     cargo run --release --bin udp_echo -- --listen 127.0.0.1:9000
//!     nc -u 127.0.0.1 9000
//!
//! Of the flags, those about connections have nothing to act on. Anybody can forge where a datagram
//! comes from: on an open network, a server should answer no more bytes than it was sent. And two echoes
//! answer each other for ever, if one datagram to the one says that it comes from the other: so nothing is
//! answered that comes from a port below 1024, where such services are (echo has 7, chargen 19, DNS 53, NTP
//! 123; CERT advisory CA-1996-01), nor from the port at which this one listens, where another of its kind
//! may. A client's port is neither, unless it chose it. What comes from this server's own address the
//! library drops.

use clap::Parser;
use examples::flags::{self, ServerFlags};
use net_core::socket::Datagram;
use net_core::{Conn, Handler, Input, LoopContext, Peer};
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

    fn on_datagram(&mut self, _here: &mut LoopContext<'_, Self>, mut datagram: Datagram<'_>) {
        if is_of_a_service(datagram.peer().port(), datagram.at().port()) {
            return;
        }
        let _ = datagram.reply(datagram.bytes()); // what is dropped is counted
    }
}

/// Whether that port may be another server's, which would answer the answer. `own`: where this one listens.
fn is_of_a_service(port: u16, own: u16) -> bool {
    port < 1024 || port == own
}

fn main() -> ExitCode {
    let mut flags = Flags::parse().server;
    flags.datagrams = true;
    flags::run(&flags, |_place| Echo)
}
