//! How clients get in: spread, surplus, addresses, and clients that are gone before they are in.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use socket2::{Domain, Socket, Type};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Loops of a server whose only loop accepts for itself, and of one whose acceptor hands over.
const ALONE_AND_HANDED_OVER: [usize; 2] = [1, 2];

in_every_mode!(
    a_client_is_served,
    clients_that_reset_before_they_are_in_harm_nobody,
    a_wave_of_clients_is_all_served,
    a_restart_on_the_same_port_works_at_once,
    several_addresses_are_served,
);
in_both_tables!(
    the_only_loop_accepts_for_itself,
    forty_connections_over_four_loops_are_ten_each,
    as_many_connections_as_loops_are_one_each,
    the_rotation_stays_exact_when_clients_come_and_go,
    the_loop_with_the_fewest_gets_the_next,
    one_source_is_on_one_loop_whatever_its_port,
    a_second_server_on_the_address_is_an_error_that_names_it,
    a_full_table_turns_the_surplus_away_and_recovers,
    a_table_shrunk_while_it_runs_neither_spins_nor_goes_silent,
);

fn a_client_is_served(mode: Mode) {
    let server = Start::echo(mode).run();
    is_served(&server);
    let counts = server.finish();
    assert_eq!(counts.get("accepted"), 1);
    assert_eq!((counts.get("bytes_in"), counts.get("bytes_out")), (14, 14));
}

fn clients_that_reset_before_they_are_in_harm_nobody(mode: Mode) {
    let server = Start::echo(mode).run();
    for _ in 0..4 {
        let clients: Vec<_> =
            (0..250).filter_map(|_| TcpStream::connect(server.addr).ok()).collect();
        clients.into_iter().for_each(reset);
    }
    is_served(&server);
    server.has_connections(0);
    server.finish();
}

fn a_wave_of_clients_is_all_served(mode: Mode) {
    let server = Start::echo(mode).run();
    let mut clients = server.connect_many(500);
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&pattern(100, n as u64)).unwrap();
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let mut back = vec![0; 100];
        std::io::Read::read_exact(client, &mut back).unwrap();
        assert_eq!(back, pattern(100, n as u64), "client {n}");
    }
    server.has_connections(500);
    drop(clients);
    assert_eq!(server.finish().get("accepted"), 500);
}

/// The old server's connections are in TIME_WAIT, on its side.
fn a_restart_on_the_same_port_works_at_once(mode: Mode) {
    let mut first = Start::echo(mode).run();
    for _ in 0..3 {
        let at = first.addr;
        let mut clients = first.connect_many(20);
        clients.iter_mut().for_each(|client| ping(client, b"before"));
        first.signal("TERM");
        clients.iter_mut().for_each(|client| assert_eq!(read_to_end(client, PATIENCE).1, End::Fin));
        assert!(first.wait(PATIENCE).status.success());
        first = Start::echo(mode).listen(&at.to_string()).run();
        ping(&mut first.connect(), b"after");
    }
    first.finish();
}

fn several_addresses_are_served(mode: Mode) {
    let server = Start::echo(mode).args(&["--listen", "[::1]:0", "--listen", "127.0.0.2:0"]).run();
    let mut at = Vec::new();
    for file in ["tcp", "tcp6"] {
        at.extend(proc::listening(server.pid, file));
    }
    assert!(at.contains(&server.addr.port()));
    at.sort_unstable();
    at.dedup();
    assert_eq!(at.len(), 3, "three ports");
    is_served(&server);
    let on_v6 = at.iter().filter_map(|port| {
        TcpStream::connect(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, *port))).ok()
    });
    on_v6.for_each(|mut client| ping(&mut client, b"over IPv6"));
    server.finish();
}

fn the_only_loop_accepts_for_itself(mode: Mode) {
    for loops in ALONE_AND_HANDED_OVER {
        let server = Start::echo(mode).loops(loops).run();
        let mut clients = server.connect_many(100);
        clients.iter_mut().for_each(|client| ping(client, b"served"));
        let counts = server.finish();
        assert_eq!(counts.get("accepted"), 100);
        assert_eq!(counts.get("handed_over"), if loops == 1 { 0 } else { 100 }, "handed over");
    }
}

