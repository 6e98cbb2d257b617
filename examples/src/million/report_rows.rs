//! The report as a table of labels and values, for the terminal and for the page.

use std::fmt;

use super::figures::{bytes, grouped};
use super::report::Report;

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name of the figure.
    pub label: String,
    /// The figure, with its unit.
    pub value: String,
}

impl Report {
    /// All lines, in the order in which the run made them.
    pub fn rows(&self) -> Vec<Row> {
        let mut table = Table(Vec::new());
        self.add_connections(&mut table);
        self.add_memory(&mut table);
        self.add_traffic(&mut table);
        self.add_books(&mut table);
        table.0
    }

    fn add_connections(&self, table: &mut Table) {
        let rate = if self.connect_seconds > 0.0 {
            format!(", {} a second", grouped((self.connected as f64 / self.connect_seconds) as u64))
        } else {
            String::new()
        };
        let up = format!("{} of {}", grouped(self.connected), grouped(self.asked));
        table.add("connected", format!("{up} in {}{rate}", seconds(self.connect_seconds)));
        let [right, wrong, missing] = [self.verified, self.wrong, self.missing].map(grouped);
        table.add("verified", format!("{right} right, {wrong} wrong, {missing} missing"));
        table.add("held at once", grouped(self.held_at_once));
        let reasons = self.lost_by.iter().map(|(why, count)| format!("{why} {}", grouped(*count)));
        let reasons: Vec<_> = std::iter::once(grouped(self.lost)).chain(reasons).collect();
        table.add("lost", reasons.join(", "));
        if self.dials_retried > 0 {
            table.add("dials tried again", grouped(self.dials_retried));
        }
        let loops = format!("{}, {} descriptor table, {}", self.loops, self.fd_table, self.accept);
        table.add("server's loops", loops);
    }

    fn add_memory(&self, table: &mut Table) {
        let private = self.private_bytes;
        let [empty, full] = [private.empty, private.full].map(bytes);
        table.add("server's private memory", format!("{full} full, {empty} empty"));
        let each = |bytes: f64| format!("{bytes:.1} B each");
        let whole = |bytes: f64| format!("{} B each", grouped(bytes.round() as u64));
        table.add("user memory, growth", each(self.user_bytes_per_connection));
        table.add(
            "user memory, over an idle server",
            each(self.user_bytes_per_connection_over_idle),
        );
        table.add("fixed cost of a loop", bytes(private.empty / u64::from(self.loops.max(1))));
        table.add("kernel memory", whole(self.kernel_bytes_per_pair));
        table.add("all slab memory", whole(self.slab_bytes_per_pair));
        let sized = self.slab.zip(self.slab_object_bytes);
        for (name, (count, size)) in [
            ("TCP", sized.tcp),
            ("sock_inode_cache", sized.sock_inode_cache),
            ("filp", sized.filp),
            ("dentry", sized.dentry),
            ("eventpoll_epi", sized.eventpoll_epi),
            ("eventpoll_pwq", sized.eventpoll_pwq),
        ] {
            if let (Some(count), Some(size)) = (count, size) {
                table.add(&format!("{name} objects"), format!("{} × {size} B", grouped(count)));
            }
        }
        let forecast = &self.forecast;
        let kernel = against(forecast.predicted.kernel_bytes, forecast.kernel_error_percent);
        table.add("kernel memory, predicted", kernel);
        let user = against(forecast.predicted.user_bytes, forecast.user_error_percent);
        table.add("server's memory, predicted", user);
        table.add("predicted for 10,000,000", bytes(forecast.ten_million.total_bytes()));
    }

    fn add_traffic(&self, table: &mut Table) {
        let rtt = self.rtt_us;
        let [p50, p99, p999, max] = [rtt.p50, rtt.p99, rtt.p999, rtt.max].map(microseconds);
        let percentiles = format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}");
        table.add("round trip, all at once", percentiles);
        let hold = self.hold;
        let active = format!("{} active, p99 {}", grouped(hold.active), microseconds(hold.p99_us));
        let held = format!("{}, {active}, {} lost", seconds(hold.seconds), grouped(hold.lost));
        table.add("hold", held);
        let delivered = grouped(self.broadcast.delivered);
        let time = seconds(self.broadcast.seconds);
        table.add("broadcast", format!("{delivered} delivered in {time}"));
    }

    fn add_books(&self, table: &mut Table) {
        for (reason, count) in &self.closed {
            table.add(&format!("closed: {reason}"), grouped(*count));
        }
        let balance = if self.books_balance { "balance" } else { "DO NOT BALANCE" };
        table.add("books", balance.to_owned());
        table.add("whole run", seconds(self.total_seconds));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let width = rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
        for Row { label, value } in &rows {
            writeln!(out, "  {label:<width$}  {value}")?;
        }
        match self.verdict() {
            Ok(()) => write!(out, "  {} connections, all proven.", grouped(self.asked)),
            Err(fault) => write!(out, "  FAILED {fault}."),
        }
    }
}

struct Table(Vec<Row>);

impl Table {
    fn add(&mut self, label: &str, value: String) {
        self.0.push(Row { label: label.to_owned(), value });
    }
}

fn seconds(number: f64) -> String {
    format!("{number:.1} s")
}

/// Microseconds, as milliseconds or seconds where those read better.
pub fn microseconds(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.2} s", n / 1e6),
        n if n >= 1e4 => format!("{:.0} ms", n / 1e3),
        n if n >= 1e3 => format!("{:.1} ms", n / 1e3),
        n => format!("{n:.0} µs"),
    }
}

fn against(predicted: u64, error_percent: Option<f64>) -> String {
    let error = error_percent.map(|percent| format!(", off by {percent:+.1}%"));
    bytes(predicted) + &error.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::flawless;
    use super::*;

    #[test]
    fn table_shows_the_figures_and_the_verdict() {
        let text = flawless().to_string();
        assert!(text.contains("1,000,000 of 1,000,000 in 15.0 s, 66,666 a second"), "{text}");
        assert!(text.contains("60.0 B each"), "{text}");
        assert!(text.contains("closed: peer_ended"), "{text}");
        assert!(text.ends_with("1,000,000 connections, all proven."), "{text}");
        let failed = Report { lost: 1, ..flawless() }.to_string();
        assert!(failed.ends_with("FAILED of 1,000,000 connections: 1 lost."), "{failed}");
    }

    #[test]
    fn caches_that_could_not_be_counted_have_no_line() {
        let mut report = flawless();
        assert!(!report.rows().iter().any(|row| row.label == "TCP objects"));
        report.slab.tcp = Some(2_000_000);
        report.slab_object_bytes.tcp = Some(2_368);
        let rows = report.rows();
        let tcp = rows.iter().find(|row| row.label == "TCP objects").unwrap();
        assert_eq!(tcp.value, "2,000,000 × 2368 B");
    }

    #[test]
    fn times_are_written_in_the_unit_that_suits_them() {
        let expected = [(0.4, "0 µs"), (999.0, "999 µs"), (1_500.0, "1.5 ms"), (2e6, "2.00 s")];
        for (number, text) in expected {
            assert_eq!(microseconds(number), text);
        }
    }

    #[test]
    fn empty_report_can_be_printed() {
        assert!(Report::default().to_string().contains("books"));
    }
}
