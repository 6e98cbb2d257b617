//! Dialling on real sockets: what only the kernel can show.

#![allow(clippy::unwrap_used)] // a test

mod bound;

use net_core::dial::Retry;
use net_core::socket::Errno;
use net_core::{CloseReason, Conn, Dial, Handler, Input, Limits, LoopContext, Loops, Peer, Server};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Dials what is posted, says what came of it, and echoes.
struct Dials(Sender<Outcome>);

#[derive(Debug, PartialEq)]
enum Outcome {
    Up { local_side_of: SocketAddr },
    Over(CloseReason),
}

impl Handler for Dials {
    type Session = ();
    type Message = Dial;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        None
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, dial: Dial) {
        here.dial(dial, ()).unwrap();
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0)); // of a Unix socket
        let local_side_of = conn.peer().unwrap().inet().unwrap_or(nowhere);
        self.0.send(Outcome::Up { local_side_of }).unwrap();
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let _ = conn.echo(input);
    }

    fn on_close(&mut self, _conn: &mut Conn<'_, Self>, why: &CloseReason) {
        let _ = self.0.send(Outcome::Over(*why)); // the test may have seen enough
    }
}

/// A server that listens nowhere: N loops, and a `ServerHandle` to post to them.
fn client() -> (net_core::Running<Dial>, Receiver<Outcome>) {
    let (say, said) = channel();
    let client = Server::new().loops(Loops::Count(1)).pin(false);
    (client.start(move |_loop| Dials(say.clone())).unwrap(), said)
}

const PATIENCE: Duration = Duration::from_secs(20);

fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_closed_port_and_a_foreign_source_are_named() {
    let _bound = bound::bound();
    let (running, said) = client();
    let machine = |errno| Outcome::Over(CloseReason::Machine(Errno::new(errno)));
    running.handle().post(0, Dial::from(closed_port())).unwrap();
    assert_eq!(said.recv_timeout(PATIENCE).unwrap(), machine(libc::ECONNREFUSED));
    // 192.0.2.0/24 is for documentation: no machine has it.
    let foreign = Dial::from(closed_port()).source("192.0.2.7:0".parse().unwrap());
    running.handle().post(0, foreign).unwrap();
    assert_eq!(said.recv_timeout(PATIENCE).unwrap(), machine(libc::EADDRNOTAVAIL));
    running.handle().drain();
    let counts = running.wait().unwrap().counts;
    assert!(counts.is_balanced(), "{counts}");
}

#[test]
fn a_dial_comes_from_the_address_it_is_given_and_speaks() {
    let _bound = bound::bound();
    let (running, said) = client();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let source: SocketAddr = "127.0.0.77:0".parse().unwrap();
    running.handle().post(0, Dial::from(to).source(source)).unwrap();
    let (mut accepted, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), source.ip());
    assert_eq!(said.recv_timeout(PATIENCE).unwrap(), Outcome::Up { local_side_of: to });
    accepted.set_read_timeout(Some(PATIENCE)).unwrap();
    accepted.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    accepted.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    drop(accepted);
    assert_eq!(said.recv_timeout(PATIENCE).unwrap(), Outcome::Over(CloseReason::PeerEnded));
}

#[test]
fn a_dial_is_tried_again_until_somebody_listens() {
    let _bound = bound::bound();
    let (running, said) = client();
    let to = closed_port();
    let pause = Duration::from_millis(20);
    let retry =
        Retry { attempts: u32::MAX, first_pause: pause, pause_max: pause, within: PATIENCE };
    running.handle().post(0, Dial::from(to).retry(retry)).unwrap();
    assert!(said.recv_timeout(Duration::from_millis(100)).is_err(), "no answer before the last");
    let _listener = TcpListener::bind(to).unwrap();
    assert_eq!(said.recv_timeout(PATIENCE).unwrap(), Outcome::Up { local_side_of: to });
}

/// A closed port of the range from which the kernel gives the dialler's own: sooner or later it is
/// the same, and then TCP connects the socket to itself (tokio#3405, ktor#2237, OpenDJ#728).
#[test]
fn a_dial_into_the_own_port_range_never_meets_itself() {
    let _bound = bound::bound();
    let (running, said) = client();
    let handle = running.handle();
    const AT_ONCE: usize = 200;
    for _ in 0..30 {
        let to = closed_port();
        for _ in 0..AT_ONCE {
            handle.post(0, Dial::from(to).source("127.0.0.1:0".parse().unwrap())).unwrap();
        }
        for _ in 0..AT_ONCE {
            let outcome = said.recv_timeout(PATIENCE).unwrap();
            assert!(matches!(outcome, Outcome::Over(CloseReason::Machine(_))), "{outcome:?}");
        }
    }
    // And certainly: from the port that it dials.
    let to = closed_port();
    handle.post(0, Dial::from(to).source(to)).unwrap();
    let refused = Outcome::Over(CloseReason::Machine(Errno::new(libc::ECONNREFUSED)));
    assert_eq!(said.recv_timeout(PATIENCE).unwrap(), refused);
}

