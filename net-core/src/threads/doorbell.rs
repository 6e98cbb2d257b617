//! `Doorbell`: rings a loop, if it sleeps.

use crate::sys::Waker;
use crate::threads::sleep::SleepWord;
use std::sync::Arc;

/// The sleep word of one loop beside the eventfd that ends its sleep.
#[derive(Debug)]
pub(crate) struct Doorbell {
    word: SleepWord,
    waker: Arc<Waker>,
}

impl Doorbell {
    pub(crate) fn new(waker: Arc<Waker>) -> Self {
        Self { word: SleepWord::new(), waker }
    }

    /// After something was put where the loop looks: wakes it if it sleeps. Any thread.
    pub(crate) fn ring(&self) {
        if self.word.must_ring() {
            self.waker.ring();
        }
    }

    pub(crate) fn word(&self) -> &SleepWord {
        &self.word
    }

    pub(crate) fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }
}
