//! Messages a second and CPU a message, by the value of one knob, under the load that it is for.
//!
//! All values of all knobs are measured in each round, so that what disturbs the machine for a
//! while disturbs all of them; and the default is measured twice, which shows how far two equal
//! settings differ.

use crate::churn;
use crate::measure::{self, Load, Sample, Times};
use crate::plan::Shape;
use crate::program::{Process, Program};
use crate::stats::Spread;
use crate::swarm::{Swarm, split_cores};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::io;

/// How often a sample is tried.
const TRIES: usize = 5;

/// A knob, its values, and the load under which it matters.
struct Curve {
    knob: &'static str,
    values: &'static [usize],
    default: usize,
    work: Work,
}

#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Echo {
        connections: usize,
        shape: Shape,
    },
    /// The same, but what one asks is the answer to another.
    Relay {
        connections: usize,
        shape: Shape,
    },
    Churn,
}

const SMALL: Work = Work {
    name: "1,000 connections, 64 B, depth 1",
    what: What::Echo { connections: 1_000, shape: Shape { depth: 1, bytes: 64 } },
};

const BULK: Work = Work {
    name: "8 connections, 16 KiB, depth 16",
    what: What::Echo { connections: 8, shape: Shape { depth: 16, bytes: 16 << 10 } },
};

const RELAY: Work = Work {
    name: "1,000 connections, 64 B, depth 1, each answered with what another has sent",
    what: What::Relay { connections: 1_000, shape: Shape { depth: 1, bytes: 64 } },
};

const CHURN: Work = Work { name: "connect, one message, close: connections", what: What::Churn };

const CURVES: [Curve; 7] = [
    Curve { knob: "loops", values: &[1, 2, 4], default: 1, work: SMALL },
    Curve { knob: "events_per_wait", values: &[1, 16, 64, 256, 1024], default: 256, work: SMALL },
    Curve {
        knob: "receive_block_bytes",
        values: &[4 << 10, 16 << 10, 64 << 10, 256 << 10],
        default: 64 << 10,
        work: BULK,
    },
    Curve {
        knob: "receive_bytes_per_turn",
        values: &[16 << 10, 64 << 10, 256 << 10, 1 << 20],
        default: 64 << 10,
        work: BULK,
    },
    Curve {
        knob: "receive_bytes_in_a_row",
        values: &[64 << 10, 256 << 10, 1 << 20],
        default: 256 << 10,
        work: BULK,
    },
    Curve {
        knob: "cork_bytes",
        values: &[64, 1 << 10, 16 << 10, 64 << 10, 256 << 10],
        default: 64 << 10,
        work: RELAY,
    },
    Curve { knob: "arrivals_per_turn", values: &[1, 4, 16, 64], default: 4, work: CHURN },
];

/// One value of one knob.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// The knob.
    pub knob: String,
    /// The load.
    pub load: String,
    /// The knob's value.
    pub value: usize,
    /// Whether that is its default.
    pub is_default: bool,
    /// Messages, or connections, a second.
    pub per_second: Spread,
    /// The server's CPU time for each, in nanoseconds.
    pub cpu_ns: Spread,
}

/// Which values are measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Every one, and the default twice.
    All,
    /// The first one: enough to see that it works.
    First,
}

/// Measures all curves, in so many rounds; none if that is 0. `say` hears of each round.
pub fn measure(
    values: Values,
    rounds: usize,
    times: Times,
    say: impl Fn(&str),
) -> io::Result<Vec<Point>> {
    if rounds == 0 {
        return Ok(Vec::new());
    }
    let settings: Vec<_> = CURVES.iter().flat_map(|curve| settings(curve, values)).collect();
    let mut samples = vec![Vec::new(); settings.len()];
    for round in 0..rounds {
        say(&format!("round {} of {rounds}", round + 1));
        for n in 0..settings.len() {
            // Another order in each round.
            let at = (n + round * settings.len() / rounds) % settings.len();
            let (curve, value) = settings[at];
            samples[at].push(sample(curve, value, times)?);
        }
    }
    let points = settings.into_iter().zip(samples);
    Ok(points.map(|((curve, value), samples)| point(curve, value, &samples)).collect())
}

