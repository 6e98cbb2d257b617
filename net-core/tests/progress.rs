//! Progress on real sockets: a handler whose callbacks bring one another about for ever keeps its loop
//! from nobody. Bounds are counts; the time is only patience.

#![allow(clippy::unwrap_used)] // a test

use net_core::jobs::Slice;
use net_core::metrics::Counter;
use net_core::{Conn, Handler, Input, Limits, LoopContext, Loops, Peer, Running, Server};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const PIECE: usize = 64 << 10;

/// Begins a chain by the first byte of what a connection sends, or echoes.
struct Chains(Arc<AtomicU64>);

impl Handler for Chains {
    /// By which chain it is.
    type Session = u8;
    type Message = ();

    fn admit(&mut self, _peer: &Peer) -> Option<u8> {
        Some(b'p')
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let chain = input.peek()[0];
        match chain {
            b'p' => _ = conn.echo(input),
            b's' | b'm' => conn.notify_sent(0),
            b'w' => drop(conn.event_loop().handle().post(0, ())),
            b'j' => {
                let links = Arc::clone(&self.0);
                let endless = move |_: &mut Self, _: &mut Conn<'_, Self>| {
                    links.fetch_add(1, Ordering::Relaxed);
                    Slice::More
                };
                assert!(conn.in_slices(endless).is_ok());
            }
            _ => {
                conn.pause();
                conn.resume();
                self.0.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        *conn.session() = chain;
        input.take_all();
    }

    fn on_sent(&mut self, conn: &mut Conn<'_, Self>, _tag: u64) {
        self.0.fetch_add(1, Ordering::Relaxed);
        if *conn.session() == b's' {
            let _ = conn.send(&[7; PIECE]);
        }
        conn.notify_sent(0);
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, (): ()) {
        self.0.fetch_add(1, Ordering::Relaxed);
        let _ = here.handle().post(0, ());
    }
}

fn serve() -> (Running<()>, Arc<AtomicU64>) {
    let links = Arc::new(AtomicU64::new(0));
    let of_loop = Arc::clone(&links);
    let server = Server::new().listen("127.0.0.1:0").loops(Loops::Count(1)).pin(false);
    (server.start(move |_place| Chains(Arc::clone(&of_loop))).unwrap(), links)
}

fn connect(server: &Running<()>) -> TcpStream {
    let stream = TcpStream::connect(server.addrs()[0].inet().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn is_served(neighbour: &mut TcpStream) {
    let mut back = [0; 4];
    neighbour.write_all(b"ping").unwrap();
    neighbour.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"ping");
}

/// 189 MB left in one turn of such a loop, and whoever else was on it waited.
#[test]
fn a_stream_by_on_sent_to_a_fast_reader_leaves_its_neighbour_served() {
    let (server, links) = serve();
    let mut reader = connect(&server);
    let mut neighbour = connect(&server);
    is_served(&mut neighbour);
    reader.write_all(b"s").unwrap();
    let reading = thread::spawn(move || {
        let (mut part, mut total) = (vec![0; 256 << 10], 0);
        while let Ok(n @ 1..) = reader.read(&mut part) {
            total += n as u64;
        }
        total
    });
    while links.load(Ordering::Relaxed) < 1_000 {
        is_served(&mut neighbour);
    }
    let told = links.load(Ordering::Relaxed);
    let snapshot = server.handle().snapshot();
    // The turn under way is not among them.
    let (sent, turns) = (snapshot.get(Counter::BytesOut), snapshot.get(Counter::Turns) + 1);
    let budget = Limits::default().send_bytes_per_turn as u64;
    // When there is room again, and at the turn's end.
    assert!(sent <= turns * 2 * budget, "{sent} bytes in {turns} turns");
    assert!(told <= turns, "told {told} times in {turns} turns");
    server.handle().stop();
    server.wait().unwrap();
    assert!(reading.join().unwrap() > 0);
}

/// A mark with nothing before it is reached at once: the loop never left its turn, and was never stopped.
#[test]
fn whatever_is_chained_on_a_loop_others_are_served_and_it_stops() {
    for chain in [b"m", b"w", b"j", b"r"] {
        let (server, links) = serve();
        let mut chainer = connect(&server);
        let mut neighbour = connect(&server);
        is_served(&mut neighbour);
        chainer.write_all(chain).unwrap();
        while links.load(Ordering::Relaxed) < 100 {
            is_served(&mut neighbour);
        }
        for _ in 0..50 {
            is_served(&mut neighbour);
        }
        server.handle().stop();
        server.wait().unwrap();
        let mut rest = [0; 1];
        assert!(!matches!(neighbour.read(&mut rest), Ok(1..)), "it is not over");
    }
}
