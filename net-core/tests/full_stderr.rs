//! A process whose standard error is a full pipe that nobody reads, and a callback that panics. The
//! standard library's hook writes there, on the thread that panics.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // each wait for a child has a bound here

use net_core::handler::{Callback, PanicAction};
use net_core::jobs::Pool;
use net_core::{Conn, Handler, Input, Loops, Peer, Server};
use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Echoes; panics when it is asked to, itself or in a job.
struct Fragile(Pool);

impl Handler for Fragile {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        match input.peek() {
            b"panic" => panic!("as the client has asked"),
            b"job" => {
                input.take_all();
                let work = || panic!("as the client has asked");
                let taken = self.0.offload(conn, work, |conn, answer: Result<(), _>| {
                    assert!(answer.is_err() && conn.send(b"told").is_taken());
                });
                assert!(taken.is_ok());
            }
            _ => assert!(conn.echo(input).is_taken()),
        }
    }

    fn on_panic(&mut self, _place: Callback) -> PanicAction {
        PanicAction::Running
    }
}

/// No test by itself: the process whose standard error is full. It ends when its input does.
#[test]
#[ignore = "the other test starts it"]
fn server_with_a_full_standard_error() {
    let pool = Pool::new(1, 16).unwrap();
    let server = Server::new().listen("127.0.0.1:0").loops(Loops::Count(1)).pin(false);
    let running = server.start(move |_place| Fragile(pool.clone())).unwrap();
    println!("READY {}", running.addrs()[0]);
    let _ = io::stdin().read(&mut [0]); // until the other test has ended, however it does
    running.handle().drain();
    assert!(running.wait().unwrap().counts.is_balanced());
}

/// A pipe in which there is no room for a byte. The reading end is kept, and never read.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (read_end, write_end) = io::pipe().unwrap();
    let fd = write_end.as_raw_fd();
    let set = |flags: libc::c_int| {
        // SAFETY: the descriptor is open, and takes these flags.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }, 0);
    };
    set(libc::O_WRONLY | libc::O_NONBLOCK);
    let mut into = &write_end;
    loop {
        // By single bytes: a pipe takes a larger write whole or not at all.
        match into.write(&[b'.'; 1]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    set(libc::O_WRONLY);
    (read_end.into(), write_end.into())
}

fn ask(at: SocketAddr, word: &[u8], answer: &[u8]) {
    let mut client = TcpStream::connect(at).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(word).unwrap();
    let mut back = Vec::new();
    client.take(answer.len().max(1) as u64).read_to_end(&mut back).unwrap();
    assert_eq!(back, answer);
}

/// The loop blocked in that write for ever, and with it everybody who was on it.
#[test]
fn a_panic_under_a_full_standard_error_stops_nobody() {
    let (_never_read, full) = full_pipe();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server_with_a_full_standard_error", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(full)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let ready = lines.find_map(|line| Some(line.ok()?.split_once("READY ")?.1.to_owned()));
        let _ = tell.send(ready); // nobody listens when it was too late
        lines.for_each(drop); // what else it says has somewhere to go
    });
    let ready = told.recv_timeout(PATIENCE).expect("in time").expect("it is ready");
    let at: SocketAddr = ready.parse().unwrap();
    ask(at, b"before", b"before");
    for _ in 0..3 {
        ask(at, b"panic", b""); // closed, and in time
        ask(at, b"neighbour", b"neighbour");
        ask(at, b"job", b"told");
    }
    drop(server.stdin.take());
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match server.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            None => {
                server.kill().unwrap();
                break server.wait().unwrap();
            }
        }
    };
    assert!(status.success(), "{status}");
}
