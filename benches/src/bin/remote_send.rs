//! Ours: messages that another thread sends on a connection. The protocol is in `benches::bursts`.

use benches::bursts::{MESSAGE, REQUEST_BYTES};
use benches::rival::{RivalFlags, say_ready};
use clap::Parser;
use net_core::handler::PostError;
use net_core::{Bytes, Conn, ConnId, Handler, Input, LoopInfo, Loops, Peer, Server, ServerHandle};
use std::convert::Infallible;
use std::error::Error;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// Longer than a loop takes from a request into its sleep, also under a tool that slows it down.
const ASLEEP_AFTER: Duration = Duration::from_millis(2);

/// Sends messages from a thread that is no loop.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    rival: RivalFlags,
}

/// So many messages to this connection.
type Request = (ConnId, u32);

struct Asker(Sender<Request>);

impl Handler for Asker {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        while let Some(request) = input.take(REQUEST_BYTES) {
            let count = request.try_into().map_or(0, u32::from_be_bytes);
            if self.0.send((conn.id(), count)).is_err() {
                conn.close(); // the other thread has ended
            }
        }
    }
}

fn answer(requests: &Receiver<Request>, handle: &ServerHandle<Infallible>) {
    for (id, count) in requests {
        thread::sleep(ASLEEP_AFTER);
        for _ in 0..count {
            while let Err(error) = handle.send(id, Bytes::from_static(&MESSAGE)) {
                match error {
                    PostError::Full(_) => thread::yield_now(), // the loop is to catch up
                    PostError::Ended(_) => return,
                }
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let RivalFlags { listen, loops } = Flags::parse().rival;
    let (asker, requests) = channel();
    // Without pinning, so that the other thread may have a core of its own.
    let server = Server::new().listen(&listen.to_string()).loops(Loops::Count(loops)).pin(false);
    let running = server.start(move |_place: &LoopInfo<Infallible>| Asker(asker.clone()))?;
    let handle = running.handle();
    let sender = thread::spawn(move || answer(&requests, &handle));
    say_ready(running.addrs()[0].to_string().parse()?)?;
    running.wait()?;
    sender.join().map_err(|_| "the sending thread panicked")?;
    Ok(())
}
