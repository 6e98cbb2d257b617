//! The atomics of the sleep word and of the mailbox's close gate, in one place so that they can be
//! exchanged.
//!
//! `tests/loom_sleep.rs` compiles the same sources over a module of this name which offers loom's
//! atomics, so what is model-checked is the very text that runs here.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
pub(crate) use std::thread::yield_now;
