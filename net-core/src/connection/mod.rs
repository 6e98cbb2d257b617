//! The state that a loop keeps of its connections: the state table, the slots, the unsent bytes.

pub(crate) mod cork;
pub(crate) mod life;
pub(crate) mod loop_state;
pub(crate) mod outbox;
pub(crate) mod slot;
pub(crate) mod table;
