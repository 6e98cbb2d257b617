//! The report of one run: every figure that it claims, in the form in which it is published.
//!
//! The names of the fields are the keys of `report.json`. Scripts read them, so they do not change.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::asked::Accept;
use super::plan::Plan;
use super::sizing::{Prediction, error_percent, predict_ten_million};
use super::slabs::SlabSet;
use super::tables::FdTable;
use net_core::process::Machine;

/// Everything that is known when a run has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Connections the run set out to hold.
    pub asked: u64,
    /// Connections that came up.
    pub connected: u64,
    /// Connections that got back exactly what they sent, while all were open.
    pub verified: u64,
    /// Connections that got back something else.
    pub wrong: u64,
    /// Connections that got back nothing, or not all.
    pub missing: u64,
    /// Connections that ended before they were told to.
    pub lost: u64,
    /// The same by reason.
    pub lost_by: BTreeMap<String, u64>,
    /// Dials that failed and were tried again.
    pub dials_retried: u64,
    /// The fewest connections that were open at once during the hold, by the kernel's count and by
    /// the loops' own, whichever was less.
    pub held_at_once: u64,
    /// From the first connect to the last, in seconds.
    pub connect_seconds: f64,
    /// The server's private memory, in bytes.
    pub private_bytes: PrivateBytes,
    /// Growth of the server's private memory for each connection, in bytes.
    pub user_bytes_per_connection: f64,
    /// The same of the swarm.
    pub swarm_private_bytes: PrivateBytes,
    /// Private memory of the same server, idle, which was told to expect one connection, in bytes.
    pub idle_private_bytes: u64,
    /// The server's private memory above that, for each connection, in bytes.
    pub user_bytes_per_connection_over_idle: f64,
    /// Growth of kernel memory for each connection with its ends here, in bytes, by the caches
    /// that sockets take from.
    pub kernel_bytes_per_pair: f64,
    /// Objects by which each cache grew. Null if the kernel does not list the cache, or the program may not
    /// read it.
    pub slab: SlabSet<Option<u64>>,
    /// Size of one object of each, in bytes.
    pub slab_object_bytes: SlabSet<Option<u64>>,
    /// Growth of all slab memory for each connection, in bytes. It is a cross-check on
    /// `kernel_bytes_per_pair`, and includes what other programs took meanwhile.
    pub slab_bytes_per_pair: f64,
    /// Decrease of the memory that is not used at all, for each connection, in bytes. It is another
    /// cross-check, and includes the swarm's memory and that of all other programs.
    pub free_bytes_per_pair: f64,
    /// Round trips of the verification, in microseconds.
    pub rtt_us: RttUs,
    /// The hold.
    pub hold: Hold,
    /// Round trips of the active connections in the hold, in microseconds.
    pub hold_rtt_us: RttUs,
    /// The broadcast.
    pub broadcast: Broadcast,
    /// Connections the server closed, by reason.
    pub closed: BTreeMap<String, u64>,
    /// True if accepted = closed, and no descriptor and no table entry is left.
    pub books_balance: bool,
    /// The server's loops.
    pub loops: u32,
    /// Which descriptors each loop's table holds.
    pub fd_table: FdTable,
    /// How the server accepted.
    pub accept: Accept,
    /// The whole run, in seconds.
    pub total_seconds: f64,
    /// The seed of the messages: with it, a run can be repeated.
    pub seed: u64,
    /// The command line.
    pub command: String,
    /// The machine as it was found.
    pub machine: Machine,
    /// What was planned.
    pub plan: Option<Plan>,
    /// The prediction, and its error.
    pub forecast: Forecast,
    /// The run over time.
    pub samples: Vec<Sample>,
}

/// The server's private memory at two moments, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateBytes {
    /// Listening, before the first connection.
    pub empty: u64,
    /// With all connections open, after each has spoken.
    pub full: u64,
}

impl PrivateBytes {
    /// Growth for each of `connections`, in bytes; zero where there are none.
    pub fn per_connection(&self, connections: u64) -> f64 {
        per(self.full.saturating_sub(self.empty), connections)
    }
}

/// `total` divided among `count`; zero if there are none.
pub fn per(total: u64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { total as f64 / count as f64 }
}

/// Round trips, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RttUs {
    /// The median.
    pub p50: f64,
    /// 99 of 100 were at most this.
    pub p99: f64,
    /// 999 of 1,000 were at most this.
    pub p999: f64,
    /// The worst.
    pub max: f64,
}

impl RttUs {
    /// From round trips that were recorded in nanoseconds; all zero if none was.
    pub fn of_nanoseconds(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default(); // its maximum is not zero
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        let max = histogram.max() as f64 / 1e3;
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max }
    }
}

/// What happened while all connections were held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// How long, in seconds.
    pub seconds: f64,
    /// Connections that were active meanwhile.
    pub active: u64,
    /// 99 of 100 of their round trips were at most this, in microseconds.
    pub p99_us: f64,
    /// Connections that ended meanwhile.
    pub lost: u64,
    /// Messages that they sent meanwhile.
    pub pings: u64,
    /// The server's CPU time meanwhile, in seconds; null where the server is not ours.
    pub server_cpu_seconds: Option<f64>,
}

/// One payload sent to everyone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Broadcast {
    /// Clients that reported all of it.
    pub delivered: u64,
    /// From the first send to the last report, in seconds.
    pub seconds: f64,
}