fn forty_connections_over_four_loops_are_ten_each(mode: Mode) {
    let server = Start::echo(mode).loops(4).run();
    let _clients = server.connect_many(40);
    server.has_connections(40);
    server.is_spread(&[10; 4]);
}

fn as_many_connections_as_loops_are_one_each(mode: Mode) {
    let server = Start::echo(mode).loops(7).run();
    let _clients = server.connect_many(7);
    server.has_connections(7);
    server.is_spread(&[1; 7]);
}

fn the_rotation_stays_exact_when_clients_come_and_go(mode: Mode) {
    let server = Start::echo(mode).loops(3).run();
    for n in 0..300 {
        drop(server.connect());
        if n % 50 == 0 {
            server.has_connections(0);
        }
    }
    server.has_connections(0);
    let _clients = server.connect_many(30);
    server.has_connections(30);
    server.is_spread(&[10; 3]);
}

/// The clients of one loop alone leave; those who come next fill the gap.
fn the_loop_with_the_fewest_gets_the_next(mode: Mode) {
    let server = Start::echo(mode).loops(3).args(&["--balance", "least-connections"]).run();
    let mut clients = Vec::new();
    for n in 1..=30 {
        clients.push(server.connect());
        server.has_connections(n);
    }
    server.is_spread(&[10; 3]);
    // One by one they took turns, so every third is on one loop.
    let mut n = 0;
    clients.retain(|_| {
        n += 1;
        n % 3 != 1
    });
    server.has_connections(20);
    server.is_spread(&[0, 10, 10]);
    clients.extend(server.connect_many(13));
    server.has_connections(33);
    server.is_spread(&[11; 3]);
}

fn one_source_is_on_one_loop_whatever_its_port(mode: Mode) {
    let server = Start::echo(mode).loops(4).args(&["--balance", "source-hash"]).run();
    let clients: Vec<_> = (0..20).map(|_| connect_from("127.0.0.1", server.addr)).collect();
    server.has_connections(20);
    server.is_spread(&[0, 0, 0, 20]);
    drop(clients);
    server.has_connections(0);
    let hosts = 1..=40;
    let _clients: Vec<_> =
        hosts.map(|host| connect_from(&format!("127.0.1.{host}"), server.addr)).collect();
    server.has_connections(40);
    assert!(server.watched_by_loop()[0] > 0, "strangers are spread over all loops");
}

/// A client at an address of its own.
fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

fn a_second_server_on_the_address_is_an_error_that_names_it(mode: Mode) {
    for loops in ALONE_AND_HANDED_OVER {
        a_second_server_names_the_address(mode, loops);
    }
}

fn a_second_server_names_the_address(mode: Mode, loops: usize) {
    let server = Start::echo(mode).loops(loops).run();
    let at = server.addr.to_string();
    let second = Start::echo(mode).loops(loops).listen(&at).log("off").output();
    assert_eq!(second.status.code(), Some(1));
    assert!(second.stdout.is_empty(), "it must not say READY");
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&at) && said.contains("in use") && said.lines().count() == 1, "{said}");
    is_served(&server);
    // A stranger's listener, too.
    let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = stranger.local_addr().unwrap().to_string();
    let third = Start::echo(mode).loops(loops).listen(&at).log("off").output();
    assert_eq!(third.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&third.stderr).contains(&at));
}

/// 200 clients and room for about 30: the surplus learns at once, and nobody spins.
fn a_full_table_turns_the_surplus_away_and_recovers(mode: Mode) {
    if !has("prlimit") {
        return;
    }
    for loops in ALONE_AND_HANDED_OVER {
        let server = Start::echo(mode).under(&["prlimit", "--nofile=64:64"]).loops(loops).run();
        surplus_learns_and_freed_places_serve(&server);
        let counts = server.finish();
        assert!(counts.get("accepted") >= 200, "{counts:?}");
    }
}

