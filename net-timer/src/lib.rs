//! A hierarchical timer wheel whose links live in the caller's entries.
//!
//! A connection that has a deadline is already stored somewhere, so the wheel stores nothing of its
//! own per timer: it threads its lists through ten bytes of the caller's entry ([`Links`] and
//! [`Slot`]) and names entries by the dense `u32` index under which the caller keeps them. Arming
//! and cancelling never allocate.
//!
//! # What it promises
//!
//! - Insert, cancel and re-arm are O(1). A pop is O(1) amortised: an entry is popped at most once
//!   per level (there are 8), fewer when time jumps. Empty stretches of time are skipped by
//!   bitmaps, never walked tick by tick.
//! - Every `u64` deadline is exact. Nothing is clamped and nothing wraps.
//! - Entries come out in the order of their slots and, within one slot, in the order in which they
//!   went in.
//! - It may be stopped after any number of pops and resumed in a later turn. What was inserted for
//!   after `now` is never handed out by this pass, so a timer that re-arms itself cannot trap it.
//!
//! # What it leaves to the caller
//!
//! - **The deadline.** [`Wheel::pop_due`] returns a *candidate*: its slot has come, its own
//!   deadline perhaps not. The caller compares and either fires the entry or inserts it again. One
//!   comparison does two jobs: it is the cascade to finer levels, and it lets the caller move a
//!   deadline later by storing it, without touching the wheel. Moving a deadline *earlier* takes
//!   [`Wheel::rearm`].
//! - **The clock.** Time comes in as an argument, in [`Tick`]s.
//! - **The budget.** The caller decides how many candidates one turn may take. Those that only move
//!   to a finer level count too, and what becomes due behind them waits its turn.
//!
//! # Example
//!
//! ```
//! use net_timer::{Entries, Links, Slot, Tick, Wheel};
//! use std::time::Duration;
//!
//! struct Connection {
//!     deadline: Tick,
//!     links: Links,
//!     slot: Slot,
//! }
//!
//! struct Table(Vec<Connection>);
//!
//! impl Entries for Table {
//!     fn links(&mut self, index: u32) -> (&mut Links, &mut Slot) {
//!         let connection = &mut self.0[index as usize];
//!         (&mut connection.links, &mut connection.slot)
//!     }
//! }
//!
//! let start = Tick::from_millis(0);
//! let deadline = start.after(Duration::from_secs(1));
//! let mut table = Table(vec![Connection { deadline, links: Links::default(), slot: Slot::NONE }]);
//! let mut wheel = Wheel::new(start);
//! wheel.insert(&mut table, 0, deadline);
//!
//! // Something arrived: a later deadline is one store.
//! table.0[0].deadline = Tick::from_millis(1500).after(Duration::from_secs(1));
//!
//! let mut fired = Vec::new();
//! while let Some(now) = wheel.next_due() { // the loop would sleep until then
//!     while let Some(index) = wheel.pop_due(&mut table, now) {
//!         let deadline = table.0[index as usize].deadline;
//!         if deadline <= now {
//!             fired.push((index, now.as_millis()));
//!         } else {
//!             wheel.insert(&mut table, index, deadline);
//!         }
//!     }
//! }
//! assert_eq!(fired, [(0, 2501)]);
//! ```
//!
//! # Where it comes from
//!
//! G. Varghese and T. Lauck, *Hashed and Hierarchical Timing Wheels* (SOSP 1987), scheme 7.
//!
//! Linux gave up the cascade in 4.8: a timer stays on the level where it was filed, fires up to an
//! eighth late, and is clamped at the end of the last level. Here timers are exact, and the cascade
//! is left to the budget of the caller. Tokio's wheel, from which the bitmaps and the choice of a
//! level by one XOR are taken, has six levels, the last of which wraps, and cascades inside its own
//! poll. Here eight levels of 256 slots spell out the whole `u64`, so there is no last level to
//! wrap, and a deadline of a minute takes two steps to come.

#![forbid(unsafe_code)]

// From the top down: a module uses only those below it.

mod wheel;

mod level;

mod list;

mod entries;

mod tick;

pub use entries::{Entries, Links, NIL, Slot};
pub use tick::Tick;
pub use wheel::Wheel;
