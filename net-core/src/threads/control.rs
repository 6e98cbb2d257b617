//! `Control`: the one word by which a loop is told to drain or to stop.

use std::sync::atomic::{AtomicU32, Ordering};

/// The phase of a server on its way to its end. It only ever goes up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub(crate) enum Phase {
    Run = 0,
    /// Finish what is under way, then end.
    Drain = 1,
    /// The drain's deadline: reset what is left.
    ForceClose = 2,
    /// Reset all, now.
    Stop = 3,
}

/// The phase that any thread raises by one store. It cannot be full.
#[derive(Debug)]
pub(crate) struct Control(AtomicU32);

impl Control {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(Phase::Run as u32))
    }

    /// Raises the phase. Release: pairs with the load in [`Control::phase`], so that the thread that
    /// obeys sees what was prepared before.
    pub(crate) fn raise(&self, phase: Phase) {
        self.0.fetch_max(phase as u32, Ordering::AcqRel);
    }

    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Run,
            1 => Phase::Drain,
            2 => Phase::ForceClose,
            _ => Phase::Stop,
        }
    }
}
