//! Ours: one payload to every connection. The protocol is in `benches::fan_out`.

use benches::fan_out::{CALL, PAYLOAD};
use benches::rival::{RivalFlags, say_ready};
use clap::Parser;
use net_core::{Bytes, Conn, Handler, Input, Loop, Loops, Peer, Place, Remote, Server};
use std::error::Error;

/// Sends one payload to every connection.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    rival: RivalFlags,
}

struct FanOut {
    own: usize,
    all: Remote<()>,
}

impl Handler for FanOut {
    type Session = ();
    type Message = ();

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let bytes = input.take_all();
        if !bytes.contains(&CALL) {
            let _ = conn.send(bytes); // refused only when the connection is ending
            return;
        }
        // A reader too slow is closed by its output limit.
        conn.others(|other| _ = other.send_shared(Bytes::from_static(&PAYLOAD)));
        for other in (0..self.all.loops()).filter(|&n| n != self.own) {
            assert!(self.all.post(other, ()).is_ok(), "one call at a time fits the mailbox");
        }
    }

    fn on_message(&mut self, here: &mut Loop<'_, Self>, (): ()) {
        here.each(|conn| _ = conn.send_shared(Bytes::from_static(&PAYLOAD)));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let RivalFlags { listen, loops } = Flags::parse().rival;
    let server = Server::new().listen(&listen.to_string()).loops(Loops::Count(loops));
    let running =
        server.start(|place: &Place<()>| FanOut { own: place.number(), all: place.remote() })?;
    say_ready(running.addrs()[0].to_string().parse()?)?;
    running.wait()?;
    Ok(())
}
