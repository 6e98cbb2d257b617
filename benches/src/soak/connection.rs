//! A client's connection: each wait has a bound, and each byte that comes is compared.

use super::protocol::{LET_IN, LINE_MAX, REFUSAL};
use super::random::{bytes, fill};
use crate::sys;
use socket2::{Domain, SockAddr, Socket, Type};
use std::cell::Cell;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A server that says nothing for so long has stopped: longer than any pause that is done to it.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Complaints that are kept.
const COMPLAINTS_MAX: usize = 20;

/// Why a client could not do all that it wanted.
#[derive(Debug)]
pub enum Trouble {
    /// It was not let in.
    Refused,
    /// Its connection was ended early. What had come by then was right.
    Cut,
    /// It was told that the server is too busy.
    Busy,
    /// Nobody listens, or the connection cannot be made: right only when the server ends.
    NobodyThere(String),
    /// What must not be: a wrong byte, or silence.
    Wrong(String),
}

/// What clients do comes to this.
pub type Outcome<T = ()> = Result<T, Trouble>;

/// What all clients of a child have met.
#[derive(Default)]
pub struct Tally {
    /// Connections that were made.
    pub connections: AtomicU64,
    /// Bytes that came and were compared.
    pub bytes: AtomicU64,
    /// Not let in, or ended early, by the time the server was told to end.
    pub cut: AtomicU64,
    /// Whether it was told so.
    pub is_ending: AtomicBool,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    /// Counts how a client fared.
    pub fn note(&self, who: &str, outcome: Outcome) {
        let is_ending = self.is_ending.load(Ordering::SeqCst);
        match outcome {
            Ok(()) | Err(Trouble::Busy) => {}
            Err(Trouble::NobodyThere(_) | Trouble::Refused | Trouble::Cut) if is_ending => {}
            Err(Trouble::Refused | Trouble::Cut) => _ = self.cut.fetch_add(1, Ordering::Relaxed),
            Err(Trouble::NobodyThere(what) | Trouble::Wrong(what)) => {
                self.complain(format!("{who}: {what}"));
            }
        }
    }

    /// Keeps what must not be.
    pub fn complain(&self, what: String) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() < COMPLAINTS_MAX {
            wrong.push(what);
        }
    }

    /// What must not be, and was.
    pub fn complaints(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The kernel's receive buffer of a client that reads slowly: so that what it does not read waits in the
/// server, and not on the way.
const SLOW_BUFFER: usize = 8 << 10;

/// A way in.
#[derive(Clone, Debug)]
pub enum Door {
    /// TCP.
    Tcp(SocketAddr),
    /// TCP, as a proxy that says first who the client is.
    Proxied(SocketAddr),
    /// A Unix socket's path.
    Unix(String),
}

/// A connection that was let in.
pub struct Connection<'a> {
    socket: Socket,
    tally: &'a Tally,
    /// Bytes that have come, ever.
    came: Cell<u64>,
}

impl<'a> Connection<'a> {
    /// Comes from this address, and waits until it is let in. A slow one has a small buffer in the kernel.
    pub fn open(tally: &'a Tally, from: Ipv4Addr, door: &Door, is_slow: bool) -> Outcome<Self> {
        let mut connection = Self::knock(tally, from, door, is_slow)?;
        if let Door::Proxied(_) = door {
            connection.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n")?;
        }
        match connection.let_in() {
            Err(Trouble::Cut) => Err(Trouble::Refused),
            other => other.map(|()| connection),
        }
    }

