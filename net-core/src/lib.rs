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

pub mod server;

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

// What nearly every server names is at the root. The rest is in a module for each subject.

pub use api::conn::Conn;
pub use api::handler::{Handler, Peer};
pub use api::loop_context::LoopContext;
pub use api::server_handle::ServerHandle;
pub use base::close_reason::CloseReason;
pub use base::error::StartError;
pub use base::id::ConnId;
pub use bytes::Bytes;
pub use config::limits::Limits;
pub use connection::outbox::SendOutcome;
pub use features::broadcast::Broadcast;
pub use features::dial::Dial;
pub use features::timers::TimerId;
pub use net_buffer::Input;
pub use net_timer::Tick;
pub use server::{LoopInfo, Loops, Running, Server};
pub use sys::addr::Addr;

/// What callbacks name beside [`Handler`] and [`Conn`]: reasons, what the end of a callback tells, and the
/// way to a loop from another thread.
pub mod handler {
    pub use crate::api::conn::Sender;
    pub use crate::api::handler::PanicAction;
    pub use crate::api::loop_spawner::{LoopSpawner, LoopTask};
    pub use crate::base::close_reason::{BadHeader, Callback, DeadlineKind, RefuseReason};
    pub use crate::base::id::ParseConnIdError;
    pub use crate::threads::mailbox::PostError;
    pub use net_buffer::FileRange;
}

/// The types of the fields of [`Limits`], and the bounds that no limit can exceed.
pub mod limits {
    pub use crate::base::id::{LOOPS_MAX, SLOTS_MAX};
    pub use crate::config::policy::{OverflowPolicy, WhenFull};
    pub use crate::config::rate::Rate;
}

/// Where a message ends: framings that an [`Input`] is searched with.
pub mod framing {
    pub use net_buffer::{
        ByteOrder, Delimiter, Fixed, FrameError, Framing, LengthPrefix, Lines, PrefixWidth,
        Searched,
    };
}

/// Connections that a loop opens: a [`Dial`], and pools of connections to an upstream server.
pub mod dial {
    pub use crate::features::dial::{DialRejected, Retry};
    pub use crate::features::upstream_pool::{Checkin, Checkout, UpstreamLimits, UpstreamPool};
}

/// One message to many connections: a [`Broadcast`], its report, and topics.
pub mod broadcast {
    pub use crate::features::broadcast::{BroadcastHandle, BroadcastReport};
    pub use crate::features::topics::{TOPIC_NAME_MAX, TopicError};
}

/// Work that takes longer than a callback may: a pool of threads that may block, and jobs in slices.
pub mod jobs {
    pub use crate::api::pool::{JobPanicked, Pool, PoolCounts, PoolFull};
    pub use crate::api::slices::{JobsFull, Slice};
}

/// Addresses, socket options, datagrams, and the proxies whose headers are believed.
pub mod socket {
    pub use crate::accept::trusted_proxies::{ParseTrustedProxiesError, TrustedProxies};
    pub use crate::features::datagram::Datagram;
    pub use crate::sys::addr::{AddrError, UnixName};
    pub use crate::sys::{Errno, Keepalive, SocketOptions};
}

/// What the loops count, as `/metrics` and a [`Running`] server show it.
pub mod metrics {
    pub use crate::observe::counters::{Counter, Snapshot};
}

/// What the whole process shares: standard error, child processes, and the C library's allocator.
pub mod process {
    pub use crate::observe::log_writer::{LogGuard, LogWriter};
    #[doc(hidden)] // for the examples, which read more of /proc
    pub use crate::server::machine::{BYTES_PER_IDLE_CONNECTION, Machine, ProbeError, proc_file};
    pub use crate::sys::{restore_for_child, set_malloc_mmap_threshold};
}

#[cfg(feature = "bench")]
#[doc(hidden)]
pub use event_loop::bench;

/// Compiles the README's example as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
