//! Order statistics: of samples, and of what was measured anew in each round.
//!
//! A ratio of two medians over a whole run hides how much it depends on the moment; so a ratio is taken within each
//! round, whose parts were measured side by side, and reported as the median of the rounds with its quartiles.

/// A count as a number to reckon with. Counts here are far below 2^32; a larger one is taken for that.
pub(crate) fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The smallest sample that at least `percent` of the samples don't exceed (nearest rank), none of no samples.
pub(crate) fn quantile(samples: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// What the rounds gave: their median, and the quartiles, between which half of the rounds lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// Half of the rounds gave no more.
    pub(crate) median: f64,
    /// A quarter of the rounds gave no more.
    pub(crate) low: f64,
    /// Three quarters of the rounds gave no more.
    pub(crate) high: f64,
}

impl Spread {
    /// Of one value a round; none without rounds. Values that are no numbers are left out.
    pub(crate) fn of(rounds: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = rounds.into_iter().filter(|value| value.is_finite()).collect();
        Some(Self { median: quantile(&values, 50)?, low: quantile(&values, 25)?, high: quantile(&values, 75)? })
    }

    /// Of the ratio of two series that were measured in the same rounds. A round that lacks one of them doesn't count.
    pub(crate) fn of_ratios(above: &[Option<f64>], below: &[Option<f64>]) -> Option<Self> {
        Self::of(above.iter().zip(below).filter_map(|(above, below)| Some((*above)? / (*below)?)))
    }
}
