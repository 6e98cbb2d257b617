//! Our echo with every knob that `scale` turns on the command line.

use clap::Parser;
use net_core::{Conn, Ended, Handler, Input, Limits, Loops, Peer, Server, StartError};
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
    accepts_per_turn: Option<usize>,
}

impl Flags {
    fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            idle_timeout: Some(Duration::from_secs(60)),
            events_per_wait: self.events_per_wait.unwrap_or(default.events_per_wait),
            receive_block_bytes: self.receive_block_bytes.unwrap_or(default.receive_block_bytes),
            receive_bytes_per_turn: self
                .receive_bytes_per_turn
                .unwrap_or(default.receive_bytes_per_turn),
            accepts_per_turn: self.accepts_per_turn.unwrap_or(default.accepts_per_turn),
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

fn main() -> Result<Ended, StartError> {
    let flags = Flags::parse();
    Server::new()
        .listen(&flags.listen)
        .loops(Loops::Count(flags.loops))
        .limits(flags.limits())
        .run_with(
            |_place| Echo,
            |running| {
                for at in running.addrs() {
                    println!("READY {at}");
                }
            },
        )
}
