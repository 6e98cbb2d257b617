//! Datagrams: every one comes back to its peer, whoever else there is.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

in_both_tables!(
    datagrams_of_every_size_come_back_to_their_peers,
    answers_leave_from_the_address_that_was_asked,
    a_peer_that_is_gone_costs_its_neighbour_nothing,
    beside_a_flood_a_peer_is_answered,
    what_comes_from_a_service_s_port_is_not_echoed,
    a_drain_answers_what_is_there_and_exits_with_0,
);

/// It ends by SIGTERM, with exit code 0.
fn ended(server: Server) {
    server.signal("TERM");
    let ended = server.wait(PATIENCE);
    assert!(ended.status.success(), "{:?}", ended.status);
}

fn client(to: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(to).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    client
}

/// Sends it until it comes back: a datagram may be lost, as the socket's buffer is finite.
fn ping(client: &UdpSocket, said: &[u8]) {
    let mut back = vec![0; 1 << 16];
    for _ in 0..40 {
        client.send(said).unwrap();
        if let Ok(n) = client.recv(&mut back) {
            assert_eq!(&back[..n], said);
            return;
        }
    }
    panic!("{} bytes never came back", said.len());
}

fn datagrams_of_every_size_come_back_to_their_peers(mode: Mode) {
    for loops in [1, 3] {
        let server = Start::udp_echo(mode).loops(loops).run();
        let clients: Vec<_> = (0..100).map(|_| client(server.addr)).collect();
        for (n, client) in clients.iter().enumerate() {
            client.send(format!("I am {n}").as_bytes()).unwrap();
        }
        let mut back = [0; 64];
        for (n, client) in clients.iter().enumerate() {
            let got = client.recv(&mut back).unwrap();
            assert_eq!(&back[..got], format!("I am {n}").as_bytes());
        }
        for len in [0, 1, 1472, 1473, 9000, 65_507] {
            let garbage: Vec<u8> = (0..len).map(|n: usize| (n * n) as u8).collect();
            ping(&clients[len % 100], &garbage);
        }
        ended(server);
    }
}

/// A client that is connected to one of the server's addresses hears no other one.
fn answers_leave_from_the_address_that_was_asked(mode: Mode) {
    for (at, asked) in [
        ("0.0.0.0:0", ["127.0.0.1", "127.0.0.2", "127.1.2.3"]),
        ("[::]:0", ["::1", "127.0.0.1", "127.0.0.2"]),
    ] {
        let server = Start::udp_echo(mode).listen(at).run();
        for ip in asked {
            let ip: IpAddr = ip.parse().unwrap();
            let own = if ip.is_ipv4() { "127.0.0.9:0" } else { "[::1]:0" };
            let client = UdpSocket::bind(own).unwrap();
            client.connect((ip, server.addr.port())).unwrap();
            client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            for len in [0, 9, 9000] {
                ping(&client, &vec![7; len]);
            }
            // Several that are joined on the way, and again on the way back.
            (0..20).for_each(|n| assert_eq!(client.send(&[n; 100]).unwrap(), 100));
            let mut back = [0; 200];
            for n in 0..20 {
                assert_eq!((client.recv(&mut back).unwrap(), back[0]), (100, n));
            }
        }
        ended(server);
    }
}

fn a_peer_that_is_gone_costs_its_neighbour_nothing(mode: Mode) {
    let server = Start::udp_echo(mode).loops(1).run();
    let stays = client(server.addr);
    for _ in 0..100 {
        let gone = client(server.addr);
        gone.send(b"answer me").unwrap();
        drop(gone); // the answer meets a closed port, and ICMP says so
        ping(&stays, b"still there?");
    }
    ended(server);
}

/// An echo answered whatever said that it comes from another echo, which answered that, and so on.
fn what_comes_from_a_service_s_port_is_not_echoed(mode: Mode) {
    let server = Start::udp_echo(mode).loops(1).run();
    let like_it = UdpSocket::bind(("127.0.0.5", server.addr.port())).unwrap();
    // A low port takes a right that not everybody has.
    let low = (1..1024).rev().find_map(|port| UdpSocket::bind(("127.0.0.5", port)).ok());
    let usual = client(server.addr);
    for service in [Some(like_it), low].into_iter().flatten() {
        service.set_nonblocking(true).unwrap();
        service.send_to(b"echo this", server.addr).unwrap();
        // Behind it on the same loop, so that it has been seen when this comes back.
        ping(&usual, b"a client");
        let heard = service.recv(&mut [0; 64]);
        assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    ended(server);
}

fn beside_a_flood_a_peer_is_answered(mode: Mode) {
    let server = Start::udp_echo(mode).loops(2).run();
    let at = server.addr;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                let flood = client(at);
                for _ in 0..50_000 {
                    let _ = flood.send(&[7; 512]); // never reads
                }
            });
        }
        let pinger = client(at);
        for n in 0..20_u8 {
            ping(&pinger, &[n; 8]);
        }
    });
    ended(server);
}

fn a_drain_answers_what_is_there_and_exits_with_0(mode: Mode) {
    let server = Start::udp_echo(mode).loops(2).run();
    let client = client(server.addr);
    ping(&client, b"before");
    ended(server);
    // The socket is closed: the next one is refused.
    let _ = client.send(b"after");
    let mut back = [0; 16];
    let error = client.recv(&mut back).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_proxys_headers_are_for_connections() {
    let proxied = Start::udp_echo(Mode::DEFAULT).args(&["--proxy-protocol", "127.0.0.1/32"]);
    let output = proxied.output();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("error: --proxy-protocol: "), "{said}");
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let server = Start::udp_echo(Mode::DEFAULT).run();
    let at = server.addr.to_string();
    let second = Start::udp_echo(Mode::DEFAULT).listen(&at).output();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&at) && said.contains("in use"), "{said}");
}
