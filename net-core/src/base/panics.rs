//! Panics of user code: they are caught, and the loop logs them.
//!
//! The standard library's panic hook writes the message to standard error, on the thread that panics. If
//! standard error is a pipe that nobody reads, the write never returns, and the loop stands still. So on a
//! server's own threads our hook keeps the message, and the code that counts the panic logs it.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;
use std::thread;

/// Runs user code that may panic. Returns `None` if it panicked.
///
/// Only the user's own state can be left half changed. User code reaches the loop's state only through calls
/// that do not panic.
pub(crate) fn guard<R>(body: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(body)).map_err(forget).ok()
}

/// Drops a panic's payload, whose own drop may panic again.
#[cold]
pub(crate) fn forget(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // The drop panicked with another payload, whose drop may panic too: leak it.
        std::mem::forget(again);
    }
}

thread_local! {
    /// This thread belongs to a server: its panics are kept, not written.
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
    /// The message and the place of the last panic of this thread.
    static SAID: Cell<Option<Said>> = const { Cell::new(None) };
}

/// The message and the place of a panic.
struct Said {
    message: String,
    /// ` at FILE:LINE:COLUMN`, followed by the backtrace if RUST_BACKTRACE asks for it.
    place: String,
}

/// While this value lives, panics of this thread write nothing to standard error.
pub(crate) struct Quiet {
    was_ours: bool,
}

impl Quiet {
    /// Begins on the calling thread.
    pub(crate) fn here() -> Self {
        install();
        Self { was_ours: IS_OURS.replace(true) }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        IS_OURS.set(self.was_ours);
        if thread::panicking() {
            let thread = thread::current().name().unwrap_or_default().to_owned();
            let said = take_said();
            // Guarded, because a panic of the subscriber here would abort the process.
            let _ =
                guard(|| tracing::error!(thread, said, "a thread of the server dies of a panic"));
        }
    }
}

/// Takes the message and the place of the last panic of this thread. Empty if none was kept.
pub(crate) fn take_said() -> String {
    SAID.take().map_or_else(String::new, |said| said.message + &said.place)
}

/// Takes only the message of the last panic of this thread, for an error of one sentence.
pub(crate) fn take_message() -> String {
    SAID.take().map_or_else(String::new, |said| said.message)
}

/// Puts our hook in front of the present hook, once in a process. A hook that is set later replaces both.
fn install() {
    static ONCE: Once = Once::new();
    if thread::panicking() {
        return; // a panicking thread cannot set a hook
    }
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IS_OURS.try_with(Cell::get).unwrap_or(false) {
                let _ = SAID.try_with(|said| said.set(Some(describe(info))));
            } else {
                before(info);
            }
        }));
    });
}

fn describe(info: &PanicHookInfo<'_>) -> Said {
    let payload = info.payload();
    let said = payload.downcast_ref::<&str>().copied();
    let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = said.unwrap_or("it did not say why").to_owned();
    let mut place = info.location().map_or_else(String::new, |at| format!(" at {at}"));
    let trace = Backtrace::capture(); // empty unless RUST_BACKTRACE asks for it
    if trace.status() == BacktraceStatus::Captured {
        place += &format!("\n{trace}");
    }
    Said { message, place }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value whose drop panics with another such value.
    struct Again;

    impl Drop for Again {
        fn drop(&mut self) {
            panic::resume_unwind(Box::new(Again));
        }
    }

    #[test]
    fn a_payload_may_panic_again_when_it_is_dropped() {
        let payload = guard(|| panic::resume_unwind(Box::new(Again)));
        assert!(payload.is_none());
    }

    #[test]
    fn on_a_thread_of_ours_a_panic_is_kept_and_no_further() {
        let said = thread::spawn(|| {
            let quiet = Quiet::here();
            assert!(guard(|| panic!("number {}", 7)).is_none());
            let said = take_said();
            assert_eq!(take_said(), "", "once");
            drop(quiet);
            (said, IS_OURS.get())
        });
        let (said, is_ours) = said.join().unwrap();
        assert!(said.starts_with("number 7 at ") && said.contains("panics.rs:"), "{said}");
        assert!(!is_ours);
    }
}
