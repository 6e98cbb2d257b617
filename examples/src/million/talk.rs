//! The messages between the parent and its two halves: one JSON object per line, orders on standard input,
//! news on standard output.
//!
//! If the standard input of a half ends, the parent is gone, and the half stops. So nothing is left behind,
//! however the parent ends.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::asked::Accept;
use super::report::RttUs;
use super::sources::Share;
use super::tables::Tables;

/// What the server is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerOrder {
    /// Start. Answered by `Listening`.
    Begin(ServerSetup),
    /// Send this to every connection, at this rate.
    Broadcast {
        /// The bytes that each connection gets, once.
        payload: String,
        /// Sends in a second, over all loops.
        per_second: u64,
        /// Pages of unread bytes at which the sending pauses.
        unread_messages_max: u64,
    },
    /// Drain, at this rate. Answered by `Ended`.
    Drain {
        /// Closes in a second, over all loops.
        per_second: u64,
    },
    /// Reset everything and end.
    Stop,
}

/// How the server is set up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerSetup {
    /// Where it listens; port 0 is chosen by the kernel.
    pub listen: SocketAddr,
    /// Its loops and their descriptor tables.
    pub tables: Tables,
    /// How it accepts.
    pub accept: Accept,
    /// The most connections; `None` is what the tables hold.
    pub connections_max: Option<u64>,
    /// Connections that it must have places for.
    pub connections: u64,
    /// The address of the admin endpoint, if there is one.
    pub admin: Option<String>,
    /// Callbacks are timed, for the admin endpoint.
    pub time_callbacks: bool,
}

/// What the server tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerNews {
    /// It listens there.
    Listening(SocketAddr),
    /// How it stands, several times a second.
    State(ServerState),
    /// It has ended in order.
    Ended(Books),
    /// It cannot go on: one sentence.
    Failed(String),
}

/// The server at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    /// Connections open, as its loops count.
    pub open: u64,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections that the broadcast was sent to.
    pub announced: u64,
}

/// The books of a half that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// Connections accepted or dialled.
    pub came: u64,
    /// Connections still in a table.
    pub open: u64,
    /// Connections closed, by reason; reasons without any are left out.
    pub closed: BTreeMap<String, u64>,
    /// True if each connection of `came` is open, or closed for a reason.
    pub balance: bool,
    /// Descriptors more than before the half began.
    pub descriptors_left: u64,
}

impl Books {
    /// True if each connection was closed, and nothing is left.
    pub fn are_closed(&self) -> bool {
        self.balance && self.open == 0 && self.descriptors_left == 0
    }
}

/// What the swarm is told. Each is answered by `Done`, at once or when it has been done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwarmOrder {
    /// Start the loops; connect nothing yet.
    Begin(SwarmSetup),
    /// Open all connections.
    Connect,
    /// Every connection sends its phrase and compares the answer.
    Verify,
    /// So many connections send once in each period, by the clock.
    Hold {
        /// How many.
        active: u64,
        /// Milliseconds between two sends of one connection.
        period_ms: u64,
    },
    /// End the hold: no more pings.
    Rest,
    /// Report the round trips of the phase so far, by `RoundTrips`, and begin anew.
    Figures,
    /// The server will send this to each connection.
    Expect {
        /// What every connection must receive.
        payload: String,
    },
    /// Close every second connection, at this rate; all of them if the server will close none.
    Close {
        /// Closes in a second, over all loops.
        per_second: u64,
        /// Whether half is left for the server to close.
        half: bool,
    },
    /// From now on the server may end connections.
    ServerEnds,
    /// Close the connections that are left and end. Answered by `Ended`.
    Leave,
    /// Reset everything and end.
    Stop,
}

/// How the swarm is set up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwarmSetup {
    /// The address to connect to.
    pub target: SocketAddr,
    /// Its loops and their descriptor tables.
    pub tables: Tables,
    /// What each loop opens.
    pub shares: Vec<Share>,
    /// Local addresses to come from, in turn. Empty: the addresses of the shares if the target is on
    /// loopback, otherwise the system's choice.
    pub sources: Vec<IpAddr>,
    /// The seed of the phrases.
    pub seed: u64,
    /// Connects that may be under way at once, over all loops.
    pub connects_in_flight_max: u64,
    /// Phrases that may be under way at once while verifying, over all loops.
    pub phrases_in_flight_max: u64,
}

/// What the swarm tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwarmNews {
    /// The last order was taken by every loop.
    Done,
    /// How it stands, several times a second.
    State(SwarmState),
    /// Round trips since the last time they were asked for.
    RoundTrips(RttUs),
    /// It has ended in order.
    Ended(Books),
    /// It cannot go on: one sentence.
    Failed(String),
}

/// The swarm at one moment. All but `open` only grow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SwarmState {
    /// Connections that are up and answered.
    pub open: u64,
    /// Connections that came up.
    pub connected: u64,
    /// Milliseconds from the order to connect to the last connection that came up.
    pub connect_ms: u64,
    /// Dials that failed and were tried again.
    pub retried: u64,
    /// Connections given up after several dials.
    pub given_up: u64,
    /// The reason of the first dial that failed.
    pub dial_failure: Option<String>,
    /// Connections that got back their phrase.
    pub right: u64,
    /// Connections that got anything else, at any time.
    pub wrong: u64,
    /// Pings sent.
    pub pings: u64,
    /// Pings answered.
    pub pongs: u64,
    /// Connections that received the broadcast.
    pub delivered: u64,
    /// Connections the swarm closed.
    pub closed: u64,
    /// Connections the server ended when it was told to.
    pub ended: u64,
    /// Connections that ended before anyone was told to.
    pub lost: u64,
    /// The same by reason.
    pub lost_by: BTreeMap<String, u64>,
    /// 99 of 100 round trips in the last full second were at most this, in microseconds; null
    /// where none ended.
    pub p99_us: Option<f64>,
}

/// Starts the thread that reads orders. The channel ends when the parent does.
///
/// # Errors
/// When the thread cannot be started.
pub fn orders<T: DeserializeOwned + Send + 'static>() -> io::Result<Receiver<T>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().name("orders".into()).spawn(move || {
        for line in io::stdin().lock().lines() {
            // A line that is no order does not come from the parent. It counts as the end.
            let Some(order) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else {
                return;
            };
            if sender.send(order).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Sends news to the parent. If the parent is gone, the orders end too, so a failure here is ignored.
pub fn tell<T: Serialize>(news: &T) {
    if let Ok(line) = serde_json::to_string(news) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush()); // see above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_is_one_line() {
        let orders = [
            SwarmOrder::Connect,
            SwarmOrder::Hold { active: 3, period_ms: 1_000 },
            SwarmOrder::Expect { payload: "two\nlines".into() },
        ];
        for order in orders {
            let line = serde_json::to_string(&order).unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<SwarmOrder>(&line).unwrap(), order);
        }
    }

    #[test]
    fn closed_books_have_nothing_left() {
        let books = Books { balance: true, came: 3, ..Books::default() };
        assert!(books.are_closed());
        assert!(!Books { open: 1, ..books.clone() }.are_closed());
        assert!(!Books { descriptors_left: 1, ..books }.are_closed());
    }
}
