//! All counts as one page in the text format of Prometheus, version 0.0.4. Pure.

use super::watched::Watched;
use crate::observe::counters::{Counter, Snapshot};
use crate::observe::loop_activity::StallCounts;
use crate::sys::process::Usage;
use std::fmt::{Display, Write};

/// The media type of the page.
pub(super) const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The counters that only the accepting thread changes, in a server with an acceptor.
const OF_THE_ACCEPTOR: [Counter; 7] = [
    Counter::Accepted,
    Counter::AcceptSkipped,
    Counter::ListenersBroken,
    Counter::Starved,
    Counter::Shed,
    Counter::AcceptPaused,
    Counter::LoopSkipped,
];

/// Makes the page from the present counts.
pub(super) fn page(server: &dyn Watched, process: &Usage) -> String {
    let mut page = Page(String::new());
    let loops: Vec<_> = (0..server.loops()).map(|n| server.of_loop(n)).collect();
    let acceptor = server.of_acceptor();
    let threads = || {
        let loops = loops.iter().enumerate().map(|(n, (counts, _))| (n.to_string(), counts));
        loops.chain([("acceptor".to_owned(), &acceptor)])
    };
    for &counter in Counter::ALL {
        let kind = if counter.is_level() { Kind::Gauge } else { Kind::Counter };
        let family = page.family(name(counter), kind, &counter.help());
        for (at, counts) in threads() {
            let n = match (counter, at.parse::<usize>()) {
                // The number that waits now. The counter has the number at the end of the loop's last turn.
                (Counter::Mailbox, Ok(n)) => loops[n].1.mail as u64,
                _ => counts.get(counter),
            };
            if n > 0 || at != "acceptor" || OF_THE_ACCEPTOR.contains(&counter) {
                page.sample(&family, &[("loop", &at)], n);
            }
        }
    }
    closed(&mut page, threads());
    let family =
        page.family("arrivals_depth", Kind::Gauge, "Accepted connections that wait for the loop.");
    for (n, (_, waiting)) in loops.iter().enumerate() {
        page.sample(&family, &[("loop", &n.to_string())], waiting.arrivals);
    }
    stalls(&mut page, server);
    if server.times_callbacks() {
        times(&mut page, server);
    }
    of_the_server(&mut page, server);
    of_the_process(&mut page, process);
    page.0
}

/// The counter's part of its family's name. Some labels are not clear enough without the other labels.
fn name(counter: Counter) -> &'static str {
    match counter {
        Counter::Open => "connections_open",
        Counter::Accepted => "connections_accepted",
        Counter::Dialled => "connections_dialled",
        Counter::Adopted => "connections_adopted",
        Counter::HandedOver => "connections_handed_over",
        other => other.label(),
    }
}

fn closed<'a>(page: &mut Page, threads: impl Iterator<Item = (String, &'a Snapshot)>) {
    let what =
        "Connections that ended, by reason. Accepted, dialled and given are open or in here.";
    let family = page.family("connections_closed", Kind::Counter, what);
    for (at, counts) in threads {
        for (reason, n) in counts.closed().filter(|(_, n)| *n > 0 || at != "acceptor") {
            page.sample(&family, &[("loop", &at), ("reason", reason)], n);
        }
    }
}

fn stalls(page: &mut Page, server: &dyn Watched) {
    let loops: Vec<_> = (0..server.loops()).map(|n| (n.to_string(), server.stalls_of(n))).collect();
    let what = "Turns that took longer than the stall threshold, by the callback that ran.";
    let family = page.family("stalls", Kind::Counter, what);
    for (at, stalls) in &loops {
        for (callback, n) in stalls.by_callback() {
            page.sample(&family, &[("loop", at), ("callback", callback)], n);
        }
    }
    let mut longest = |name, what, ms: fn(&StallCounts) -> u64| {
        let family = page.family(name, Kind::Gauge, what);
        for (at, stalls) in &loops {
            page.sample(&family, &[("loop", at)], ms(stalls) as f64 / 1e3);
        }
    };
    longest("longest_turn_seconds", "The longest stalled turn.", |stalls| stalls.longest_turn_ms);
    longest("longest_callback_seconds", "The longest callback in a stalled turn.", |stalls| {
        stalls.longest_callback_ms
    });
}

