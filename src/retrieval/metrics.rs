//! Recall, median and mean rank, by counting.
//!
//! The rank of a query's own item follows from two counts: how many competitors score strictly better (`greater`) and
//! how many score the same (`equal`). Counting needs no sort, gives the same answer in any order of evaluation, and
//! makes the treatment of ties a choice of the reader instead of an accident of a sorting routine.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::by_name;
use crate::tensor::Array;
use crate::{Error, Result};

/// Where an item stands among competitors of the same score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ties {
    /// Before all of them: rank `greater`.
    Optimistic,
    /// The mean over all orders of the tied items: rank `greater + equal / 2`. A constant score gets chance recall.
    #[default]
    Expected,
    /// Behind all of them: rank `greater + equal`.
    Pessimistic,
}

impl std::str::FromStr for Ties {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let ties = [("optimistic", Self::Optimistic), ("expected", Self::Expected), ("pessimistic", Self::Pessimistic)];
        by_name(("Ties", "name"), s, ties)
    }
}

/// For every query, how its own item compares with the competitors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Competitors that score strictly better.
    pub greater: Vec<u32>,
    /// Competitors that score the same; the own item is not counted.
    pub equal: Vec<u32>,
}

impl Counts {
    /// Of queries that several items answer: how the best of them, `right` by query, compares with the items that do not
    /// answer. `matrix` (queries, items).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] unless there is a list for each query; [`Error::Argument`] for an empty one;
    /// [`Error::IndexOutOfRange`]; [`Error::NonFinite`] for scores that are.
    pub fn of_any(matrix: &Array, right: &[Vec<usize>]) -> Result<Self> {
        const OP: &str = "retrieval metrics";
        let items = matrix.shape().get(1).copied().unwrap_or(0);
        if matrix.shape() != [right.len(), items] {
            let why = "every query needs a list of answers";
            return Err(Error::mismatch(OP, matrix.shape(), &[right.len()], why));
        }
        if let Some((count, first)) = matrix.non_finite() {
            let place = format!("query {}", first / items.max(1));
            return Err(Error::NonFinite { origin: "scores".into(), place, count });
        }
        let mut counts = Self::default();
        for (query, answers) in right.iter().enumerate() {
            let row = matrix.row(query);
            if let Some(&index) = answers.iter().find(|&&a| a >= items) {
                return Err(Error::IndexOutOfRange { op: OP, index: index as u64, len: items as u64 });
            }
            let why = || format!("holds no answer to query {query}");
            let none = || Error::Argument { op: OP, argument: "right", why: why() };
            let best = answers.iter().map(|&a| row[a]).reduce(f32::max).ok_or_else(none)?;
            let others = || row.iter().enumerate().filter(|(item, _)| !answers.contains(item)).map(|(_, &s)| s);
            counts.greater.push(others().filter(|&s| s > best).count() as u32);
            counts.equal.push(others().filter(|&s| s == best).count() as u32);
        }
        Ok(counts)
    }

    /// The 0-based rank of every query's own item.
    pub fn ranks(&self, ties: Ties) -> Vec<f64> {
        let rank = |(&g, &e): (&u32, &u32)| match ties {
            Ties::Optimistic => g as f64,
            Ties::Expected => g as f64 + e as f64 / 2.0,
            Ties::Pessimistic => g as f64 + e as f64,
        };
        self.greater.iter().zip(&self.equal).map(rank).collect()
    }

    /// Percent of queries whose own item is among the first `k`; NaN without queries.
    ///
    /// Under [`Ties::Expected`] a query counts by the probability that its item lands among the first `k` when tied
    /// items are shuffled.
    pub fn recall(&self, k: u32, ties: Ties) -> f64 {
        let hit = |(&g, &e): (&u32, &u32)| match ties {
            Ties::Optimistic => f64::from(g < k),
            Ties::Expected => ((k as f64 - g as f64) / (e as f64 + 1.0)).clamp(0.0, 1.0),
            Ties::Pessimistic => f64::from(g as u64 + (e as u64) < k as u64),
        };
        100.0 * self.greater.iter().zip(&self.equal).map(hit).sum::<f64>() / self.greater.len() as f64
    }

