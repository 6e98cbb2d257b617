//! A long run with everything on: a server in a child process, clients of all kinds, faults, and what
//! must hold whatever happens.
//!
//! `server` is the child, and shows most of the public API at work; `protocol` is what its clients say
//! to it. `clients` has what each client does, over the connections of `connection`. `child` starts the
//! server, does faults to it and reads its books; `generation` is the life of one child, and `churn` a
//! run of connections that come and go.

pub mod child;
pub mod churn;
pub mod clients;
pub mod connection;
pub mod generation;
pub mod group;
pub mod protocol;
pub mod random;
pub mod server;
