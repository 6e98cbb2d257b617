//! Unix sockets: the same service as over TCP, and the files that stand for them.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

in_every_mode!(
    many_clients_are_spread_and_every_byte_comes_back,
    a_half_closed_client_gets_its_answer,
    a_stream_in_flow_is_not_cut_by_a_drain,
    the_file_comes_with_the_server_and_goes_with_it,
    tcp_and_unix_clients_are_served_side_by_side,
    a_chat_over_both_transports,
    one_too_many_learns_at_once_and_idle_ones_are_closed,
    the_example_serves_by_a_path_and_by_an_abstract_name,
);

/// Where a server listens, in a folder of its own.
struct Place(Folder);

impl Place {
    fn new() -> Self {
        Self(Folder::new())
    }

    fn path(&self) -> PathBuf {
        self.0.0.join("socket")
    }

    fn at(&self) -> String {
        format!("unix:{}", self.path().display())
    }
}

/// A client. Its type says TCP, and all that these tests do with it is the same for any stream.
fn dial(path: &Path) -> TcpStream {
    let client = TcpStream::from(OwnedFd::from(UnixStream::connect(path).unwrap()));
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client
}

fn many_clients_are_spread_and_every_byte_comes_back(mode: Mode) {
    let place = Place::new();
    let server = Start::echo(mode).listen(&place.at()).run();
    assert_eq!(server.ready, place.at());
    let mut clients: Vec<_> = (0..40).map(|_| dial(&place.path())).collect();
    server.has_connections(40);
    server.is_spread(&[20; 2]);
    for (n, client) in clients.iter_mut().enumerate() {
        ping(client, &pattern(1 + n * 1000, n as u64));
    }
    let bytes = pattern(8 << 20, 8);
    let (back, end) = send_all_and_read(clients.pop().unwrap(), &bytes);
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    assert_eq!(end, End::Fin);
    drop(clients);
    let counts = server.finish();
    assert_eq!(counts.get("accepted"), 40);
    assert_eq!(counts.get("bytes_in"), counts.get("bytes_out"));
}

fn a_half_closed_client_gets_its_answer(mode: Mode) {
    let place = Place::new();
    let server = Start::echo(mode).listen(&place.at()).run();
    for len in [0, 1, 100, 1 << 20] {
        let bytes = pattern(len, len as u64);
        assert_eq!(send_all_and_read(dial(&place.path()), &bytes), (bytes, End::Fin));
    }
    // Gone without a word, with an answer unread.
    for _ in 0..50 {
        dial(&place.path()).write_all(b"forget it").unwrap();
    }
    server.has_connections(0);
    ping(&mut dial(&place.path()), b"served still");
    server.finish();
}

fn a_stream_in_flow_is_not_cut_by_a_drain(mode: Mode) {
    let place = Place::new();
    let server = Start::echo(mode).listen(&place.at()).run();
    let mut client = dial(&place.path());
    let bytes = pattern(16 << 20, 16);
    let mut sending = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        let (bytes, server) = (&bytes, &server);
        scope.spawn(move || {
            for (n, piece) in bytes.chunks(64 << 10).enumerate() {
                if n == 40 {
                    server.signal("TERM");
                }
                sending.write_all(piece).unwrap();
            }
        });
        let mut back = vec![0; bytes.len()];
        client.read_exact(&mut back).unwrap();
        assert!(back == *bytes, "other bytes came back");
    });
    assert_eq!(read_to_end(&mut client, PATIENCE), (vec![], End::Fin));
    let ended = server.wait(PATIENCE);
    assert!(ended.status.success(), "{}", ended.log);
    assert!(!place.path().exists());
}

fn the_file_comes_with_the_server_and_goes_with_it(mode: Mode) {
    let place = Place::new();
    for end in ["TERM", "INT"] {
        let server = Start::echo(mode).listen(&place.at()).run();
        assert!(fs::symlink_metadata(place.path()).unwrap().file_type().is_socket());
        let mut talker = dial(&place.path());
        ping(&mut talker, b"a word");
        // Somebody who listens is not pushed aside.
        let second = Start::echo(mode).listen(&place.at()).log("off").output();
        assert_eq!(second.status.code(), Some(1));
        let said = String::from_utf8(second.stderr).unwrap();
        assert!(said.contains(&place.at()) && said.contains("in use"), "{said}");
        ping(&mut dial(&place.path()), b"still the first");
        server.signal(end);
        assert_eq!(read_to_end(&mut talker, PATIENCE).1, End::Fin);
        assert!(server.wait(PATIENCE).status.success());
        assert!(!place.path().exists(), "the file outlives the server");
    }
    // Killed, a server leaves its file, and the next one takes the place.
    drop(Start::echo(mode).listen(&place.at()).run());
    assert!(place.path().exists());
    let server = Start::echo(mode).listen(&place.at()).run();
    ping(&mut dial(&place.path()), b"the next");
    // Another one's file is left alone.
    fs::rename(place.path(), place.0.0.join("aside")).unwrap();
    let other = UnixListener::bind(place.path()).unwrap();
    server.finish();
    assert!(place.path().exists());
    drop(other);
}

