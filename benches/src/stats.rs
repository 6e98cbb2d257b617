//! Medians, and the interval of a mean ratio of pairs.

use serde::{Deserialize, Serialize};

/// Two-sided 95% quantiles of Student's t, by degrees of freedom from 1.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// The median, and both ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The smallest value.
    pub min: f64,
    /// The median: of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The largest value.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Self { min: sorted[0], median: (low + high) / 2.0, max: sorted[sorted.len() - 1] }
    }
}

/// A ratio and its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// How many rounds it is of. Of none, it is no number.
    pub rounds: usize,
    /// The lower end.
    pub low: f64,
    /// The geometric mean.
    pub mean: f64,
    /// The upper end.
    pub high: f64,
}

impl Ratio {
    /// Of ratios, one from each round: by Student's t over their logarithms. One round has no
    /// interval: it is then without bounds.
    pub fn of(ratios: &[f64]) -> Self {
        let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        let rounds = logs.len();
        let n = rounds as f64;
        let mean = logs.iter().sum::<f64>() / n;
        if rounds < 2 {
            return Self { rounds, low: 0.0, mean: mean.exp(), high: f64::INFINITY };
        }
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let t = T_95.get(rounds - 2).copied().unwrap_or(1.96);
        let half = t * (variance / n).sqrt();
        Self { rounds, low: (mean - half).exp(), mean: mean.exp(), high: (mean + half).exp() }
    }

    /// Whether the interval excludes 1.
    pub fn is_shown(&self) -> bool {
        self.high < 1.0 || self.low > 1.0
    }

    /// In words, only as far as the interval allows.
    pub fn verdict(&self) -> &'static str {
        if self.high < 1.0 {
            "below"
        } else if self.low > 1.0 {
            "above"
        } else {
            "no difference shown"
        }
    }
}

/// The geometric mean.
pub fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_and_both_ends() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]).median, 2.5);
    }

    #[test]
    fn a_difference_is_claimed_only_outside_of_the_interval() {
        let clear = Ratio::of(&[0.8, 0.81, 0.79, 0.8]);
        assert!((clear.mean - 0.8).abs() < 0.01 && clear.verdict() == "below", "{clear:?}");
        assert_eq!(Ratio::of(&[0.8, 1.3, 0.9, 1.1]).verdict(), "no difference shown");
        assert_eq!(Ratio::of(&[0.5]).verdict(), "no difference shown");
        assert!((geometric_mean(&[0.5, 2.0]) - 1.0).abs() < 1e-12);
    }
}
