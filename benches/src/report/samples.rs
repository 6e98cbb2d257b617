//! What was measured, by round, cell and server; and ratios between what belongs together.

use crate::plan::BASELINE;
use crate::stats::{Ratio, Spread, geometric_mean};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One sample, and where it belongs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured<T> {
    /// The round, from 0.
    pub round: usize,
    /// The load.
    pub cell: String,
    /// The server's name.
    pub server: String,
    /// What was found.
    pub sample: T,
}

/// All samples of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Samples<T>(pub Vec<Measured<T>>);

impl<T> Default for Samples<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Samples<T> {
    /// Adds one.
    pub fn push(&mut self, round: usize, cell: &str, server: &str, sample: T) {
        self.0.push(Measured { round, cell: cell.into(), server: server.into(), sample });
    }

    /// Those of one server in one cell.
    pub fn of<'a>(
        &'a self,
        cell: &'a str,
        server: &'a str,
    ) -> impl Iterator<Item = &'a Measured<T>> {
        self.0.iter().filter(move |found| found.cell == cell && found.server == server)
    }

    /// Whether a server ever ran a cell.
    pub fn has(&self, cell: &str, server: &str) -> bool {
        self.of(cell, server).next().is_some()
    }

    /// One value of all rounds. `None`: it never ran.
    pub fn spread(&self, cell: &str, server: &str, field: impl Fn(&T) -> f64) -> Option<Spread> {
        let values: Vec<f64> = self.of(cell, server).map(|found| field(&found.sample)).collect();
        (!values.is_empty()).then(|| Spread::of(values))
    }

    /// For each round the geometric mean, over the cells, of this server's value to the
    /// baseline's in the same round; and the mean of that. Rounds in which a cell is missing are
    /// left out, and cells that the server never runs.
    pub fn to_baseline(&self, server: &str, cells: &[String], field: impl Fn(&T) -> f64) -> Ratio {
        let cells: Vec<_> = cells.iter().filter(|cell| self.has(cell, server)).collect();
        let ratios: Vec<f64> = self
            .rounds()
            .into_iter()
            .filter_map(|round| {
                let pairs = cells.iter().map(|cell| {
                    let own = self.value(round, cell, server, &field)?;
                    Some(own / self.value(round, cell, BASELINE, &field)?)
                });
                pairs.collect::<Option<Vec<_>>>().map(|pairs| geometric_mean(&pairs))
            })
            .collect();
        Ratio::of(&ratios)
    }

    /// Of one server: for each round its value in one cell to that in another.
    pub fn between(
        &self,
        server: &str,
        cell: &str,
        base: &str,
        field: impl Fn(&T) -> f64,
    ) -> Vec<f64> {
        let pair = |round| {
            let own = self.value(round, cell, server, &field)?;
            Some(own / self.value(round, base, server, &field)?)
        };
        self.rounds().into_iter().filter_map(pair).collect()
    }

    fn value(
        &self,
        round: usize,
        cell: &str,
        server: &str,
        field: impl Fn(&T) -> f64,
    ) -> Option<f64> {
        self.of(cell, server).find(|found| found.round == round).map(|found| field(&found.sample))
    }

    fn rounds(&self) -> BTreeSet<usize> {
        self.0.iter().map(|found| found.round).collect()
    }

    /// In the order of the first round.
    pub fn servers(&self) -> Vec<String> {
        unique(self.0.iter().map(|found| &found.server))
    }

    /// In the order in which they were first run.
    pub fn cells(&self) -> Vec<String> {
        unique(self.0.iter().map(|found| &found.cell))
    }
}

fn unique<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.filter(|name| seen.insert(name.as_str())).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_paired_within_a_round() {
        let mut samples = Samples::default();
        for (round, busy) in [(0, 1.0), (1, 3.0)] {
            for (server, cost) in [(BASELINE, 100.0), ("mio", 110.0)] {
                samples.push(round, "quiet", server, cost * busy);
                samples.push(round, "loud", server, 2.0 * cost * busy);
            }
        }
        let ratio = samples.to_baseline("mio", &samples.cells(), |&value| value);
        assert!((ratio.mean - 1.1).abs() < 1e-9 && ratio.high < 1.11, "{ratio:?}");
        assert_eq!(samples.between("mio", "loud", "quiet", |&value| value), [2.0, 2.0]);
    }

    #[test]
    fn a_round_without_its_pair_is_left_out() {
        let mut samples = Samples::default();
        samples.push(0, "cell", BASELINE, 1.0);
        samples.push(0, "cell", "mio", 2.0);
        samples.push(1, "cell", "mio", 50.0);
        let ratio = samples.to_baseline("mio", &samples.cells(), |&value| value);
        assert!(ratio.rounds == 1 && (ratio.mean - 2.0).abs() < 1e-9, "{ratio:?}");
    }
}
