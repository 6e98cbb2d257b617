//! One progress bar on stderr while connections come up, or a plain line now and then if stderr is no
//! terminal.
//!
//! A run does not wait for the reader of stderr: a thread of its own writes the lines, and lines that stderr
//! does not take are dropped.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use net_core::process::{LogGuard, LogWriter};

use super::figures::{bytes, grouped};
use super::report::Sample;

/// Shows how far a run is.
pub struct Progress {
    face: Face,
    total: u64,
}

enum Face {
    /// A bar that redraws itself.
    Bar(ProgressBar),
    /// Lines, each a tenth of the way apart.
    Lines { out: LogWriter, guard: LogGuard, tenths_said: u64, began: Instant },
    /// Nothing: no thread could be started that writes the lines.
    Blank,
}

/// Lines that wait for stderr: more than one run writes.
const LINES_QUEUED: usize = 64;

const TEMPLATE: &str = "{bar:24} {human_pos}/{human_len}  {per_sec}  eta {eta}  {msg}";

impl Progress {
    /// Shows progress towards `total` connections on stderr.
    pub fn on_stderr(total: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::in_lines(total, Box::new(std::io::stderr()));
        }
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is a constant");
        let bar = ProgressBar::new(total).with_style(style.progress_chars("━╸─"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { face: Face::Bar(bar), total }
    }

    /// Writes a line to `out` for about every tenth of the connections, and the last line at `total`.
    pub fn in_lines(total: u64, out: Box<dyn Write + Send>) -> Self {
        let face = match LogWriter::start(out, LINES_QUEUED) {
            Ok((out, guard)) => Face::Lines { out, guard, tenths_said: 0, began: Instant::now() },
            Err(_) => Face::Blank,
        };
        Self { face, total }
    }

    /// Shows a new state. It may be called at any rate.
    pub fn show(&mut self, sample: &Sample) {
        let connections = sample.connections.min(self.total);
        let [user, kernel] = [sample.user_bytes, sample.kernel_bytes].map(bytes);
        let memory = format!("server {user}, kernel {kernel}");
        match &mut self.face {
            Face::Bar(bar) => {
                bar.set_message(memory);
                bar.set_position(connections);
            }
            Face::Lines { out, tenths_said, began, .. } => {
                let tenths = tenths(connections, self.total);
                if tenths > *tenths_said {
                    *tenths_said = tenths;
                    let line = line(connections, self.total, began.elapsed(), &memory);
                    put(out, &line);
                }
            }
            Face::Blank => {}
        }
    }

    /// Prints a line of its own, above the bar if there is one.
    pub fn say(&mut self, text: &str) {
        match &mut self.face {
            Face::Bar(bar) => bar.println(text),
            Face::Lines { out, .. } => put(out, text),
            Face::Blank => {}
        }
    }

    /// Leaves the last state on the screen and stops redrawing. Waits a second at most for the last lines.
    pub fn finish(self) {
        match self.face {
            Face::Bar(bar) => bar.abandon(),
            Face::Lines { guard, .. } => drop(guard),
            Face::Blank => {}
        }
    }
}

/// Writes a line in one call, as a [`LogWriter`] wants it. A closed stderr must not end the run.
fn put(out: &mut LogWriter, line: &str) {
    let _ = out.write_all(format!("{line}\n").as_bytes());
}

/// How many tenths of the way are done; no connections to open means that all is done.
fn tenths(connections: u64, total: u64) -> u64 {
    let done = u128::from(connections) * 10;
    done.checked_div(u128::from(total)).map_or(10, |tenths| tenths as u64)
}

fn line(connections: u64, total: u64, elapsed: Duration, memory: &str) -> String {
    let seconds = elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { connections as f64 / seconds } else { 0.0 };
    let left = if rate > 0.0 { (total - connections) as f64 / rate } else { 0.0 };
    format!(
        "{}/{} connections, {}/s, {left:.0} s left, {memory}",
        grouped(connections),
        grouped(total),
        grouped(rate as u64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// The written text, kept for the test.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn at(connections: u64) -> Sample {
        Sample { connections, user_bytes: 64_000, kernel_bytes: 8_300_000, ..Sample::default() }
    }

    #[test]
    fn a_line_comes_at_each_tenth_and_not_more_often() {
        let paper = Paper::default();
        let mut progress = Progress::in_lines(1_000, Box::new(paper.clone()));
        for connections in 0..=1_000 {
            progress.show(&at(connections));
        }
        progress.finish();
        let text = paper.text();
        assert_eq!(text.lines().count(), 10, "{text}");
        assert!(text.starts_with("100/1,000 connections, "), "{text}");
        assert!(text.contains("server 64.0 KB, kernel 8.3 MB"), "{text}");
        assert!(text.lines().last().unwrap().starts_with("1,000/1,000"), "{text}");
    }

    #[test]
    fn large_steps_skip_lines_and_numbers_above_the_total_are_cut() {
        let paper = Paper::default();
        let mut progress = Progress::in_lines(10, Box::new(paper.clone()));
        progress.show(&at(7));
        progress.show(&at(12));
        progress.finish();
        assert_eq!(paper.text().lines().count(), 2);
        let mut nothing = Progress::in_lines(0, Box::new(Paper::default()));
        nothing.show(&at(0));
    }

    #[test]
    fn what_is_said_is_a_line_of_its_own() {
        let paper = Paper::default();
        Progress::in_lines(10, Box::new(paper.clone())).say("verifying");
        assert_eq!(paper.text(), "verifying\n");
    }

    #[test]
    fn closed_output_is_survived() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut progress = Progress::in_lines(1, Box::new(Closed));
        progress.show(&at(1));
        progress.say("still here");
    }

    #[test]
    fn bar_takes_its_template() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
