//! What a split holds, in numbers.

use std::fmt;

use super::MomentSplit;
use crate::progress::counted;

/// The sizes of a [`MomentSplit`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SplitSummary {
    /// Queries.
    pub queries: usize,
    /// Queries without a moment: labels are withheld.
    pub unlabelled: usize,
    /// Videos.
    pub videos: usize,
    /// Moments of all queries.
    pub windows: usize,
    /// Mean length of a moment in seconds; 0 without any.
    pub mean_window: f64,
    /// Mean length of a video in seconds; 0 without any.
    pub mean_duration: f64,
}

impl MomentSplit {
    /// What the split holds.
    pub fn summary(&self) -> SplitSummary {
        let lengths: Vec<f64> = self.queries.iter().flat_map(|q| &q.windows).map(|[start, end]| end - start).collect();
        let durations: Vec<f64> = self.videos.iter().map(|v| v.duration).collect();
        // The sum of nothing is -0.
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64 + 0.0;
        SplitSummary {
            queries: self.queries.len(),
            unlabelled: self.queries.iter().filter(|q| q.windows.is_empty()).count(),
            videos: self.videos.len(),
            windows: lengths.len(),
            mean_window: mean(&lengths),
            mean_duration: mean(&durations),
        }
    }
}

impl fmt::Display for SplitSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { queries, unlabelled, videos, windows, mean_window, mean_duration } = self;
        let queries = counted(*queries, "query", "queries");
        let windows = counted(*windows, "moment", "moments");
        write!(f, "{queries} ({unlabelled} unlabelled) with {windows} of {mean_window:.1} s on average, ")?;
        write!(f, "in {} of {mean_duration:.1} s", counted(*videos, "video", "videos"))
    }
}
