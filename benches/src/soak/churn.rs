//! Does a server that very many connections come to and leave stay as it was?

use super::child::{Holds, Server, unexpected};
use super::connection::patient;
use super::protocol::{Books, Ready};
use super::random::{Random, bytes};
use super::server::{books_of, end_with_the_parent, say};
use crate::sys;
use net_core::{Conn, Handler, Input, Loops, Peer, Server as Net};
use socket2::{Domain, Socket};
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{ExitCode, Termination};
use std::thread;
use std::time::{Duration, Instant};

/// Parts of a run, after each of which the server is looked at.
const PARTS: u64 = 10;
/// Addresses that each thread comes from in turn: with so many, those that wait for their time to be
/// over leave ports enough.
const SOURCES: u64 = 12;
/// Of so many connections one is ended by the server's FIN, and one by the client's; all others by a
/// reset, so that no port waits.
const FIN_EACH: u64 = 20;
/// The first byte of a message that the server answers and then closes.
const CLOSE: u8 = b'c';
const MESSAGE: usize = 64;
/// Private memory may be so much more at the end than after the first tenth, or a hundredth more: the
/// allocator's pages of which some are in use.
const GROWTH_MAX: u64 = 256 << 10;

/// The child: an echo, and whoever asks for it is closed.
pub struct ChurnServer;

impl Handler for ChurnServer {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let is_last = input.len() >= MESSAGE && input.peek()[0] == CLOSE;
        let _ = conn.echo(input); // into an empty buffer
        if is_last {
            conn.close();
        }
    }
}

