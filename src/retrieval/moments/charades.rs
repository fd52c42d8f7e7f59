//! Charades-STA's metrics: recall at overlaps of 0.3, 0.5 and 0.7 among the first and the first five moments, and the
//! mean overlap of the first.
//!
//! The overlap is [`iou`] in f64, and a threshold counts as reached at equality, as in lighthouse and moment_detr;
//! some older programs want more than the threshold.

use std::collections::BTreeMap;
use std::path::Path;

use super::submission::HighlightPrediction;
use super::{assign, highlights, iou, percent};
use crate::Result;
use crate::data::moments::{MomentQuery, Problems};

/// Overlaps that make a moment right.
pub const THRESHOLDS: [f64; 3] = [0.3, 0.5, 0.7];

/// Recalls are counted among so many first moments.
pub const TOP: [usize; 2] = [1, 5];

/// `R<k>@<threshold>` and `mIoU` in percent, from moments in QVHighlights' form. Of several windows of a query the one
/// that overlaps most counts; a query without a moment counts as a miss of overlap 0. `origin` names the file in
/// errors.
///
/// # Errors
/// As [`super::metrics::evaluate`].
pub fn evaluate(
    predictions: &[HighlightPrediction],
    queries: &[MomentQuery],
    origin: &Path,
    problems: &mut Problems,
) -> Result<BTreeMap<String, f64>> {
    let found = assign(predictions, |p| p.id, queries, origin, "query", problems)?;
    let mut overlaps = Vec::new();
    for (query, prediction) in queries.iter().zip(found) {
        let best = |w: &[f64; 3]| query.windows.iter().map(|&truth| iou([w[0], w[1]], truth)).fold(0.0, f64::max);
        overlaps.push(highlights::windows(prediction, origin, problems)?.iter().map(best).collect::<Vec<f64>>());
    }
    let n = queries.len() as f64;
    let mut metrics = BTreeMap::new();
    for threshold in THRESHOLDS {
        for k in TOP {
            let hits = overlaps.iter().filter(|o| o.iter().take(k).any(|&o| o >= threshold)).count();
            metrics.insert(format!("R{k}@{threshold}"), percent(hits as f64 / n));
        }
    }
    let mean = overlaps.iter().filter_map(|o| o.first()).sum::<f64>() / n;
    metrics.insert("mIoU".into(), percent(mean));
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn query(id: u64, window: [f64; 2]) -> MomentQuery {
        let (text, video) = ("x".into(), Some("v".into()));
        MomentQuery { id, text, video, windows: vec![window], kind: None, saliency: Vec::new() }
    }

    fn prediction(id: u64, windows: &[[f64; 3]]) -> HighlightPrediction {
        HighlightPrediction { id, windows: Some(windows.to_vec()), ..Default::default() }
    }

    fn check(predictions: &[HighlightPrediction], queries: &[MomentQuery]) -> Result<BTreeMap<String, f64>> {
        evaluate(predictions, queries, Path::new("file"), &mut Problems::strict())
    }

    #[test]
    fn recalls_and_mean_overlap() {
        let queries = [query(1, [0.0, 10.0]), query(2, [0.0, 10.0]), query(3, [0.0, 10.0])];
        let far = [20.0, 30.0, 0.0];
        let sixth = [far, far, far, far, far, [0.0, 10.0, 0.0]];
        let predictions = [
            prediction(3, &sixth),
            // The order of the file counts, not the score.
            prediction(1, &[[0.0, 3.0, 0.1], [0.0, 10.0, 0.9]]),
            prediction(2, &[[0.0, 6.0, 0.9]]),
        ];
        let metrics = check(&predictions, &queries).unwrap();
        let want = [("R1@0.3", 66.67), ("R1@0.5", 33.33), ("R1@0.7", 0.0), ("R5@0.3", 66.67), ("R5@0.5", 66.67)];
        for (name, value) in want.into_iter().chain([("R5@0.7", 33.33), ("mIoU", 30.0)]) {
            assert_eq!(metrics[name], value, "{name}");
        }
        let empty = [prediction(1, &[]), prediction(2, &[]), prediction(3, &[])];
        assert!(check(&empty, &queries).unwrap().values().all(|&v| v == 0.0));
    }

    #[test]
    fn bad_predictions_are_errors() {
        let queries = [query(1, [0.0, 10.0])];
        assert!(matches!(check(&[], &queries), Err(Error::Missing { .. })));
        assert!(matches!(check(&[prediction(1, &[[5.0, 4.0, 1.0]])], &queries), Err(Error::Malformed { .. })));
        assert!(matches!(check(&[prediction(1, &[[5.0, 6.0, f64::NAN]])], &queries), Err(Error::NonFinite { .. })));
        let twice = [prediction(1, &[]), prediction(1, &[])];
        assert!(matches!(check(&twice, &queries), Err(Error::Duplicate { .. })));
    }
}