    /// All metrics of these queries.
    ///
    /// # Errors
    /// [`Error::Argument`] without queries, [`Error::ShapeMismatch`] when the two lists differ in length.
    pub fn metrics(&self, ties: Ties) -> Result<RetrievalMetrics> {
        const OP: &str = "retrieval metrics";
        if self.greater.len() != self.equal.len() {
            let why = "both counts must cover every query";
            return Err(Error::mismatch(OP, &[self.greater.len()], &[self.equal.len()], why));
        }
        if self.greater.is_empty() {
            return Err(Error::Argument { op: OP, argument: "counts", why: "hold no query".into() });
        }
        let ranks = self.ranks(ties);
        let recall = |k| self.recall(k, ties);
        let (r1, r5, r10, r50) = (recall(1), recall(5), recall(10), recall(50));
        let queries = ranks.len();
        let mnr = ranks.iter().sum::<f64>() / queries as f64 + 1.0;
        Ok(RetrievalMetrics { r1, r5, r10, r50, mdr: median(ranks) + 1.0, mnr, rsum: r1 + r5 + r10, queries })
    }
}

/// The metrics that papers print. Recalls are in percent, ranks start at 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalMetrics {
    /// Percent of queries whose own item comes first.
    pub r1: f64,
    /// Percent of queries whose own item is among the first 5.
    pub r5: f64,
    /// Percent of queries whose own item is among the first 10.
    pub r10: f64,
    /// Percent of queries whose own item is among the first 50.
    pub r50: f64,
    /// Median rank: the mean of the two middle ones for an even number of queries.
    pub mdr: f64,
    /// Mean rank.
    pub mnr: f64,
    /// `r1 + r5 + r10`.
    pub rsum: f64,
    /// Number of queries.
    pub queries: usize,
}

impl RetrievalMetrics {
    /// What guessing gives: `videos` queries, each with one answer among `videos`.
    pub fn of_chance(videos: usize) -> Self {
        let recall = |k: f64| 100.0 * (k / videos as f64).min(1.0);
        let (r1, r5, r10, r50) = (recall(1.0), recall(5.0), recall(10.0), recall(50.0));
        let middle = (videos as f64 + 1.0) / 2.0;
        Self { r1, r5, r10, r50, mdr: middle, mnr: middle, rsum: r1 + r5 + r10, queries: videos }
    }
}

/// R@1, R@5, R@10, R@50, median and mean rank, in columns.
impl fmt::Display for RetrievalMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { r1, r5, r10, r50, mdr, mnr, .. } = self;
        write!(f, "{r1:5.1} {r5:5.1} {r10:5.1} {r50:5.1} {mdr:4.0} {mnr:4.0}")
    }
}

/// Median with the mean of the two middle values; the list is not empty.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// A similarity matrix, rows texts and columns videos, that is known to be finite.
#[derive(Clone, Debug)]
pub struct Scores {
    matrix: Array,
    /// The video of every text.
    owner: Vec<usize>,
    grouped: bool,
}

impl Scores {
    /// Scores of `n` texts and `n` videos, where text `i` belongs to video `i`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the matrix is square and not empty; [`Error::NonFinite`] with the first place and the
    /// count over the whole matrix: a NaN compares with nothing, and dropping its query would flatter the result.
    pub fn square(matrix: Array) -> Result<Self> {
        let (texts, videos) = extents(&matrix)?;
        if texts != videos {
            return Err(shape(&matrix, "[n, n] (or give the captions per video)".into()));
        }
        Self::checked(matrix, (0..texts).collect(), false)
    }

    /// Scores of several captions a video: the first `captions_per_video[0]` rows belong to video 0, and so on.
    ///
    /// # Errors
    /// As [`Scores::square`]; [`Error::Shape`] unless there is a row for every caption and a column for every video;
    /// [`Error::Argument`] for a video without a caption.
    pub fn grouped(matrix: Array, captions_per_video: &[usize]) -> Result<Self> {
        let (texts, videos) = extents(&matrix)?;
        let rows = captions_per_video.iter().try_fold(0usize, |n, &c| n.checked_add(c));
        if videos != captions_per_video.len() || rows != Some(texts) {
            let rows = rows.map_or("too many".into(), |n| n.to_string());
            return Err(shape(&matrix, format!("[{rows}, {}] (captions, videos)", captions_per_video.len())));
        }
        if let Some(video) = captions_per_video.iter().position(|&c| c == 0) {
            let why = format!("gives video {video} no caption");
            return Err(Error::Argument { op: "Scores", argument: "captions_per_video", why });
        }
        let owner = captions_per_video.iter().enumerate().flat_map(|(v, &c)| std::iter::repeat_n(v, c)).collect();
        Self::checked(matrix, owner, true)
    }