    /// Connects, and no more.
    pub fn knock(tally: &'a Tally, from: Ipv4Addr, door: &Door, is_slow: bool) -> Outcome<Self> {
        let connect = || {
            let socket = match door {
                Door::Unix(path) => {
                    let socket = patient(Domain::UNIX)?;
                    socket.connect(&SockAddr::unix(path)?)?;
                    socket
                }
                Door::Tcp(at) | Door::Proxied(at) => {
                    let socket = patient(Domain::IPV4)?;
                    if is_slow {
                        socket.set_recv_buffer_size(SLOW_BUFFER)?;
                    }
                    sys::bind_without_port(socket.as_raw_fd())?;
                    socket.bind(&SocketAddr::from((from, 0)).into())?;
                    socket.connect(&(*at).into())?;
                    socket
                }
            };
            tally.connections.fetch_add(1, Ordering::Relaxed);
            Ok(Self { socket, tally, came: Cell::new(0) })
        };
        connect().map_err(|error: io::Error| match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Trouble::Refused,
            _ => Trouble::NobodyThere(format!("connect to {door:?}: {error}")),
        })
    }

    /// Waits for the word by which the server lets it in.
    pub fn let_in(&mut self) -> Outcome {
        let mut first = [0];
        self.read_exact(&mut first)?;
        match &first[..] {
            LET_IN => Ok(()),
            first if first == &REFUSAL[..1] => Err(Trouble::Refused),
            first => Err(Trouble::Wrong(format!("{first:?} came first"))),
        }
    }

    /// Sends these bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Outcome {
        let sent = (&self.socket).write_all(bytes);
        sent.map_err(|error| match self.trouble(error) {
            Trouble::Wrong(what) => Trouble::Wrong(format!("a send: {what}")),
            other => other,
        })
    }

    /// Sends a line.
    pub fn say(&mut self, line: &str) -> Outcome {
        self.send(format!("{line}\n").as_bytes())
    }

    /// Sends bytes of a stream.
    pub fn send_stream(&mut self, stream: u64, from: u64, len: usize) -> Outcome {
        self.send(&bytes(stream, from, len))
    }

    /// Reads bytes of a stream and compares them; `pause` after each block, as a slow reader.
    pub fn expect(&mut self, stream: u64, from: u64, len: usize, pause: Duration) -> Outcome {
        let (mut came, mut right) = ([0; 16 << 10], [0; 16 << 10]);
        let mut done = 0;
        while done < len {
            let most = came.len().min(len - done);
            let n = self.read(&mut came[..most])?;
            if n == 0 {
                return Err(Trouble::Cut);
            }
            let at = from + done as u64;
            fill(stream, at, &mut right[..n]);
            if let Some(place) = (0..n).find(|&i| came[i] != right[i]) {
                let (came, right) = (&came[place..n], &right[place..n]);
                return Err(Trouble::Wrong(format!(
                    "byte {} of stream {stream}: {:?}.. came instead of {:?}..",
                    at + place as u64,
                    &came[..came.len().min(16)],
                    &right[..right.len().min(16)]
                )));
            }
            done += n;
            self.tally.bytes.fetch_add(n as u64, Ordering::Relaxed);
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
        }
        Ok(())
    }

    /// Reads a line.
    pub fn line(&mut self) -> Outcome<String> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            self.read_exact(&mut byte)?;
            match byte[0] {
                b'\n' => break,
                _ if line.len() > LINE_MAX => {
                    return Err(Trouble::Wrong("a line without an end".to_owned()));
                }
                byte => line.push(byte),
            }
        }
        self.tally.bytes.fetch_add(line.len() as u64 + 1, Ordering::Relaxed);
        String::from_utf8(line).map_err(|error| Trouble::Wrong(format!("a line: {error}")))
    }

    /// Reads a line, which must be this one.
    pub fn expect_line(&mut self, right: &str) -> Outcome {
        match self.line()? {
            line if line == right => Ok(()),
            line if line == "busy" => Err(Trouble::Busy),
            line => Err(Trouble::Wrong(format!("\"{line}\" came instead of \"{right}\""))),
        }
    }

    /// Reads exactly so much.
    pub fn read_exact(&mut self, into: &mut [u8]) -> Outcome {
        (&self.socket).read_exact(into).map_err(|error| self.trouble(error))?;
        self.came.set(self.came.get() + into.len() as u64);
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> Outcome<usize> {
        loop {
            match (&self.socket).read(into) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => {
                    let came = other.map_err(|error| self.trouble(error))?;
                    self.came.set(self.came.get() + came as u64);
                    return Ok(came);
                }
            }
        }
    }

    /// Waits for the end, before which nothing may come.
    pub fn expect_end(&mut self) -> Outcome {
        match self.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(Trouble::Wrong("more came than was asked for".to_owned())),
        }
    }

    /// Waits for an end of any kind, whatever comes before.
    pub fn read_to_the_end(&mut self) -> Outcome {
        let mut block = [0; 16 << 10];
        loop {
            match self.read(&mut block) {
                Ok(0) | Err(Trouble::Cut) => return Ok(()),
                Ok(_) => {}
                Err(other) => return Err(other),
            }
        }
    }

    /// Says that it sends no more.
    pub fn half_close(&mut self) -> Outcome {
        self.socket.shutdown(Shutdown::Write).map_err(|error| self.trouble(error))
    }

    /// Ends it at once, by a reset, where the socket has one.
    pub fn reset(self) {
        let _ = self.socket.set_linger(Some(Duration::ZERO)); // it ends all the same
    }

    fn trouble(&self, error: io::Error) -> Trouble {
        match error.kind() {
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected
            | ErrorKind::BrokenPipe => Trouble::Cut,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                let (came, at) = (self.came.get(), self.socket.local_addr().ok());
                let port = at.and_then(|at| at.as_socket()).map(|at| at.port());
                let seen = port.map_or("a Unix socket".to_owned(), kernels_view);
                Trouble::Wrong(format!("nothing moved for {PATIENCE:?} after {came} bytes: {seen}"))
            }
            _ => Trouble::Wrong(error.to_string()),
        }
    }

    /// Sends a stretch of a stream while it reads it back, so that neither waits for the other.
    pub fn pour(&mut self, stream: u64, len: usize, pause: Duration) -> Outcome {
        let other = self.socket.try_clone().map_err(|e| Trouble::Wrong(format!("dup: {e}")))?;
        let mut writer = Connection { socket: other, tally: self.tally, came: Cell::new(0) };
        std::thread::scope(|scope| {
            let written = scope.spawn(move || {
                for from in (0..len).step_by(16 << 10) {
                    writer.send_stream(stream, from as u64, (len - from).min(16 << 10))?;
                }
                Ok(())
            });
            let read = self.expect(stream, 0, len, pause);
            if read.is_err() {
                let _ = self.socket.shutdown(Shutdown::Both); // so that the writer ends too
            }
            let written = written.join().expect("writing does not panic");
            read.and(written)
        })
    }
}

