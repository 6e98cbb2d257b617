//! What only a real kernel does, with a whole server: few tests, each bounded in time.

use super::*;
use crate::conn::Conn;
use crate::handler::Peer;
use crate::sys::{Socket, rights};
use net_buffer::Input;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

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
