//! A server that sends everything back, and whose callback sleeps for 200 ms when it is asked to: what
//! `neighbours stall` looks at. All connections of one source are on one loop.

use benches::rival::{RivalFlags, say_ready};
use benches::stall::{SLEEP, SLEEP_TIME, THRESHOLD};
use clap::Parser;
use net_core::server::Balance;
use net_core::{Conn, Handler, Input, Limits, LoopInfo, Loops, Peer, Server};
use std::convert::Infallible;
use std::error::Error;

/// Sleeps in a callback on request.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    rival: RivalFlags,
}

struct Sleeper;

impl Handler for Sleeper {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        if input.peek().contains(&SLEEP) {
            std::thread::sleep(SLEEP_TIME);
        }
        let _ = conn.echo(input); // refused only when the connection is ending
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let Flags { rival: RivalFlags { listen, loops } } = Flags::parse();
    let limits = Limits { stall_threshold: Some(THRESHOLD), ..Limits::default() };
    let server = Server::new().listen(&listen.to_string()).loops(Loops::Count(loops));
    let running = server
        .balance(Balance::SourceHash)
        .limits(limits)
        .start(|_place: &LoopInfo<Infallible>| Sleeper)?;
    say_ready(running.addrs()[0].to_string().parse()?)?;
    running.wait()?;
    Ok(())
}
