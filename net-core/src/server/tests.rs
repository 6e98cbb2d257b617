//! Tests of a whole server on a real kernel, for what only a real kernel does: few, each bounded in time.

mod drops;
mod dying;
mod edges;

use super::*;
use crate::api::conn::Conn;
use crate::api::handler::Peer;
use crate::api::loop_context::LoopContext;
use crate::base::close_reason::CloseReason;
use crate::base::error::AdoptRejected;
use crate::bound::bound;
use crate::features::dial::Dial;
use crate::observe::counters::Counter;
use crate::sys::{Errno, Socket, Unfit, refuse_descriptors, rights};
use net_buffer::Input;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::mpsc;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(20);

struct Echo;

impl Handler for Echo {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let _ = conn.echo(input);
    }
}

fn name(of: &str) -> String {
    format!("unix:@net-core-{of}-{}", std::process::id())
}

fn dial(at: &Addr) -> UnixStream {
    let name = at.unix().unwrap().abstract_name().unwrap();
    let at = SocketAddr::from_abstract_name(name).unwrap();
    let client = UnixStream::connect_addr(&at).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Descriptors that a client sends unasked end a receive early, and the kernel closes them. The test
/// sends them before the socket belongs to the server, because the server's socket accepts none.
#[test]
fn bytes_with_descriptors_come_back_like_any_others() {
    let _bound = bound();
    let server = Server::new().loops(Loops::Count(1)).start(|_| Echo).unwrap();
    let (passed, mut far) = UnixStream::pair().unwrap();
    let passed = Socket::from_owned(OwnedFd::from(passed));
    for round in 0..200 {
        let (mut client, theirs) = pair();
        let sender = Socket::from_owned(OwnedFd::from(client.try_clone().unwrap()));
        for _ in 0..2 {
            client.write_all(b"before").unwrap();
            rights::send(&sender, b"with", [&passed].into_iter()).unwrap();
            client.write_all(b"after").unwrap();
        }
        server.handle().adopt(theirs).unwrap();
        let mut back = [0; 30];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"beforewithafterbeforewithafter", "round {round}");
        is_served(&mut client);
    }
    drop(passed);
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "no copy is left open in the server");
}

/// Regression test: a client sent a descriptor and closed its own copy. The kernel closed the last copy
/// on the server's thread, which took as long as the descriptor's SO_LINGER said: four seconds of a loop,
/// of the acceptor, or of the admin endpoint.
#[test]
fn whoever_sends_descriptors_learns_that_they_are_not_taken() {
    let (passed, _far) = UnixStream::pair().unwrap();
    if refuse_descriptors(&passed).is_err() {
        println!("skipped: before Linux 6.16 descriptors cannot be refused");
        return;
    }
    let passed = Socket::from_owned(OwnedFd::from(passed));
    let is_refused = |client: &UnixStream, by: &str| {
        let sender = Socket::from_owned(OwnedFd::from(client.try_clone().unwrap()));
        let sent = rights::send(&sender, b"with", [&passed].into_iter());
        assert_eq!(sent.map_err(Errno::raw), Err(libc::EPERM), "by {by}");
    };
    for fd_table in [FdTable::Shared, FdTable::PerLoop(PrivateTables::kept_by_test())] {
        for loops in [1, 2] {
            let server = Server::new().listen(&name("refuses")).admin(&name("refuses-admin"));
            let server = server.loops(Loops::Count(loops)).fd_table(fd_table);
            let server = server.start(|_| Echo).unwrap();
            for _ in 0..2 {
                let mut client = dial(&server.addrs()[0]);
                is_refused(&client, "a listener that has not accepted yet");
                is_served(&mut client);
                is_refused(&client, "an accepted connection");
                is_served(&mut client);
            }
            is_refused(&dial(server.admin_addr().unwrap()), "the admin endpoint");
            let (mut client, theirs) = pair();
            server.handle().adopt(theirs).unwrap();
            is_refused(&client, "an adopted connection");
            is_served(&mut client);
        }
    }
    let at = SocketAddr::from_abstract_name(&name("refused")["unix:@".len()..]).unwrap();
    let listener = std::os::unix::net::UnixListener::bind_addr(&at).unwrap();
    let (report, reports) = mpsc::channel();
    let dialler = Server::new().loops(Loops::Count(1));
    let dialler = dialler.start(move |_| Dialler(report.clone())).unwrap();
    dialler.handle().post(0, name("refused").parse().unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + PATIENCE;
    let mut dialled = loop {
        match listener.accept() {
            Ok((dialled, _)) => break dialled,
            Err(error) => assert!(Instant::now() < end, "nobody dials: {error}"),
        }
        thread::sleep(Duration::from_millis(1));
    };
    is_refused(&dialled, "a dialled connection");
    dialled.write_all(b"without").unwrap();
    assert_eq!(reports.recv_timeout(PATIENCE).unwrap(), Ok(b"without".to_vec()));
}

/// Regression test: a process that kept a copy of an adopted socket, and made the socket blocking, held
/// the loop in its next receive.
#[test]
fn a_copy_that_is_made_blocking_again_holds_up_nobody() {
    let server = Server::new().loops(Loops::Count(1)).start(|_| Echo).unwrap();
    let (mut first, theirs) = pair();
    let copy = UnixStream::from(theirs.try_clone().unwrap());
    server.handle().adopt(theirs).unwrap();
    is_served(&mut first);
    copy.set_nonblocking(false).unwrap();
    let (mut second, theirs) = pair();
    server.handle().adopt(theirs).unwrap();
    for _ in 0..3 {
        is_served(&mut first);
        is_served(&mut second);
    }
    // The first client does not read its answers, which are more than its socket has room for.
    first.set_nonblocking(true).unwrap();
    while first.write(&[1; 4096]).is_ok() {}
    (0..3).for_each(|_| is_served(&mut second));
}

/// Dials the address that it is told, says hello, and reports the result.
struct Dialler(mpsc::Sender<Result<Vec<u8>, CloseReason>>);

impl Handler for Dialler {
    type Session = ();
    type Message = Addr;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        None
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, to: Addr) {
        here.dial(to, ()).unwrap();
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        let _ = conn.send(b"hello");
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        self.0.send(Ok(input.take_all().to_vec())).unwrap();
        conn.close();
    }

    fn on_close(&mut self, _conn: &mut Conn<'_, Self>, why: &CloseReason) {
        self.0.send(Err(*why)).unwrap();
    }
}

