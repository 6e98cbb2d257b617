//! Publish and subscribe: a line that is published to a topic goes to every client that has subscribed to the
//! topic.
//!
//!     cargo run --release --bin hub -- --listen 127.0.0.1:9000
//!     nc -C 127.0.0.1 9000
//!
//! The protocol is that of muduo's hub, in lines that end with CR LF or LF:
//!
//!     sub TOPIC
//!     unsub TOPIC
//!     pub TOPIC, and in the next line the content
//!
//! With `--heartbeat 30s`, a client that has been quiet for so long gets a line `ping`. It may answer `pong`.
//! With `--idle-timeout 60s` too, a client that says nothing at all is closed.
//!
//! A subscriber gets `pub TOPIC` and the line, unchanged. Any other line gets one line that begins with
//! `error`, and the connection is closed.
//! begins with `error`, and is the connection's last.

use clap::Parser;
use examples::flags::{self, ServerFlags};
use net_core::broadcast::BroadcastHandle;
use net_core::handler::DeadlineKind;
use net_core::{
    Broadcast, Bytes, CloseReason, Conn, Handler, Input, LoopContext, LoopInfo, Peer, ServerHandle,
};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

/// Sends what is published to everyone who has subscribed.
#[derive(Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    server: ServerFlags,
    /// Send `ping` to a client that has been quiet for so long (0: never)
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = flags::parse_time)]
    heartbeat: Duration,
}

/// A longer line closes its connection.
const LINE_MAX: usize = 4096;

/// Messages of one publisher that are on their way at once. Further messages wait, and so does the publisher.
const UNDER_WAY: usize = 8;

/// Messages of all publishers that are on their way at once. A loop has room for so many broadcasts
/// (`Limits::broadcasts_max`), and misses a further broadcast. So the publishers of each loop get an equal
/// part.
const UNDER_WAY_IN_ALL: usize = 64;

/// How often a waiting publisher is checked.
const LOOK_EVERY: Duration = Duration::from_millis(2);

struct Hub {
    all: ServerHandle<Infallible>,
    /// Messages of this loop's publishers that are on their way.
    under_way: Vec<BroadcastHandle>,
}

#[derive(Default)]
struct Session {
    /// The topic of a `pub` whose second line has not come yet.
    publishing: Option<Box<[u8]>>,
    under_way: VecDeque<BroadcastHandle>,
}

/// What is wrong with a line. The text is sent to the peer.
type Wrong = String;

impl Hub {
    fn line(&mut self, conn: &mut Conn<'_, Self>, line: &[u8]) -> Result<(), Wrong> {
        if line.len() > LINE_MAX {
            return Err(format!("a line of {} bytes: at most {LINE_MAX} are allowed", line.len()));
        }
        if let Some(topic) = conn.session().publishing.take() {
            self.publish(conn, &topic, line);
            return Ok(());
        }
        if line == b"pong" {
            return Ok(()); // a sign of life
        }
        let space = line.iter().position(|byte| *byte == b' ');
        let (command, topic) = line.split_at(space.unwrap_or(line.len()));
        let topic = topic.trim_ascii();
        if topic.is_empty() {
            return Err(format!("{:?} names no topic", String::from_utf8_lossy(line)));
        }
        match command {
            b"sub" => conn.subscribe(topic).map(drop).map_err(|error| error.to_string()),
            b"unsub" => {
                conn.unsubscribe(topic);
                Ok(())
            }
            b"pub" => {
                conn.session().publishing = Some(topic.into());
                Ok(())
            }
            _ => Err(format!("no such command: {:?}", String::from_utf8_lossy(command))),
        }
    }

    fn publish(&mut self, conn: &mut Conn<'_, Self>, topic: &[u8], content: &[u8]) {
        let message = Bytes::from([b"pub ", topic, b"\r\n", content, b"\r\n"].concat());
        let broadcast = Broadcast::new(message).to_topic(Bytes::copy_from_slice(topic));
        let delivery = self.all.broadcast(broadcast.then(|report| {
            if report.loops_missed > 0 {
                tracing::warn!(loops = report.loops_missed, "a message was not sent by some loops");
            }
        }));
        self.under_way.push(delivery.clone());
        conn.session().under_way.push_back(delivery);
    }

    /// Whether this loop's publishers together may have one more message on its way.
    fn has_room(&mut self) -> bool {
        let most = (UNDER_WAY_IN_ALL / self.all.loops()).max(1);
        if self.under_way.len() >= most {
            self.under_way.retain(|delivery| !delivery.is_over());
        }
        self.under_way.len() < most
    }

    /// Whether the publisher may go on. If not, it is checked again soon.
    fn may_publish(&mut self, conn: &mut Conn<'_, Self>) -> bool {
        let under_way = &mut conn.session().under_way;
        while under_way.front().is_some_and(BroadcastHandle::is_over) {
            under_way.pop_front();
        }
        let may = under_way.len() < UNDER_WAY && self.has_room();
        conn.set_deadline((!may).then_some(LOOK_EVERY));
        may
    }
}

impl Handler for Hub {
    type Session = Session;
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<Session> {
        Some(Session::default())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        while self.may_publish(conn) {
            let Some(line) = input.take_line() else {
                if input.len() > LINE_MAX {
                    fail(conn, &format!("a line of more than {LINE_MAX} bytes"));
                }
                return;
            };
            if let Err(wrong) = self.line(conn, line) {
                return fail(conn, &wrong);
            }
        }
        // The rest of `input` comes again after the resume.
        conn.pause();
    }

    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>) {
        if conn.close_reason() != Some(CloseReason::Deadline(DeadlineKind::Own)) {
            conn.close();
        } else if self.may_publish(conn) {
            conn.resume();
        }
    }

    fn on_heartbeat(&mut self, conn: &mut Conn<'_, Self>) {
        let _ = conn.send(b"ping\r\n"); // refused: the connection is ending
    }

    fn on_message(&mut self, _here: &mut LoopContext<'_, Self>, message: Infallible) {
        match message {}
    }
}

fn fail(conn: &mut Conn<'_, Hub>, wrong: &str) {
    let _ = conn.send(format!("error: {wrong}\r\n").as_bytes()); // refused: the connection is ending already
    conn.close();
}

fn main() -> ExitCode {
    let mut flags = Flags::parse();
    flags.server.heartbeat_interval = Some(flags.heartbeat).filter(|time| !time.is_zero());
    flags::run(&flags.server, |place: &LoopInfo<Infallible>| Hub {
        all: place.handle(),
        under_way: Vec::new(),
    })
}
