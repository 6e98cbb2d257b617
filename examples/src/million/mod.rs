//! A million live connections on one machine: what the `million` example is made of.
//!
//! Read in this order: [`walls`] says how many connections each limit of the machine allows, and [`plan`]
//! decides. [`serve`] and [`swarm`] are the two halves. [`conductor`] starts them as processes of their own
//! and leads them through the run. [`kernel_stat`] and [`process_stat`] measure. [`report`] keeps the
//! results, and [`page`] and [`progress`] show them.

pub mod asked;
pub mod conductor;
pub mod doctor;
mod engine;
#[cfg(test)]
mod fake_root;
pub mod figures;
pub mod half;
pub mod kernel_stat;
pub mod machine_text;
pub mod observer;
pub mod pace;
pub mod pacer;
pub mod page;
pub mod phrase;
pub mod plan;
pub mod plan_text;
pub mod plots;
pub mod process_stat;
pub mod progress;
pub mod refusal;
pub mod report;
pub mod report_rows;
pub mod serve;
pub mod sizing;
pub mod slabs;
pub mod sources;
pub mod swarm;
pub mod tables;
pub mod talk;
pub mod trouble;
pub mod verdict;
pub mod wall;
pub mod wall_text;
pub mod walls;
