//! Tests every limit at its edges with a whole server: the server refuses it by name, or serves a client.

use super::{Echo, PATIENCE};
use crate::api::pool::Pool;
use crate::config::limits::edges;
use crate::server::{Loops, Server};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Regression test: a queue size too large for any memory aborted the process at the start, and other
/// values ended a loop at its first client. Each server that starts with such a limit must now serve.
#[test]
fn each_limit_at_its_edges_is_named_or_a_server_serves() {
    let mut served = 0;
    for edge in edges::each().into_iter().chain(edges::all_at_once()) {
        let what = format!("{} = {}", edge.field, edge.value);
        let server = Server::new()
            .listen("127.0.0.1:0")
            .datagrams("127.0.0.1:0")
            .loops(Loops::Count(1))
            .pin(false)
            .drain_timeout(Duration::from_secs(2))
            .limits(edge.limits.clone());
        if let Err(error) = server.check() {
            assert!(edge.is_named_by(&error.to_string()), "{what}: {error}");
            let started = server.start(|_| Echo);
            assert_eq!(started.err().map(|error| error.to_string()), Some(error.to_string()));
            continue;
        }
        let running = server.start(|_| Echo).unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut client = TcpStream::connect(running.addrs()[0].inet().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut back = [0];
        let answered = client.write_all(b"x").and_then(|()| client.read_exact(&mut back));
        match answered {
            Ok(()) => assert_eq!(&back, b"x"),
            Err(error) if edge.may_end_before_an_answer() => {
                let is_closed =
                    [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&error.kind());
                assert!(is_closed || error.kind() == ErrorKind::BrokenPipe, "{what}: {error}");
            }
            Err(error) => panic!("{what}: {error}"),
        }
        drop(client);
        running.handle().drain();
        let ended = running.wait().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(ended.counts.is_balanced(), "{what}: {}", ended.counts);
        served += 1;
    }
    assert!(served > 150, "{served}");
}

#[test]
fn numbers_of_a_server_and_a_pool_are_named_at_their_edges() {
    let said = |server: Server| server.start(|_| Echo).err().expect("refused").to_string();
    assert!(said(Server::new().loops(Loops::Count(0))).contains("0 loops"));
    assert!(said(Server::new().loops(Loops::Count(usize::MAX))).contains("loops"));
    assert!(said(Server::new().refusal(vec![0; 4097])).contains("4097"));
    for (backlog, drain) in [(0, Duration::ZERO), (u16::MAX, Duration::MAX)] {
        let server = Server::new().listen("127.0.0.1:0").backlog(backlog).drain_timeout(drain);
        let running = server.loops(Loops::Count(1)).pin(false).start(|_| Echo).unwrap();
        running.handle().drain();
        assert!(running.wait().unwrap().counts.is_balanced());
    }
    let said = Pool::new(usize::MAX, 1).unwrap_err();
    assert!(said.to_string().contains(&usize::MAX.to_string()), "{said}");
    assert!(Pool::new(0, 0).is_ok() && Pool::new(1, usize::MAX).is_ok());
}
