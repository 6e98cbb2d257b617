//! What the server of the soak and its clients say to each other, and to the parent process.
//!
//! A connection that is let in is told so by one byte, [`LET_IN`]; one that is not, by [`REFUSAL`]. Then
//! the client asks in lines. An answer is a line, or the bytes that the client can tell by itself.
//!
//! | line | what comes |
//! |---|---|
//! | `echo` | from now on everything comes back |
//! | `slow RATE` | the same, at so many bytes a second both ways |
//! | `tunnel`, `pair` | from now on the client speaks to a connection that the server has dialled to itself |
//! | `file FROM LEN` | `sending`, and so many bytes of the file, by sendfile; or `set_busy` |
//! | `stream SEED LEN` | so many bytes of that stream, as the client reads them; then the end |
//! | `flood POLICY COUNT` | so many numbered messages at once, whatever the client reads; then the end |
//! | `frame SEED LEN` | a frame of so many bytes of that stream |
//! | `sub TOPIC`, `unsub TOPIC` | `subscribed`, `unsubscribed` |
//! | `pub TOPIC TEXT` | the text as a line to all subscribers; then `published DELIVERED QUEUED DROPPED MISSED` |
//! | `pool N`, `slices N`, `ask N`, `hop N` | `answer N+1`: by the pool, in slices, by a connection dialled for it, by another loop; or `set_busy` |
//! | `panic pool` | `panicked`, since the job did |
//! | `timer MS`, `ticks MS COUNT` | `tick` after that time; each time it has passed |
//! | `datagram ADDR TEXT` | the text as a datagram to that address |
//! | `adopt` | `adopted`: the server has given itself a connection |
//! | `end HOW` | the end: by `finish`, `close`, `reset`, `idle`, `deadline` or `panic` |

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Told to each connection that is let in.
pub const LET_IN: &[u8] = b"+";
/// Told to a client that is not.
pub const REFUSAL: &[u8] = b"-full\n";
/// A longer line closes its connection.
pub const LINE_MAX: usize = 1024;
/// The topic's message, of a heartbeat, to a subscriber.
pub const BEAT: &str = "beat";

/// The stream that the file has, and its length.
pub const FILE_STREAM: u64 = 4711;
/// See [`FILE_STREAM`].
pub const FILE_BYTES: usize = 3 << 20;

/// A message of a flood: its number, and then bytes of the stream of that number.
pub const MESSAGE_BYTES: usize = 1024;
/// Messages of one flood at most: more than the output limit.
pub const FLOOD_MAX: usize = 1500;
/// Bytes of one frame at most.
pub const FRAME_MAX: usize = 60_000;

/// The first line that the server writes: where it serves.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Ready {
    /// Its TCP listeners: the first at the address that it was given.
    pub tcp: Vec<SocketAddr>,
    /// A listener for proxies alone.
    pub proxied: SocketAddr,
    /// The path of its Unix socket.
    pub unix: String,
    /// Where it receives datagrams.
    pub udp: SocketAddr,
    /// Its admin endpoint.
    pub admin: SocketAddr,
}

/// The last line that the server writes: what it counted, and what it left.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Books {
    /// Each counter, by its name.
    pub counts: BTreeMap<String, u64>,
    /// How many connections closed, by reason.
    pub closed: BTreeMap<String, u64>,
    /// Jobs that the pool took, and answers that it has counted as used or dropped.
    pub pool: (u64, u64),
    /// Threads and descriptors of the process that were not there before the start.
    pub left: (u64, u64),
}

impl Books {
    /// One counter.
    pub fn get(&self, counter: &str) -> u64 {
        self.counts.get(counter).copied().unwrap_or(0)
    }

    /// Connections that came in any way.
    pub fn came(&self) -> u64 {
        ["accepted", "dialled", "adopted"].map(|way| self.get(way)).iter().sum()
    }

    /// What does not balance, in a sentence each.
    pub fn wrong(&self) -> Vec<String> {
        let (came, open) = (self.came(), self.get("open"));
        let closed: u64 = self.closed.values().sum();
        let mut wrong = Vec::new();
        if came != open + closed || open != 0 {
            wrong.push(format!("{came} connections came, {open} are open, {closed} closed"));
        }
        if self.pool.0 != self.pool.1 {
            wrong.push(format!(
                "the pool took {} jobs and counts {} answers",
                self.pool.0, self.pool.1
            ));
        }
        if self.left != (0, 0) {
            let (threads, descriptors) = self.left;
            wrong.push(format!("{threads} threads and {descriptors} descriptors are left"));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_that_do_not_balance_are_told() {
        let mut books = Books::default();
        books.counts.insert("accepted".into(), 3);
        books.counts.insert("dialled".into(), 1);
        books.closed.insert("local".into(), 4);
        assert!(books.wrong().is_empty());
        books.closed.insert("peer_reset".into(), 1);
        (books.pool, books.left) = ((2, 1), (1, 0));
        assert_eq!(books.wrong().len(), 3, "{:?}", books.wrong());
    }
}