fn times(page: &mut Page, server: &dyn Watched) {
    let what =
        "Time of the loop that callbacks took, with what was sent for them; none: its own work.";
    let family = page.family("callback_seconds", Kind::Counter, what);
    for n in 0..server.loops() {
        for (callback, seconds) in server.times_of(n) {
            page.sample(&family, &[("loop", &n.to_string()), ("callback", callback)], seconds);
        }
    }
}

fn of_the_server(page: &mut Page, server: &dyn Watched) {
    let (connections, most) = server.connections();
    for (name, what, value) in [
        ("connections", "Connections of the server, from accept to close.", connections),
        ("connections_max", "Connections above which a client is turned away.", most),
        ("loops", "Event loops.", server.loops()),
        (
            "memory_budget_bytes",
            "Bytes that all loops may buffer; 0: as many as they like.",
            server.memory_budget(),
        ),
        ("draining", "1 once the server drains or stops.", usize::from(server.is_ending())),
    ] {
        let family = page.family(name, Kind::Gauge, what);
        page.sample(&family, &[], value);
    }
}

/// These names are the same in every client library of Prometheus.
fn of_the_process(page: &mut Page, process: &Usage) {
    let whole = |n: Option<u64>| n.map(|n| n.to_string());
    let cpu = process.cpu.map(|cpu| format!("{:.6}", cpu.as_secs_f64()));
    for (name, kind, what, value) in [
        (
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Memory in RAM.",
            whole(process.resident_bytes),
        ),
        (
            "process_open_fds",
            Kind::Gauge,
            "Open descriptors in the process's own table; loops may have others.",
            whole(process.open_descriptors),
        ),
        (
            "process_max_fds",
            Kind::Gauge,
            "Descriptors that each table may hold.",
            whole(process.descriptors_max),
        ),
        (
            "net_core_kernel_tcp_memory_bytes",
            Kind::Gauge,
            "Memory of the kernel for the TCP sockets of this machine, all processes.",
            whole(process.tcp_memory_bytes),
        ),
        ("process_cpu_seconds_total", Kind::Counter, "Processor time used by all threads.", cpu),
    ] {
        if let Some(value) = value {
            page.head(name, kind, what);
            page.sample(name, &[], value);
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// The text so far. All samples of a family stand together, below the family's head.
struct Page(String);

impl Page {
    /// Begins a family of this server, and returns the name of its samples.
    fn family(&mut self, name: &str, kind: Kind, what: &str) -> String {
        let total = if matches!(kind, Kind::Counter) { "_total" } else { "" };
        let name = format!("net_core_{name}{total}");
        self.head(&name, kind, what);
        name
    }

    fn head(&mut self, name: &str, kind: Kind, what: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let what = what.replace('\\', r"\\").replace('\n', r"\n");
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {what}\n# TYPE {name} {kind}");
    }

    /// `labels`: names and values that need no escaping.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (n, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{value}\"", if n == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::watched::Waiting;
    use super::*;
    use crate::base::close_reason::{Callback, CloseReason};
    use crate::observe::connection_query::PendingQuery;
    use crate::observe::counters::Counters;
    use crate::observe::loop_activity::{Beat, LoopActivity};
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    struct Still;

    impl Watched for Still {
        fn loops(&self) -> usize {
            2
        }

        fn of_loop(&self, number: usize) -> (Snapshot, Waiting) {
            let counters = Counters::default();
            Counter::ALL.iter().for_each(|&counter| counters.add(counter, 100 + number as u64));
            counters.closed(CloseReason::Local);
            (counters.snapshot(), Waiting { mail: 7, arrivals: 8 + number })
        }

        fn stalls_of(&self, number: usize) -> StallCounts {
            let activity = LoopActivity::default();
            activity.count_stall(Some(Callback::Message));
            activity.note(250 * number as u64, 125);
            activity.stalls()
        }

        fn doing(&self, _number: usize) -> Option<Beat> {
            None
        }

        fn times_callbacks(&self) -> bool {
            true
        }

        fn times_of(&self, number: usize) -> Vec<(&'static str, f64)> {
            vec![("on_data", 0.25), ("none", number as f64)]
        }

        fn ask(&self, _number: usize, _asked: Arc<PendingQuery>) -> bool {
            false
        }

        fn of_acceptor(&self) -> Snapshot {
            let counters = Counters::default();
            counters.add(Counter::Accepted, 5);
            counters.snapshot()
        }

        fn connections(&self) -> (usize, usize) {
            (3, 1000)
        }

        fn is_ending(&self) -> bool {
            false
        }

        fn memory_budget(&self) -> usize {
            0
        }
    }

    fn page() -> String {
        let cpu = Some(Duration::from_millis(1500));
        super::page(&Still, &Usage { resident_bytes: Some(4096), cpu, ..Usage::default() })
    }

    /// Samples by name and labels. Checks the order that the format asks for: HELP, TYPE, then all
    /// samples of the family, and no family or sample twice.
    fn samples(page: &str) -> BTreeMap<String, f64> {
        assert!(page.ends_with('\n'));
        let mut found = BTreeMap::new();
        let mut families: Vec<&str> = Vec::new();
        let mut lines = page.lines().peekable();
        while let Some(line) = lines.next() {
            let (name, what) = line.strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
            assert!(!what.is_empty() && !families.contains(&name), "{line}");
            families.push(name);
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            assert!(kind == "counter" || kind == "gauge", "{name}");
            let before = found.len();
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert_eq!(series.split('{').next(), Some(name));
                assert!(found.insert(series.to_owned(), value.parse().unwrap()).is_none());
            }
            assert!(found.len() > before, "{name} has no sample");
        }
        found
    }

    #[test]
    fn every_counter_and_every_reason_of_every_loop_is_there() {
        let found = samples(&page());
        for &counter in Counter::ALL {
            let total = if counter.is_level() { "" } else { "_total" };
            for n in 0..2 {
                let series = format!("net_core_{}{total}{{loop=\"{n}\"}}", name(counter));
                let wanted = if counter == Counter::Mailbox { 7.0 } else { 100.0 + f64::from(n) };
                assert_eq!(found.get(&series), Some(&wanted), "{series}");
            }
        }
        for reason in CloseReason::LABELS {
            let series =
                format!("net_core_connections_closed_total{{loop=\"1\",reason=\"{reason}\"}}");
            assert_eq!(found[&series], f64::from(u8::from(reason == "local")), "{series}");
        }
    }

    #[test]
    fn the_acceptor_has_its_own_counts_and_no_others() {
        let found = samples(&page());
        assert_eq!(found["net_core_connections_accepted_total{loop=\"acceptor\"}"], 5.0);
        let of_acceptor = found.keys().filter(|series| series.contains("acceptor")).count();
        assert_eq!(of_acceptor, OF_THE_ACCEPTOR.len());
    }

    #[test]
    fn what_the_system_does_not_tell_is_left_out() {
        let found = samples(&page());
        assert_eq!(found["process_resident_memory_bytes"], 4096.0);
        assert_eq!(found["process_cpu_seconds_total"], 1.5);
        assert!(!found.contains_key("process_open_fds"));
        assert_eq!(found["net_core_arrivals_depth{loop=\"1\"}"], 9.0);
        assert_eq!(found["net_core_connections_max"], 1000.0);
        assert_eq!(found["net_core_draining"], 0.0);
    }

    #[test]
    fn stalls_are_there_by_loop_and_callback() {
        let found = samples(&page());
        assert_eq!(found["net_core_stalls_total{loop=\"1\",callback=\"on_message\"}"], 1.0);
        assert_eq!(found["net_core_stalls_total{loop=\"1\",callback=\"none\"}"], 0.0);
        assert_eq!(found["net_core_longest_turn_seconds{loop=\"1\"}"], 0.25);
        assert_eq!(found["net_core_longest_callback_seconds{loop=\"0\"}"], 0.125);
    }

    #[test]
    fn what_callbacks_took_is_there_by_loop() {
        let found = samples(&page());
        let of = |callback| {
            found[&format!("net_core_callback_seconds_total{{loop=\"1\",callback=\"{callback}\"}}")]
        };
        assert_eq!((of("on_data"), of("none")), (0.25, 1.0));
    }
}