/// The limit falls below what the server has counted on: now accept itself fails with EMFILE, or
/// the kernel closes what the fd channel brings.
fn a_table_shrunk_while_it_runs_neither_spins_nor_goes_silent(mode: Mode) {
    if !has("prlimit") {
        return;
    }
    for loops in ALONE_AND_HANDED_OVER {
        let server = Start::echo(mode).loops(loops).run();
        proc::limit_descriptors(server.pid, 64);
        surplus_learns_and_freed_places_serve(&server);
    }
}

fn surplus_learns_and_freed_places_serve(server: &Server) {
    let clients: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    let (mut served, mut surplus) = (Vec::new(), 0);
    let start = Instant::now();
    for mut client in clients {
        match try_ping(&mut client, b"in?") {
            Ok(()) => served.push(client),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("a client beyond the limit was left without a word")
            }
            Err(_) => surplus += 1,
        }
    }
    assert!(start.elapsed() < Duration::from_secs(10), "the surplus learns soon");
    assert!(served.len() >= 10 && surplus >= 50, "{} served, {surplus} not", served.len());
    assert!(is_quiet(server), "it spins while its table is full");
    served.iter_mut().for_each(|client| ping(client, b"those inside are served"));
    // Freed places serve new clients, again and again.
    for _ in 0..5 {
        let free = served.len().min(5);
        served.drain(..free);
        let end = Instant::now() + PATIENCE;
        let client = loop {
            let mut client = server.connect();
            if try_ping(&mut client, b"in now?").is_ok() {
                break client;
            }
            assert!(Instant::now() < end, "a freed place serves nobody");
            std::thread::sleep(Duration::from_millis(20));
        };
        served.push(client);
    }
    assert!(is_quiet(server), "it spins afterwards");
}

/// Whether the server uses less than a third of a core for a while.
fn is_quiet(server: &Server) -> bool {
    let before = proc::cpu_time(server.pid);
    std::thread::sleep(Duration::from_millis(600));
    proc::cpu_time(server.pid) - before < Duration::from_millis(200)
}

#[test]
fn ipv6_and_mapped_clients_are_served() {
    let server = Start::echo(Mode::DEFAULT).listen("[::]:0").run();
    let port = server.addr.port();
    for host in ["::1", "127.0.0.1", "::ffff:127.0.0.1"] {
        let at = SocketAddr::new(host.parse().unwrap(), port);
        ping(&mut connect(at), host.as_bytes());
    }
    server.finish();
}

#[test]
fn a_host_name_is_an_address() {
    let server = Start::echo(Mode::DEFAULT).listen("localhost:0").run();
    is_served(&server);
}

#[test]
fn two_servers_share_a_port_only_when_both_ask_for_it() {
    let mode = Mode { accept: "reuseport", ..Mode::DEFAULT };
    let one = Start::echo(mode).run();
    let at = one.addr.to_string();
    let other = Start::echo(mode).listen(&at).run();
    is_served(&one);
    drop(other);
    let alone = Start::echo(Mode::DEFAULT).listen(&at).log("off").output();
    assert_eq!(alone.status.code(), Some(1));
    is_served(&one);
}

#[test]
fn a_flood_of_connects_does_not_stop_a_conversation() {
    for loops in ALONE_AND_HANDED_OVER {
        a_conversation_goes_on_in_a_flood(&Start::echo(Mode::DEFAULT).loops(loops).run());
    }
}

fn a_conversation_goes_on_in_a_flood(server: &Server) {
    let mut talker = server.connect();
    let at = server.addr;
    let end = Instant::now() + Duration::from_secs(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while Instant::now() < end {
                TcpStream::connect(at).into_iter().for_each(reset);
            }
        });
        let mut rounds = 0;
        while Instant::now() < end {
            ping(&mut talker, b"still here");
            rounds += 1;
        }
        assert!(rounds > 50, "only {rounds} answers in a second of connects");
    });
}
