//! `Admission`: which clients are let in.
//!
//! It limits the connections of the whole process, the connections of one source, and the clients accepted
//! per second.

use crate::accept::accept_rate::AcceptRate;
use crate::accept::per_source_limit::{PerSourceLimit, Source};
use crate::base::close_reason::RefuseReason;
use crate::config::limits::Limits;
use crate::sys::Socket;
use crate::sys::addr::Addr;
use bytes::Bytes;
use net_timer::Tick;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts connections from accept to close, over all loops.
#[derive(Debug)]
pub(crate) struct Admission {
    // A count: nothing else is published by it, so relaxed order is enough.
    inside: AtomicUsize,
    max: usize,
    /// Connections that may be in above `max` until a loop has made room.
    spare: usize,
    /// `None`: sources are not limited.
    sources: Option<PerSourceLimit>,
    /// `None`: the accept rate is not limited.
    accept_rate: Option<AcceptRate>,
    /// The bytes that a client gets when it is not let in. Empty: the client gets none.
    refusal: Bytes,
}

impl Admission {
    pub(crate) fn new(max: usize, limits: &Limits) -> Self {
        let accept_rate = limits.accept_rate.map(|rate| AcceptRate::new(rate, limits.accept_burst));
        let sources = PerSourceLimit::new(limits);
        let (inside, spare) = (AtomicUsize::new(0), limits.when_full.spare());
        Self { inside, max, spare, sources, accept_rate, refusal: Bytes::new() }
    }

    /// Sends `refusal` to each client that is not let in.
    pub(crate) fn with_refusal(self, refusal: Bytes) -> Self {
        Self { refusal, ..self }
    }

    pub(crate) fn refusal(&self) -> &Bytes {
        &self.refusal
    }

    /// Takes a token of the accept rate. The error is the time at which the next client may be accepted.
    pub(crate) fn take_token(&self, now: Tick) -> Result<(), Tick> {
        self.accept_rate.as_ref().map_or(Ok(()), |accept_rate| accept_rate.take(now))
    }

    /// Puts a token back: no client was there.
    pub(crate) fn return_token(&self) {
        if let Some(accept_rate) = &self.accept_rate {
            accept_rate.put_back();
        }
    }

    /// Takes a place for a client that comes from `from`. `None`: its source is not known yet.
    pub(crate) fn enter(self: &Arc<Self>, from: Option<&Addr>) -> Result<Permit, RefuseReason> {
        let one_more = |n| (n < self.max.saturating_add(self.spare)).then_some(n + 1);
        let entered = self.inside.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        let before = entered.map_err(|_| RefuseReason::Full)?;
        let is_over = before >= self.max;
        let mut permit = Permit { admission: Some(Arc::clone(self)), source: None, is_over };
        match from {
            Some(from) if !permit.comes_from(from) => Err(RefuseReason::PerSource),
            _ => Ok(permit),
        }
    }

    /// Takes a place without asking for the limit: for connections that the server dials. They are bounded
    /// elsewhere.
    pub(crate) fn enter_anyway(&self) {
        self.inside.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes a permit again for a place that was kept while the connection passed through the fd channel.
    pub(crate) fn take_over(self: &Arc<Self>, from: Option<&Addr>, is_over: bool) -> Permit {
        let source = self.sources.as_ref().zip(from).and_then(|(sources, from)| sources.of(from));
        Permit { admission: Some(Arc::clone(self)), source, is_over }
    }

    /// Gives back a place whose permit was [kept](Permit::keep).
    pub(crate) fn leave(&self, source: Option<Source>) {
        let before = self.inside.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "more connections left than entered");
        if let (Some(sources), Some(source)) = (&self.sources, source) {
            sources.leave(source);
        }
    }

    /// Whether no more connections are in than the limit allows.
    pub(crate) fn has_room(&self) -> bool {
        self.inside() <= self.max
    }

    /// The connection limit.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn inside(&self) -> usize {
        self.inside.load(Ordering::Relaxed)
    }

    /// Number of sources that have a connection.
    #[cfg(test)]
    pub(crate) fn sources(&self) -> usize {
        self.sources.as_ref().map_or(0, PerSourceLimit::len)
    }
}

