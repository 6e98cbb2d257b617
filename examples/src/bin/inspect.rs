//! A toy server to look at from inside: its commands do what the admin endpoint shows.
//!
//!     cargo run --release --bin inspect -- --listen 127.0.0.1:9000 --admin 127.0.0.1:9001
//!     nc 127.0.0.1 9000
//!     curl 127.0.0.1:9001/metrics
//!     curl "127.0.0.1:9001/connections?top=3&by=queue"
//!     curl "127.0.0.1:9001/connections?top=3&by=cpu"
//!
//! Its lines:
//!
//!     sleep MS      holds the loop up: /metrics counts a stall, the log names the callback, and
//!                   the client that sent it is first in /connections?by=cpu
//!     owe BYTES     sends so much: a client that does not read is first in /connections?by=queue
//!     anything else comes back

use clap::Parser;
use examples::flags::{self, ServerFlags};
use net_core::framing::{Lines, Searched};
use net_core::{Conn, Handler, Input, Peer, SendOutcome};
use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

/// A toy server with an admin endpoint.
#[derive(Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    server: ServerFlags,
}

/// A longer line closes its connection.
const LINES: Lines = Lines::new(1024);

/// The longest sleep, and the most bytes that are owed at once, so that the toy is no weapon.
const SLEEP_MS_MAX: u64 = 2_000;
const OWED_MAX: usize = 512 << 10;

/// How long a callback runs until it is a stall, unless `--stall-threshold` says otherwise.
const STALL: Duration = Duration::from_millis(50);

struct Toy;

impl Toy {
    fn line(conn: &mut Conn<'_, Self>, line: &[u8]) -> SendOutcome {
        let text = String::from_utf8_lossy(line);
        let (command, number) = text.split_once(' ').unwrap_or((&text, ""));
        let answer = match (command, number.trim().parse::<u64>()) {
            ("sleep", Ok(ms)) if ms <= SLEEP_MS_MAX => {
                // No callback should do this. It shows the stall.
                std::thread::sleep(Duration::from_millis(ms));
                format!("slept {ms} ms\n")
            }
            ("owe", Ok(bytes)) if bytes <= OWED_MAX as u64 => {
                let _ = conn.send_shared(vec![b'.'; bytes as usize].into()); // refused as the answer below
                "\n".to_owned()
            }
            ("sleep" | "owe", _) => {
                format!("error: up to sleep {SLEEP_MS_MAX}, and owe {OWED_MAX}\n")
            }
            _ => format!("{text}\n"),
        };
        conn.send(answer.as_bytes())
    }
}

impl Handler for Toy {
    type Session = Searched;
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<Searched> {
        Some(Searched::default())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        loop {
            match input.take_frame(LINES.after(conn.session())) {
                // Above its high watermark, the rest of the input waits, and comes again when there is room.
                Ok(Some(line)) if Self::line(conn, line) != SendOutcome::Queued => return,
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(error) => {
                    let _ = conn.send(format!("error: {error}\n").as_bytes()); // refused: it ends anyway
                    return conn.close();
                }
            }
        }
    }
}

fn main() -> ExitCode {
    let mut flags = Flags::parse().server;
    if flags.stall_threshold.is_zero() {
        flags.stall_threshold = STALL;
    }
    flags.time_callbacks = true;
    if flags.admin.is_none() {
        eprintln!("inspect: there is nothing to look at without --admin ADDR");
    }
    flags::run(&flags, |_place| Toy)
}
