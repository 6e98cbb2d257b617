//! Every limit at its edges, for the tests that start a loop or a server with each of them.

use super::{BLOCK_MOST, Limits, QUEUE_MOST};
use crate::config::policy::WhenFull;
use crate::config::rate::Rate;
use std::time::Duration;

/// The default limits with one field changed.
pub(crate) struct Edge {
    pub(crate) field: &'static str,
    pub(crate) value: String,
    pub(crate) limits: Limits,
}

impl Edge {
    /// Whether a refusal of these limits names the field.
    pub(crate) fn is_named_by(&self, said: &str) -> bool {
        said.contains(self.field)
    }

    /// Whether a connection may end by such a short deadline before its first byte is answered.
    pub(crate) fn may_end_before_an_answer(&self) -> bool {
        let deadlines = ["idle_timeout", "first_byte_timeout", "message_timeout", "lifetime_max"];
        deadlines.contains(&self.field)
            && (self.value.ends_with("ns)") || self.value == "Some(1ms)")
    }
}

/// The values at which a limit of a type is tried.
trait Edges: Sized + std::fmt::Debug {
    fn edges() -> Vec<Self>;
}

impl Edges for usize {
    fn edges() -> Vec<Self> {
        let mut all = vec![0, 1, 2, usize::MAX / 2 + 1, usize::MAX - 1, usize::MAX];
        all.extend([QUEUE_MOST, QUEUE_MOST + 1, BLOCK_MOST, BLOCK_MOST + 1]);
        all
    }
}

impl Edges for u32 {
    fn edges() -> Vec<Self> {
        vec![0, 1, 2, u32::MAX - 1, u32::MAX]
    }
}

impl Edges for u8 {
    fn edges() -> Vec<Self> {
        vec![0, 1, 32, 33, 128, 129, u8::MAX]
    }
}

impl Edges for bool {
    fn edges() -> Vec<Self> {
        vec![false, true]
    }
}

impl Edges for Duration {
    fn edges() -> Vec<Self> {
        let past_u64 = Duration::from_millis(u64::MAX) + Duration::from_millis(1);
        vec![
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_millis(1),
            past_u64,
            Duration::MAX,
        ]
    }
}

impl Edges for Rate {
    fn edges() -> Vec<Self> {
        let ends = [0, 1, u64::MAX];
        ends.iter()
            .flat_map(|&rate| ends.map(|burst| Rate::per_second(rate).burst(burst)))
            .chain(ends.map(Rate::per_second))
            .collect()
    }
}

impl Edges for WhenFull {
    fn edges() -> Vec<Self> {
        let reuse = Duration::edges().into_iter().map(|min_idle| WhenFull::ReuseIdle { min_idle });
        reuse.chain([WhenFull::Refuse]).collect()
    }
}

impl<T: Edges> Edges for Option<T> {
    fn edges() -> Vec<Self> {
        T::edges().into_iter().map(Some).chain([None]).collect()
    }
}

/// The edges of a field's own type.
fn edges_like<T: Edges>(_: &T) -> Vec<T> {
    T::edges()
}

macro_rules! edges_of {
    ($($field:ident)*) => {
        /// Each field at each edge of its type, with the other fields at their defaults.
        pub(crate) fn each() -> Vec<Edge> {
            let default = Limits::default();
            // Without `..`: if a limit is added and not tried here, this does not compile.
            let Limits { $($field: _,)* } = &default;
            let mut all = Vec::new();
            $(
                for value in edges_like(&default.$field) {
                    all.push(Edge {
                        field: stringify!($field),
                        value: format!("{value:?}"),
                        limits: Limits { $field: value, ..default.clone() },
                    });
                }
            )*
            all
        }
    };
}

edges_of! {
    connections_max when_full per_source_max source_prefix_v4 source_prefix_v6 accept_rate accept_burst
    idle_timeout first_byte_timeout proxy_header_timeout message_timeout stuck_timeout lifetime_max
    heartbeat_interval connect_timeout write_timeout linger_timeout linger_bytes_max
    quiet_time drain_spread receive_rate send_rate
    high_watermark low_watermark output_limit input_bytes_max
    receive_block_bytes receive_bytes_per_turn receive_bytes_in_a_row send_bytes_per_turn
    file_bytes_per_turn pipes_max cork_bytes pool_retain_bytes memory_budget
    events_per_wait accepts_per_turn arrivals_queue arrivals_per_turn dials_per_turn names_queue
    resolver_threads mail_queue mail_bytes mail_per_turn
    broadcast_per_turn broadcasts_max topics_max
    topics_per_connection_max deferred_per_turn
    timers_per_turn slice_time_per_turn jobs_max datagrams_per_turn
    datagram_queue_bytes drained_per_turn endings_per_turn
    starved_pause shed_per_pause stall_threshold time_callbacks log_every
}

/// All limits in bytes at their smallest values together, and all at their largest values together.
pub(crate) fn all_at_once() -> [Edge; 2] {
    let few = Limits {
        high_watermark: 1,
        low_watermark: 0,
        output_limit: 1,
        input_bytes_max: 1,
        receive_block_bytes: 1,
        receive_bytes_per_turn: 1,
        receive_bytes_in_a_row: 1,
        send_bytes_per_turn: 1,
        file_bytes_per_turn: 1,
        cork_bytes: 1,
        pool_retain_bytes: 0,
        ..Limits::default()
    };
    let most = usize::MAX;
    let many = Limits {
        high_watermark: most,
        low_watermark: most,
        output_limit: most,
        input_bytes_max: most,
        receive_block_bytes: BLOCK_MOST,
        receive_bytes_per_turn: most,
        receive_bytes_in_a_row: most,
        send_bytes_per_turn: most,
        file_bytes_per_turn: most,
        cork_bytes: BLOCK_MOST,
        pool_retain_bytes: most,
        ..Limits::default()
    };
    let edge = |value: &str, limits| Edge { field: "bytes", value: value.into(), limits };
    [edge("few", few), edge("many", many)]
}
