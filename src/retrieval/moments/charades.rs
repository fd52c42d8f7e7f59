//! Charades-STA's metrics: recall at overlaps of 0.3, 0.5 and 0.7 among the first and the first five moments, and the
//! mean overlap of the first.
//!
//! The overlap is [`iou`] in f64, and a threshold counts as reached at equality, as in lighthouse and moment_detr;
//! some older programs want more than the threshold.

use std::fmt;
use std::path::Path;

use serde::{Serialize, Serializer};

use super::submission::HighlightPrediction;
use super::{assign, highlights, iou, percent};
use crate::Result;
use crate::data::moments::{MomentQuery, Problems};

/// Overlaps that make a moment right.
pub const THRESHOLDS: [f64; 3] = [0.3, 0.5, 0.7];

/// Recalls are counted among so many first moments.
pub const TOP: [usize; 2] = [1, 5];

/// Charades-STA's metrics in percent; serialised under the names `R<k>@<threshold>` and `mIoU`, and displayed below them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CharadesMetrics {
    /// Recall by overlap, 0.3, 0.5 and 0.7, among the first moment and the first five.
    pub recalls: [[f64; 2]; 3],
    /// The mean overlap of the first moment.
    pub mean_iou: f64,
}

impl CharadesMetrics {
    /// Names and values, those of R1 first.
    fn entries(&self) -> Vec<(String, f64)> {
        let of_top =
            |i: usize| THRESHOLDS.iter().zip(self.recalls).map(move |(t, r)| (format!("R{}@{t}", TOP[i]), r[i]));
        of_top(0).chain(of_top(1)).chain([("mIoU".to_string(), self.mean_iou)]).collect()
    }
}

impl Serialize for CharadesMetrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.entries())
    }
}

impl fmt::Display for CharadesMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries();
        let names: String = entries.iter().map(|(name, _)| format!("{name:>9}")).collect();
        let values: String = entries.iter().map(|(_, value)| format!("{value:>9.2}")).collect();
        write!(f, "{names}\n{values}")
    }
}

/// Recalls and mean overlap of moments in QVHighlights' form. Of several windows of a query the one
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
) -> Result<CharadesMetrics> {
    let found = assign(predictions, |p| p.id, queries, origin, "query", problems)?;
    let mut overlaps = Vec::new();
    for (query, prediction) in queries.iter().zip(found) {
        let best = |w: &[f64; 3]| query.windows.iter().map(|&truth| iou([w[0], w[1]], truth)).fold(0.0, f64::max);
        overlaps.push(highlights::windows(prediction, origin, problems)?.iter().map(best).collect::<Vec<f64>>());
    }
    let n = queries.len() as f64;
    let recall = |threshold: f64, k: usize| {
        let hits = overlaps.iter().filter(|o| o.iter().take(k).any(|&o| o >= threshold)).count();
        percent(hits as f64 / n)
    };
    let mean = overlaps.iter().filter_map(|o| o.first()).sum::<f64>() / n;
    Ok(CharadesMetrics { recalls: THRESHOLDS.map(|t| TOP.map(|k| recall(t, k))), mean_iou: percent(mean) })
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

    fn check(predictions: &[HighlightPrediction], queries: &[MomentQuery]) -> Result<CharadesMetrics> {
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
        let recalls = [[66.67, 66.67], [33.33, 66.67], [0.0, 33.33]];
        assert_eq!(metrics, CharadesMetrics { recalls, mean_iou: 30.0 });
        let json = serde_json::json!(metrics);
        assert_eq!((&json["R5@0.7"], &json["mIoU"], json.as_object().unwrap().len()), (&33.33.into(), &30.0.into(), 7));
        let empty = [prediction(1, &[]), prediction(2, &[]), prediction(3, &[])];
        assert_eq!(check(&empty, &queries).unwrap(), CharadesMetrics { recalls: [[0.0; 2]; 3], mean_iou: 0.0 });
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
