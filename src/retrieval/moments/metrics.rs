//! TVR's metrics: recall of moments in a corpus (VCMR) and in one video (SVMR), and of videos (VR).
//!
//! As in the `standalone_eval` of TVRetrieval and ReLoCLNet: times and thresholds are f32; a row is right if its video
//! is and its overlap ([`super::iou`]) reaches the threshold; the first 100 rows count; SVMR then skips rows of other
//! videos. Unlike there, the number of a video is compared as an integer, rows are checked, and no id is there twice.

use std::collections::BTreeMap;

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

/// TVR's metrics of the tasks that a submission holds; serialised as the official program prints them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MomentMetrics {
    /// Percent of queries by `<threshold>-r<k>`, such as `0.5-r1`.
    #[serde(rename = "VCMR", skip_serializing_if = "Option::is_none")]
    pub vcmr: Option<BTreeMap<String, f64>>,
    /// The same a kind of query; where queries have kinds.
    #[serde(rename = "VCMR_by_type", skip_serializing_if = "Option::is_none")]
    pub vcmr_by_type: Option<ByType>,
    /// Percent of queries by `<threshold>-r<k>`.
    #[serde(rename = "SVMR", skip_serializing_if = "Option::is_none")]
    pub svmr: Option<BTreeMap<String, f64>>,
    /// The same a kind of query.
    #[serde(rename = "SVMR_by_type", skip_serializing_if = "Option::is_none")]
    pub svmr_by_type: Option<ByType>,
    /// Percent of queries by `r<k>`.
    #[serde(rename = "VR", skip_serializing_if = "Option::is_none")]
    pub vr: Option<BTreeMap<String, f64>>,
    /// The same a kind of query.
    #[serde(rename = "VR_by_type", skip_serializing_if = "Option::is_none")]
    pub vr_by_type: Option<ByType>,
}

/// Metrics a kind of query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ByType {
    /// Percent of the queries of a kind by its code and the metric, such as `vt-0.5-r1`; no entry for a kind without
    /// queries.
    #[serde(flatten)]
    pub recalls: BTreeMap<String, f64>,
    /// What percentage each kind makes up: `v 74.32 t 8.85 vt 16.83`.
    pub desc_type_ratio: String,
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
    let mut task = |task, kind, lists: &Option<Vec<QueryPredictions>>| -> Result<_> {
        let Some(lists) = lists else { return Ok((None, None)) };
        let found = assign(lists, |list| list.id, queries, &submission.origin, kind, problems)?;
        let judge = |(truth, list): (&Truth, &Option<&QueryPredictions>)| {
            let rows = list.map_or(&[][..], |list| &list.predictions[..list.predictions.len().min(MAX_ROWS)]);
            for (i, row) in rows.iter().enumerate() {
                let place = || format!("{kind} {}, row {}", truth.query.id, i + 1);
                problems.check(check_row(numbers(task, row), &submission.origin, place))?;
            }
            Ok(truth.ranks(task, rows))
        };
        let ranks = truths.iter().zip(&found).map(judge).collect::<Result<Vec<_>>>()?;
        Ok((Some(recalls(task, "", &ranks)), by_type(task, queries, &ranks)))
    };
    let (vcmr, vcmr_by_type) = task(Task::Vcmr, "VCMR query", &submission.vcmr)?;
    let (svmr, svmr_by_type) = task(Task::Svmr, "SVMR query", &submission.svmr)?;
    let (vr, vr_by_type) = task(Task::Vr, "VR query", &submission.vr)?;
    Ok(MomentMetrics { vcmr, vcmr_by_type, svmr, svmr_by_type, vr, vr_by_type })
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
        let name = query.video.as_ref().filter(|_| !query.windows.is_empty()).ok_or_else(|| Error::Argument {
            op: "moments::evaluate",
            argument: "queries",
            why: format!("hold no labels for {}", query.id),
        })?;
        let video = submission.video2idx.get(name).copied();
        if video.is_none() {
            let (path, id) = (submission.origin.clone(), name.clone());
            problems.report(Error::Missing { path, kind: "number of video", id })?;
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

fn recalls<'a>(
    task: Task,
    prefix: &str,
    ranks: impl IntoIterator<Item = &'a Ranks, IntoIter: Clone>,
) -> BTreeMap<String, f64> {
    let ranks = ranks.into_iter();
    let criteria = match task {
        Task::Vr => vec!["r".to_string()],
        _ => THRESHOLDS.map(|threshold| format!("{threshold}-r")).to_vec(),
    };
    let mut recalls = BTreeMap::new();
    for (i, criterion) in criteria.iter().enumerate() {
        for k in TOP {
            let hits = ranks.clone().filter(|ranks| ranks[i].is_some_and(|rank| rank < k)).count();
            let share = hits as f64 / ranks.clone().count() as f64;
            recalls.insert(format!("{prefix}{criterion}{k}"), percent(share));
        }
    }
    recalls
}

fn by_type(task: Task, queries: &[MomentQuery], ranks: &[Ranks]) -> Option<ByType> {
    queries.iter().find(|q| q.kind.is_some())?;
    let (mut all, mut ratio) = (BTreeMap::new(), Vec::new());
    for kind in [QueryKind::Video, QueryKind::Text, QueryKind::Both] {
        let of_kind = queries.iter().zip(ranks).filter(|(q, _)| q.kind == Some(kind)).map(|(_, ranks)| ranks);
        let of_kind: Vec<&Ranks> = of_kind.collect();
        if !of_kind.is_empty() {
            all.append(&mut recalls(task, &format!("{}-", kind.code()), of_kind.iter().copied()));
        }
        ratio.push(format!("{} {:?}", kind.code(), percent(of_kind.len() as f64 / queries.len() as f64)));
    }
    Some(ByType { recalls: all, desc_type_ratio: ratio.join(" ") })
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
