//! TVR's metrics: recall of moments in a corpus (VCMR) and in one video (SVMR), and of videos (VR).
//!
//! As in the `standalone_eval` of TVRetrieval and ReLoCLNet: times and thresholds are f32; a row is right if its video
//! is and its overlap ([`super::iou`]) reaches the threshold; the first 100 rows count; SVMR then skips rows of other
//! videos. Unlike there, the number of a video is compared as an integer, rows are checked, and no id is there twice.

use serde::Serialize;

use super::submission::{Prediction, QueryPredictions, Submission};
use super::{assign, check_row, percent};
use crate::data::moments::{MomentQuery, Problems, QueryKind};
use crate::{Error, Result};

/// Overlaps that make a moment right.
pub const THRESHOLDS: [f32; 2] = [0.5, 0.7];

/// Recalls are counted among so many first rows.
pub const TOP: [usize; 4] = [1, 5, 10, 100];

/// Rows of a query that are looked at.
pub const MAX_ROWS: usize = 100;

/// Windows from which on a query's windows are the opinions of several annotators, as in DiDeMo: two must agree.
const ANNOTATED: usize = 4;

/// Percent of queries whose first right row is among the first 1, 5, 10 and 100.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recalls {
    /// The first row.
    pub r1: f64,
    /// The first 5.
    pub r5: f64,
    /// The first 10.
    pub r10: f64,
    /// The first 100.
    pub r100: f64,
}

/// Recalls of moments, by the overlap that makes one right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MomentRecalls {
    /// At an overlap of 0.5.
    pub half: Recalls,
    /// At an overlap of 0.7.
    pub tight: Recalls,
}

/// Recalls a kind of query: the kind, its recalls where there are such queries, and the percentage of queries that are
/// of it; first those about the video, then the text, then both.
#[derive(Clone, Debug, PartialEq)]
pub struct ByKind<R>(pub [(QueryKind, Option<R>, f64); 3]);

/// TVR's metrics of the tasks that a submission holds; serialised as the official program prints them, with keys such as
/// `0.5-r1`, `vt-0.5-r1` and `r1`, and displayed as a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MomentMetrics {
    /// Moments in the whole corpus.
    #[serde(rename = "VCMR", skip_serializing_if = "Option::is_none")]
    pub vcmr: Option<MomentRecalls>,
    /// The same a kind of query; where queries have kinds.
    #[serde(rename = "VCMR_by_type", skip_serializing_if = "Option::is_none")]
    pub vcmr_by_kind: Option<ByKind<MomentRecalls>>,
    /// Moments in the query's own video.
    #[serde(rename = "SVMR", skip_serializing_if = "Option::is_none")]
    pub svmr: Option<MomentRecalls>,
    /// The same a kind of query.
    #[serde(rename = "SVMR_by_type", skip_serializing_if = "Option::is_none")]
    pub svmr_by_kind: Option<ByKind<MomentRecalls>>,
    /// Videos.
    #[serde(rename = "VR", skip_serializing_if = "Option::is_none")]
    pub vr: Option<Recalls>,
    /// The same a kind of query.
    #[serde(rename = "VR_by_type", skip_serializing_if = "Option::is_none")]
    pub vr_by_kind: Option<ByKind<Recalls>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Task {
    Vcmr,
    Svmr,
    Vr,
}

/// Evaluates any system's submission against labelled queries.
///
/// # Errors
/// [`Error::Argument`] without queries, for two of the same id, and for one without labels. Through `problems`:
/// [`Error::Missing`] for a query without a list or a video that is not in `video2idx`, [`Error::Duplicate`] for a
/// query's second list, [`Error::Malformed`] for a list without a query and for a row that ends before it starts,
/// [`Error::NonFinite`] for a row with NaN or infinity. Where they are let pass, the query or the row counts as wrong.
pub fn evaluate(submission: &Submission, queries: &[MomentQuery], problems: &mut Problems) -> Result<MomentMetrics> {
    let truths = queries.iter().map(|q| Truth::new(q, submission, problems)).collect::<Result<Vec<_>>>()?;
    let mut ranks = |task, kind, lists: &Option<Vec<QueryPredictions>>| -> Result<Option<Vec<Ranks>>> {
        let Some(lists) = lists else { return Ok(None) };
        let found = assign(lists, |list| list.id, queries, &submission.origin, kind, problems)?;
        let judge = |(truth, list): (&Truth, &Option<&QueryPredictions>)| {
            let rows = list.map_or(&[][..], |list| &list.predictions[..list.predictions.len().min(MAX_ROWS)]);
            for (i, row) in rows.iter().enumerate() {
                let place = || format!("{kind} {}, row {}", truth.query.id, i + 1);
                problems.check(check_row(numbers(task, row), &submission.origin, place))?;
            }
            Ok(truth.ranks(task, rows))
        };
        truths.iter().zip(&found).map(judge).collect::<Result<_>>().map(Some)
    };
    let (vcmr, vcmr_by_kind) = recalls(queries, ranks(Task::Vcmr, "VCMR query", &submission.vcmr)?, MomentRecalls::of);
    let (svmr, svmr_by_kind) = recalls(queries, ranks(Task::Svmr, "SVMR query", &submission.svmr)?, MomentRecalls::of);
    let (vr, vr_by_kind) =
        recalls(queries, ranks(Task::Vr, "VR query", &submission.vr)?, |ranks| Recalls::of(ranks, 0));
    Ok(MomentMetrics { vcmr, vcmr_by_kind, svmr, svmr_by_kind, vr, vr_by_kind })
}

