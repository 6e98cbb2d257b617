//! `Gate`: how many connections the whole process has, and its limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts connections from accept to close, over all loops.
#[derive(Debug)]
pub(crate) struct Gate {
    // A count and no more: nothing else is published by it, so relaxed order is enough.
    inside: AtomicUsize,
    max: usize,
}

impl Gate {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { inside: AtomicUsize::new(0), max })
    }

    /// A place, if there is one.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Permit> {
        let one_more = |n| (n < self.max).then_some(n + 1);
        self.inside.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Permit(Some(Arc::clone(self))))
    }

    /// A place past the limit: for connections we dial ourselves, which are bounded elsewhere.
    pub(crate) fn enter_anyway(self: &Arc<Self>) -> Permit {
        self.inside.fetch_add(1, Ordering::Relaxed);
        Permit(Some(Arc::clone(self)))
    }

    /// A permit again for a place that was kept on the way through the courier.
    pub(crate) fn take_over(self: &Arc<Self>) -> Permit {
        Permit(Some(Arc::clone(self)))
    }

    /// Gives back a place whose permit was [kept](Permit::keep).
    pub(crate) fn leave(&self) {
        let before = self.inside.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "more connections left than entered");
    }

    /// The limit.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn inside(&self) -> usize {
        self.inside.load(Ordering::Relaxed)
    }
}

/// One place, given back on drop: on whatever path the connection is lost before a loop has it.
#[derive(Debug)]
pub(crate) struct Permit(Option<Arc<Gate>>);

impl Permit {
    /// The place is now accounted for by a table, which calls [`Gate::leave`].
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_the_count_does_not_drift() {
        let gate = Gate::new(2);
        for _ in 0..1000 {
            let a = gate.enter().unwrap();
            let b = gate.enter().unwrap();
            assert!(gate.enter().is_none());
            drop(a);
            b.keep();
            assert_eq!(gate.inside(), 1);
            gate.leave();
        }
        assert_eq!(gate.inside(), 0);
    }
}
