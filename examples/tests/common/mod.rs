//! What the black-box tests share: a real server process, clients, and what /proc says of both.
//!
//! Everything here has a deadline, so that a server that hangs fails a test and never the run.
#![allow(dead_code, unused_imports, unreachable_pub)] // each test file is a crate and uses a part

pub mod admin;
pub mod child;
pub mod proc;
pub mod server;

pub use server::{Counts, Mode, Server, Start};

use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take that should take no time at all, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Makes tests of each given function, for every way of accepting and kind of descriptor table.
#[macro_export]
macro_rules! in_every_mode {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            use super::common::Mode;

            #[test]
            fn shared() {
                super::$name(Mode { accept: "acceptor", fd_table: "shared" });
            }

            #[test]
            fn per_loop() {
                super::$name(Mode { accept: "acceptor", fd_table: "per-loop" });
            }

            #[test]
            fn reuseport() {
                super::$name(Mode { accept: "reuseport", fd_table: "shared" });
            }

            #[test]
            fn reuseport_per_loop() {
                super::$name(Mode { accept: "reuseport", fd_table: "per-loop" });
            }
        })*
    };
}

/// As `in_every_mode`, for what is so only where one thread accepts for all.
#[macro_export]
macro_rules! in_both_tables {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            use super::common::Mode;

            #[test]
            fn shared() {
                super::$name(Mode { accept: "acceptor", fd_table: "shared" });
            }

            #[test]
            fn per_loop() {
                super::$name(Mode { accept: "acceptor", fd_table: "per-loop" });
            }
        })*
    };
}

/// A connected client whose reads and writes do not hang.
pub fn connect(to: SocketAddr) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&to, Duration::from_secs(5)) {
            Ok(client) => {
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                client.set_write_timeout(Some(PATIENCE)).unwrap();
                client.set_nodelay(true).unwrap();
                return client;
            }
            // A backlog that overflows under load is no fault of the server's.
            Err(error) if error.kind() == ErrorKind::TimedOut && Instant::now() < end => {}
            Err(error) => panic!("connect to {to}: {error}"),
        }
    }
}

/// The next client of a listener of the test's own, whose reads and writes do not hang.
pub fn accept(listener: &TcpListener) -> TcpStream {
    // SO_RCVTIMEO bounds accept(2) too.
    SockRef::from(listener).set_read_timeout(Some(PATIENCE)).unwrap();
    let (client, _) = listener.accept().expect("somebody comes in time");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Sends `message` and gets exactly it back.
pub fn ping(client: &mut TcpStream, message: &[u8]) {
    if let Err(error) = try_ping(client, message) {
        panic!("echo of {} bytes: {error}", message.len());
    }
}

pub fn try_ping(client: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    client.write_all(message)?;
    let mut back = vec![0; message.len()];
    client.read_exact(&mut back)?;
    if back != message {
        return Err(std::io::Error::other("other bytes came back"));
    }
    Ok(())
}

/// A new client is served.
pub fn is_served(server: &Server) {
    ping(&mut server.connect(), b"anybody there?");
}

/// How a connection ended, seen from the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Fin,
    Rst,
    /// Not within the time.
    Still,
}

/// Reads until the end; what came, and how it ended.
pub fn read_to_end(client: &mut TcpStream, within: Duration) -> (Vec<u8>, End) {
    let end = Instant::now() + within;
    let (mut all, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (all, End::Still);
        }
        client.set_read_timeout(Some(left)).unwrap();
        match client.read(&mut part) {
            Ok(0) => return (all, End::Fin),
            Ok(n) => all.extend_from_slice(&part[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return (all, End::Rst),
        }
    }
}

/// Sends all of `bytes` and FIN while reading the answer on this thread. The answer and its end.
pub fn send_all_and_read(mut client: TcpStream, bytes: &[u8]) -> (Vec<u8>, End) {
    let mut sending = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = sending.write_all(bytes); // a reset shows in what is read
            let _ = sending.shutdown(Shutdown::Write);
        });
        read_to_end(&mut client, 3 * PATIENCE)
    })
}

/// Ends a connection with RST.
pub fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Sends until nothing is taken any more: all buffers on the way are full. Returns how much went.
pub fn fill(client: &TcpStream) -> usize {
    client.set_nonblocking(true).unwrap();
    let block = vec![1; 1 << 20];
    let (mut sent, mut full_since) = (0, Instant::now());
    while full_since.elapsed() < Duration::from_millis(50) {
        match (&*client).write(&block) {
            Ok(n) => (sent, full_since) = (sent + n, Instant::now()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(_) => break, // the server has ended it
        }
    }
    client.set_nonblocking(false).unwrap();
    sent
}

/// A folder of its own, removed with all that is in it.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("net-core-test-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // a failed test's server may still write to it
    }
}

/// Bytes that no shift or repetition of leaves the same.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    next.flatten().take(len).collect()
}

/// Waits until `is_so`, and fails with `what` when it takes too long.
pub fn eventually(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !is_so() {
        assert!(Instant::now() < end, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a program is installed; prints a note if a test must do without it.
pub fn has(program: &str) -> bool {
    let is_here = child::output(Command::new("which").arg(program), PATIENCE).status.success();
    if !is_here {
        println!("skipped: {program} is not installed");
    }
    is_here
}

/// Whether strace is here and may trace.
pub fn can_trace() -> bool {
    has("strace") && {
        let mut strace = Command::new("strace");
        let works = child::output(strace.args(["-qq", "-o", "/dev/null", "true"]), PATIENCE);
        let works = works.status.success();
        if !works {
            println!("skipped: strace may not trace here");
        }
        works
    }
}

pub fn is_root() -> bool {
    let output = child::output(Command::new("id").arg("-u"), PATIENCE);
    let is_root = output.stdout == b"0\n";
    if !is_root {
        println!("skipped: needs root");
    }
    is_root
}
