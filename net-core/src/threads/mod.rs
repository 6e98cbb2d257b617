//! What crosses threads: the word of control, the mailbox, the wake-up, the names that are looked up.

pub(crate) mod doorbell;
pub(crate) mod hub;
pub(crate) mod mailbox;
pub(crate) mod resolver;
pub(crate) mod sleep;
pub(crate) mod sync;
