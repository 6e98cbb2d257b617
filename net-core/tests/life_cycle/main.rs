//! Servers that come and go in one process, one after the other and side by side: what is left of
//! them, and that they keep apart.

#![allow(clippy::unwrap_used)] // a test

#[path = "../bound/mod.rs"]
mod bound;
mod failed_starts;
mod here;

use bound::{Bound, bound};
use net_core::server::{Accept, FdTable, PrivateTables};
use net_core::{Addr, CloseReason, Conn, Handler, Input, LoopContext, Loops, Peer, Server};
use std::convert::Infallible;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::MutexGuard;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// No port of this address is chosen for clients of other tests between two starts.
const OWN_ADDRESS: &str = "127.0.0.91:0";

/// Descriptors and threads are the whole process's: whoever counts them must be alone.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn alone() -> (MutexGuard<'static, ()>, Bound) {
    let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    (alone, bound())
}

/// Echoes.
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

/// Answers how many bytes the connection has sent in all.
struct Counts;

impl Handler for Counts {
    type Session = u8;
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<u8> {
        Some(0)
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        for _ in 0..input.take_all().len() {
            *conn.session() += 1;
            let count = *conn.session();
            assert!(conn.send(&[count]).is_taken());
        }
    }
}

/// A client: dials what is posted, says two bytes, and tells what came back and how it ended.
struct Asks(Sender<(Addr, Vec<u8>, CloseReason)>);

impl Handler for Asks {
    type Session = (Option<Addr>, Vec<u8>);
    type Message = Addr;

    fn admit(&mut self, _peer: &Peer) -> Option<Self::Session> {
        None
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, to: Addr) {
        here.dial(to.clone(), (Some(to), Vec::new())).unwrap();
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        assert!(conn.send(b"hi").is_taken());
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let bytes = input.take_all().to_vec();
        conn.session().1.extend(bytes);
        if conn.session().1.len() == 2 {
            conn.close();
        }
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, why: &CloseReason) {
        let (to, back) = conn.session().clone();
        self.0.send((to.unwrap(), back, *why)).unwrap();
    }
}

/// How servers accept, and in which table.
fn modes() -> [(Accept, FdTable); 4] {
    // SAFETY: the handlers here make, keep and drop no descriptor, on no thread.
    let private = FdTable::PerLoop(unsafe { PrivateTables::promise() });
    [
        (Accept::Acceptor, FdTable::Shared),
        (Accept::Acceptor, private),
        (Accept::ReusePort, FdTable::Shared),
        (Accept::ReusePort, private),
    ]
}

fn server(at: &str, (accept, fd_table): (Accept, FdTable)) -> Server {
    Server::new().listen(at).loops(Loops::Count(2)).pin(false).accept(accept).fd_table(fd_table)
}

fn connect(to: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(to).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn ask(client: &mut (impl Read + Write), question: &[u8; 2]) -> [u8; 2] {
    client.write_all(question).unwrap();
    let mut back = [0; 2];
    client.read_exact(&mut back).unwrap();
    back
}

/// What is open in the process's table, and the names of the threads that are servers'.
fn left() -> (usize, Vec<String>) {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    // A thread may end between the list and the look; then it is none.
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    let threads = names.filter(|name| name.starts_with("net-")).collect();
    (fs::read_dir("/proc/self/fd").unwrap().count(), threads)
}

/// Nothing is left but what was there before. join(3) returns as soon as the kernel has cleared the
/// thread's number, and it may stand in /proc for a moment longer.
fn nothing_else_is_left(before: &(usize, Vec<String>), of: &str) {
    let end = Instant::now() + PATIENCE;
    while left() != *before && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(left(), *before, "{of}");
}

/// Half of them are drained, the others dropped, each with clients inside.
#[test]
fn a_server_starts_again_at_its_address_and_nothing_of_the_former_is_left() {
    let _alone = alone();
    for mode in modes() {
        let mut at = OWN_ADDRESS.to_owned();
        let before = left();
        assert_eq!(before.1, Vec::<String>::new());
        for round in 0..20 {
            let running = server(&at, mode).start(|_place| Echo).unwrap();
            let addr = running.addrs()[0].inet().unwrap();
            assert!(round == 0 || addr.to_string() == at, "{addr} instead of {at}");
            at = addr.to_string();
            let mut clients: Vec<_> = (0..4).map(|_| connect(addr)).collect();
            for client in &mut clients {
                assert_eq!(&ask(client, b"hi"), b"hi", "{mode:?}, round {round}");
            }
            // A thread names itself, and the acceptor's may not have run yet; loops that serve have.
            assert!(left().1.len() >= 2, "whoever counts sees the loops: {:?}", left());
            if round % 2 == 0 {
                running.handle().drain();
                let ended = running.wait().unwrap();
                assert!(ended.counts.is_balanced(), "{}", ended.counts);
            } else {
                drop(running);
            }
            for client in &mut clients {
                // FIN, or RST for those that were cut: no silence.
                assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
            }
            drop(clients);
            assert!(TcpStream::connect(addr).is_err(), "{mode:?}: a listener is left open");
            nothing_else_is_left(&before, &format!("{mode:?}, round {round}"));
        }
    }
}

/// Servers of two handlers in every mode at once, and a client whose loops dial them all.
#[test]
fn servers_and_clients_of_one_process_keep_apart() {
    let _alone = alone();
    let before = left();
    let echoes = modes().map(|mode| server(OWN_ADDRESS, mode).start(|_place| Echo).unwrap());
    let counts = modes().map(|mode| server(OWN_ADDRESS, mode).start(|_place| Counts).unwrap());
    let (tell, told) = channel();
    let asks = Server::new().loops(Loops::Count(2)).pin(false);
    let asks = asks.start(move |_place| Asks(tell.clone())).unwrap();

    let echo_at: Vec<_> = echoes.iter().map(|running| running.addrs()[0].clone()).collect();
    let count_at: Vec<_> = counts.iter().map(|running| running.addrs()[0].clone()).collect();
    let mut stay: Vec<_> = count_at.iter().map(|at| connect(at.inet().unwrap())).collect();
    stay.iter_mut().for_each(|client| assert_eq!(ask(client, b"ab"), [1, 2]));
    let all: Vec<_> = echo_at.iter().chain(&count_at).cloned().collect();
    for in_loop in [0, 1] {
        all.iter().for_each(|at| asks.handle().post(in_loop, at.clone()).unwrap());
    }
    for _ in 0..2 * all.len() {
        let (at, back, why) = told.recv_timeout(PATIENCE).unwrap();
        let answer: &[u8] = if echo_at.contains(&at) { b"hi" } else { &[1, 2] };
        assert_eq!((&*back, why), (answer, CloseReason::Local), "{at}");
    }

    // That half of them end, also by force, is nothing to the others.
    for (n, running) in echoes.into_iter().enumerate() {
        if n % 2 == 0 {
            running.handle().drain();
            let ended = running.wait().unwrap();
            assert!(ended.counts.is_balanced(), "{}", ended.counts);
        }
    }
    stay.iter_mut().for_each(|client| assert_eq!(ask(client, b"cd"), [3, 4]));
    for running in counts {
        running.handle().drain();
        let ended = running.wait().unwrap();
        assert!(ended.counts.is_balanced(), "{}", ended.counts);
    }
    asks.handle().drain();
    asks.wait().unwrap();
    drop((stay, told));
    nothing_else_is_left(&before, "eight servers and a client");
}
