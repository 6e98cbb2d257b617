//! A thousand clients that never stop asking, and a restart: each question is answered, or its client
//! has the server's last word instead.

#![allow(clippy::unwrap_used)] // a test

use net_core::{Conn, Handler, Input, Limits, Loops, Peer, Server};
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// Clients of each thread, and threads.
const CLIENTS: usize = 125;
const THREADS: usize = 8;

/// No client's end takes so long, however loaded the machine is: what is over after it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Answers;

impl Handler for Answers {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        while input.take_line().is_some() {
            let _ = conn.send(b"answer\n"); // refused only when the connection is ending
        }
    }

    fn on_draining(&mut self, conn: &mut Conn<'_, Self>) {
        conn.close_when_idle_with("going\n");
    }
}

struct Client {
    stream: TcpStream,
    /// Bytes of the line that comes.
    line: Vec<u8>,
}

impl Client {
    fn ask(&mut self) {
        self.stream.write_all(b"question\n").expect("no reset before the last word");
    }

    /// The next line that comes.
    fn hear(&mut self) -> Vec<u8> {
        while !self.line.ends_with(b"\n") {
            let mut byte = [0];
            let read = self.stream.read(&mut byte).expect("no reset before the last word");
            assert_eq!(read, 1, "it has ended without its last word");
            self.line.push(byte[0]);
        }
        std::mem::take(&mut self.line)
    }

    /// Whether it is to be asked again.
    fn is_answered(&mut self) -> bool {
        match &self.hear()[..] {
            b"answer\n" => true,
            b"going\n" => {
                let read = self.stream.read(&mut [0]).expect("a FIN, and no reset");
                assert_eq!(read, 0, "nothing follows the last word");
                false
            }
            other => panic!("{other:?}"),
        }
    }
}

/// By `close_when_idle` alone 82 to 154 of a thousand asking clients lost a question in each restart.
#[test]
fn a_restart_loses_no_question_of_a_thousand_who_ask() {
    let limits = Limits { linger_timeout: 2 * PATIENCE, ..Limits::default() };
    let server = Server::new().listen("127.0.0.1:0").loops(Loops::Count(2)).limits(limits);
    let running = server.drain_timeout(2 * PATIENCE).start(|_place| Answers).unwrap();
    let at = running.addrs()[0].inet().unwrap();
    let connect = || {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, line: Vec::new() }
    };
    let clients: Vec<Vec<Client>> =
        (0..THREADS).map(|_| (0..CLIENTS).map(|_| connect()).collect()).collect();
    let (asked, have_asked) = std::sync::mpsc::channel();
    let handle = running.handle();
    thread::scope(|scope| {
        for mut clients in clients {
            let asked = asked.clone();
            scope.spawn(move || {
                for round in 0.. {
                    clients.iter_mut().for_each(Client::ask);
                    // Those that have heard the last word close: the server waits for that.
                    clients.retain_mut(Client::is_answered);
                    if clients.is_empty() {
                        return;
                    }
                    if round == 2 {
                        asked.send(()).unwrap();
                    }
                }
            });
        }
        (0..THREADS).for_each(|_| have_asked.recv_timeout(PATIENCE).expect("all ask"));
        handle.drain();
    });
    let ended = running.wait().unwrap();
    assert!(ended.counts.is_balanced(), "{}", ended.counts);
}
