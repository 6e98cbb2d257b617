//! Everything that calls libc. No other module of the libraries may contain `unsafe`.
//!
//! What this module offers is safe to call in any order, by any caller. It has no policy: it returns what the
//! kernel reported, as values, and the floors above decide.
#![allow(unsafe_code)]

pub(crate) mod addr;
pub(crate) mod affinity;
pub(crate) mod child;
pub(crate) mod cpu_clock;
mod datagrams;
pub(crate) mod descriptors;
pub(crate) mod epoll;
mod errno;
pub(crate) mod foreign;
mod kernel;
mod malloc;
mod options;
mod pipe;
pub(crate) mod process;
pub(crate) mod rights;
pub(crate) mod signals;
mod socket;
mod udp_control;
mod unix;
mod waker;

pub use child::restore_for_child;
pub(crate) use datagrams::{BATCH, Ends, Inbound, UdpMessage};
pub use descriptors::PrivateTables;
use epoll::Epoll;
#[cfg(any(test, feature = "bench"))]
pub(crate) use epoll::Event;
pub(crate) use epoll::Events;
pub use errno::Errno;
pub use foreign::Unfit;
#[cfg(test)]
pub(crate) use kernel::fault;
pub(crate) use kernel::{Kernel, Linux};
pub use malloc::set_malloc_mmap_threshold;
pub(crate) use options::{DatagramOptions, ListenOptions};
pub use options::{Keepalive, SocketOptions};
#[cfg(test)]
pub(crate) use socket::SIM_BASE;
pub(crate) use socket::{DialOptions, Socket};
pub(crate) use unix::SocketFile;
#[cfg(test)]
pub(crate) use unix::refuse_descriptors;
pub(crate) use waker::Waker;
