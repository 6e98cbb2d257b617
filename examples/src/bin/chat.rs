//! Sends every line to everyone else, on every loop.
//!
//!     cargo run --release --bin chat -- --listen 127.0.0.1:9000
//!     nc 127.0.0.1 9000        (twice, and type)

use clap::Parser;
use examples::flags::{self, ServerFlags};
use net_core::{Bytes, Conn, Handler, Input, LoopContext, Peer, ServerHandle};
use std::process::ExitCode;

/// Sends every line to everyone else.
#[derive(Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    server: ServerFlags,
}

/// A longer line closes its connection.
const LINE_MAX: usize = 4096;

struct Chat {
    own: usize,
    all: ServerHandle<Bytes>,
}

impl Handler for Chat {
    type Session = ();
    type Message = Bytes;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let bytes = input.peek();
        if bytes.split(|byte| *byte == b'\n').any(|line| line.len() > LINE_MAX) {
            return conn.close();
        }
        let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else { return };
        // All whole lines go out as one piece. Sent one by one, 64 KiB of empty lines would be 64 Ki sends to
        // each other connection, in one callback. The piece is copied once and counted: all receivers share
        // it.
        let lines = Bytes::copy_from_slice(&bytes[..=end]);
        input.consume(lines.len());
        // A reader too slow for the chat is closed by its output limit.
        conn.others(|other| _ = other.send_shared(lines.clone()));
        for other_loop in (0..self.all.loops()).filter(|&n| n != self.own) {
            // A full mailbox loses the lines for that loop, because nothing here can wait for it.
            let _ = self.all.post(other_loop, lines.clone());
        }
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, lines: Bytes) {
        here.each(|conn| _ = conn.send_shared(lines.clone()));
    }
}

fn main() -> ExitCode {
    let chat =
        |place: &net_core::LoopInfo<Bytes>| Chat { own: place.number(), all: place.handle() };
    flags::run(&Flags::parse().server, chat)
}
