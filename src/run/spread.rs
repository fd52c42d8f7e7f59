//! One figure over several seeds.

use std::fmt;

/// The mean of a figure over seeds, and how far it spreads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The largest less the smallest.
    pub range: f64,
    /// How many seeds there are.
    pub count: usize,
}

impl Spread {
    /// Of a figure of each result.
    pub fn of<R>(results: &[R], figure: impl Fn(&R) -> f64) -> Self {
        let values: Vec<f64> = results.iter().map(figure).collect();
        let mean = values.iter().fold(0.0, |sum, v| sum + v) / values.len().max(1) as f64;
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        Self { mean, range: if values.is_empty() { 0.0 } else { high - low }, count: values.len() }
    }
}

/// The mean, and in brackets the range where there are several seeds.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 | 1 => write!(f, "{:.1}", self.mean),
            _ => write!(f, "{:.1} ({:.1})", self.mean, self.range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn mean_and_range() {
        let text = |values: &[f64]| Spread::of(values, |v| *v).to_string();
        assert_eq!(text(&[1.0, 4.0, 2.5]), "2.5 (3.0)");
        assert_eq!(text(&[-7.04]), "-7.0");
        assert_eq!(text(&[]), "0.0");
    }
}