#[test]
fn a_unix_socket_is_dialled_like_any_other() {
    let _bound = bound();
    let server = Server::new().listen(&name("dialled")).loops(Loops::Count(1));
    let server = server.start(|_| Echo).unwrap();
    let (report, reports) = mpsc::channel();
    let dialler = Server::new().loops(Loops::Count(1));
    let dialler = dialler.start(move |_| Dialler(report.clone())).unwrap();
    dialler.handle().post(0, server.addrs()[0].clone()).unwrap();
    assert_eq!(reports.recv_timeout(PATIENCE).unwrap(), Ok(b"hello".to_vec()));
    assert_eq!(reports.recv_timeout(PATIENCE).unwrap(), Err(CloseReason::Local));
    dialler.handle().post(0, name("nobody").parse().unwrap()).unwrap();
    let refused = CloseReason::Machine(crate::sys::Errno::CONNREFUSED);
    assert_eq!(reports.recv_timeout(PATIENCE).unwrap(), Err(refused));
}

/// Adopts into its own loop the sockets that it is sent by message.
struct Adopter;

impl Handler for Adopter {
    type Session = ();
    type Message = OwnedFd;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let _ = conn.echo(input);
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, fd: OwnedFd) {
        here.adopt(fd).unwrap();
    }
}

fn is_served(client: &mut (impl Read + Write)) {
    client.write_all(b"anybody there?").unwrap();
    let mut back = [0; 14];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"anybody there?");
}

fn pair() -> (UnixStream, OwnedFd) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    (near, far.into())
}

#[test]
fn adopted_connections_are_placed_and_served_in_every_mode() {
    let _bound = bound();
    let private = FdTable::PerLoop(PrivateTables::kept_by_test());
    for (accept, fd_table) in [
        (Accept::Acceptor, FdTable::Shared),
        (Accept::Acceptor, private),
        (Accept::ReusePort, FdTable::Shared),
        (Accept::ReusePort, private),
    ] {
        let server = Server::new().loops(Loops::Count(2)).accept(accept).fd_table(fd_table);
        let server = server.start(|_| Echo).unwrap();
        let handle = server.handle();
        let mut clients: Vec<_> = (0..40)
            .map(|_| {
                let (mut near, far) = pair();
                near.write_all(b"early").unwrap(); // written before the socket is adopted
                handle.adopt(far).unwrap();
                near
            })
            .collect();
        for client in &mut clients {
            let mut early = [0; 5];
            client.read_exact(&mut early).unwrap();
            is_served(client);
        }
        assert_eq!((handle.open_in(0), handle.open_in(1)), (20, 20), "{accept:?} {fd_table:?}");
        handle.drain();
        let ended = server.wait().unwrap();
        clients.iter_mut().for_each(|client| assert_eq!(client.read(&mut [0]).unwrap(), 0));
        assert_eq!(ended.counts.get(Counter::Adopted), 40);
        assert!(ended.counts.is_balanced(), "{}", ended.counts);
        let late = handle.adopt(pair().1).unwrap_err();
        assert_eq!(late.why(), AdoptRejected::Ended);
    }
}

