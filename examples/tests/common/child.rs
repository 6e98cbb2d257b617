//! Child processes, each of which has a bound: no test waits for a child for ever.
//!
//! A thread kills the child, and all that it has started, when its time is over. Every wait for the
//! child, and every read from its pipes, ends with that. So this file is the only one of the tests
//! that may start a process; the lint `disallowed_methods` sees to it.
#![allow(dead_code, unreachable_pub)] // each test file is a crate and uses a part

use rustix::process::{Pid, Signal, kill_process_group};
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// The life of a child that nobody gives another bound: longer than any test takes on a loaded machine.
pub const LIFE: Duration = Duration::from_secs(300);

/// A child with a bound. It is killed on drop too.
pub struct Bounded {
    child: Child,
    is_overdue: Arc<AtomicBool>,
    /// Dropped with this, which ends the thread that waits for the bound.
    _until: Sender<()>,
}

/// Starts a child in a process group of its own, and kills the group after `within`.
#[expect(clippy::disallowed_methods, reason = "what is started here has a bound")]
pub fn spawn(command: &mut Command, within: Duration) -> Bounded {
    let child = command.process_group(0).spawn().unwrap();
    let group = Pid::from_child(&child);
    let is_overdue = Arc::new(AtomicBool::new(false));
    let (until, is_over) = channel::<()>();
    let overdue = Arc::clone(&is_overdue);
    thread::spawn(move || {
        if is_over.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
            overdue.store(true, Ordering::Release);
            let _ = kill_process_group(group, Signal::KILL); // it may end in this moment
        }
    });
    Bounded { child, is_overdue, _until: until }
}

/// Runs a child to its end, and fails if that takes longer than `within`. Returns what it said.
pub fn output(command: &mut Command, within: Duration) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command, within);
    child.output()
}

/// Runs a tool to its end. Whether it succeeded.
pub fn succeeds(command: &mut Command) -> bool {
    spawn(command, LIFE).end().success()
}

impl Bounded {
    /// Waits for its end, and returns what it said on those of its streams that are piped.
    #[expect(clippy::disallowed_methods, reason = "the bound ends this wait")]
    pub fn output(&mut self) -> Output {
        let stdout = self.child.stdout.take();
        let stderr = self.child.stderr.take();
        drop(self.child.stdin.take());
        let read = |from: Option<Box<dyn std::io::Read + Send>>| {
            thread::spawn(move || {
                let mut all = Vec::new();
                let _ = from.map(|mut from| from.read_to_end(&mut all)); // as much as came
                all
            })
        };
        let stdout = read(stdout.map(|from| Box::new(from) as _));
        let stderr = read(stderr.map(|from| Box::new(from) as _));
        let status = self.child.wait().unwrap();
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        let output = Output { status, stdout, stderr };
        assert!(!self.is_overdue.load(Ordering::Acquire), "it did not end in time: {output:?}");
        output
    }

    /// Waits for its end.
    #[expect(clippy::disallowed_methods, reason = "the bound ends this wait")]
    pub fn end(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        assert!(!self.is_overdue.load(Ordering::Acquire), "it did not end in time: {status}");
        status
    }
}

impl Deref for Bounded {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Bounded {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL); // it may end just now
            self.end_killed();
        }
    }
}

impl Bounded {
    #[expect(clippy::disallowed_methods, reason = "it was killed")]
    fn end_killed(&mut self) {
        let _ = self.child.wait();
    }
}
