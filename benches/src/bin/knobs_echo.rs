//! Our echo with every knob that `scale` turns on the command line.

use clap::Parser;
use net_core::server::Ended;
use net_core::{Conn, ConnId, Handler, Input, Limits, Loops, Peer, Server, StartError};
use std::convert::Infallible;
use std::time::Duration;

#[derive(Parser)]
struct Flags {
    #[arg(long)]
    listen: String,
    #[arg(long, default_value_t = 1)]
    loops: usize,
    #[arg(long)]
    events_per_wait: Option<usize>,
    #[arg(long)]
    receive_block_bytes: Option<usize>,
    #[arg(long)]
    receive_bytes_per_turn: Option<usize>,
    #[arg(long)]
    receive_bytes_in_a_row: Option<usize>,
    #[arg(long)]
    arrivals_per_turn: Option<usize>,
    #[arg(long)]
    cork_bytes: Option<usize>,
    /// Every two connections exchange their answers: each is sent what the other has asked.
    #[arg(long)]
    relay: bool,
}

impl Flags {
    fn limits(&self) -> Limits {
        let default = Limits::default();
        let receive_block_bytes = self.receive_block_bytes.unwrap_or(default.receive_block_bytes);
        // A block is never larger than what may be received in a turn.
        let per_turn = default.receive_bytes_per_turn.max(receive_block_bytes);
        Limits {
            idle_timeout: Some(Duration::from_secs(60)),
            events_per_wait: self.events_per_wait.unwrap_or(default.events_per_wait),
            receive_block_bytes,
            receive_bytes_per_turn: self.receive_bytes_per_turn.unwrap_or(per_turn),
            receive_bytes_in_a_row: self
                .receive_bytes_in_a_row
                .unwrap_or(default.receive_bytes_in_a_row),
            arrivals_per_turn: self.arrivals_per_turn.unwrap_or(default.arrivals_per_turn),
            cork_bytes: self.cork_bytes.unwrap_or(default.cork_bytes),
            ..default
        }
    }
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

/// Answers each with what another has asked, so that all bytes are for others than the running one.
#[derive(Default)]
struct Relay {
    /// Waits for the next one to come.
    single: Option<ConnId>,
}

impl Handler for Relay {
    /// Whom it sends to. Before its first message: whom it will.
    type Session = (Option<ConnId>, bool);
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<Self::Session> {
        Some((None, false))
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        let own = conn.id();
        if let Some(mut other) = self.single.take().and_then(|id| conn.other(id)) {
            other.session().0 = Some(own);
            let id = other.id();
            conn.session().0 = Some(id);
        } else {
            self.single = Some(own);
        }
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let (other, has_spoken) = *conn.session();
        conn.session().1 = true;
        // The first message comes back: there may be no other yet.
        match other.filter(|_| has_spoken).and_then(|id| conn.other(id)) {
            Some(mut other) => _ = other.send(input.take_all()),
            None => _ = conn.echo(input), // refused only when the connection is ending
        }
    }
}

fn main() -> Result<Ended, StartError> {
    let flags = Flags::parse();
    let server =
        Server::new().listen(&flags.listen).loops(Loops::Count(flags.loops)).limits(flags.limits());
    let ready = |running: &net_core::Running<_>| {
        for at in running.addrs() {
            println!("READY {at}");
        }
    };
    match flags.relay {
        false => server.run_with(|_place| Echo, ready),
        true => server.run_with(|_place| Relay::default(), ready),
    }
}
