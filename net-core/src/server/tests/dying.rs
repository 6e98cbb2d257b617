//! Tests of a loop that dies of a fault of the library, outside of any callback.
//!
//! They check the other loops, the connected and the new clients, and the error with which the server
//! ends.

use super::*;
use crate::sys::fault;
use std::io;
use std::sync::mpsc::Receiver;

/// Echoes. On request, its loop meets a fault after the callback.
struct Mortal {
    /// The loop dies as soon as a connection is told of a drain.
    dies_in_drain: bool,
}

impl Handler for Mortal {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        match input.peek() {
            b"die" => fault::at_next_wait(|| panic!("struck")),
            b"break" => fault::at_next_wait(|| Err(io::Error::from_raw_os_error(libc::EBADF))),
            _ => {
                let _ = conn.echo(input);
            }
        }
    }

    fn on_draining(&mut self, conn: &mut Conn<'_, Self>) {
        conn.close_when_idle();
        if self.dies_in_drain {
            fault::at_next_wait(|| panic!("struck"));
        }
    }
}

fn mortal() -> Mortal {
    Mortal { dies_in_drain: false }
}

fn modes() -> [(Accept, FdTable); 4] {
    let private = FdTable::PerLoop(PrivateTables::kept_by_test());
    [
        (Accept::Acceptor, FdTable::Shared),
        (Accept::Acceptor, private),
        (Accept::ReusePort, FdTable::Shared),
        (Accept::ReusePort, private),
    ]
}

fn server((accept, fd_table): (Accept, FdTable)) -> Server {
    // Far longer than the test waits, so that an end that waits for it is a failure.
    let server = Server::new().listen("127.0.0.1:0").drain_timeout(Duration::from_secs(600));
    server.accept(accept).fd_table(fd_table).pin(false)
}

fn connect(at: std::net::SocketAddr) -> TcpStream {
    let client = TcpStream::connect(at).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Checks that the server has ended the connection by FIN or RST, and is not only silent.
fn meets_the_end(client: &mut TcpStream) {
    match client.read(&mut [0; 64]) {
        Ok(0) => {}
        Ok(_) => meets_the_end(client),
        Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "left in silence"),
    }
}

/// The result with which the server ends, if it ends.
fn end_of<M: Send + 'static>(server: Running<M>) -> Receiver<Result<Ended, StartError>> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(server.wait()).ok());
    told
}

/// Connects as often as it can, until nothing listens. Every client that was connected must see the end.
/// Each client sends before it reads: a connect that the kernel completes just as it closes the listener
/// may leave the client with a connection that has no server (Linux 6.18), and the client learns this
/// only when it sends.
fn crowd(at: std::net::SocketAddr) {
    let mut inside = Vec::new();
    while let Ok(client) = TcpStream::connect(at) {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        inside.push(client);
        if inside.len() > 200 {
            meets_the_end(&mut inside.remove(0));
        }
    }
    for client in &mut inside {
        let _ = client.write_all(b"anybody there?"); // the connection may have been reset
        meets_the_end(client);
    }
}

#[test]
fn a_loop_that_dies_is_named_and_ends_the_server() {
    for (mode, loops) in modes().into_iter().flat_map(|mode| [(mode, 1), (mode, 2), (mode, 3)]) {
        for (word, said) in [
            (&b"die"[..], "died of a panic: struck"),
            (b"break", "ended: its wait: Bad file descriptor (os error 9)"),
        ] {
            let server = server(mode).loops(Loops::Count(loops)).start(|_| mortal()).unwrap();
            let (at, handle) = (server.addrs()[0].inet().unwrap(), server.handle());
            let mut clients: Vec<_> = (0..3 * loops).map(|_| connect(at)).collect();
            clients.iter_mut().for_each(is_served);
            let end = end_of(server);
            assert!(end.try_recv().is_err(), "it runs");
            let coming = thread::spawn(move || crowd(at));
            clients[0].write_all(word).unwrap();
            let ended = end.recv_timeout(PATIENCE).expect("it ends").unwrap_err().to_string();
            let names = |k: &usize| ended == format!("loop {k} {said}");
            let dead = (0..loops).find(names);
            assert!(dead.is_some(), "{ended}: {mode:?}, {loops} loops");
            clients.iter_mut().for_each(meets_the_end);
            coming.join().unwrap();
            assert!(TcpStream::connect(at).is_err(), "nobody listens");
            let late = handle.adopt(pair().1).unwrap_err();
            assert_eq!(late.why(), AdoptRejected::Ended);
        }
    }
}