fn settings(
    curve: &'static Curve,
    values: Values,
) -> impl Iterator<Item = (&'static Curve, usize)> {
    let all = curve.values.iter().copied().chain([curve.default]);
    let most = if values == Values::All { usize::MAX } else { 1 };
    all.take(most).map(move |value| (curve, value))
}

/// One sample. On a machine that is busy with other things a short one may see no answer at all;
/// then another one is taken.
fn sample(curve: &Curve, value: usize, times: Times) -> io::Result<Sample> {
    let mut found = try_sample(curve, value, times);
    for _ in 1..TRIES {
        if found.is_ok() {
            break;
        }
        found = try_sample(curve, value, times);
    }
    found
}

fn try_sample(curve: &Curve, value: usize, times: Times) -> io::Result<Sample> {
    let flag = format!("--{}", curve.knob.replace('_', "-"));
    let value_text = value.to_string();
    let mut flags = vec![flag.as_str(), value_text.as_str()];
    if matches!(curve.work.what, What::Relay { .. }) {
        flags.push("--relay");
    }
    let loops = if curve.knob == "loops" { value } else { 1 };
    let (server_cores, load_cores) = split_cores(loops)?;
    let program = Program::sibling("net-core", "knobs_echo", &flags)?;
    let server = measure::start_on(&server_cores, &program)?;
    let found = load(&server, curve.work.what, &load_cores, times);
    server.stop()?;
    found.map_err(|error| io::Error::new(error.kind(), format!("{} {value}: {error}", curve.knob)))
}

fn load(server: &Process, what: What, cores: &[usize], times: Times) -> io::Result<Sample> {
    match what {
        What::Churn => {
            let churn = |_| -> Load<'_> { Box::new(|shared| churn::run(server.at(), shared)) };
            measure::measure(server, cores.iter().map(churn).collect(), cores, times)
        }
        What::Echo { connections, shape } | What::Relay { connections, shape } => {
            let mut swarms = Swarm::connect_all(server.at(), connections, cores)?;
            let loads = swarms.iter_mut().map(|swarm| echo(swarm, shape));
            measure::measure(server, loads.collect(), cores, times)
        }
    }
}

fn echo(swarm: &mut Swarm, shape: Shape) -> Load<'_> {
    Box::new(move |shared| swarm.run(shape, shared))
}

fn point(curve: &Curve, value: usize, samples: &[Sample]) -> Point {
    let of = |field: fn(&Sample) -> f64| Spread::of(samples.iter().map(field));
    Point {
        knob: curve.knob.into(),
        load: curve.work.name.into(),
        value,
        is_default: value == curve.default,
        per_second: of(|sample| sample.per_second),
        cpu_ns: of(|sample| sample.cpu_ns),
    }
}

/// The table of one knob.
pub fn table(points: &[Point]) -> String {
    let Some(Point { knob, load, .. }) = points.first() else { return String::new() };
    let mut text = format!(
        "\n### `{knob}`\n\n{load}. Bold: the default.\n\n\
         | value | thousand a second | min–max | CPU each, ns | min–max |\n|--:|--:|---|--:|---|\n"
    );
    for point in points {
        let mark = if point.is_default { "**" } else { "" };
        let (rate, cpu) = (point.per_second, point.cpu_ns);
        let _ = writeln!(
            text,
            "| {mark}{}{mark} | {:.1} | {:.1}–{:.1} | {:.0} | {:.0}–{:.0} |",
            point.value,
            rate.median / 1e3,
            rate.min / 1e3,
            rate.max / 1e3,
            cpu.median,
            cpu.min,
            cpu.max
        );
    }
    text
}
