//! The parts of the `http` example: bodies of requests, and answers.

pub mod answer;
pub mod body;
pub mod files;