    fn checked(matrix: Array, owner: Vec<usize>, grouped: bool) -> Result<Self> {
        expect_finite("similarity matrix", &matrix)?;
        Ok(Self { matrix, owner, grouped })
    }

    /// The matrix, (texts, videos).
    pub fn matrix(&self) -> &Array {
        &self.matrix
    }

    /// Number of videos.
    pub fn videos(&self) -> usize {
        self.matrix.shape()[1]
    }

    /// The video that every text belongs to.
    pub fn owner(&self) -> &[usize] {
        &self.owner
    }

    /// Whether the captions per video were given.
    pub fn is_grouped(&self) -> bool {
        self.grouped
    }

    /// A query for every text, among all videos.
    pub fn text_to_video(&self) -> Counts {
        let mut counts = Counts::default();
        for (text, &own) in self.owner.iter().enumerate() {
            let row = self.matrix.row(text);
            let score = row[own];
            counts.greater.push(row.iter().filter(|&&s| s > score).count() as u32);
            counts.equal.push(row.iter().filter(|&&s| s == score).count() as u32 - 1);
        }
        counts
    }

    /// A query for every video, among the caption groups of all videos; a group scores as its best caption does.
    pub fn video_to_text(&self) -> Counts {
        let best = self.best_captions();
        let videos = self.videos();
        let own: Vec<f32> = (0..videos).map(|v| best.row(v)[v]).collect();
        let rows = (0..videos).map(|group| (best.row(group), group));
        count_columns(rows, &own)
    }

    /// A query for every video: its best own caption among all captions of the other videos.
    pub fn video_to_caption(&self) -> Counts {
        let mut own = vec![f32::NEG_INFINITY; self.videos()];
        for (text, &video) in self.owner.iter().enumerate() {
            own[video] = own[video].max(self.matrix.row(text)[video]);
        }
        let rows = self.owner.iter().enumerate().map(|(text, &video)| (self.matrix.row(text), video));
        count_columns(rows, &own)
    }

    /// For every caption group (row) and video (column), the best score of the group's captions.
    pub fn best_captions(&self) -> Array {
        let videos = self.videos();
        let mut best = Array::zeros([videos, videos]);
        best.data_mut().fill(f32::NEG_INFINITY);
        for (text, &group) in self.owner.iter().enumerate() {
            let row = &mut best.data_mut()[group * videos..(group + 1) * videos];
            for (best, &score) in row.iter_mut().zip(self.matrix.row(text)) {
                *best = best.max(score);
            }
        }
        best
    }
}

/// Counts down the columns while walking row by row: each column's `own` score against the rows of other owners.
fn count_columns<'a>(rows: impl Iterator<Item = (&'a [f32], usize)>, own: &[f32]) -> Counts {
    let mut counts = Counts { greater: vec![0; own.len()], equal: vec![0; own.len()] };
    for (row, owner) in rows {
        for (video, (&score, &own)) in row.iter().zip(own).enumerate() {
            if video != owner {
                counts.greater[video] += u32::from(score > own);
                counts.equal[video] += u32::from(score == own);
            }
        }
    }
    counts
}

fn extents(matrix: &Array) -> Result<(usize, usize)> {
    // Counts are 32-bit.
    let fits = |n: usize| n >= 1 && u32::try_from(n).is_ok();
    match *matrix.shape() {
        [texts, videos] if fits(texts) && fits(videos) => Ok((texts, videos)),
        _ => Err(shape(matrix, "[texts, videos], neither 0".into())),
    }
}

fn shape(matrix: &Array, expected: String) -> Error {
    Error::shape("Scores", "similarity matrix", expected, matrix.shape())
}

