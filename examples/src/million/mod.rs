//! A million live connections on one machine: what the `million` example is made of.
//!
//! Read in this order: [`machine`] looks at the limits, [`walls`] says how many connections each of
//! them allows, [`plan`] decides, [`serve`] and [`swarm`] are the two halves, which [`conductor`]
//! starts as processes of their own and leads through the run; [`kernel_stat`] and [`process_stat`]
//! measure, [`report`] keeps what came of it, [`page`] and [`progress`] show it.

pub mod asked;
pub mod cgroup;
pub mod conductor;
pub mod doctor;
mod engine;
pub mod figures;
pub mod half;
pub mod kernel_stat;
pub mod machine;
pub mod observer;
pub mod pace;
pub mod pacer;
pub mod page;
pub mod phrase;
pub mod plan;
pub mod plan_text;
pub mod plots;
pub mod proc_file;
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
