//! The PROXY protocol in front of a real server: good headers cut at every byte, and malicious ones.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::admin::{get, metrics, sum};
use common::*;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

in_every_mode!(
    a_header_cut_at_every_byte_names_the_client,
    malicious_headers_cost_only_themselves,
    who_is_not_trusted_is_not_heard,
    who_never_says_is_closed_in_time,
    a_drain_does_not_wait_for_headers,
);

const TRUSTED: [&str; 4] = ["--proxy-protocol", "10.0.0.0/8, 127.0.0.1", "--admin", "127.0.0.1:0"];

const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.9 61234 443\r\n";

/// The same client in version 2, with an extension.
fn binary() -> Vec<u8> {
    let begin = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10";
    let addresses = [203, 0, 113, 7, 198, 51, 100, 9, 0xEF, 0x32, 0x01, 0xBB];
    [&begin[..], &addresses, b"\x04\0\x01x"].concat()
}

fn binary6() -> Vec<u8> {
    let begin = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24";
    let client = [0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    [&begin[..], &client, &[0; 16], &[0xEF, 0x32, 0x01, 0xBB]].concat()
}

fn a_header_cut_at_every_byte_names_the_client(mode: Mode) {
    let server = Start::echo(mode).args(&TRUSTED).run();
    let admin = server.admin();
    for (header, name) in [
        (LINE.to_vec(), "203.0.113.7:61234"),
        (binary(), "203.0.113.7:61234"),
        (binary6(), "[2001:db8::7]:61234"),
    ] {
        let clients: Vec<_> = (0..=header.len())
            .map(|cut| {
                let mut client = server.connect();
                client.write_all(&header[..cut]).unwrap();
                client
            })
            .collect();
        // So that the parts are seen apart, mostly.
        std::thread::sleep(Duration::from_millis(20));
        for (cut, mut client) in clients.into_iter().enumerate() {
            // What comes with the rest is the client's.
            let rest = [&header[cut..], b"hello"].concat();
            client.write_all(&rest).unwrap();
            let mut back = [0; 5];
            client.read_exact(&mut back).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
            assert_eq!(&back, b"hello", "cut at {cut}");
            ping(&mut client, &pattern(100_000, cut as u64));
            if cut == header.len() / 2 {
                let rows = get(admin, "/connections?top=10").body;
                assert!(rows.contains(name), "{rows}");
            }
        }
    }
    let counts = server.finish();
    assert_eq!(counts.get("closed(proxy_header)"), 0);
}

fn malicious_headers_cost_only_themselves(mode: Mode) {
    let server = Start::echo(mode).args(&TRUSTED).run();
    let mut bystander = server.connect();
    bystander.write_all(LINE).unwrap();
    ping(&mut bystander, b"before");
    let mut too_long = binary();
    too_long[14..16].copy_from_slice(&[0xFF, 0xFF]);
    let mut other_version = binary();
    other_version[12] = 0x11;
    let malicious: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 198.51.100.9 61234 443\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 198.51.100.9 61234 99999\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 61234 443\r\n".to_vec(),
        [b"PROXY ", &[b' '; 300][..]].concat(),
        vec![0; 1000],
        too_long,
        other_version,
        pattern(100_000, 7),
    ];
    for bytes in &malicious {
        for cut in [1, bytes.len() / 2, bytes.len()] {
            let mut client = server.connect();
            // A reset may come while it still talks.
            let _ = client.write_all(&bytes[..cut]).and_then(|()| client.write_all(&bytes[cut..]));
            let (back, end) = read_to_end(&mut client, PATIENCE);
            assert!(back.is_empty() && end != End::Still, "{end:?}: {}", bytes.escape_ascii());
        }
    }
    ping(&mut bystander, b"after");
    drop(bystander);
    let counts = server.finish();
    assert_eq!(counts.get("closed(proxy_header)"), 3 * malicious.len() as u64);
    assert_eq!(counts.get("bytes_out"), 11, "nobody else was answered");
}

fn who_is_not_trusted_is_not_heard(mode: Mode) {
    let others = ["--proxy-protocol", "10.0.0.0/8", "--admin", "127.0.0.1:0"];
    let server = Start::echo(mode).args(&others).run();
    for _ in 0..5 {
        let mut client = server.connect();
        let _ = client.write_all(LINE).and_then(|()| client.write_all(b"let me in"));
        let (back, end) = read_to_end(&mut client, PATIENCE);
        assert!(back.is_empty() && end != End::Still);
    }
    let admin = server.admin();
    eventually("they are counted", PATIENCE, || {
        sum(&metrics(admin), "net_core_refused_untrusted_total") == 5.0
    });
    assert_eq!(server.finish().get("closed(refused)"), 5);
}

fn who_never_says_is_closed_in_time(mode: Mode) {
    let server = Start::echo(mode).args(&TRUSTED).args(&["--first-byte-timeout", "200ms"]).run();
    let mut silent = server.connect_many(10);
    let mut half = server.connect();
    half.write_all(&LINE[..10]).unwrap();
    for client in silent.iter_mut().chain([&mut half]) {
        assert_ne!(read_to_end(client, PATIENCE).1, End::Still);
    }
    let gone = server.connect();
    gone.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut { gone }, PATIENCE).1, End::Fin);
    let counts = server.finish();
    assert_eq!((counts.get("closed(first_byte)"), counts.get("closed(peer_ended)")), (11, 1));
}

fn a_drain_does_not_wait_for_headers(mode: Mode) {
    let server = Start::echo(mode).args(&TRUSTED).run();
    let mut waiting = server.connect_many(10);
    waiting.iter_mut().for_each(|client| client.write_all(&LINE[..20]).unwrap());
    let admin = server.admin();
    eventually("they wait", PATIENCE, || sum(&metrics(admin), "net_core_connections_open") == 10.0);
    let counts = server.finish();
    assert_eq!(counts.get("closed(draining)"), 10);
}

/// Without any timeout of its own: it would hold one of `--max-connections` for ever.
#[test]
fn a_header_that_never_comes_is_not_awaited_for_ever() {
    let server = Start::echo(Mode::DEFAULT).args(&TRUSTED).args(&["--max-connections", "2"]).run();
    let mut silent = server.connect_many(2);
    silent[1].write_all(&LINE[..10]).unwrap();
    for client in &mut silent {
        assert_ne!(read_to_end(client, PATIENCE).1, End::Still);
    }
    let mut next = server.connect();
    next.write_all(LINE).unwrap();
    ping(&mut next, b"there is a place again");
    drop(next);
    assert_eq!(server.finish().get("closed(proxy_header)"), 2);
}

#[test]
fn over_unix_sockets_the_word_is_unix() {
    let path = std::env::temp_dir().join(format!("proxied-{}", std::process::id()));
    let at = format!("unix:{}", path.display());
    let server = Start::echo(Mode::DEFAULT).listen(&at).args(&["--proxy-protocol", "unix"]).run();
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    for byte in LINE {
        client.write_all(&[*byte]).unwrap();
    }
    client.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    drop(client);
    server.finish();
}

#[test]
fn what_is_wrong_with_the_flag_is_said() {
    for (prefixes, what) in [("10.0.0.1/8", "behind the prefix"), ("everyone", "no IP address")] {
        let output = Start::echo(Mode::DEFAULT).args(&["--proxy-protocol", prefixes]).output();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(what), "{said}");
    }
}
