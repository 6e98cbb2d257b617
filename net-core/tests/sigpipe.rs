//! A process in which SIGPIPE is deadly, as it is for a program that is not Rust's: sends to a peer that
//! is gone do not raise it. In a process of its own, which a failure ends.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod bound;

use net_core::handler::FileRange;
use net_core::metrics::Counter;
use net_core::{CloseReason, Conn, Handler, Input, Loops, Peer, Server};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Sends when the peer has had time to go, in the way that its first byte asks for.
struct Late {
    file: Arc<File>,
}

impl Handler for Late {
    type Session = ();
    type Message = ();

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let way = input.take_all()[0];
        std::thread::sleep(Duration::from_millis(100));
        let _ = match way {
            b'f' => conn.send_file(FileRange::new(Arc::clone(&self.file), 0, 4096)),
            _ => conn.send(b"to nobody"),
        };
    }

    fn on_close(&mut self, _conn: &mut Conn<'_, Self>, _why: &CloseReason) {}
}

/// The kernel then knows that the peer has ended, and that it is gone: the next send is EPIPE.
fn say_and_go(at: SocketAddr, way: u8) {
    let mut client = TcpStream::connect(at).unwrap();
    client.write_all(&[way]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_deadly_sigpipe_is_never_raised() {
    let _bound = bound::bound();
    // SAFETY: the default handling is a valid one, and nobody else in this process sets another.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let file = Arc::new(File::open("/proc/self/exe").unwrap());
    let server = Server::new().listen("127.0.0.1:0").loops(Loops::Count(1)).pin(false);
    let server = server.start(move |_place| Late { file: Arc::clone(&file) }).unwrap();
    let at = server.addrs()[0].inet().unwrap();
    for way in [b's', b'f', b's'] {
        say_and_go(at, way);
    }
    let mut client = TcpStream::connect(at).unwrap();
    client.write_all(b"s").unwrap();
    let mut said = [0; 9];
    client.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"to nobody");
    drop(client);
    server.handle().stop();
    server.wait().unwrap();
}

/// A blocked SIGPIPE was left on the thread that was lent for a loop, and every child of it had that.
#[test]
fn a_file_to_nobody_leaves_the_callers_signals_as_they_were() {
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let signals = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let lines =
            status.lines().filter(|line| line.starts_with("SigBlk") || line.starts_with("SigPnd"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = signals();
    let file = Arc::new(File::open("/proc/self/exe").unwrap());
    let server = Server::new().listen("127.0.0.1:0");
    let ended = server.run_alone_on_current_thread(
        move |_place| Late { file },
        |running| {
            let (at, handle) = (running.addrs()[0].inet().unwrap(), running.handle());
            std::thread::spawn(move || {
                say_and_go(at, b'f');
                let mut client = TcpStream::connect(at).unwrap();
                client.write_all(b"f").unwrap();
                client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let read = client.read_exact(&mut [0; 4096]);
                handle.drain();
                read.unwrap();
            });
        },
    );
    assert_eq!(ended.unwrap().counts.get(Counter::Accepted), 2);
    assert_eq!(signals(), before, "nothing is blocked, and nothing waits");
}
