//! One loop is stuck in a callback for ever: what the others, the acceptor and the admin endpoint do
//! meanwhile.

use super::*;
use net_core::server::{Accept, FdTable, PrivateTables};
use net_core::{Conn, Handler, Input, Limits, Loops, Peer, Running, Server};
use std::convert::Infallible;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};

/// Whether it is stuck, and whether it may go on.
#[derive(Default)]
struct Stick {
    is_stuck: bool,
    is_released: bool,
}

type Shared = Arc<(Mutex<Stick>, Condvar)>;

/// Echoes; a question mark keeps it until it is released.
struct Sticks(Shared);

impl Handler for Sticks {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        if input.peek() == b"?" {
            let (stick, released) = &*self.0;
            let mut stick = stick.lock().unwrap();
            stick.is_stuck = true;
            while !stick.is_released {
                stick = released.wait(stick).unwrap();
            }
        }
        let _ = conn.echo(input); // refused only when the connection is ending
    }
}

/// Of a server of two loops, with so many places.
const PLACES: usize = 60;
/// The most that may wait for one of them: see `Limits::arrivals_queue`.
const WAIT: usize = PLACES / 4;

/// One client on each loop, by the loops' numbers.
fn one_on_each(server: &Running<Infallible>) -> [TcpStream; 2] {
    let (at, handle) = (server.addrs()[0].inet().unwrap(), server.handle());
    let mut found: [Option<TcpStream>; 2] = [None, None];
    while found.iter().any(Option::is_none) {
        let open = |k: usize| handle.open_in(k) as usize;
        let kept = [0, 1].map(|k: usize| usize::from(found[k].is_some()));
        eventually("the others are gone", || [0, 1].map(open) == kept);
        let mut client = connect(at);
        is_served(&mut client);
        let mut k = None;
        eventually("it is counted", || {
            k = (0..2).find(|k| open(*k) > kept[*k]);
            k.is_some()
        });
        found[k.unwrap()].get_or_insert(client);
    }
    found.map(Option::unwrap)
}

/// Asks all at once: how many are answered, once so many are, or time is up.
fn answered<C: Read + Write>(clients: &mut [C], want: usize) -> usize {
    clients.iter_mut().for_each(|client| client.write_all(b"x").unwrap());
    let mut is_answered = vec![false; clients.len()];
    let end = Instant::now() + PATIENCE;
    loop {
        for (client, is_answered) in clients.iter_mut().zip(&mut is_answered) {
            *is_answered |= matches!(client.read(&mut [0]), Ok(1));
        }
        let count = is_answered.iter().filter(|is_so| **is_so).count();
        if count >= want || Instant::now() > end {
            return count;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn get(at: SocketAddr, page: &str) -> String {
    let mut client = connect(at);
    write!(client, "GET {page} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

/// What waited for a stuck loop held every place of the server, and nobody else was served; and a drain,
/// or the end of the server, waited for it for ever.
#[test]
fn beside_a_stuck_loop_the_others_serve_and_the_server_ends() {
    // SAFETY: the handlers hold memory only, and start no thread.
    let private = FdTable::PerLoop(unsafe { PrivateTables::promise() });
    let modes = [
        (Accept::Acceptor, FdTable::Shared),
        (Accept::Acceptor, private),
        (Accept::ReusePort, FdTable::Shared),
        (Accept::ReusePort, private),
    ];
    std::thread::scope(|scope| {
        for (accept, fd_table) in modes {
            for stuck in [0, 1] {
                scope.spawn(move || beside_one(stuck, accept, fd_table));
            }
        }
    });
}

fn beside_one(stuck: usize, accept: Accept, fd_table: FdTable) {
    let mode = format!("loop {stuck} stuck, {accept:?}, {fd_table:?}");
    let shared = Shared::default();
    let limits = Limits { connections_max: Some(PLACES), ..Limits::default() };
    let server = Server::new().listen("127.0.0.1:0").admin("127.0.0.1:0").loops(Loops::Count(2));
    let server = server.accept(accept).fd_table(fd_table).limits(limits);
    let server = server.drain_timeout(Duration::from_millis(500));
    let of_loops = Arc::clone(&shared);
    let server = server.start(move |_| Sticks(Arc::clone(&of_loops))).unwrap();
    let (at, handle) = (server.addrs()[0].inet().unwrap(), server.handle());
    let admin = server.admin_addr().unwrap().inet().unwrap();
    let mut clients = one_on_each(&server);
    clients[stuck].write_all(b"?").unwrap();
    eventually("it is stuck", || shared.0.lock().unwrap().is_stuck);

    let [first, second] = &mut clients;
    let other = if stuck == 0 { second } else { first };
    is_served(other);
    let is_shared = fd_table == FdTable::Shared;
    for wave in 0..4 {
        // Those whom the kernel hands the stuck loop, where each loop listens, wait for it.
        let (coming, want) = match accept {
            Accept::Acceptor if is_shared => (40, 40),
            Accept::Acceptor => (40, 40 - WAIT),
            Accept::ReusePort => (20, 1),
        };
        let mut newcomers: Vec<_> = (0..coming).map(|_| connect(at)).collect();
        newcomers.iter().for_each(|client| client.set_nonblocking(true).unwrap());
        let count = answered(&mut newcomers, want);
        assert!(count >= want, "{mode}: {count} of {coming} in wave {wave}");
        drop(newcomers);
        eventually("their places are free", || handle.connections() <= 2 + WAIT);
    }
    let (mut given, theirs): (Vec<_>, Vec<_>) = (0..4).map(|_| UnixStream::pair().unwrap()).unzip();
    theirs.into_iter().for_each(|end| handle.adopt(end.into()).unwrap());
    given.iter().for_each(|client| client.set_nonblocking(true).unwrap());
    let want = if is_shared { 4 } else { 2 };
    assert!(answered(&mut given, want) >= want, "{mode}: adopted ones are served");

    handle.broadcast(&b"news"[..]);
    let mut news = [0; 4];
    other.read_exact(&mut news).unwrap();
    assert_eq!(&news, b"news", "{mode}");
    assert!(get(admin, "/healthz").contains("ok"), "{mode}");
    assert!(get(admin, "/metrics").contains("net_core_turns_total"), "{mode}");
    is_served(other);

    handle.drain();
    assert_eq!(other.read(&mut news).unwrap(), 0, "{mode}: it is let go");
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || drop(tell.send(server.wait())));
    let said = told.recv_timeout(PATIENCE).expect("the drain has an end").unwrap_err().to_string();
    assert!(said.contains(&format!("loop {stuck} did not end")), "{mode}: {said}");
    shared.0.lock().unwrap().is_released = true;
    shared.1.notify_all();
}
