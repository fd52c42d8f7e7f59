//! The numbers that published evaluation scripts print, from the same similarity matrix.
//!
//! The scripts disagree with each other and, on tied scores, with the definition of the metrics. Use these to compare
//! with a published number or a log file; use [`Counts::metrics`] to know how good a model is.

use std::fmt;

use serde::{Serialize, Serializer};

use super::by_name;
use super::metrics::{Counts, Scores, median};
use crate::tensor::Array;
use crate::{Error, Result};

/// Whose evaluation script to reproduce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compat {
    /// CLIP4Clip and its descendants (X-CLIP, EERCF, GLCCL): percent; `MedianR` is the mean of the middle ranks.
    ///
    /// Every position of a tied score counts as a query, so with ties the denominator exceeds the number of queries.
    /// With several captions a video, text-to-video takes another path: recalls rounded to `f32` and the lower median;
    /// tied scores, whose order that path leaves to chance, are taken lowest index first.
    Clip4Clip,
    /// BiC-Net: fractions, `medr` rounded down, `sum` = r1 + r5 + r50. Of tied items the one of higher index is first.
    BicNet,
    /// OpenCLIP: fractions, the median rounded down. Of tied items the one of lower index is first.
    OpenClip,
}

impl std::str::FromStr for Compat {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let scripts = [("clip4clip", Self::Clip4Clip), ("bicnet", Self::BicNet), ("openclip", Self::OpenClip)];
        by_name(("Compat", "name"), s, scripts)
    }
}

/// What a script prints for one direction, under its own names and in its own units; serialised as an object of them.
#[derive(Clone, Debug, PartialEq)]
pub struct CompatMetrics {
    /// Name and value, in the script's order.
    pub values: Vec<(&'static str, f64)>,
    /// 0-based ranks, one a query (CLIP4Clip, `cols`: one a tied position).
    pub ranks: Vec<u32>,
}

impl CompatMetrics {
    /// The value called `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(n, _)| *n == name).map(|&(_, v)| v)
    }
}

impl Serialize for CompatMetrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.values.iter().copied())
    }
}

/// Names and values on one line.
impl fmt::Display for CompatMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        f.write_str(&values.join("  "))
    }
}

impl Compat {
    /// Text to video, as the script computes it.
    ///
    /// # Errors
    /// [`Error::Argument`] for several captions a video where the script knows only one, in either direction.
    pub fn text_to_video(self, scores: &Scores) -> Result<CompatMetrics> {
        match self {
            Compat::Clip4Clip if scores.is_grouped() => Ok(clip4clip_captions(scores)),
            Compat::Clip4Clip => Ok(clip4clip(scores.text_to_video())),
            _ => self.first_position(scores, |text, video| scores.matrix().row(text)[video]),
        }
    }

    /// Video to text, as the script computes it; with several captions a video, a group scores as its best caption.
    pub fn video_to_text(self, scores: &Scores) -> Result<CompatMetrics> {
        match self {
            Compat::Clip4Clip => Ok(clip4clip(scores.video_to_text())),
            _ => self.first_position(scores, |video, text| scores.matrix().row(text)[video]),
        }
    }

