//! Panics of user code: caught, and told of by the loop instead of by the thread itself.
//!
//! The standard library's hook writes each panic's message to standard error, on the thread that
//! panics. Where that is a pipe that nobody reads, the write never returns, and the loop with it. So
//! on a server's own threads the hook keeps the message, and whoever counts the panic logs it.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;
use std::thread;

/// Runs user code that may panic. `None` if it did.
///
/// What it leaves half changed is its own: the loop's state is only ever changed by calls that do
/// not panic, and user code sees nothing of it but through them.
pub(crate) fn guard<R>(body: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(body)).map_err(forget).ok()
}

/// Drops a panic's payload, whose own drop may panic again.
#[cold]
pub(crate) fn forget(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // A payload that panics on drop with a payload that may do so too: leak it.
        std::mem::forget(again);
    }
}

thread_local! {
    /// This thread is a server's: its panics are kept, not written.
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
    /// What the last panic of this thread said, and where.
    static SAID: Cell<Option<Said>> = const { Cell::new(None) };
}

/// What a panic said.
struct Said {
    message: String,
    /// ` at FILE:LINE:COLUMN`, and the stack's trace behind it where RUST_BACKTRACE asks for it.
    place: String,
}

/// While it lives, a panic of this thread writes nothing.
pub(crate) struct Quiet {
    was_ours: bool,
}

impl Quiet {
    /// From here on, on this thread.
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
            // A subscriber's own panic would end the process here.
            let _ =
                guard(|| tracing::error!(thread, said, "a thread of the server dies of a panic"));
        }
    }
}

/// What the last panic of this thread said, and where: once. Empty: nobody kept it.
pub(crate) fn take_said() -> String {
    SAID.take().map_or_else(String::new, |said| said.message + &said.place)
}

/// The message of the last panic of this thread alone, for an error of one sentence.
pub(crate) fn take_message() -> String {
    SAID.take().map_or_else(String::new, |said| said.message)
}

/// Puts our hook in front of the one that is there: once in a process. One that is set later replaces
/// both.
fn install() {
    static ONCE: Once = Once::new();
    if thread::panicking() {
        return; // no hook can be set then
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