impl ChurnServer {
    /// Serves until a signal ends it.
    pub fn serve() -> ExitCode {
        // Where the C library has no such setting, it does what it does.
        let _ = net_core::process::set_malloc_mmap_threshold();
        end_with_the_parent();
        let server = Net::new().listen("127.0.0.1:0").loops(Loops::Count(2)).pin(false);
        let ended = server.admin("127.0.0.1:0").run_with(
            |_place| ChurnServer,
            |running| {
                let inet = |at: &net_core::Addr| at.to_string().parse().expect("an address");
                let at: SocketAddr = inet(&running.addrs()[0]);
                let admin = inet(running.admin_addr().expect("it was asked for"));
                say(&Ready { tcp: vec![at], proxied: at, unix: String::new(), udp: at, admin });
            },
        );
        match ended {
            Ok(ended) => {
                say(&books_of(&ended));
                ended.report()
            }
            Err(error) => {
                eprintln!("soak: the server: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

/// How connections ended: what the server's books must say.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Ends {
    by_reset: u64,
    by_client: u64,
    by_server: u64,
}

impl Ends {
    fn add(&mut self, other: Ends) {
        self.by_reset += other.by_reset;
        self.by_client += other.by_client;
        self.by_server += other.by_server;
    }
}

/// Runs it. Returns what was wrong.
pub fn run(connections: u64, threads: usize) -> io::Result<Vec<String>> {
    let server = Server::start(&["serve-churn".to_owned()])?;
    let at = server.ready.tcp[0];
    println!("| connections | a second | private KiB | descriptors | threads |");
    println!("|---|---|---|---|---|");
    let (mut ends, mut held) = (Ends::default(), Vec::new());
    for part in 1..=PARTS {
        let (from, to) = (connections * (part - 1) / PARTS, connections * part / PARTS);
        let start = Instant::now();
        let of_part = thread::scope(|scope| {
            let share = |thread: u64| {
                let number = move |n: u64| from + (to - from) * n / threads as u64;
                number(thread)..number(thread + 1)
            };
            let workers: Vec<_> = (0..threads as u64)
                .map(|thread| scope.spawn(move || come_and_go(at, thread, share(thread))))
                .collect();
            let mut all = Ends::default();
            for worker in workers {
                all.add(worker.join().expect("a client does not panic")?);
            }
            io::Result::Ok(all)
        })?;
        ends.add(of_part);
        let rate = (to - from) as f64 / start.elapsed().as_secs_f64();
        let Holds { private, descriptors, threads } = server.quiet()?;
        println!("| {to} | {rate:.0} | {} | {descriptors} | {threads} |", private / 1024);
        held.push(Holds { private, descriptors, threads });
    }
    server.terminate(1)?;
    let (status, books) = server.end()?;
    let mut wrong: Vec<String> = unexpected(status, 0).into_iter().collect();
    wrong.extend(books.wrong());
    wrong.extend(inexact(&books, connections, ends));
    let [first, .., last] = held[..] else { unreachable!("it was looked at after each part") };
    let (grown, may) =
        (last.private.saturating_sub(first.private), GROWTH_MAX.max(first.private / 100));
    println!(
        "\nprivate memory grew by {} KiB from the first tenth to the last, and {} KiB may",
        grown / 1024,
        may / 1024
    );
    if grown > may {
        wrong.push(format!("private memory grew by {} KiB", grown / 1024));
    }
    // The admin endpoint may be about to close one.
    if last.descriptors > first.descriptors + 1 || last.threads > first.threads {
        wrong.push(format!("{first:?} became {last:?}"));
    }
    Ok(wrong)
}

/// What the books do not say as it was.
fn inexact(books: &Books, connections: u64, ends: Ends) -> Option<String> {
    let closed = |why| books.closed.get(why).copied().unwrap_or(0);
    let (by_reset, by_client) = (closed("peer_reset"), closed("peer_ended"));
    let told = Ends { by_reset, by_client, by_server: closed("local") };
    let came = books.get("accepted");
    (came != connections || told != ends)
        .then(|| format!("the books say {came} and {told:?} of {connections} and {ends:?}"))
}

/// The connections of these numbers, one after the other.
fn come_and_go(at: SocketAddr, thread: u64, numbers: std::ops::Range<u64>) -> io::Result<Ends> {
    let mut ends = Ends::default();
    for number in numbers {
        let mut random = Random::new(number, &[thread]);
        let source = Ipv4Addr::new(127, 0, 2 + thread as u8, 1 + (number % SOURCES) as u8);
        let mut socket = patient(Domain::IPV4)?;
        sys::bind_without_port(socket.as_raw_fd())?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&at.into())?;
        let how = random.between(0, FIN_EACH - 1);
        let mut message = bytes(number, 0, MESSAGE);
        message[0] = if how == 0 { CLOSE } else { b'm' };
        socket.write_all(&message)?;
        let mut answer = [0; MESSAGE];
        socket.read_exact(&mut answer)?;
        if answer[..] != message {
            return Err(io::Error::other(format!("connection {number}: a wrong byte")));
        }
        match how {
            0 => {
                read_the_end(&mut socket)?;
                ends.by_server += 1;
            }
            1 => {
                socket.shutdown(Shutdown::Write)?;
                read_the_end(&mut socket)?;
                ends.by_client += 1;
            }
            _ => {
                socket.set_linger(Some(Duration::ZERO))?;
                ends.by_reset += 1;
            }
        }
    }
    Ok(ends)
}

fn read_the_end(socket: &mut Socket) -> io::Result<()> {
    match socket.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more came than was sent")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_that_are_off_by_one_are_told() {
        let mut books = Books::default();
        books.counts.insert("accepted".to_owned(), 6);
        for (why, n) in [("peer_reset", 3), ("peer_ended", 2), ("local", 1)] {
            books.closed.insert(why.to_owned(), n);
        }
        let ends = Ends { by_reset: 3, by_client: 2, by_server: 1 };
        assert_eq!(inexact(&books, 6, ends), None);
        assert!(inexact(&books, 7, ends).is_some());
        books.closed.insert("peer_reset".to_owned(), 4);
        assert!(inexact(&books, 6, ends).is_some());
    }
}
