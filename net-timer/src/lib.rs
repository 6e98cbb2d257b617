//! A hierarchical timer wheel whose links live in the caller's entries.
//!
//! A connection with a deadline is already stored by the caller, so the wheel stores nothing of its own per
//! timer. It links its lists through ten bytes of the caller's entry ([`Links`] and [`Slot`]), and names
//! entries by the dense `u32` index under which the caller keeps them. Arming and cancelling never allocate.
//!
//! # What it promises
//!
//! - Insert, cancel and re-arm are O(1). A pop is amortised O(1): an entry is popped at most once per level
//!   (there are 8), and fewer times when time jumps. Empty ranges of time are skipped with bitmaps, and never
//!   walked tick by tick.
//! - Every `u64` deadline is exact. No deadline is clamped and none wraps.
//! - Entries are popped in the order of their slots, and within one slot in the order of insertion.
//! - The caller may stop after any number of pops and continue in a later turn. An entry inserted for a time
//!   after `now` is never returned by the same pass, so a timer that re-arms itself cannot cause an endless
//!   loop.
//!
//! # What it leaves to the caller
//!
//! - **The deadline.** [`Wheel::pop_due`] returns a *candidate*: its slot has come, but its own deadline may
//!   be later. The caller compares the deadline with `now`, and fires the entry or inserts it again. This
//!   comparison does two jobs. It is the cascade to finer levels. It also lets the caller move a deadline
//!   later by a plain store, without a call to the wheel. To move a deadline *earlier*, call
//!   [`Wheel::rearm`].
//! - **The clock.** Time is an argument, in [`Tick`]s.
//! - **The budget.** The caller decides how many candidates one turn may take. Candidates that only move to a
//!   finer level count too. Entries that are due after them wait for a later turn.
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
//! Linux gave up the cascade in 4.8: a timer stays on the level where it was filed, fires up to an eighth
//! late, and is clamped at the end of the last level. In this wheel timers are exact, and the cascade counts
//! against the caller's budget. The bitmaps and the choice of a level by one XOR are taken from Tokio's
//! wheel. Tokio's wheel has six levels, of which the last wraps, and cascades inside its own poll. This wheel
//! has eight levels of 256 slots for the whole `u64`, so no level wraps. A deadline of a minute takes two
//! steps to come.

#![forbid(unsafe_code)]

// From the top down: a module uses only the modules below it.

mod wheel;

mod level;

mod list;

mod entries;

mod tick;

pub use entries::{Entries, Links, NIL, Slot};
pub use tick::Tick;
pub use wheel::Wheel;
