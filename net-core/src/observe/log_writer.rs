//! `LogWriter`: where a log goes that no loop must wait for.
//!
//! A loop that writes a line itself waits for whoever reads it: a pipe that is full, a disk, a terminal
//! that was stopped. Then all of its connections wait, and soon those of the others.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

/// How long the last lines may take when the guard is dropped.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Takes lines without ever waiting: a thread of its own writes them. What comes while `lines_max` wait
/// already is dropped, and how many were is said in the log as soon as there is room. An error of the output
/// ends nothing: the next line is tried.
///
/// Each call of `write` is taken for whole lines, as subscribers of `tracing` write them. Clones write to
/// the same place. For `tracing_subscriber`, whose `MakeWriter` a closure is:
///
/// ```
/// use net_core::LogWriter;
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

/// The lines on their way.
#[derive(Debug)]
struct Lines {
    queue: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

/// Keeps a log going. Dropped, it waits a second for the last lines; what is written after that is lost.
#[derive(Debug)]
#[must_use = "the last lines are written when the guard is dropped"]
pub struct LogGuard {
    lines: Option<Arc<Lines>>,
    is_over: Receiver<()>,
}

impl LogWriter {
    /// Starts the thread that writes to `out`, for which up to `lines_max` lines (at least one) may wait. An
    /// error: the system has no thread left.
    pub fn start(
        out: impl Write + Send + 'static,
        lines_max: usize,
    ) -> io::Result<(LogWriter, LogGuard)> {
        let (queue, waiting) = sync_channel(lines_max.max(1));
        let (over, is_over) = sync_channel(0);
        let dropped = Arc::new(AtomicU64::new(0));
        let lines = Arc::new(Lines { queue, dropped: Arc::clone(&dropped) });
        let write = move || {
            let _over: SyncSender<()> = over; // disconnected at the end
            write_all(out, &waiting, &dropped);
        };
        thread::Builder::new().name("net-log".into()).spawn(write)?;
        let writer = LogWriter(Arc::downgrade(&lines));
        Ok((writer, LogGuard { lines: Some(lines), is_over }))
    }
}

/// Writes each line when it comes, until nobody can send one.
fn write_all(mut out: impl Write, waiting: &Receiver<Vec<u8>>, dropped: &AtomicU64) {
    // An error is the reader's, who is gone or full: there is nowhere to say so.
    while let Ok(line) = waiting.recv() {
        let _ = out.write_all(&line);
        let lost = dropped.swap(0, Ordering::Relaxed); // a count by itself
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
    /// Never waits, and never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(lines) = self.0.upgrade()
            && let Err(TrySendError::Full(_)) = lines.queue.try_send(line.to_vec())
        {
            lines.dropped.fetch_add(1, Ordering::Relaxed); // a count by itself
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
        // Over, or not in time: it is in a write that nobody reads.
        let _ = self.is_over.recv_timeout(LAST_LINES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// An output that is read line by line, when the test likes.
    struct Pipe {
        /// A write waits for one of these.
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

    /// The usual subscriber on a full pipe: after some clients each loop waited in a line of its log.
    #[test]
    fn who_writes_never_waits_for_who_reads_and_the_rest_is_counted() {
        let (out, let_write, read) = pipe();
        let (mut writer, guard) = LogWriter::start(out, 3).unwrap();
        for n in 0..1000 {
            // It returns, although nobody reads: this test would never end.
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
