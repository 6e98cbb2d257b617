//! `Mail`: what other threads post to a loop, and how much of it may wait.

use crate::accept::admission::Arrival;
use crate::base::id::ConnId;
use crate::config::policy::OverflowPolicy;
use crate::features::broadcast::Part;
use crate::observe::connection_query::PendingQuery;
use crate::threads::resolver::LookupResult;
use bytes::Bytes;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An item of mail, which other threads post to a loop.
pub(crate) enum Mail<M> {
    Message(M),
    Bytes(ConnId, Bytes),
    /// In a box: it is larger than the rest, and rare.
    BytesOr(Box<(ConnId, Bytes, OverflowPolicy)>),
    Close(ConnId),
    /// In a box, as `BytesOr`.
    Arrival(Box<Arrival>),
    Ask(Arc<PendingQuery>),
    /// In a box, as an arrival.
    Resolved(Box<LookupResult>),
    /// Something was posted beyond the mailbox's bound.
    Beyond,
    /// The loop's part of a broadcast. If it is dropped unread, its drop counts that this loop missed it.
    Broadcast(Part),
    /// A `Task` for the handler of this loop.
    Task(Box<dyn Any + Send>),
}

impl<M> Mail<M> {
    /// Bytes that the item carries.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Mail::Bytes(_, bytes) => bytes.len(),
            Mail::BytesOr(addressed) => addressed.1.len(),
            Mail::Broadcast(part) => part.bytes().len(),
            _ => 0,
        }
    }
}

/// A bound on the bytes that wait for a loop. Only a count: the mailbox orders what is posted.
pub(crate) struct MailWeight {
    bytes: AtomicUsize,
    most: usize,
}

impl MailWeight {
    pub(crate) fn new(most: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), most }
    }

    /// `bytes` bytes more are about to be posted. False: too many wait.
    pub(crate) fn enter(&self, bytes: usize) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_taken = before == 0 || before.saturating_add(bytes) <= self.most;
        if !is_taken {
            self.leave(bytes);
        }
        is_taken
    }

    /// `bytes` bytes wait no more.
    pub(crate) fn leave(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}
