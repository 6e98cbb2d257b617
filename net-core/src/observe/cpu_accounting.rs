//! `CpuAccounting`: how much of a loop's time each connection and each callback took.

use crate::base::close_reason::Callback;
use crate::base::id::ConnId;

/// One kind for each callback. The last kind is the loop's own work.
pub(crate) const KINDS: usize = Callback::ALL.len() + 1;

/// The accounts of one loop. Pure: times are nanoseconds of any clock that does not go back.
///
/// The clock is read once per callback. The time between two readings is charged to the earlier callback. So
/// the bytes that the loop sends for a callback are charged to that callback. It takes 16 bytes for each slot
/// that was ever used.
#[derive(Debug)]
pub(crate) struct CpuAccounting {
    /// By slot.
    accounts: Vec<Account>,
    by_kind: [u64; KINDS],
    running: Running,
    /// When the running work began.
    since: u64,
}

/// The time that one connection took. It belongs to an earlier connection of the slot until the present
/// connection is charged.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    generation: u32,
    nanos: u64,
}

#[derive(Clone, Copy, Debug)]
enum Running {
    /// The loop waits.
    Nothing,
    LoopItself,
    Callback(Callback, Option<ConnId>),
}

impl CpuAccounting {
    pub(crate) fn new() -> Self {
        Self { accounts: Vec::new(), by_kind: [0; KINDS], running: Running::Nothing, since: 0 }
    }

    /// A turn begins, or the loop's own work within a turn.
    pub(crate) fn begin(&mut self, now: u64) {
        self.switch(now, Running::LoopItself);
    }

    /// A callback begins, for a connection or for the loop.
    pub(crate) fn calls(&mut self, now: u64, callback: Callback, of: Option<ConnId>) {
        self.switch(now, Running::Callback(callback, of));
    }

    /// The turn is over.
    pub(crate) fn rest(&mut self, now: u64) {
        self.switch(now, Running::Nothing);
    }

    fn switch(&mut self, now: u64, next: Running) {
        let nanos = now.saturating_sub(self.since);
        self.since = now;
        match std::mem::replace(&mut self.running, next) {
            Running::Nothing => {}
            Running::LoopItself => self.by_kind[KINDS - 1] += nanos,
            Running::Callback(callback, of) => {
                self.by_kind[callback as usize] += nanos;
                if let Some(id) = of {
                    self.charge(id, nanos);
                }
            }
        }
    }

    fn charge(&mut self, id: ConnId, nanos: u64) {
        let slot = id.slot() as usize;
        if slot >= self.accounts.len() {
            self.accounts.resize(slot + 1, Account::default());
        }
        let account = &mut self.accounts[slot];
        let generation = id.generation().get();
        if account.generation != generation {
            *account = Account { generation, nanos: 0 };
        }
        account.nanos += nanos;
    }

    /// Nanoseconds that this connection has taken so far.
    pub(crate) fn of(&self, id: ConnId) -> u64 {
        let account = self.accounts.get(id.slot() as usize).copied().unwrap_or_default();
        if account.generation == id.generation().get() { account.nanos } else { 0 }
    }

    /// Nanoseconds by callback.
    pub(crate) fn by_kind(&self) -> &[u64; KINDS] {
        &self.by_kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn id(slot: u32, generation: u32) -> ConnId {
        ConnId::new(3, slot, NonZeroU32::new(generation).unwrap())
    }

    #[test]
    fn all_of_a_turn_is_somebody_s_and_a_wait_is_nobody_s() {
        let mut cpu_accounting = CpuAccounting::new();
        cpu_accounting.begin(1000);
        cpu_accounting.calls(1010, Callback::Data, Some(id(2, 1)));
        cpu_accounting.calls(1030, Callback::Data, Some(id(7, 1)));
        cpu_accounting.calls(1100, Callback::Timer, None);
        cpu_accounting.rest(1150);
        cpu_accounting.begin(9000);
        cpu_accounting.calls(9001, Callback::Data, Some(id(2, 1)));
        cpu_accounting.rest(9005);
        assert_eq!((cpu_accounting.of(id(2, 1)), cpu_accounting.of(id(7, 1))), (24, 70));
        let kinds = cpu_accounting.by_kind();
        assert_eq!(kinds[Callback::Data as usize], 94);
        assert_eq!(kinds[Callback::Timer as usize], 50);
        assert_eq!(kinds[KINDS - 1], 11);
        assert_eq!(kinds.iter().sum::<u64>(), 155);
    }

    #[test]
    fn the_next_connection_in_a_slot_begins_at_nothing() {
        let mut cpu_accounting = CpuAccounting::new();
        cpu_accounting.calls(0, Callback::Data, Some(id(0, 1)));
        cpu_accounting.calls(50, Callback::Open, Some(id(0, 2)));
        assert_eq!((cpu_accounting.of(id(0, 1)), cpu_accounting.of(id(0, 2))), (50, 0));
        cpu_accounting.rest(57);
        assert_eq!(
            (cpu_accounting.of(id(0, 1)), cpu_accounting.of(id(0, 2)), cpu_accounting.of(id(9, 1))),
            (0, 7, 0)
        );
    }

    #[test]
    fn a_clock_that_goes_back_takes_nothing() {
        let mut cpu_accounting = CpuAccounting::new();
        cpu_accounting.calls(100, Callback::Data, Some(id(0, 1)));
        cpu_accounting.rest(90);
        assert_eq!(cpu_accounting.of(id(0, 1)), 0);
    }
}