/// Of all queries, and of each kind.
fn recalls<R>(
    queries: &[MomentQuery],
    ranks: Option<Vec<Ranks>>,
    of: fn(&[&Ranks]) -> R,
) -> (Option<R>, Option<ByKind<R>>) {
    let Some(ranks) = ranks else { return (None, None) };
    (Some(of(&ranks.iter().collect::<Vec<_>>())), ByKind::new(queries, &ranks, of))
}

/// Whether a moment is right: its overlap with the query's windows, in f32, reaches `threshold`. Of four windows or
/// more, which are the opinions of several annotators (DiDeMo), it must do so with two, else with one.
pub fn is_right(window: [f32; 2], windows: &[[f64; 2]], threshold: f32) -> bool {
    let overlap = |truth: &[f64; 2]| {
        let [start, end] = truth.map(|t| t as f32);
        let hull = window[1].max(end) - window[0].min(start);
        if hull == 0.0 { 0.0 } else { (window[1].min(end) - window[0].max(start)).max(0.0) / hull }
    };
    let needed = if windows.len() >= ANNOTATED { 2 } else { 1 };
    windows.iter().filter(|truth| overlap(truth) >= threshold).count() >= needed
}

/// A query and the number of its video, if the submission knows it.
struct Truth<'a> {
    query: &'a MomentQuery,
    video: Option<u64>,
}

/// For each criterion of a task, the place of the first row that is right.
type Ranks = Vec<Option<usize>>;

impl<'a> Truth<'a> {
    fn new(query: &'a MomentQuery, submission: &Submission, problems: &mut Problems) -> Result<Self> {
        let why = || format!("hold no labels for {}", query.id);
        let none = || Error::Argument { op: "moments::evaluate", argument: "queries", why: why() };
        let name = query.video.as_ref().filter(|_| !query.windows.is_empty()).ok_or_else(none)?;
        let video = submission.video2idx.get(name).copied();
        if video.is_none() {
            problems.report(Error::missing(&submission.origin, "number of video", name))?;
        }
        Ok(Self { query, video })
    }

    fn ranks(&self, task: Task, rows: &[Prediction]) -> Ranks {
        let own = |row: &Prediction| Some(row.video) == self.video;
        let sound = |row: &Prediction| {
            let [start, end, score] = numbers(task, row);
            start.is_finite() && end.is_finite() && score.is_finite() && start <= end
        };
        let rows = || rows.iter().filter(|row| task != Task::Svmr || own(row));
        if task == Task::Vr {
            return vec![rows().position(|row| own(row) && sound(row))];
        }
        let right = |row: &Prediction, threshold| {
            own(row) && sound(row) && is_right([row.start, row.end], &self.query.windows, threshold)
        };
        THRESHOLDS.iter().map(|&threshold| rows().position(|row| right(row, threshold))).collect()
    }
}

/// What of a row is judged: a video's times are not.
fn numbers(task: Task, row: &Prediction) -> [f64; 3] {
    let [start, end] = if task == Task::Vr { [0.0, 0.0] } else { [row.start, row.end] };
    [start, end, row.score].map(f64::from)
}

impl Recalls {
    /// Of the criterion with this number.
    fn of(ranks: &[&Ranks], criterion: usize) -> Self {
        let right = |k: usize| ranks.iter().filter(|r| r[criterion].is_some_and(|rank| rank < k)).count();
        let [r1, r5, r10, r100] = TOP.map(|k| percent(right(k) as f64 / ranks.len() as f64));
        Self { r1, r5, r10, r100 }
    }

    /// The percentages by rising k.
    pub fn values(&self) -> [f64; 4] {
        [self.r1, self.r5, self.r10, self.r100]
    }
}

impl MomentRecalls {
    fn of(ranks: &[&Ranks]) -> Self {
        Self { half: Recalls::of(ranks, 0), tight: Recalls::of(ranks, 1) }
    }
}

impl<R> ByKind<R> {
    /// Nothing where queries have no kinds; `of` counts those of one.
    fn new(queries: &[MomentQuery], ranks: &[Ranks], of: fn(&[&Ranks]) -> R) -> Option<Self> {
        queries.iter().find(|q| q.kind.is_some())?;
        Some(Self([QueryKind::Video, QueryKind::Text, QueryKind::Both].map(|kind| {
            let own = queries.iter().zip(ranks).filter(|(q, _)| q.kind == Some(kind)).map(|(_, ranks)| ranks);
            let own: Vec<&Ranks> = own.collect();
            let share = percent(own.len() as f64 / queries.len() as f64);
            (kind, (!own.is_empty()).then(|| of(&own)), share)
        })))
    }

    /// The kinds' codes and shares, as the official program has them: `v 74.32 t 8.85 vt 16.83`.
    pub(super) fn ratio(&self) -> String {
        self.0.each_ref().map(|(kind, _, share)| format!("{} {share:?}", kind.code())).join(" ")
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
