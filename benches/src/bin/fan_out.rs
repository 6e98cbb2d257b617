//! Ours: one payload to every connection. The protocol is in `benches::fan_out`.

use benches::fan_out::{BROADCAST, CALL, JOIN, PAYLOAD};
use benches::rival::{RivalFlags, say_ready};
use clap::Parser;
use net_core::server::{FdTable, PrivateTables};
use net_core::{
    Broadcast, Bytes, Conn, Handler, Input, Limits, LoopContext, LoopInfo, Loops, Peer, Server,
    ServerHandle,
};
use std::error::Error;

/// The topic of those who have joined.
const JOINED: &[u8] = b"joined";

/// Sends one payload to every connection.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    rival: RivalFlags,
    /// A descriptor table for each loop
    #[arg(long)]
    private_tables: bool,
    /// Connections of a loop that a broadcast is sent to in a turn. Default: the library's
    #[arg(long, value_name = "N")]
    per_turn: Option<usize>,
}

struct FanOut {
    own: usize,
    all: ServerHandle<()>,
}

impl Handler for FanOut {
    type Session = ();
    type Message = ();

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let bytes = input.take_all();
        if bytes.contains(&JOIN) {
            conn.subscribe(JOINED).expect("one topic is within every limit");
        }
        if bytes.contains(&BROADCAST) {
            let payload = Broadcast::new(Bytes::from_static(&PAYLOAD));
            self.all.broadcast(payload.to_topic(JOINED));
        }
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

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, (): ()) {
        here.each(|conn| _ = conn.send_shared(Bytes::from_static(&PAYLOAD)));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let Flags { rival: RivalFlags { listen, loops }, private_tables, per_turn } = Flags::parse();
    let defaults = Limits::default();
    let broadcast_per_turn = per_turn.unwrap_or(defaults.broadcast_per_turn);
    let limits = Limits { broadcast_per_turn, ..defaults };
    let mut server = Server::new().listen(&listen.to_string()).loops(Loops::Count(loops));
    server = server.limits(limits);
    if private_tables {
        // SAFETY: no other thread of this program makes, passes on or closes descriptors while the
        // server runs.
        server = server.fd_table(FdTable::PerLoop(unsafe { PrivateTables::promise() }));
    }
    let running =
        server.start(|place: &LoopInfo<()>| FanOut { own: place.number(), all: place.handle() })?;
    say_ready(running.addrs()[0].to_string().parse()?)?;
    running.wait()?;
    Ok(())
}
