//! A multi-reactor network framework for servers with very many connections.
//!
//! One thread runs one loop. An acceptor hands connections to N loops in exact rotation, and each
//! loop has its own epoll, connection table, timer wheel and mailbox. A server's code is a
//! [`Handler`]: one instance on each loop, and a session for each connection. A callback is given
//! bytes and leaves bytes; the loop's turn moves them.
//!
//! - [`Server`] starts it; [`Limits`] bounds it; [`Remote`] reaches its loops from other threads.
//! - [`Conn`] is a connection, as a callback sees it; [`Loop`] the loop it runs on.
//! - `docs/ARCHITECTURE.md` has the picture; `docs/LIFE.md` the table of a connection's life.
#![deny(unsafe_code)]

mod accepting;
mod acceptor;
mod addr;
mod admin;
mod arrival;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
#[cfg(test)]
#[path = "../tests/bound/mod.rs"]
mod bound;
mod broadcast;
mod closed;
mod conn;
mod connection;
mod cork;
mod courier;
mod datagram;
mod dial;
mod doorbell;
mod driver;
mod entrances;
mod error;
mod event_loop;
#[cfg(test)]
mod fuzzing;
mod gate;
mod handler;
mod handover;
mod here;
mod hub;
mod id;
mod ledger;
mod life;
mod limits;
mod listener;
mod log_writer;
mod loop_state;
mod machine;
mod mailbox;
mod outbox;
mod pace;
mod panics;
mod placement;
mod policy;
mod pool;
mod proxy_header;
mod pulse;
mod rate;
mod readiness;
mod resolver;
mod runner;
mod server;
mod sleep;
mod slices;
mod sources;
mod splitmix;
mod stalls;
mod standstill;
mod stats;
mod survey;
mod sync;
mod sys;
mod table;
mod timers;
mod topics;
mod trusted;
mod upstreams;

pub use addr::{Addr, AddrError, UnixName};
pub use broadcast::{Broadcast, Delivery, Report};
pub use closed::{BadHeader, Callback, Closed, Which, Why};
pub use conn::{Conn, Sender};
pub use datagram::Datagram;
pub use dial::{Dial, NotDialled, Retry};
pub use error::{AdoptError, StartError, Unadopted};
pub use handler::{Handler, Keep, Peer};
pub use here::Loop;
pub use hub::Remote;
pub use id::{ConnId, LOOPS_MAX, NoConnId, SLOTS_MAX};
pub use limits::Limits;
pub use log_writer::{LogGuard, LogWriter};
#[doc(hidden)] // for the examples, which read more of /proc
pub use machine::proc_file;
pub use machine::{BYTES_PER_IDLE_CONNECTION, LookError, Machine};
pub use mailbox::PostError;
pub use outbox::Queued;
pub use placement::Balance;
pub use policy::{AtLimit, WhenFull};
pub use pool::{JobPanicked, Pool, PoolCounts, PoolFull};
pub use rate::Rate;
pub use runner::{Runner, Work};
pub use server::{Accept, Diagnosis, Ended, FdTable, Loops, Place, Running, Server, Wall};
pub use slices::{JobsFull, Slice};
pub use stats::{Counter, Snapshot};
pub use sys::{
    Errno, Keepalive, PrivateTables, SocketOptions, Unfit, restore_for_child, return_large_blocks,
};
pub use timers::TimerId;
pub use topics::{TOPIC_NAME_MAX, TopicError};
pub use trusted::{TrustedError, TrustedProxies};
pub use upstreams::{Asked, Freed, UpstreamLimits, Upstreams};

pub use bytes::Bytes;
pub use net_buffer::{
    Delimiter, FileRange, Fixed, FrameError, Framing, Input, LengthPrefix, Lines, Order, Searched,
    Width,
};
pub use net_timer::Tick;

/// The README's example compiles too.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
