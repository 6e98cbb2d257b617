//! A bound on a test that runs a loop in its own process: a loop that never comes back fails the run,
//! with the test's name, and does not hold it for ever.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// Longer than any such test takes on a loaded machine.
const LIFE: Duration = Duration::from_secs(300);

/// Dropped when the test is over.
#[allow(unreachable_pub)] // some test files are crates
pub struct Bound {
    _until: Sender<()>,
}

/// Aborts the process if the calling test is not over in time: a thread cannot be ended from outside.
#[allow(unreachable_pub)] // some test files are crates
pub fn bound() -> Bound {
    bound_on("it")
}

/// The same for a part of the test, which the message names.
#[allow(unreachable_pub)] // some test files are crates
pub fn bound_on(part: impl std::fmt::Display) -> Bound {
    let test = format!("{}: {part}", thread::current().name().unwrap_or("a test"));
    let (until, is_over) = channel::<()>();
    thread::spawn(move || {
        if is_over.recv_timeout(LIFE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{test} did not end within {LIFE:?}");
            std::process::abort();
        }
    });
    Bound { _until: until }
}
