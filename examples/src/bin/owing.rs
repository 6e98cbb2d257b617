//! For the tests: sends each client the messages that it asks for, again and again, whether the client reads
//! or not. So the tests see how much memory that takes, for each kind of message.
//!
//!     cargo run --release --bin owing -- --listen 127.0.0.1:9000 --memory-budget 16m
//!     echo shared 4096 | nc 127.0.0.1 9000
//!
//! A client sends one line: a kind, and the bytes of each message. The kinds are those of [`Kind`], in small
//! letters. At its limits the server resets connections or drops messages. Like many handlers, this one never
//! looks at the result of a send.

use clap::Parser;
use examples::flags::{self, ServerFlags};
use net_core::framing::LengthPrefix;
use net_core::handler::FileRange;
use net_core::limits::OverflowPolicy;
use net_core::socket::SocketOptions;
use net_core::{Broadcast, Bytes, Conn, Handler, Input, LoopContext, Peer, ServerHandle};
use std::convert::Infallible;
use std::fs::File;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Owes each client what it asks for.
#[derive(Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    server: ServerFlags,
}

/// How often each client is sent more, and how many messages. Small messages are sent in larger numbers, or
/// the kernel would take all of them for too long.
const EVERY: Duration = Duration::from_millis(2);
const AT_ONCE: usize = 30;
const SMALL_AT_ONCE: usize = 300;
const SMALL: usize = 100;

/// How the messages are sent.
#[derive(Clone, Copy)]
enum Kind {
    /// A copy, by `send`.
    Own,
    /// One payload for all clients of this kind, by `send_shared`.
    Shared,
    /// A payload of its own for each client, by `send_shared`.
    Unique,
    /// A payload of its own, by `send_frame`.
    Framed,
    /// A range of this program's file.
    File,
    /// A copy, and a range of the file behind it.
    Mixed,
    /// A copy, and a `notify_sent` in front of it.
    Marked,
    /// By `send_with`, with each policy.
    Newest,
    Oldest,
    Conflated,
    /// As `Oldest`, and one payload for all.
    Lossy,
    /// By mail, from the loop to itself.
    Mailed,
    /// To every client, by a broadcast that drops the oldest.
    Broadcast,
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "own" => Self::Own,
            "shared" => Self::Shared,
            "unique" => Self::Unique,
            "framed" => Self::Framed,
            "file" => Self::File,
            "mixed" => Self::Mixed,
            "marked" => Self::Marked,
            "newest" => Self::Newest,
            "oldest" => Self::Oldest,
            "conflated" => Self::Conflated,
            "lossy" => Self::Lossy,
            "mailed" => Self::Mailed,
            "broadcast" => Self::Broadcast,
            _ => return Err(()),
        })
    }
}

struct Owing {
    handle: ServerHandle<Infallible>,
    file: Arc<File>,
    is_begun: bool,
    /// Counts messages, so that each may have a key of its own.
    number: u64,
}

#[derive(Default)]
struct Session {
    owed: Option<(Kind, usize)>,
}

impl Handler for Owing {
    type Session = Session;
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<Session> {
        Some(Session::default())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        while let Some(line) = input.take_line() {
            let line = String::from_utf8_lossy(line);
            let asked = line.split_once(' ').and_then(|(kind, len)| {
                Some((kind.parse().ok()?, len.trim().parse().ok().filter(|len| *len > 0)?))
            });
            match asked {
                Some(owed) => conn.session().owed = Some(owed),
                // Anything else comes back, as from an echo.
                None => _ = conn.send(format!("{line}\n").as_bytes()),
            }
        }
        if !std::mem::replace(&mut self.is_begun, true) {
            conn.event_loop().every(EVERY, 0);
        }
    }

    fn on_timer(&mut self, here: &mut LoopContext<'_, Self>, _tag: u64) {
        let mut shared: Option<Vec<Bytes>> = None;
        here.each(|conn| {
            let Some((kind, len)) = conn.session().owed else { return };
            let all = shared.get_or_insert_with(|| {
                let at_once = if len < SMALL { SMALL_AT_ONCE } else { AT_ONCE };
                (0..at_once).map(|n| Bytes::from(vec![n as u8; len])).collect()
            });
            for payload in all.iter() {
                self.number += 1;
                self.owe(conn, kind, payload.clone());
            }
        });
    }
}

impl Owing {
    fn owe(&mut self, conn: &mut Conn<'_, Self>, kind: Kind, payload: Bytes) {
        let len = payload.len();
        let copy = || payload.to_vec();
        let file = || FileRange::new(Arc::clone(&self.file), 0, len);
        // The outcome of each send is ignored: that is the purpose of this program.
        let _ = match kind {
            Kind::Own => conn.send(&payload),
            Kind::Shared => conn.send_shared(payload),
            Kind::Unique => conn.send_shared(copy().into()),
            Kind::Framed => {
                let shape = LengthPrefix::u32_be(len);
                conn.send_frame(&shape, copy().into()).expect("the shape allows as many")
            }
            Kind::File => conn.send_file(file()),
            Kind::Mixed => {
                let _ = conn.send(&payload);
                conn.send_file(file())
            }
            Kind::Marked => {
                conn.notify_sent(self.number);
                conn.send(&payload)
            }
            Kind::Newest => conn.send_with(copy(), OverflowPolicy::DropNewest),
            Kind::Oldest => conn.send_with(copy(), OverflowPolicy::DropOldest),
            // (Few enough keys that a search for each does not take a whole core.)
            Kind::Conflated => conn.send_with(copy(), OverflowPolicy::Conflate(self.number % 2000)),
            Kind::Lossy => conn.send_with(payload, OverflowPolicy::DropOldest),
            Kind::Mailed => {
                let _ = self.handle.send_with(conn.id(), copy(), OverflowPolicy::DropOldest);
                return;
            }
            Kind::Broadcast => {
                self.handle.broadcast(Broadcast::new(copy()).at_limit(OverflowPolicy::DropOldest));
                return;
            }
        };
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse().server;
    let _log = flags::start_log(flags.log);
    let _ = net_core::process::set_malloc_mmap_threshold(); // where the C library has no such setting, it does as it does
    // Little waits in the kernel, so that much waits here.
    let sockets = SocketOptions { send_buffer: Some(4 << 10), ..SocketOptions::default() };
    let server = match flags.server() {
        Ok(server) => server.sockets(sockets),
        Err(what) => return flags::fail(2, &what),
    };
    let file = match std::env::current_exe().and_then(File::open) {
        Ok(file) => Arc::new(file),
        Err(error) => return flags::fail(1, &format!("this program's own file: {error}")),
    };
    let make = move |place: &net_core::LoopInfo<Infallible>| Owing {
        handle: place.handle(),
        file: Arc::clone(&file),
        is_begun: false,
        number: 0,
    };
    let ended = server.run_with(make, |running| {
        let addrs: Vec<_> = running.addrs().iter().map(ToString::to_string).collect();
        flags::say_ready(&addrs.join(" "));
    });
    match ended {
        Ok(ended) => std::process::Termination::report(ended),
        Err(error) => flags::fail(1, &error.to_string()),
    }
}