/// A socket that waits for nothing longer than [`PATIENCE`].
pub(super) fn patient(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// What the kernel says of the sockets with this TCP port at an end: their states and queues.
fn kernels_view(port: u16) -> String {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let is_one = format!(":{port:04X} ");
    let columns = |row: &str| row.split_whitespace().skip(1).take(6).collect::<Vec<_>>().join(" ");
    table.lines().filter(|row| row.contains(&is_one)).map(columns).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What a client makes of a server that says this, and ends.
    fn outcome(says: &'static [u8]) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = Door::Tcp(listener.local_addr().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(move || listener.accept().unwrap().0.write_all(says).unwrap());
            let tally = Tally::default();
            let mut connection = Connection::open(&tally, Ipv4Addr::LOCALHOST, &door, false)?;
            connection.expect_line("published")?;
            connection.expect(7, 0, 3, Duration::ZERO)
        })
    }

    #[test]
    fn a_wrong_byte_is_told_and_an_early_end_is_another_thing() {
        let stream = bytes(7, 0, 3);
        let says =
            |bytes: &[u8]| -> &'static [u8] { [&b"+published\n"[..], bytes].concat().leak() };
        assert!(outcome(says(&stream)).is_ok());
        assert!(matches!(outcome(says(&stream[..2])), Err(Trouble::Cut)));
        assert!(matches!(
            outcome(says(&[stream[0], stream[1], !stream[2]])),
            Err(Trouble::Wrong(_))
        ));
        assert!(matches!(outcome(b"+publish\n"), Err(Trouble::Wrong(_))));
        assert!(matches!(outcome(b"+busy\n"), Err(Trouble::Busy)));
        assert!(matches!(outcome(b"-full\n"), Err(Trouble::Refused)));
        assert!(matches!(outcome(b""), Err(Trouble::Refused)));
    }

    #[test]
    fn who_is_cut_while_the_server_ends_is_not_counted() {
        let tally = Tally::default();
        tally.note("a", Err(Trouble::Cut));
        tally.note("b", Err(Trouble::NobodyThere("nobody".to_owned())));
        tally.is_ending.store(true, Ordering::SeqCst);
        tally.note("c", Err(Trouble::Refused));
        tally.note("d", Err(Trouble::NobodyThere("nobody".to_owned())));
        tally.note("e", Err(Trouble::Wrong("a byte".to_owned())));
        assert_eq!(tally.cut.load(Ordering::Relaxed), 1);
        assert_eq!(tally.complaints(), ["b: nobody", "e: a byte"]);
    }
}
