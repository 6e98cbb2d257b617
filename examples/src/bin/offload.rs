//! Work that is too long for a callback, in two ways side by side: on the threads of a pool, and in slices on
//! the loop itself. Other connections of the loop are answered meanwhile.
//!
//!     cargo run --release --bin offload -- --listen 127.0.0.1:9000
//!     nc 127.0.0.1 9000
//!
//! Its lines:
//!
//!     pool N        counts the primes below N on a thread of the pool
//!     slices N      counts them on the loop, some microseconds of it in each turn
//!     anything else comes back, at once
//!
//! The pool uses other cores, and its work may block. Slices need no thread, and their job may use the
//! handler without a lock. But they take the loop's own time. Each connection has one question under way. The
//! next line waits in the kernel until that question is answered.

use clap::Parser;
use examples::flags::{self, ServerFlags};
use net_core::framing::{Lines, Searched};
use net_core::jobs::{JobPanicked, JobsFull, Pool, PoolFull, Slice};
use net_core::{Conn, Handler, Input, LoopInfo, Peer};
use std::convert::Infallible;
use std::process::ExitCode;

/// Counts primes without keeping anybody waiting.
#[derive(Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    server: ServerFlags,
    /// Threads of the pool
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    pool_threads: u16,
    /// Jobs that may wait for them; one more is told so
    #[arg(long, value_name = "N", default_value_t = 100)]
    pool_queue: u32,
}

/// A longer line closes its connection.
const LINES: Lines = Lines::new(1024);

/// The largest N: some seconds of work.
const BELOW_MAX: u32 = 10_000_000;

/// Numbers that are looked at in one slice: some 50 µs.
const NUMBERS_A_SLICE: usize = 500;

struct Worker {
    pool: Pool,
}

#[derive(Default)]
struct Session {
    lines: Searched,
    is_asking: bool,
}

impl Worker {
    fn line(&self, conn: &mut Conn<'_, Self>, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let (command, number) = text.split_once(' ').unwrap_or((&text, ""));
        match (command, number.trim().parse()) {
            ("pool", Ok(below)) if below <= BELOW_MAX => self.by_the_pool(conn, below),
            ("slices", Ok(below)) if below <= BELOW_MAX => Self::in_slices(conn, below),
            ("pool" | "slices", _) => say(conn, &format!("error: N goes up to {BELOW_MAX}")),
            _ => say(conn, &text),
        }
    }

    fn by_the_pool(&self, conn: &mut Conn<'_, Self>, below: u32) {
        let work = move || (2..below).filter(|&number| is_prime(number)).count();
        let then = move |conn: &mut Conn<'_, Self>, primes| match primes {
            Ok(primes) => answer(conn, &format!("{primes} primes below {below}")),
            Err(JobPanicked) => answer(conn, "error: that went wrong"),
        };
        match self.pool.offload(conn, work, then) {
            Ok(()) => asks(conn),
            Err(PoolFull { .. }) => say(conn, "error: too busy"),
        }
    }

    fn in_slices(conn: &mut Conn<'_, Self>, below: u32) {
        let (mut numbers, mut primes) = (2..below, 0);
        let job = move |_: &mut Self, conn: &mut Conn<'_, Self>| {
            let slice = numbers.by_ref().take(NUMBERS_A_SLICE);
            primes += slice.filter(|&number| is_prime(number)).count();
            if !numbers.is_empty() {
                return Slice::More;
            }
            answer(conn, &format!("{primes} primes below {below}"));
            Slice::Done
        };
        match conn.in_slices(job) {
            Ok(()) => asks(conn),
            Err(JobsFull(_)) => say(conn, "error: too busy"),
        }
    }
}

/// By trial division, because the work should take time.
fn is_prime(number: u32) -> bool {
    (2..)
        .take_while(|divisor| divisor * divisor <= number)
        .all(|divisor| !number.is_multiple_of(divisor))
}

/// A question is under way, so further lines wait in the kernel. The library knows of the job. So a drain
/// waits for the answer, and so does the end of a client that sends no more.
fn asks(conn: &mut Conn<'_, Worker>) {
    conn.session().is_asking = true;
    conn.pause();
}

fn answer(conn: &mut Conn<'_, Worker>, text: &str) {
    say(conn, text);
    conn.session().is_asking = false;
    conn.resume();
}

fn say(conn: &mut Conn<'_, Worker>, text: &str) {
    let _ = conn.send(format!("{text}\n").as_bytes()); // refused only when the connection is ending
}

impl Handler for Worker {
    type Session = Session;
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<Session> {
        Some(Session::default())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        while !conn.session().is_asking {
            match input.take_frame(LINES.after(&mut conn.session().lines)) {
                Ok(Some(line)) => self.line(conn, line),
                Ok(None) => return,
                Err(error) => {
                    say(conn, &format!("error: {error}"));
                    return conn.close();
                }
            }
        }
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    // Before the server starts. With private tables, a thread that a loop starts would share the loop's
    // table.
    let pool = match Pool::new(flags.pool_threads.into(), flags.pool_queue as usize) {
        Ok(pool) => pool,
        Err(error) => return flags::fail(1, &format!("start the pool's threads: {error}")),
    };
    flags::run(&flags.server, move |_place: &LoopInfo<Infallible>| Worker { pool: pool.clone() })
}
