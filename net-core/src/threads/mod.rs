//! What crosses threads: the control word, the mailbox, the wake-up, the names that are looked up.

pub(crate) mod control;
pub(crate) mod inbox;
pub(crate) mod mail;
pub(crate) mod mailbox;
pub(crate) mod resolver;
pub(crate) mod shared;
pub(crate) mod sleep;
pub(crate) mod sync;