    /// Both directions with their names.
    pub fn both(self, scores: &Scores) -> Result<[(&'static str, CompatMetrics); 2]> {
        Ok([("text to video", self.text_to_video(scores)?), ("video to text", self.video_to_text(scores)?)])
    }

    /// Ranks by the position in the script's sorted order, then its summary; `score` is that of a query and an item.
    fn first_position(self, scores: &Scores, score: impl Fn(usize, usize) -> f32) -> Result<CompatMetrics> {
        if scores.is_grouped() {
            let why = format!("has several captions a video, which {self:?}'s script does not evaluate");
            return Err(Error::Argument { op: "Compat", argument: "scores", why });
        }
        let n = scores.videos();
        let rank = |query: usize| {
            let own = score(query, query);
            let is_first = |item: usize| if self == Compat::BicNet { item > query } else { item < query };
            let is_ahead = |&item: &usize| score(query, item) > own || (score(query, item) == own && is_first(item));
            (0..n).filter(is_ahead).count() as u32
        };
        let ranks: Vec<u32> = (0..n).map(rank).collect();
        let recall = |k: u32| ranks.iter().filter(|&&r| r < k).count() as f64 / n as f64;
        let [r1, r5, r10] = [1, 5, 10].map(recall);
        let median = median(ranks.iter().map(|&r| f64::from(r)).collect()).floor() + 1.0;
        let mean = mean(&ranks) + 1.0;
        let values = if self == Compat::BicNet {
            let r50 = recall(50);
            let sum = r1 + r5 + r50;
            vec![("r1", r1), ("r5", r5), ("r10", r10), ("r50", r50), ("medr", median), ("meanr", mean), ("sum", sum)]
        } else {
            vec![("mean_rank", mean), ("median_rank", median), ("R@1", r1), ("R@5", r5), ("R@10", r10)]
        };
        Ok(CompatMetrics { values, ranks })
    }
}

fn mean(ranks: &[u32]) -> f64 {
    ranks.iter().map(|&r| f64::from(r)).sum::<f64>() / ranks.len() as f64
}

/// The script looks for zeros in `sort(-scores) - own`: all `equal + 1` positions of the own score are found.
fn clip4clip(counts: Counts) -> CompatMetrics {
    let ranks: Vec<u32> = counts.greater.iter().zip(&counts.equal).flat_map(|(&g, &e)| g..=g + e).collect();
    let (queries, median) = (ranks.len() as f64, median(ranks.iter().map(|&r| f64::from(r)).collect()));
    clip4clip_metrics(ranks, |hits| hits as f64 * 100.0 / queries, median)
}

/// Several captions a video: a rank per caption, integer tensors divided in `f32`, lower median.
fn clip4clip_captions(scores: &Scores) -> CompatMetrics {
    let rank = |(text, &own): (usize, &usize)| {
        let row: &[f32] = Array::row(scores.matrix(), text);
        let score = row[own];
        row.iter().enumerate().filter(|&(v, &s)| s > score || (s == score && v < own)).count() as u32
    };
    let ranks: Vec<u32> = scores.owner().iter().enumerate().map(rank).collect();
    let mut sorted = ranks.clone();
    sorted.sort_unstable();
    let (queries, median) = (ranks.len() as f32, sorted[(sorted.len() - 1) / 2]);
    clip4clip_metrics(ranks, |hits| f64::from((hits * 100) as f32 / queries), f64::from(median))
}

fn clip4clip_metrics(ranks: Vec<u32>, percent: impl Fn(usize) -> f64, median: f64) -> CompatMetrics {
    let [r1, r5, r10] = [1, 5, 10].map(|k| percent(ranks.iter().filter(|&&r| r < k).count()));
    let (median, mean) = (median + 1.0, mean(&ranks) + 1.0);
    let values = vec![("R1", r1), ("R5", r5), ("R10", r10), ("MR", median), ("MedianR", median), ("MeanR", mean)];
    CompatMetrics { values, ranks }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tied() -> Scores {
        // Row 0: a tie with the item behind it; row 1: a tie with the item before it; row 2: no tie, last.
        let data = vec![1.0, 1.0, 0.0, 2.0, 2.0, 0.0, 3.0, 4.0, 0.5];
        Scores::square(Array::new([3, 3], data).unwrap()).unwrap()
    }

    #[test]
    fn tie_orders_of_bicnet_and_openclip_are_opposite() {
        let bicnet = Compat::BicNet.text_to_video(&tied()).unwrap();
        assert_eq!(bicnet.ranks, [1, 0, 2]);
        assert_eq!(bicnet.get("sum"), Some(1.0 / 3.0 + 1.0 + 1.0));
        assert_eq!(bicnet.get("medr"), Some(2.0));
        assert!(bicnet.to_string().starts_with("r1 0.3333  r5 1.0000"), "{bicnet}");
        let openclip = Compat::OpenClip.text_to_video(&tied()).unwrap();
        assert_eq!(openclip.ranks, [0, 1, 2]);
        assert_eq!(openclip.get("R@1"), Some(1.0 / 3.0));
        // Columns: [1 2 3], [1 2 4], [0 0 .5].
        assert_eq!(Compat::OpenClip.video_to_text(&tied()).unwrap().ranks, [2, 1, 0]);
    }

    #[test]
    fn the_median_of_an_even_number_is_rounded_down() {
        let scores = Scores::square(Array::new([2, 2], vec![1.0, 0.0, 1.0, 0.0]).unwrap()).unwrap();
        assert_eq!(Compat::BicNet.text_to_video(&scores).unwrap().get("medr"), Some(1.0));
        assert_eq!(Compat::OpenClip.text_to_video(&scores).unwrap().get("median_rank"), Some(1.0));
        assert_eq!(Compat::Clip4Clip.text_to_video(&scores).unwrap().get("MedianR"), Some(1.5));
    }

    #[test]
    fn only_clip4clip_knows_several_captions() {
        let scores = Scores::grouped(Array::zeros([3, 2]), &[1, 2]).unwrap();
        assert!(Compat::Clip4Clip.text_to_video(&scores).is_ok());
        assert!(matches!(Compat::BicNet.text_to_video(&scores), Err(Error::Argument { .. })));
        assert!(matches!(Compat::OpenClip.video_to_text(&scores), Err(Error::Argument { .. })));
    }
}
