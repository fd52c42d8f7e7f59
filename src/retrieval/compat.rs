//! The numbers that published evaluation scripts print, from the same similarity matrix.
//!
//! The scripts disagree with each other and, on tied scores, with the definition of the metrics. Use these to compare
//! with a published number or a log file; use [`Counts::metrics`] to know how good a model is.

use std::fmt;

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
        match s {
            "clip4clip" => Ok(Compat::Clip4Clip),
            "bicnet" => Ok(Compat::BicNet),
            "openclip" => Ok(Compat::OpenClip),
            _ => Err(Error::Argument {
                op: "Compat",
                argument: "name",
                why: format!("must be clip4clip, bicnet or openclip, got {s:?}"),
            }),
        }
    }
}

/// What a script prints for one direction, under its own names and in its own units.
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
    /// [`Error::Argument`] for several captions a video where the script knows only one.
    pub fn text_to_video(self, scores: &Scores) -> Result<CompatMetrics> {
        match self {
            Compat::Clip4Clip if scores.is_grouped() => Ok(clip4clip_captions(scores)),
            Compat::Clip4Clip => Ok(clip4clip(scores.text_to_video())),
            Compat::BicNet | Compat::OpenClip => {
                self.refuse_groups(scores)?;
                Ok(self.first_position(scores.matrix().data(), scores.videos(), Axis::Rows))
            }
        }
    }

    /// Video to text, as the script computes it; with several captions a video, a group scores as its best caption.
    ///
    /// # Errors
    /// [`Error::Argument`] for several captions a video where the script knows only one.
    pub fn video_to_text(self, scores: &Scores) -> Result<CompatMetrics> {
        match self {
            Compat::Clip4Clip => Ok(clip4clip(scores.video_to_text())),
            Compat::BicNet | Compat::OpenClip => {
                self.refuse_groups(scores)?;
                Ok(self.first_position(scores.matrix().data(), scores.videos(), Axis::Columns))
            }
        }
    }

    fn refuse_groups(self, scores: &Scores) -> Result<()> {
        if !scores.is_grouped() {
            return Ok(());
        }
        let why = format!("has several captions a video, which {self:?}'s script does not evaluate");
        Err(Error::Argument { op: "Compat", argument: "scores", why })
    }

    /// Ranks by the position in the script's sorted order, then its summary.
    fn first_position(self, scores: &[f32], n: usize, axis: Axis) -> CompatMetrics {
        let rank = |query: usize| {
            let at = |item: usize| match axis {
                Axis::Rows => scores[query * n + item],
                Axis::Columns => scores[item * n + query],
            };
            let own = at(query);
            let ahead = |item: usize| match self {
                Compat::BicNet => item > query,
                _ => item < query,
            };
            (0..n).filter(|&item| at(item) > own || (at(item) == own && ahead(item))).count() as u32
        };
        let ranks: Vec<u32> = (0..n).map(rank).collect();
        let recall = |k: u32| ranks.iter().filter(|&&r| r < k).count() as f64 / n as f64;
        let median_rank = median(ranks.iter().map(|&r| f64::from(r)).collect()).floor() + 1.0;
        let mean_rank = mean(&ranks) + 1.0;
        let values = if self == Compat::BicNet {
            let (r1, r5, r10, r50) = (recall(1), recall(5), recall(10), recall(50));
            vec![
                ("r1", r1),
                ("r5", r5),
                ("r10", r10),
                ("r50", r50),
                ("medr", median_rank),
                ("meanr", mean_rank),
                ("sum", r1 + r5 + r50),
            ]
        } else {
            vec![
                ("mean_rank", mean_rank),
                ("median_rank", median_rank),
                ("R@1", recall(1)),
                ("R@5", recall(5)),
                ("R@10", recall(10)),
            ]
        };
        CompatMetrics { values, ranks }
    }
}

#[derive(Clone, Copy)]
enum Axis {
    Rows,
    Columns,
}

fn mean(ranks: &[u32]) -> f64 {
    ranks.iter().map(|&r| f64::from(r)).sum::<f64>() / ranks.len() as f64
}

/// The script looks for zeros in `sort(-scores) - own`: all `equal + 1` positions of the own score are found.
fn clip4clip(counts: Counts) -> CompatMetrics {
    let ranks: Vec<u32> = counts.greater.iter().zip(&counts.equal).flat_map(|(&g, &e)| g..=g + e).collect();
    let recall = |k: u32| ranks.iter().filter(|&&r| r < k).count() as f64 * 100.0 / ranks.len() as f64;
    let median_rank = median(ranks.iter().map(|&r| f64::from(r)).collect()) + 1.0;
    let values = clip4clip_values([recall(1), recall(5), recall(10)], median_rank, mean(&ranks) + 1.0);
    CompatMetrics { values, ranks }
}

/// Several captions a video: a rank per caption, integer tensors divided in `f32`, lower median.
fn clip4clip_captions(scores: &Scores) -> CompatMetrics {
    let rank = |(text, &own): (usize, &usize)| {
        let row: &[f32] = Array::row(scores.matrix(), text);
        let score = row[own];
        row.iter().enumerate().filter(|&(v, &s)| s > score || (s == score && v < own)).count() as u32
    };
    let ranks: Vec<u32> = scores.owner().iter().enumerate().map(rank).collect();
    let recall = |k: u32| {
        let hits = ranks.iter().filter(|&&r| r < k).count();
        f64::from((hits * 100) as f32 / ranks.len() as f32)
    };
    let mut sorted = ranks.clone();
    sorted.sort_unstable();
    let median_rank = f64::from(sorted[(sorted.len() - 1) / 2]) + 1.0;
    let values = clip4clip_values([recall(1), recall(5), recall(10)], median_rank, mean(&ranks) + 1.0);
    CompatMetrics { values, ranks }
}

fn clip4clip_values(recalls: [f64; 3], median_rank: f64, mean_rank: f64) -> Vec<(&'static str, f64)> {
    let [r1, r5, r10] = recalls;
    vec![("R1", r1), ("R5", r5), ("R10", r10), ("MR", median_rank), ("MedianR", median_rank), ("MeanR", mean_rank)]
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
