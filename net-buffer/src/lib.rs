//! The bytes of a connection: unread input, unsent output, and the pooled memory that holds both.
//!
//! ```text
//!   socket ─▶ receive block ─▶ Input ─▶ callback ─▶ Output ─▶ socket
//!                              │  ▲                 │
//!               unfinished end ▼  │ next bytes      │ own blocks, shared `Bytes`
//!                             Unread                │
//!                              └───── Block ◀─ Pool ┘
//! ```
//!
//! Promises:
//!
//! - An idle connection holds nothing here: [`Unread`] exists only while a message is unfinished,
//!   and an empty [`Output`] owns no block.
//! - Memory grows with the bytes that have arrived or were queued, never with the length that a peer
//!   announces. It shrinks again.
//! - Every limit is an argument. At a limit nothing is changed, and the caller gets an error.
//!
//! The caller does the rest: sockets, reading files, clocks, threads, and what a limit means for the
//! connection. All types belong to the thread of one loop. Only the payload inside a [`Bytes`] may be shared
//! with other threads.
//!
//! One connection between two callbacks:
//!
//! ```
//! use net_buffer::{Input, InputFull, Pool, Unread};
//!
//! const INPUT_BYTES_MAX: usize = 64 * 1024;
//!
//! /// Shows `arrived` to `callback`, behind what is kept already; keeps what the callback leaves.
//! fn deliver(
//!     arrived: &[u8],
//!     kept: &mut Option<Unread>,
//!     pool: &mut Pool,
//!     mut callback: impl FnMut(&mut Input<'_>),
//! ) -> Result<(), InputFull> {
//!     let Some(mut unread) = kept.take() else {
//!         let mut input = Input::new(arrived);
//!         callback(&mut input);
//!         if !input.is_empty() {
//!             *kept = Some(Unread::keep(input.peek(), pool, INPUT_BYTES_MAX)?);
//!         }
//!         return Ok(());
//!     };
//!     unread.append(arrived, pool, INPUT_BYTES_MAX)?;
//!     let mut input = Input::new(unread.as_slice());
//!     callback(&mut input);
//!     let taken = input.taken();
//!     unread.consume(taken);
//!     if unread.is_empty() {
//!         unread.release(pool);
//!     } else {
//!         unread.shrink(pool);
//!         *kept = Some(unread);
//!     }
//!     Ok(())
//! }
//!
//! let mut pool = Pool::new(1 << 20);
//! let mut kept = None;
//! let mut lines = Vec::new();
//! for arrived in [&b"HEL"[..], b"LO\r\nWOR", b"LD\n"] {
//!     deliver(arrived, &mut kept, &mut pool, |input| {
//!         while let Some(line) = input.take_line() {
//!             lines.push(String::from_utf8_lossy(line).into_owned());
//!         }
//!     })?;
//! }
//! assert_eq!(lines, ["HELLO", "WORLD"]);
//! assert!(kept.is_none());
//! # Ok::<(), InputFull>(())
//! ```

#![forbid(unsafe_code)]

// From the top down: a module uses only the modules below it.

mod input;

mod output;

mod file;

mod frame;

mod pool;

mod block;

mod pipe;

pub use block::{Block, CLASS_MIN, class_for};
pub use bytes::Bytes;
pub use file::FileRange;
pub use frame::{
    ByteOrder, Delimiter, Fixed, Frame, FrameError, Framing, LengthPrefix, Lines, PrefixWidth,
    Searched, find_line,
};
pub use input::{Input, InputFull, Unread};
pub use output::{Output, Replaced, SHARED_COPY_MAX, Waiting};
pub use pipe::Pipe;
pub use pool::Pool;
