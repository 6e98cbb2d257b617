//! What only a real kernel does, with a whole server: few tests, each bounded in time.

use super::*;
use crate::conn::Conn;
use crate::handler::Peer;
use crate::sys::{Socket, rights};
use net_buffer::Input;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
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

/// Descriptors that nobody asked for stop a receive in the middle, and are closed by the kernel.
#[test]
fn bytes_with_descriptors_come_back_like_any_others() {
    let server = Server::new().listen(&name("rights")).loops(Loops::Count(1));
    let server = server.start(|_| Echo).unwrap();
    let mut client = dial(&server.addrs()[0]);
    let sender = Socket::from_owned(OwnedFd::from(client.try_clone().unwrap()));
    let (passed, mut far) = UnixStream::pair().unwrap();
    let passed = Socket::from_owned(OwnedFd::from(passed));
    for round in 0..200 {
        client.write_all(b"before").unwrap();
        rights::send(&sender, b"with", [&passed].into_iter()).unwrap();
        client.write_all(b"after").unwrap();
        let mut back = [0; 15];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"beforewithafter", "round {round}");
    }
    drop(passed);
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "no copy is left open in the server");
}

/// Every connect from a core goes to the loop on it: over loopback the kernel receives where the
/// client sends.
#[test]
fn a_steered_connection_is_on_the_loop_of_its_core() {
    let cores = core_affinity::get_core_ids().unwrap();
    if cores.len() < 2 {
        return; // there is no other core
    }
    let server = Server::new().listen("127.0.0.1:0").accept(Accept::ReusePort).steer(true);
    let server = server.loops(Loops::Count(cores.len())).start(|_| Echo).unwrap();
    let (at, remote) = (server.addrs()[0].inet().unwrap(), server.remote());
    for (k, core) in cores.into_iter().enumerate() {
        let connect = move || {
            assert!(core_affinity::set_for_current(core));
            let clients = (0..40).map(|_| TcpStream::connect(at).unwrap());
            clients.collect::<Vec<_>>()
        };
        let clients = thread::spawn(connect).join().unwrap();
        let end = Instant::now() + PATIENCE;
        while remote.open_in(k) < 40 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((remote.open_in(k), remote.connections()), (40, 40), "loop {k}");
        drop(clients);
        while remote.connections() > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn settings_that_contradict_each_other_are_named() {
    let linger = Some(Duration::from_secs(1));
    for (server, what) in [
        (Server::new().steer(true), "steer"),
        (Server::new().accept(Accept::ReusePort).pin(false).steer(true), "steer"),
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
