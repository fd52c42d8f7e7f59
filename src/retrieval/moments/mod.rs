//! Moment retrieval: encoded videos in an index, search for videos and the moments in them, prediction files of any system,
//! the metrics of TVR, DiDeMo, QVHighlights and Charades-STA, non-maximum suppression, and what guessing gives.

pub mod baselines;
pub mod charades;
mod evaluation;
pub mod highlights;
mod index;
mod listing;
pub mod metrics;
mod metrics_form;
pub mod nms;
mod predict;
mod search;
mod segment;
pub mod submission;

pub use evaluation::{Benchmark, MomentFiles, MomentReport};
pub use index::{IndexOptions, IndexedVideo, MomentIndex};
pub use listing::{MomentResults, WantedMoment};
pub use metrics::{MomentMetrics, MomentRecalls, Recalls, evaluate};
pub use predict::Predicted;
pub use search::{FoundMoments, MomentSearch, MomentSearchOptions, QueryVectors, Stage};
pub use submission::{HighlightPrediction, Prediction, QueryPredictions, Submission};

use std::collections::HashMap;
use std::path::Path;

use crate::data::moments::{MomentQuery, Problems};
use crate::{Error, Result};

/// Intersection of two windows over the hull of both; 0 where the hull is empty. For windows that touch, the hull is
/// the union; others get 0 either way.
pub fn iou(a: [f64; 2], b: [f64; 2]) -> f64 {
    let hull = a[1].max(b[1]) - a[0].min(b[0]);
    if hull == 0.0 { 0.0 } else { (a[1].min(b[1]) - a[0].max(b[0])).max(0.0) / hull }
}

/// Percent, rounded as Python's `round(x, 2)` does: the nearest decimal to the exact value, an exact tie to even.
fn percent(share: f64) -> f64 {
    // The sum of nothing is -0.
    let exact = 100.0 * share + 0.0;
    format!("{exact:.2}").parse().unwrap_or(exact)
}

/// For every query its list among `lists` of the file `origin`; `None` where a missing one is let pass. `kind` is what
/// the file's queries are called in errors.
fn assign<'a, T>(
    lists: &'a [T],
    id: impl Fn(&T) -> u64,
    queries: &[MomentQuery],
    origin: &Path,
    kind: &'static str,
    problems: &mut Problems,
) -> Result<Vec<Option<&'a T>>> {
    let wrong = |why: String| Err(Error::Argument { op: "moments::evaluate", argument: "queries", why });
    if queries.is_empty() {
        return wrong("must not be empty".into());
    }
    let mut at = HashMap::new();
    for (i, query) in queries.iter().enumerate() {
        if at.insert(query.id, i).is_some() {
            return wrong(format!("hold the id {} twice", query.id));
        }
    }
    let mut found: Vec<Option<&T>> = vec![None; queries.len()];
    for (row, list) in lists.iter().enumerate() {
        let id = id(list);
        let place = format!("entry {}", row + 1);
        match at.get(&id).map(|&i| &mut found[i]) {
            None => problems.report(Error::malformed(origin, place, format_args!("{kind} {id} is not annotated")))?,
            Some(Some(_)) => problems.report(Error::duplicate(origin, place, kind, id))?,
            Some(slot) => *slot = Some(list),
        }
    }
    for (query, list) in queries.iter().zip(&found) {
        if list.is_none() {
            problems.report(Error::missing(origin, kind, query.id))?;
        }
    }
    Ok(found)
}

/// Refuses times that no moment can have, and scores that cannot be ranked; `place` names the row.
fn check_row(row: [f64; 3], origin: &Path, place: impl FnOnce() -> String) -> Result<()> {
    let [start, end, _] = row;
    let count = row.iter().filter(|v| !v.is_finite()).count() as u64;
    if count > 0 {
        return Err(Error::NonFinite { origin: origin.display().to_string(), place: place(), count });
    }
    if start > end {
        return Err(Error::malformed(origin, place(), format_args!("[{start}, {end}] ends before it starts")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentages_round_as_python_does() {
        // Exact ties go to the even neighbour; 1.005 and 2.675 are just below theirs, 0.005 just above.
        let cases = [(0.03125, 3.12), (0.01875, 1.88), (0.01005, 1.0), (0.02675, 2.67), (0.00005, 0.01), (1.0, 100.0)];
        for (share, rounded) in cases {
            assert_eq!(percent(share), rounded, "{share}");
        }
        assert_eq!(percent(1.0 / 3.0), 33.33);
        assert_eq!(format!("{:.2}", percent(Vec::<f64>::new().iter().sum())), "0.00");
    }

    #[test]
    fn overlap_of_empty_and_disjoint_windows_is_0() {
        assert_eq!(iou([2.0, 2.0], [2.0, 2.0]), 0.0);
        assert_eq!(iou([0.0, 1.0], [3.0, 4.0]), 0.0);
        assert_eq!(iou([0.0, 4.0], [2.0, 8.0]), 0.25);
    }

    proptest! {
        #[test]
        fn overlap_is_symmetric_and_a_share(a in 0.0f64..9.0, b in 0.1f64..9.0, c in 0.0f64..9.0, d in 0.1f64..9.0) {
            let (x, y) = ([a, a + b], [c, c + d]);
            prop_assert_eq!(iou(x, y), iou(y, x));
            prop_assert!((0.0..=1.0).contains(&iou(x, y)));
            prop_assert_eq!(iou(x, x), 1.0);
        }
    }
}