#[test]
fn a_loop_adopts_for_itself() {
    let _bound = bound();
    let server = Server::new().loops(Loops::Count(2)).start(|_| Adopter).unwrap();
    let handle = server.handle();
    let mut clients: Vec<_> = (0..10)
        .map(|_| {
            let (near, far) = pair();
            handle.post(1, far).unwrap();
            near
        })
        .collect();
    clients.iter_mut().for_each(is_served);
    assert_eq!((handle.open_in(0), handle.open_in(1)), (0, 10));
    handle.stop();
    let ended = server.wait().unwrap();
    assert_eq!(ended.counts.get(Counter::Adopted), 10);
    assert!(ended.counts.is_balanced(), "{}", ended.counts);
}

/// Reports which loop got which message.
struct Told(usize, mpsc::Sender<(usize, u64)>);

impl Handler for Told {
    type Session = ();
    type Message = u64;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, _conn: &mut Conn<'_, Self>, _input: &mut Input<'_>) {}

    fn on_message(&mut self, _here: &mut LoopContext<'_, Self>, message: u64) {
        self.1.send((self.0, message)).unwrap();
    }
}

/// If `post_all` left out a loop, no error would show it. Each of the three loops must get the message.
/// Loops that can take no more messages are named.
#[test]
fn what_is_posted_to_all_comes_to_every_loop() {
    let _bound = bound();
    let (told, each) = mpsc::channel();
    let server = Server::new().loops(Loops::Count(3));
    let server = server.start(move |place| Told(place.number(), told.clone())).unwrap();
    let handle = server.handle();
    assert_eq!(handle.post_all(7), []);
    let mut got: Vec<_> = (0..3).map(|_| each.recv_timeout(PATIENCE).unwrap()).collect();
    got.sort_unstable();
    assert_eq!(got, [(0, 7), (1, 7), (2, 7)]);
    handle.stop();
    server.wait().unwrap();
    assert_eq!(handle.post_all(8), [0, 1, 2], "they have ended");
}

#[test]
fn what_is_not_adopted_comes_back_with_the_reason() {
    let _bound = bound();
    let limits = Limits { connections_max: Some(2), ..Limits::default() };
    let server = Server::new().loops(Loops::Count(1)).limits(limits).start(|_| Echo).unwrap();
    let handle = server.handle();
    let file = std::fs::File::open("/dev/null").unwrap();
    let error = handle.adopt(file.into()).unwrap_err();
    assert_eq!(error.why(), AdoptRejected::Unfit(Unfit::NoSocket));
    assert!(error.to_string().contains("it is no socket"), "{error}");
    let mut inside: Vec<_> = (0..2)
        .map(|_| {
            let (near, far) = pair();
            handle.adopt(far).unwrap();
            near
        })
        .collect();
    let (mut near, far) = pair();
    let error = handle.adopt(far).unwrap_err();
    assert_eq!(error.why(), AdoptRejected::ConnectionsMax);
    let mut far = UnixStream::from(error.into_fd());
    far.write_all(b"mine").unwrap();
    near.read_exact(&mut [0; 4]).unwrap();
    inside.iter_mut().for_each(is_served);
}