/// A connected socket that no loop owns yet. When it is dropped on its way, the socket is closed and its
/// place in the count of the process is free again.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) socket: Socket,
    pub(crate) peer: Addr,
    pub(crate) permit: Permit,
    /// The connection comes from a proxy, which first has to announce the client in a PROXY header.
    pub(crate) is_announced: bool,
}

/// One place in the count. It is given back on drop, on every path on which a connection is lost before a
/// loop has it.
#[derive(Debug)]
pub(crate) struct Permit {
    /// `None`: the place was [kept](Permit::keep).
    admission: Option<Arc<Admission>>,
    /// The source under which the connection counts, if sources are limited.
    source: Option<Source>,
    /// The place is above the limit: its owner makes room first, or drops it.
    is_over: bool,
}

impl Permit {
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Counts the connection under its source, which is known now. False: the source is at its limit.
    pub(crate) fn comes_from(&mut self, from: &Addr) -> bool {
        let Some(sources) =
            self.admission.as_ref().and_then(|admission| admission.sources.as_ref())
        else {
            return true;
        };
        debug_assert!(self.source.is_none(), "it comes from two places");
        let Some(source) = sources.of(from) else { return true };
        let has_entered = sources.enter(source);
        self.source = has_entered.then_some(source);
        has_entered
    }

    /// Keeps the place: a connection table now accounts for it, and calls [`Admission::leave`] with the
    /// source that this returns.
    pub(crate) fn keep(mut self) -> Option<Source> {
        self.admission = None;
        self.source
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            admission.leave(self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::policy::WhenFull;
    use std::time::Duration;

    #[test]
    fn the_limit_holds_and_the_count_does_not_drift() {
        let admission = Arc::new(Admission::new(2, &Limits::default()));
        for _ in 0..1000 {
            let a = admission.enter(None).unwrap();
            let b = admission.enter(None).unwrap();
            assert_eq!(admission.enter(None).unwrap_err(), RefuseReason::Full);
            drop(a);
            let source = b.keep();
            assert_eq!(admission.inside(), 1);
            admission.leave(source);
        }
        assert_eq!(admission.inside(), 0);
    }

    #[test]
    fn a_few_are_let_in_over_the_limit_where_room_is_made_and_no_more() {
        let when_full = WhenFull::ReuseIdle { min_idle: Duration::ZERO };
        let admission = Arc::new(Admission::new(2, &Limits { when_full, ..Limits::default() }));
        let permits: Vec<_> = std::iter::from_fn(|| admission.enter(None).ok()).collect();
        assert_eq!(permits.len(), 2 + when_full.spare());
        assert_eq!(permits.iter().filter(|permit| !permit.is_over()).count(), 2);
        assert!(!admission.has_room());
        drop(permits);
        assert!(admission.has_room() && admission.inside() == 0);
    }

    #[test]
    fn a_place_and_its_source_are_given_back_together_on_every_path() {
        let limits = Limits { per_source_max: Some(1), ..Limits::default() };
        let admission = Arc::new(Admission::new(2, &limits));
        let at: Addr = "10.0.0.1:1".parse().unwrap();
        for _ in 0..100 {
            let lost = admission.enter(Some(&at)).unwrap();
            assert_eq!(admission.enter(Some(&at)).unwrap_err(), RefuseReason::PerSource);
            assert_eq!(
                (admission.inside(), admission.sources()),
                (1, 1),
                "who is refused takes no place"
            );
            drop(lost);
            // By fd channel, and then in a table.
            admission.enter(Some(&at)).unwrap().keep();
            let source = admission.take_over(Some(&at), false).keep();
            assert_eq!((admission.inside(), admission.sources()), (1, 1));
            admission.leave(source);
            // Announced by a proxy.
            let mut permit = admission.enter(None).unwrap();
            assert!(permit.comes_from(&at));
            assert!(!admission.enter(None).unwrap().comes_from(&at));
            drop(permit);
            assert_eq!((admission.inside(), admission.sources()), (0, 0));
        }
    }
}
