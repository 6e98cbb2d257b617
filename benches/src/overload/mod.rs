//! A server under attack: those who attack it, what is seen of it meanwhile, and how it ends.

pub mod attack;
pub mod target;
pub mod watch;