/// A Unix listener whose queue was full refused ten dials of twelve at once, with EAGAIN, where TCP waits.
#[test]
fn a_full_unix_listener_is_dialled_again_until_it_takes_all() {
    let (running, said) = client();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("busy");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(1).unwrap(); // room for two
    socket.set_nonblocking(true).unwrap();
    let listener = UnixListener::from(std::os::fd::OwnedFd::from(socket));
    let to = format!("unix:{}", path.display());
    for _ in 0..12 {
        let dial = Dial::to(to.parse().unwrap()).timeout(PATIENCE);
        running.handle().post(0, dial).unwrap();
    }
    let (mut outcomes, mut accepted) = (Vec::new(), Vec::new());
    while outcomes.len() < 2 {
        outcomes.push(said.recv_timeout(PATIENCE).unwrap());
    }
    let until = Instant::now() + PATIENCE;
    while outcomes.len() < 12 {
        assert!(Instant::now() < until, "{outcomes:?}");
        accepted.extend(listener.accept());
        outcomes.extend(said.recv_timeout(Duration::from_millis(1)));
    }
    assert!(outcomes.iter().all(|o| matches!(o, Outcome::Up { .. })), "{outcomes:?}");
    let late = Dial::to(to.parse().unwrap()).timeout(Duration::from_millis(50));
    for _ in 0..20 {
        running.handle().post(0, late.clone()).unwrap();
    }
    let full = Outcome::Over(CloseReason::Machine(Errno::new(libc::EAGAIN)));
    let mut refused = false;
    while !refused {
        refused = said.recv_timeout(PATIENCE).unwrap() == full;
    }
    running.handle().stop();
    let counts = running.wait().unwrap().counts;
    assert!(counts.is_balanced(), "{counts}");
}

/// Dials names, or does not come back.
struct Stuck(Sender<u16>, std::sync::Arc<parking_lot::Mutex<Receiver<()>>>);

enum Asked {
    /// So many names, and then the mailbox is full of `Stick`.
    Names(u16),
    Name(u16),
    Stick,
}

impl Handler for Stuck {
    type Session = u16;
    type Message = Asked;

    fn admit(&mut self, _peer: &Peer) -> Option<u16> {
        None
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, asked: Asked) {
        let name =
            |port| Dial::to_host(&format!("localhost:{port}")).unwrap().timeout(3 * PATIENCE);
        match asked {
            Asked::Names(count) => {
                for port in 1..=count {
                    here.dial(name(port), 0).unwrap();
                }
                while here.handle().post(0, Asked::Stick).is_ok() {}
            }
            Asked::Name(port) => _ = here.dial(name(port), port).unwrap(),
            Asked::Stick => _ = self.1.lock().recv_timeout(3 * PATIENCE),
        }
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        self.0.send(*conn.session()).unwrap();
    }

    fn on_data(&mut self, _conn: &mut Conn<'_, Self>, _input: &mut Input<'_>) {}
}

/// Answers for the loop that is stuck found no room in its mailbox. The threads of the resolver waited
/// for room, one after the other, and no loop got a name any more.
#[test]
fn with_one_loop_stuck_for_ever_the_other_resolves_and_dials() {
    let (say, said) = channel();
    let (release, released) = channel();
    let released = std::sync::Arc::new(parking_lot::Mutex::new(released));
    let limits =
        Limits { mail_queue: 2, mail_per_turn: 1, dials_per_turn: 64, ..Limits::default() };
    let server = Server::new().loops(Loops::Count(2)).pin(false).limits(limits);
    let running = server.start(move |_| Stuck(say.clone(), released.clone())).unwrap();
    let handle = running.handle();
    assert!(handle.post(0, Asked::Names(64)).is_ok());
    // Once its mailbox stays full, it is stuck: it takes one mail in each turn, and no more.
    let until = Instant::now() + PATIENCE;
    let mut full_for = 0;
    while full_for < 100 {
        assert!(Instant::now() < until, "it is never stuck");
        full_for = if handle.post(0, Asked::Stick).is_ok() { 0 } else { full_for + 1 };
        std::thread::sleep(Duration::from_millis(1));
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for _ in 0..3 {
        assert!(handle.post(1, Asked::Name(port)).is_ok());
        assert_eq!(said.recv_timeout(PATIENCE).unwrap(), port);
    }
    drop(release); // now it turns again, and finds what it was owed
    handle.stop();
    let counts = running.wait().unwrap().counts;
    assert!(counts.is_balanced(), "{counts}");
}
