//! A multi-reactor network framework for servers with very many connections.
//!
//! One thread runs one loop. By default an acceptor hands connections to N loops in exact rotation. Each
//! loop has its own epoll, connection table, timer wheel and mailbox. The server's code is a [`Handler`]:
//! one instance on each loop, and a session for each connection. A callback takes received bytes and queues
//! bytes to send. The loop's turn receives and sends them.
//!
//! - [`Server`] starts the loops. [`Limits`] sets every bound. [`ServerHandle`] reaches the loops from other
//!   threads.
//! - [`Conn`] is a connection as a callback sees it. [`LoopContext`] is the loop that the callback runs on.
//! - `docs/ARCHITECTURE.md` has the picture. `docs/LIFE.md` has the state table of a connection's life.
#![deny(unsafe_code)]

// The floors, from the top down: a module uses only modules below it in this list.

mod server;

mod event_loop;

mod api;

mod connection;

mod threads;

mod accept;

mod features;

mod driver;

mod observe;

mod config;

mod base;

mod sys;

// Modules that only tests use.

#[path = "../tests/bound/mod.rs"]
#[cfg(test)]
mod bound;

#[path = "../tests/fuzzing/mod.rs"]
#[cfg(test)]
mod fuzzing;

pub use accept::trusted_proxies::{ParseTrustedProxiesError, TrustedProxies};
pub use api::conn::{Conn, Sender};
pub use api::handler::{Handler, PanicAction, Peer};
pub use api::loop_context::LoopContext;
pub use api::loop_spawner::{LoopSpawner, LoopTask};
pub use api::pool::{JobPanicked, Pool, PoolCounts, PoolFull};
pub use api::server_handle::ServerHandle;
pub use api::slices::{JobsFull, Slice};
pub use base::close_reason::{BadHeader, Callback, CloseReason, DeadlineKind, RefuseReason};
pub use base::error::{AdoptError, AdoptRejected, StartError};
pub use base::id::{ConnId, LOOPS_MAX, ParseConnIdError, SLOTS_MAX};
pub use config::limits::Limits;
pub use config::policy::{OverflowPolicy, WhenFull};
pub use config::rate::Rate;
pub use connection::outbox::SendOutcome;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub use event_loop::bench;
pub use features::broadcast::{Broadcast, BroadcastHandle, BroadcastReport};
pub use features::datagram::Datagram;
pub use features::dial::{Dial, DialRejected, Retry};
pub use features::timers::TimerId;
pub use features::topics::{TOPIC_NAME_MAX, TopicError};
pub use features::upstream_pool::{Checkin, Checkout, UpstreamLimits, UpstreamPool};
pub use observe::counters::{Counter, Snapshot};
pub use observe::log_writer::{LogGuard, LogWriter};
pub use server::load_balancer::Balance;
#[doc(hidden)] // for the examples, which read more of /proc
pub use server::machine::{BYTES_PER_IDLE_CONNECTION, Machine, ProbeError, proc_file};
pub use server::{Accept, CapacityReport, Ended, FdTable, LoopInfo, Loops, Running, Server, Wall};
pub use sys::addr::{Addr, AddrError, UnixName};
pub use sys::{
    Errno, Keepalive, PrivateTables, SocketOptions, Unfit, restore_for_child,
    set_malloc_mmap_threshold,
};
pub use threads::mailbox::PostError;

pub use bytes::Bytes;
pub use net_buffer::{
    ByteOrder, Delimiter, FileRange, Fixed, FrameError, Framing, Input, LengthPrefix, Lines,
    PrefixWidth, Searched,
};
pub use net_timer::Tick;

/// Compiles the README's example as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
