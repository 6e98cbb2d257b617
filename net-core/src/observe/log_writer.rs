//! `LogWriter`: writes log lines on a thread of its own, so that no loop waits for the log.
//!
//! A loop that writes a line itself can be blocked by a full pipe, a disk, or a stopped terminal. Then all of
//! its connections wait, and soon the connections of the other loops wait too.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

/// How long the last lines may take when the guard is dropped.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Takes log lines without ever blocking. A separate thread writes them.
///
/// A line is dropped if `lines_max` lines already wait. The number of dropped lines is written to the log as
/// soon as there is room. After an error of the output, the next line is tried.
///
/// Each call of `write` must pass whole lines, as subscribers of `tracing` do. Clones write to the same
/// output. With `tracing_subscriber`, a closure is the `MakeWriter`:
///
/// ```
/// use net_core::process::LogWriter;
///
/// // Before the server starts: with private tables a thread that is started later shares a loop's.
/// let (writer, _guard) = LogWriter::start(std::io::stderr(), 10_000)?;
/// tracing_subscriber::fmt()
///     .with_max_level(tracing::Level::DEBUG)
///     .with_writer(move || writer.clone())
///     .init();
/// // Server::new()..run(..)
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LogWriter(Weak<Lines>);

/// The queue of lines to the writing thread.
#[derive(Debug)]
struct Lines {
    queue: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

/// Keeps a log running. Its drop waits at most one second for the last lines. Lines written later are lost.
#[derive(Debug)]
#[must_use = "the last lines are written when the guard is dropped"]
pub struct LogGuard {
    lines: Option<Arc<Lines>>,
    is_over: Receiver<()>,
}

impl LogWriter {
    /// Starts the thread that writes to `out`. Up to `lines_max` lines (at least one) may wait.
    ///
    /// Fails if the system cannot start a thread.
    pub fn start(
        out: impl Write + Send + 'static,
        lines_max: usize,
    ) -> io::Result<(LogWriter, LogGuard)> {
        let (queue, waiting) = sync_channel(lines_max.max(1));
        let (over, is_over) = sync_channel(0);
        let dropped = Arc::new(AtomicU64::new(0));
        let lines = Arc::new(Lines { queue, dropped: Arc::clone(&dropped) });
        let write = move || {
            let _over: SyncSender<()> = over; // disconnects when the thread ends
            write_all(out, &waiting, &dropped);
        };
        thread::Builder::new().name("net-log".into()).spawn(write)?;
        let writer = LogWriter(Arc::downgrade(&lines));
        Ok((writer, LogGuard { lines: Some(lines), is_over }))
    }
}

/// Writes each line when it comes, until the queue has no sender.
fn write_all(mut out: impl Write, waiting: &Receiver<Vec<u8>>, dropped: &AtomicU64) {
    // An error means that the output is gone or full: there is nowhere to report it.
    while let Ok(line) = waiting.recv() {
        let _ = out.write_all(&line);
        let lost = dropped.swap(0, Ordering::Relaxed); // no other memory depends on it
        if lost > 0 {
            let _ = writeln!(
                out,
                "{lost} lines of the log were dropped: they came faster than they were read"
            );
        }
        let _ = out.flush();
    }
}

impl Write for LogWriter {
    /// Never blocks and never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(lines) = self.0.upgrade()
            && let Err(TrySendError::Full(_)) = lines.queue.try_send(line.to_vec())
        {
            lines.dropped.fetch_add(1, Ordering::Relaxed); // no other memory depends on it
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.lines = None;
        // The thread has ended, or it hangs in a write that nobody reads.
        let _ = self.is_over.recv_timeout(LAST_LINES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// An output that is read line by line, at the test's pace.
    struct Pipe {
        /// Each write waits for one message from this channel.
        may_write: Receiver<()>,
        written: Sender<String>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.may_write.recv_timeout(PATIENCE);
            let _ = self.written.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn pipe() -> (Pipe, Sender<()>, Receiver<String>) {
        let ((let_write, may_write), (written, read)) = (channel(), channel());
        (Pipe { may_write, written }, let_write, read)
    }

    /// With the usual subscriber on a full pipe, after some clients each loop hung while it wrote a log line.
    #[test]
    fn who_writes_never_waits_for_who_reads_and_the_rest_is_counted() {
        let (out, let_write, read) = pipe();
        let (mut writer, guard) = LogWriter::start(out, 3).unwrap();
        for n in 0..1000 {
            // The write returns although nobody reads. Otherwise this test would never end.
            assert_eq!(
                writer.clone().write(format!("{n}\n").as_bytes()).unwrap(),
                format!("{n}\n").len()
            );
        }
        (0..1000).for_each(|_| let_write.send(()).unwrap());
        drop(guard);
        let mut text = String::new();
        while let Ok(more) = read.recv_timeout(PATIENCE) {
            text.push_str(&more); // disconnected when the thread has ended
        }
        let (said, lines): (Vec<_>, Vec<_>) =
            text.lines().partition(|line| line.contains("dropped"));
        let (lost, _) = said[0].split_once(' ').unwrap();
        assert_eq!(lost.parse::<usize>().unwrap() + lines.len(), 1000, "{text}");
        assert!(said.len() == 1 && (1..=4).contains(&lines.len()), "{text}");
        assert_eq!(lines[0], "0");
        writer.write_all(b"too late, and no error\n").unwrap();
    }

    #[test]
    fn an_output_that_fails_ends_nothing() {
        struct Fails(Sender<()>);
        impl Write for Fails {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                let _ = self.0.send(());
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let (tried, tries) = channel();
        let (mut writer, _guard) = LogWriter::start(Fails(tried), 10).unwrap();
        for _ in 0..3 {
            writer.write_all(b"line\n").unwrap();
            tries.recv_timeout(PATIENCE).unwrap();
        }
    }
}