fn tcp_and_unix_clients_are_served_side_by_side(mode: Mode) {
    let place = Place::new();
    let name = format!("unix:@net-core-test-{}-{}", std::process::id(), place.0.0.display());
    let more = ["--listen", &place.at(), "--listen", &name];
    let server = Start::echo(mode).args(&more).run();
    assert_eq!(server.ready, format!("{} {} {name}", server.addr, place.at()));
    ping(&mut dial(&place.path()), b"by its file");
    is_served(&server);
    let address = SocketAddr::from_abstract_name(&name["unix:@".len()..]).unwrap();
    let by_name = UnixStream::connect_addr(&address).unwrap();
    ping(&mut TcpStream::from(OwnedFd::from(by_name)), b"by its name");
    assert_eq!(server.finish().get("accepted"), 3);
}

fn a_chat_over_both_transports(mode: Mode) {
    let place = Place::new();
    let server = Start::chat(mode).args(&["--listen", &place.at()]).run();
    let mut near: Vec<_> = (0..4).map(|_| BufReader::new(dial(&place.path()))).collect();
    let mut far: Vec<_> = (0..4).map(|_| BufReader::new(server.connect())).collect();
    server.has_connections(8);
    near[0].get_mut().write_all(b"from near\n").unwrap();
    for guest in near[1..].iter_mut().chain(&mut far) {
        let mut line = String::new();
        guest.read_line(&mut line).unwrap();
        assert_eq!(line, "from near\n");
    }
}

fn one_too_many_learns_at_once_and_idle_ones_are_closed(mode: Mode) {
    let place = Place::new();
    let args = ["--max-connections", "3", "--idle-timeout", "1s"];
    let server = Start::echo(mode).listen(&place.at()).args(&args).run();
    let mut inside: Vec<_> = (0..3).map(|_| dial(&place.path())).collect();
    inside.iter_mut().for_each(|client| ping(client, b"in"));
    assert_ne!(read_to_end(&mut dial(&place.path()), PATIENCE).1, End::Still);
    for client in &mut inside {
        assert_eq!(read_to_end(client, PATIENCE), (vec![], End::Fin));
    }
    drop(inside);
    assert_eq!(server.finish().get("closed(idle)"), 3);
}

#[test]
fn a_file_that_is_no_socket_stays_and_is_named() {
    let place = Place::new();
    fs::write(place.path(), "a letter").unwrap();
    let start = Start::echo(Mode::DEFAULT).listen(&place.at()).log("off");
    let output = start.output();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&place.at()) && said.contains("no socket"), "{said}");
    assert_eq!(fs::read(place.path()).unwrap(), b"a letter");
    let nowhere = format!("{}/no/such/directory", place.at());
    let start = Start::echo(Mode::DEFAULT).listen(&nowhere).log("off");
    let output = start.output();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains(&nowhere));
}

fn the_example_serves_by_a_path_and_by_an_abstract_name(mode: Mode) {
    let place = Place::new();
    // The longest that there may be.
    let name = format!("{:x<107}", format!("unix-echo-{}-{mode:?}", std::process::id()));
    let abstract_name = format!("unix:@{name}");
    let server =
        Start::unix_echo(mode).listen(&place.at()).args(&["--listen", &abstract_name]).run();
    ping(&mut dial(&place.path()), b"by its path");
    let at = SocketAddr::from_abstract_name(&name).unwrap();
    let client = UnixStream::connect_addr(&at).unwrap();
    ping(&mut TcpStream::from(OwnedFd::from(client)), b"by its name");
    server.finish();
    assert!(!place.path().exists());
}

#[test]
fn the_example_names_an_address_that_is_none_of_unix() {
    let output = Start::unix_echo(Mode::DEFAULT).listen("127.0.0.1:0").output();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("127.0.0.1:0: not a Unix socket"), "{said}");
}

#[test]
fn who_may_connect_is_up_to_the_umask() {
    let place = Place::new();
    let masked = ["sh", "-c", "umask 077; exec \"$@\"", "sh"];
    let server = Start::echo(Mode::DEFAULT).under(&masked).listen(&place.at()).run();
    let mode = fs::metadata(place.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    ping(&mut dial(&place.path()), b"its owner may");
    server.finish();
}

#[test]
fn a_relative_path_is_served_and_removed() {
    let place = Place::new();
    let here = ["env", "-C", place.0.0.to_str().unwrap()];
    let server = Start::echo(Mode::DEFAULT).under(&here).listen("unix:socket").run();
    assert_eq!(server.ready, "unix:socket");
    ping(&mut dial(&place.path()), b"here");
    server.finish();
    assert!(!place.path().exists());
}