/// Every connect from a core goes to the loop on this core, because over loopback the kernel receives on
/// the core on which the client sends.
#[test]
fn a_steered_connection_is_on_the_loop_of_its_core() {
    let _bound = bound();
    let cores = core_affinity::get_core_ids().unwrap();
    if cores.len() < 2 {
        return; // there is no other core
    }
    let server = Server::new().listen("127.0.0.1:0").accept(Accept::ReusePort).incoming_cpu(true);
    let server = server.loops(Loops::Count(cores.len())).start(|_| Echo).unwrap();
    let (at, handle) = (server.addrs()[0].inet().unwrap(), server.handle());
    for (k, core) in cores.into_iter().enumerate() {
        let connect = move || {
            assert!(core_affinity::set_for_current(core));
            let clients = (0..40).map(|_| TcpStream::connect(at).unwrap());
            clients.collect::<Vec<_>>()
        };
        let clients = thread::spawn(connect).join().unwrap();
        let end = Instant::now() + PATIENCE;
        while handle.open_in(k) < 40 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((handle.open_in(k), handle.connections()), (40, 40), "loop {k}");
        drop(clients);
        while handle.connections() > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Regression test: on a machine with 300 processors a server with default settings did not start,
/// because a loop's number has eight bits.
#[test]
fn on_more_processors_than_loops_can_be_there_are_as_many_as_can_be() {
    for (processors, loops) in [(0, 1), (1, 1), (255, 255), (256, 256), (257, 256), (4096, 256)] {
        assert_eq!(Loops::PerCore.on(processors), loops, "on {processors}");
        assert_eq!(Loops::Count(300).on(processors), 300, "what was asked for is refused, not cut");
    }
    let said = Server::new().loops(Loops::Count(257)).check().unwrap_err().to_string();
    assert!(said.contains("257 loops"), "{said}");
}

/// Regression test: two servers of one loop each, on two cores with a quota of one, both pinned their
/// loop to the first core. Together they had half of the CPU time that they get when the system places
/// the loops.
#[test]
fn loops_that_leave_cores_free_are_placed_by_the_system() {
    let server = Server::new();
    // At least as many loops as cores, and no quota below the time of all cores.
    assert!(server.pins(2, 2, 2) && server.pins(52, 2, 2) && server.pins(1, 1, 1));
    assert!(!server.pins(1, 2, 2), "a core is left for somebody else");
    assert!(
        !server.pins(1, 2, 1) && !server.pins(2, 2, 1),
        "a quota is left for no core of its own"
    );
    assert!(Server::new().pin(true).pins(1, 2, 1) && !Server::new().pin(false).pins(2, 2, 2));
    assert!(Server::new().accept(Accept::ReusePort).incoming_cpu(true).pins(1, 2, 1));
}

#[test]
fn settings_that_contradict_each_other_are_named() {
    let _bound = bound();
    let linger = Some(Duration::from_secs(1));
    for (server, what) in [
        (Server::new().incoming_cpu(true), "incoming_cpu"),
        (Server::new().accept(Accept::ReusePort).pin(false).incoming_cpu(true), "incoming_cpu"),
        (Server::new().sockets(SocketOptions { linger, ..Default::default() }), "linger of 1s"),
        (Server::new().accept(Accept::ReusePort).balance(Balance::SourceHash), "source-hash"),
    ] {
        let said = server.start(|_| Echo).err().unwrap().to_string();
        assert!(said.contains(what), "{said}");
    }
    let device = Some("no0".to_owned());
    let server = Server::new().listen("127.0.0.1:0");
    let server = server.sockets(SocketOptions { device, ..Default::default() });
    let said = server.start(|_| Echo).err().unwrap().to_string();
    assert!(said.contains("listen on 127.0.0.1:0: SO_BINDTODEVICE no0"), "{said}");
}

/// Dials the names that are posted to it. Reports the received bytes, and for each end the reason and the
/// name.
struct ByName(mpsc::Sender<Result<Vec<u8>, (CloseReason, String)>>);

impl Handler for ByName {
    type Session = ();
    type Message = String;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        None
    }

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, name: String) {
        here.dial(Dial::to_host(&name).unwrap(), ()).unwrap();
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        assert!(conn.send(b"hello").is_taken());
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        self.0.send(Ok(input.take_all().to_vec())).unwrap();
        conn.close();
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, why: &CloseReason) {
        let name = conn.dialled_name().unwrap_or_default().to_owned();
        self.0.send(Err((*why, name))).unwrap();
    }
}

#[test]
fn a_name_is_dialled_and_one_that_is_none_is_named() {
    let _bound = bound();
    let private = FdTable::PerLoop(PrivateTables::kept_by_test());
    for fd_table in [FdTable::Shared, private] {
        // The server listens on IPv4 only, but the name may resolve to another address first.
        let server = Server::new().listen("127.0.0.1:0").loops(Loops::Count(1));
        let server = server.start(|_| Echo).unwrap();
        let port = server.addrs()[0].inet().unwrap().port();
        let (report, reports) = mpsc::channel();
        let dialler = Server::new().loops(Loops::Count(2)).fd_table(fd_table);
        let dialler = dialler.start(move |_| ByName(report.clone())).unwrap();
        for in_loop in [0, 1] {
            let name = format!("localhost:{port}");
            dialler.handle().post(in_loop, name.clone()).unwrap();
            assert_eq!(reports.recv_timeout(PATIENCE).unwrap(), Ok(b"hello".to_vec()));
            assert_eq!(reports.recv_timeout(PATIENCE).unwrap(), Err((CloseReason::Local, name)));
        }
        // A label of this name is too long for any name server.
        let name = format!("{}.invalid:80", "x".repeat(64));
        dialler.handle().post(0, name.clone()).unwrap();
        assert_eq!(reports.recv_timeout(PATIENCE).unwrap(), Err((CloseReason::Unresolved, name)));
        dialler.handle().drain();
        dialler.wait().unwrap();
    }
}
