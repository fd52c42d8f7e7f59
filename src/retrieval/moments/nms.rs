//! Temporal non-maximum suppression.

use super::iou;
use super::submission::{Prediction, QueryPredictions, Submission};

/// Greedy suppression: from the best score down, equal scores in their order, a prediction is dropped if its overlap
/// ([`iou`]) with a kept one of the same video is above `threshold`. The first `keep` that remain, by score.
///
/// On a list about one video this is what ReLoCLNet's `temporal_nms` does; on a list about several, its VCMR form,
/// which works video by video and merges by score. Its SVMR form reads the wrong columns; upstream corrected that, and
/// so does this.
pub fn suppress(predictions: &[Prediction], threshold: f64, keep: usize) -> Vec<Prediction> {
    let mut ranked: Vec<&Prediction> = predictions.iter().collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Prediction> = Vec::new();
    for &candidate in ranked {
        if kept.len() == keep {
            break;
        }
        let overlaps = |k: &Prediction| k.video == candidate.video && iou(k.window(), candidate.window()) > threshold;
        if !kept.iter().any(overlaps) {
            kept.push(candidate);
        }
    }
    kept
}

impl Submission {
    /// Suppresses overlapping moments in the VCMR and SVMR lists, as [`suppress`] does; lists of videos stay.
    pub fn suppress(&mut self, threshold: f64, keep: usize) {
        let thin = |list: &mut QueryPredictions| list.predictions = suppress(&list.predictions, threshold, keep);
        self.vcmr.iter_mut().chain(&mut self.svmr).flatten().for_each(thin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(video: u64, start: f32, end: f32, score: f32) -> Prediction {
        Prediction { video, start, end, score }
    }

    #[test]
    fn only_moments_of_the_same_video_suppress_each_other() {
        let list = [row(1, 0.0, 4.0, 0.5), row(2, 0.0, 4.0, 0.9), row(1, 0.0, 3.0, 0.7), row(1, 8.0, 9.0, 0.1)];
        assert_eq!(suppress(&list, 0.5, 100), [list[1], list[2], list[3]]);
        assert_eq!(suppress(&list, 0.5, 2), [list[1], list[2]]);
        // An overlap of exactly the threshold stays.
        assert_eq!(suppress(&list, 0.75, 100).len(), 4);
        assert!(suppress(&[], 0.5, 100).is_empty());
    }

    proptest! {
        /// What remains is a part of the input, sorted, without overlaps, and every dropped one overlaps a better one.
        #[test]
        fn suppression_is_greedy(
            spans in prop::collection::vec((0u64..3, 0u8..12, 1u8..9, 0u8..5), 0..30),
            threshold in 0.0f64..1.0,
        ) {
            let list: Vec<Prediction> = spans
                .iter()
                .map(|&(v, s, l, score)| row(v, f32::from(s), f32::from(s + l), f32::from(score)))
                .collect();
            let kept = suppress(&list, threshold, usize::MAX);
            let overlap =
                |a: &Prediction, b: &Prediction| a.video == b.video && iou(a.window(), b.window()) > threshold;
            prop_assert!(kept.iter().all(|k| list.contains(k)));
            prop_assert!(kept.is_sorted_by(|a, b| a.score >= b.score));
            for (i, a) in kept.iter().enumerate() {
                prop_assert!(kept[..i].iter().all(|b| !overlap(a, b)));
            }
            for dropped in list.iter().filter(|p| !kept.contains(p)) {
                prop_assert!(kept.iter().any(|k| k.score >= dropped.score && overlap(k, dropped)));
            }
        }
    }
}