/// Refuses a matrix (rows, columns) with NaN or infinity.
pub(super) fn expect_finite(origin: &str, matrix: &Array) -> Result<()> {
    let Some((count, first)) = matrix.non_finite() else { return Ok(()) };
    let columns = matrix.shape()[1];
    let place = format!("row {}, column {}", first / columns, first % columns);
    Err(Error::NonFinite { origin: origin.into(), place, count })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_query_is_enough_and_none_is_an_error() {
        let scores = Scores::square(Array::new([1, 1], vec![-3.0]).unwrap()).unwrap();
        let m = scores.text_to_video().metrics(Ties::Pessimistic).unwrap();
        assert_eq!((m.r1, m.mdr, m.mnr, m.rsum, m.queries), (100.0, 1.0, 1.0, 300.0, 1));
        assert!(matches!(Counts::default().metrics(Ties::Expected), Err(Error::Argument { .. })));
        let uneven = Counts { greater: vec![1], equal: vec![] };
        assert!(matches!(uneven.metrics(Ties::Expected), Err(Error::ShapeMismatch { .. })));
        assert!(matches!(Scores::square(Array::zeros([0, 0])), Err(Error::Shape { .. })));
    }

    #[test]
    fn chance_is_what_a_constant_score_gets() {
        let scores = Scores::square(Array::zeros([20, 20])).unwrap();
        let (m, chance) = (scores.text_to_video().metrics(Ties::Expected).unwrap(), RetrievalMetrics::of_chance(20));
        assert_eq!(m.to_string(), chance.to_string());
        assert_eq!(chance.to_string(), "  5.0  25.0  50.0 100.0   10   10");
        assert_eq!((chance.queries, chance.rsum), (20, 80.0));
    }

    #[test]
    fn non_finite_scores_are_counted_over_all_rows() {
        let matrix = Array::new([2, 2], vec![1.0, f32::NAN, f32::INFINITY, 0.0]).unwrap();
        match Scores::square(matrix) {
            Err(Error::NonFinite { place, count, .. }) => {
                assert_eq!((place.as_str(), count), ("row 0, column 1", 2));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn shapes_and_groups_that_do_not_fit_are_errors() {
        assert!(matches!(Scores::square(Array::zeros([2, 3])), Err(Error::Shape { .. })));
        assert!(matches!(Scores::square(Array::zeros([4])), Err(Error::Shape { .. })));
        assert!(matches!(Scores::grouped(Array::zeros([3, 2]), &[1, 1]), Err(Error::Shape { .. })));
        assert!(matches!(Scores::grouped(Array::zeros([3, 2]), &[usize::MAX, 4]), Err(Error::Shape { .. })));
        assert!(matches!(Scores::grouped(Array::zeros([3, 2]), &[3, 0]), Err(Error::Argument { .. })));
    }

    #[test]
    fn a_constant_score_gets_chance_recall() {
        let scores = Scores::square(Array::zeros([20, 20])).unwrap();
        let m = scores.video_to_text().metrics(Ties::Expected).unwrap();
        approx::assert_abs_diff_eq!(m.r1, 5.0, epsilon = 1e-9);
        approx::assert_abs_diff_eq!(m.r5, 25.0, epsilon = 1e-9);
        assert_eq!(m.mdr, 10.5);
    }

    proptest! {
        /// Expected values are the mean over all orders, so they lie between the two extremes; one caption a video
        /// given as groups is the square case.
        #[test]
        fn ties_are_ordered_and_groups_of_one_are_square(n in 1usize..9, seed in prop::collection::vec(-2i8..3, 64)) {
            let data: Vec<f32> = seed.iter().take(n * n).map(|&v| f32::from(v)).collect();
            let matrix = Array::new([n, n], data).unwrap();
            let square = Scores::square(matrix.clone()).unwrap();
            let grouped = Scores::grouped(matrix, &vec![1; n]).unwrap();
            prop_assert_eq!(square.text_to_video(), grouped.text_to_video());
            prop_assert_eq!(square.video_to_text(), grouped.video_to_caption());
            for counts in [square.text_to_video(), square.video_to_text()] {
                let [o, e, p] = [Ties::Optimistic, Ties::Expected, Ties::Pessimistic].map(|t| counts.metrics(t).unwrap());
                prop_assert!(o.rsum >= e.rsum - 1e-9 && e.rsum >= p.rsum - 1e-9);
                prop_assert!(o.mnr <= e.mnr && e.mnr <= p.mnr);
            }
        }
    }
}