/// One loop dies when the drain begins. The other loops finish their connections, and the server ends
/// without waiting for the deadline.
#[test]
fn a_loop_that_dies_in_a_drain_holds_it_up_no_longer() {
    for mode in modes() {
        let server = server(mode).loops(Loops::Count(3));
        let made = |place: &LoopInfo<_>| Mortal { dies_in_drain: place.number() == 1 };
        let server = server.start(made).unwrap();
        let (at, handle) = (server.addrs()[0].inet().unwrap(), server.handle());
        let mut clients = Vec::new();
        while (0..3).any(|k| handle.open_in(k) == 0) {
            clients.push(connect(at));
            is_served(clients.last_mut().unwrap());
        }
        let end = end_of(server);
        handle.drain();
        let ended = end.recv_timeout(PATIENCE).expect("it ends").unwrap_err().to_string();
        assert_eq!(ended, "loop 1 died of a panic: struck", "{mode:?}");
        clients.iter_mut().for_each(meets_the_end);
    }
}

/// There are two loops, and one runs on the calling thread. Each of them may die.
#[test]
fn a_death_beside_the_callers_loop_is_told_as_its_own_is() {
    for dying in [0, 1] {
        let (started, has_started) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        // On its own thread, so that an end that never comes is a failure and not a hang.
        thread::spawn(move || {
            let server = server(modes()[0]).loops(Loops::Count(2));
            let ready = |running: &Running<_>| {
                started.send((running.addrs()[0].inet().unwrap(), running.handle())).unwrap();
            };
            tell.send(server.run_on_current_thread(|_| mortal(), ready)).ok()
        });
        let (at, handle) = has_started.recv_timeout(PATIENCE).unwrap();
        let mut clients = Vec::new();
        while handle.open_in(dying) == 0 {
            clients.push(connect(at));
            is_served(clients.last_mut().unwrap());
        }
        clients.last_mut().unwrap().write_all(b"die").unwrap();
        let said = told.recv_timeout(PATIENCE).expect("it ends").unwrap_err().to_string();
        clients.iter_mut().for_each(meets_the_end);
        assert_eq!(said, format!("loop {dying} died of a panic: struck"));
    }
}

/// A message that panics when it is dropped.
struct Explosive;

impl Drop for Explosive {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// A handler with mail waiting when its loop dies.
struct Hoards(ServerHandle<Explosive>);

impl Handler for Hoards {
    type Session = ();
    type Message = Explosive;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, _conn: &mut Conn<'_, Self>, _input: &mut Input<'_>) {
        (0..3).for_each(|_| self.0.post(0, Explosive).unwrap());
        fault::at_next_wait(|| panic!("struck"));
    }

    fn on_message(&mut self, _here: &mut LoopContext<'_, Self>, message: Explosive) {
        std::mem::forget(message);
    }
}

#[test]
fn mail_of_a_dead_loop_is_counted_and_cannot_end_the_process() {
    let limits = Limits { mail_per_turn: 1, ..Limits::default() };
    let server = Server::new().listen("127.0.0.1:0").loops(Loops::Count(1)).limits(limits);
    let server = server.start(|place| Hoards(place.handle())).unwrap();
    let (at, handle) = (server.addrs()[0].inet().unwrap(), server.handle());
    let mut client = connect(at);
    let end = end_of(server);
    client.write_all(b"hoard, and die").unwrap();
    let ended = end.recv_timeout(PATIENCE).expect("it ends").unwrap_err().to_string();
    assert_eq!(ended, "loop 0 died of a panic: struck");
    assert_eq!(handle.snapshot().get(Counter::MailLost), 2);
    meets_the_end(&mut client);
}