/// The sizing model compared with the measured values. A percentage is positive if the model was too high,
/// and null if nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// The model's prediction for this run.
    pub predicted: Prediction,
    /// Kernel memory this run took, in bytes.
    pub measured_kernel_bytes: u64,
    /// Private memory of the server when full, in bytes.
    pub measured_user_bytes: u64,
    /// The model's error for the kernel.
    pub kernel_error_percent: Option<f64>,
    /// The model's error for the server.
    pub user_error_percent: Option<f64>,
    /// The model's prediction for ten million connections over loopback with the same number of loops.
    pub ten_million: Prediction,
}

impl Forecast {
    /// Compares. `loops` is the server's number of loops.
    pub fn compare(predicted: Prediction, loops: u32, kernel_bytes: u64, user_bytes: u64) -> Self {
        Self {
            predicted,
            measured_kernel_bytes: kernel_bytes,
            measured_user_bytes: user_bytes,
            kernel_error_percent: error_percent(predicted.kernel_bytes, kernel_bytes),
            user_error_percent: error_percent(predicted.user_bytes, user_bytes),
            ten_million: predict_ten_million(loops),
        }
    }
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Connections come up.
    #[default]
    Connect,
    /// Every connection sends and compares.
    Verify,
    /// All are held, a share is active.
    Hold,
    /// One payload goes to all.
    Broadcast,
    /// All are taken down.
    Close,
}

/// One moment of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Since the run began, in seconds.
    pub seconds: f64,
    /// What the run was doing.
    pub phase: Phase,
    /// Connections open, as the swarm counts.
    pub connections: u64,
    /// Connections open, as the server's loops count; null before they have said so.
    pub server_open: Option<u64>,
    /// The server's private memory, in bytes.
    pub user_bytes: u64,
    /// Kernel memory taken since the run began, in bytes.
    pub kernel_bytes: u64,
    /// 99 of 100 round trips since the last sample were at most this, in microseconds; null where
    /// none ended.
    pub p99_us: Option<f64>,
}

impl Report {
    /// The report as it stands in `report.json`.
    ///
    /// # Errors
    /// When a figure cannot be written as JSON, which none of these types can cause.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run in which everything went well.
    pub(crate) fn flawless() -> Report {
        let million = 1_000_000;
        Report {
            asked: million,
            connected: million,
            verified: million,
            held_at_once: million,
            connect_seconds: 15.0,
            private_bytes: PrivateBytes { empty: 10_000_000, full: 70_000_000 },
            user_bytes_per_connection: 60.0,
            kernel_bytes_per_pair: 8_300.0,
            rtt_us: RttUs { p50: 100.0, p99: 900.0, p999: 2_000.0, max: 9_000.0 },
            hold: Hold {
                seconds: 10.0,
                active: 10_000,
                p99_us: 150.0,
                lost: 0,
                pings: 100_000,
                server_cpu_seconds: Some(0.9),
            },
            broadcast: Broadcast { delivered: million, seconds: 8.0 },
            closed: BTreeMap::from([("peer_ended".to_owned(), 500_000)]),
            books_balance: true,
            loops: 52,
            fd_table: FdTable::PerLoop,
            samples: vec![
                Sample { connections: 0, ..Sample::default() },
                Sample {
                    seconds: 15.0,
                    connections: million,
                    user_bytes: 70_000_000,
                    kernel_bytes: 8_300_000_000,
                    p99_us: Some(900.0),
                    ..Sample::default()
                },
            ],
            ..Report::default()
        }
    }

    #[test]
    fn published_keys_are_all_there() {
        let text = flawless().json().unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let top = "asked connected verified wrong missing lost held_at_once connect_seconds \
            private_bytes user_bytes_per_connection kernel_bytes_per_pair slab rtt_us hold \
            broadcast closed books_balance loops fd_table accept machine plan forecast samples";
        let inner = [
            ("private_bytes", "empty full"),
            ("slab", "TCP sock_inode_cache filp dentry eventpoll_epi eventpoll_pwq"),
            ("rtt_us", "p50 p99 p999 max"),
            ("hold", "seconds active p99_us lost pings server_cpu_seconds"),
            ("broadcast", "delivered seconds"),
            ("closed", "peer_ended"),
        ];
        for key in top.split_whitespace() {
            assert!(value.get(key).is_some(), "{key}");
        }
        for (outer, keys) in inner {
            for key in keys.split_whitespace() {
                assert!(value[outer].get(key).is_some(), "{outer}.{key}");
            }
        }
        assert_eq!(value["fd_table"], "per-loop");
        assert_eq!(value["accept"], "acceptor");
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), flawless());
    }

    #[test]
    fn forecast_has_errors_only_where_something_was_measured() {
        let predicted = Prediction { kernel_bytes: 103, user_bytes: 50, swarm_bytes: 1 };
        let forecast = Forecast::compare(predicted, 2, 100, 0);
        assert_eq!(forecast.kernel_error_percent.map(f64::round), Some(3.0));
        assert_eq!(forecast.user_error_percent, None);
    }

    #[test]
    fn growth_is_shared_among_the_connections_there_are() {
        assert_eq!(flawless().private_bytes.per_connection(1_000_000), 60.0);
        assert_eq!(flawless().private_bytes.per_connection(0), 0.0);
        assert_eq!(PrivateBytes { empty: 9, full: 5 }.per_connection(1), 0.0);
    }
}
