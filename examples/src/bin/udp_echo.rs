//! Sends every datagram back to its source address.
//!
//!     cargo run --release --bin udp_echo -- --listen 127.0.0.1:9000
//!     nc -u 127.0.0.1 9000
//!
//! The flags for connections have no effect. Any sender can forge the source address of a datagram. So on an
//! open network, a server should answer with no more bytes than it has received. Two echo servers would
//! answer each other for ever, if a datagram to one of them has the other's address as its source. So a
//! datagram from a port below 1024 is not answered, because such services are there (echo has 7, chargen 19,
//! DNS 53, NTP 123; CERT advisory CA-1996-01). Nor is a datagram from the port at which this server listens,
//! where another server of this kind may be. A client has such a port only by choice. The library drops
//! datagrams from this server's own address.
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
        let _ = datagram.reply(datagram.bytes()); // a datagram that is dropped is counted
    }
}

/// Whether the port may be another server's, which would answer the answer. `own`: the port of this server.
fn is_of_a_service(port: u16, own: u16) -> bool {
    port < 1024 || port == own
}

fn main() -> ExitCode {
    let mut flags = Flags::parse().server;
    flags.datagrams = true;
    flags::run(&flags, |_place| Echo)
}
