//! QVHighlights' metrics: moments (MR) by recall and average precision, and highlights (HL) by the saliency of clips.
//!
//! Written after the definition in the `standalone_eval` of `jayleicn/moment_detr`, in f64 as there. Where that program
//! stops or leaves a query out (no predicted window, no list at all), the query counts as a miss here.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::submission::HighlightPrediction;
use super::{assign, check_row, iou, percent};
use crate::data::moments::{ANNOTATORS, MomentQuery, MomentSplit, Problems, scored_clips};
use crate::{Error, Result};

/// Overlaps at which moments are matched.
pub const THRESHOLDS: [f64; 10] = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95];

/// Names of the classes of windows, with the seconds that a window is longer than, and at most as long as.
pub const LENGTHS: [(&str, [f64; 2]); 3] = [("short", [0.0, 10.0]), ("middle", [10.0, 30.0]), ("long", [30.0, 150.0])];

/// Names of the lowest saliency that makes a clip a highlight.
pub const LEVELS: [(&str, u8); 3] = [("Fair", 2), ("Good", 3), ("VeryGood", 4)];

/// Windows of a query that average precision looks at.
const MAX_WINDOWS: usize = 10;

/// QVHighlights' metrics in percent; serialised as the official program prints them, and displayed as a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HighlightMetrics {
    /// The values that papers print, such as `MR-full-R1@0.5`, `MR-full-mAP`, `HL-min-VeryGood-mAP`.
    pub brief: BTreeMap<String, f64>,
    /// Moments in `full`, and in `short`, `middle` and `long` as far as there are such windows.
    #[serde(flatten)]
    pub moments: BTreeMap<String, LengthMetrics>,
    /// Highlights in `HL-min-Fair`, `HL-min-Good` and `HL-min-VeryGood`.
    #[serde(flatten)]
    pub highlights: BTreeMap<String, SaliencyMetrics>,
}

/// Moments of one class of length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LengthMetrics {
    /// Mean average precision by threshold, and their `average`.
    #[serde(rename = "MR-mAP")]
    pub map: BTreeMap<String, f64>,
    /// Recall of the first window by threshold.
    #[serde(rename = "MR-R1")]
    pub r1: BTreeMap<String, f64>,
}

/// Highlights of one level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SaliencyMetrics {
    /// Mean average precision of clips over queries and annotators.
    #[serde(rename = "HL-mAP")]
    pub map: f64,
    /// Whether the best clip is a highlight for any annotator.
    #[serde(rename = "HL-Hit1")]
    pub hit1: f64,
}

impl fmt::Display for HighlightMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, values: &[Option<f64>]| {
            let values = values.iter().map(|v| v.map_or(format!("{:>12}", "-"), |v| format!("{v:>12.2}")));
            write!(f, "\n{name:<14}{}", values.collect::<String>())
        };
        if !self.moments.is_empty() {
            let columns = ["R1@0.5", "R1@0.7", "mAP@0.5", "mAP@0.75", "mAP"];
            write!(f, "{:<14}{}", "moments", columns.map(|c| format!("{c:>12}")).concat())?;
        }
        for (name, class) in ["full", "short", "middle", "long"].map(|name| (name, self.moments.get(name))) {
            let Some(class) = class else { continue };
            let r1 = ["0.5", "0.7"].map(|t| class.r1.get(t).copied());
            let map = ["0.5", "0.75", "average"].map(|t| class.map.get(t).copied());
            row(f, name, &[&r1[..], &map].concat())?;
        }
        if self.highlights.is_empty() {
            return Ok(());
        }
        let gap = if self.moments.is_empty() { "" } else { "\n\n" };
        write!(f, "{gap}{:<14}{:>12}{:>12}", "highlights", "mAP", "Hit@1")?;
        for (name, _) in LEVELS {
            if let Some(level) = self.highlights.get(&format!("HL-min-{name}")) {
                row(f, name, &[Some(level.map), Some(level.hit1)])?;
            }
        }
        Ok(())
    }
}

/// Evaluates any system's windows and saliency scores, whichever there are. `origin` names their file in errors.
///
/// A window counts for a class of length if it lies in that class; a query without such a window is left out of the
/// class, but predictions of any length stay.
///
/// # Errors
/// [`Error::Argument`] without queries, for two of the same id, and where nothing is predicted that has labels;
/// [`Error::Malformed`] for saliency labels beyond the video's end or of more than three annotators, which
/// [`read_neutral`](crate::data::moments::read_neutral) refuses with their line. Through `problems`: as [`super::metrics::evaluate`]; also [`Error::Missing`] for a video
/// without a duration. Where they are let pass, the query or the window counts as wrong.
pub fn evaluate(
    predictions: &[HighlightPrediction],
    split: &MomentSplit,
    origin: &Path,
    problems: &mut Problems,
) -> Result<HighlightMetrics> {
    let found = assign(predictions, |p| p.id, &split.queries, origin, "query", problems)?;
    let mut metrics = HighlightMetrics::default();
    if predictions.iter().any(|p| p.windows.is_some()) && split.queries.iter().any(|q| !q.windows.is_empty()) {
        report_unlabelled(split, "windows of query", |q| q.windows.is_empty(), problems)?;
        metrics.moments = moments(&found, &split.queries, origin, problems)?;
        for (name, class) in &metrics.moments {
            metrics.brief.insert(format!("MR-{name}-mAP"), class.map["average"]);
        }
        if let Some(full) = metrics.moments.get("full") {
            let brief = [("mAP@0.5", full.map["0.5"]), ("mAP@0.75", full.map["0.75"])];
            let brief = brief.into_iter().chain([("R1@0.5", full.r1["0.5"]), ("R1@0.7", full.r1["0.7"])]);
            metrics.brief.extend(brief.map(|(name, value)| (format!("MR-full-{name}"), value)));
        }
    }
    if predictions.iter().any(|p| p.saliency.is_some()) && split.queries.iter().any(|q| !q.saliency.is_empty()) {
        metrics.highlights = highlights(&found, split, origin, problems)?;
        for (name, level) in &metrics.highlights {
            metrics.brief.insert(format!("{name}-mAP"), level.map);
            metrics.brief.insert(format!("{name}-Hit1"), level.hit1);
        }
    }
    if metrics.brief.is_empty() {
        let why = "hold neither windows nor saliency that the queries have labels for".into();
        return Err(Error::Argument { op: "highlights::evaluate", argument: "predictions", why });
    }
    Ok(metrics)
}

/// Takes note of queries that have no labels where others have: they are left out of what is counted.
fn report_unlabelled(
    split: &MomentSplit,
    kind: &'static str,
    lacks: fn(&MomentQuery) -> bool,
    problems: &mut Problems,
) -> Result<()> {
    split
        .queries
        .iter()
        .filter(|q| lacks(q))
        .try_for_each(|q| problems.report(Error::missing("the annotations", kind, q.id)))
}

fn moments(
    found: &[Option<&HighlightPrediction>],
    queries: &[MomentQuery],
    origin: &Path,
    problems: &mut Problems,
) -> Result<BTreeMap<String, LengthMetrics>> {
    let predicted = found.iter().map(|p| windows(*p, origin, problems)).collect::<Result<Vec<_>>>()?;
    let class = |range: Option<[f64; 2]>| {
        let inside = |w: &[f64; 2]| range.is_none_or(|[above, most]| w[1] - w[0] > above && w[1] - w[0] <= most);
        let scored: Vec<[Matches; 10]> = queries
            .iter()
            .zip(&predicted)
            .map(|(q, p)| (q.windows.iter().copied().filter(inside).collect::<Vec<_>>(), p))
            .filter(|(truth, _)| !truth.is_empty())
            .map(|(truth, p)| THRESHOLDS.map(|t| Matches::new(p, &truth, t)))
            .collect();
        let mean = |of: &dyn Fn(&[Matches; 10]) -> f64| scored.iter().map(of).sum::<f64>() / scored.len() as f64;
        let precision: Vec<f64> = (0..THRESHOLDS.len()).map(|i| mean(&|m| m[i].precision)).collect();
        let name = |t: f64| t.to_string();
        let mut map: BTreeMap<String, f64> =
            THRESHOLDS.iter().zip(&precision).map(|(&t, &p)| (name(t), percent(p))).collect();
        map.insert("average".into(), percent(precision.iter().sum::<f64>() / precision.len() as f64));
        let first = |i: usize| percent(mean(&|m| f64::from(u8::from(m[i].first))));
        let r1 = THRESHOLDS.iter().enumerate().map(|(i, &t)| (name(t), first(i))).collect();
        (!scored.is_empty()).then_some(LengthMetrics { map, r1 })
    };
    let classes = LENGTHS.iter().map(|&(name, range)| (name, Some(range))).chain([("full", None)]);
    Ok(classes.filter_map(|(name, range)| class(range).map(|c| (name.to_string(), c))).collect())
}

/// The windows of a query, in their order; a bad one that is let pass becomes an empty one with the worst score.
pub(super) fn windows(
    prediction: Option<&HighlightPrediction>,
    origin: &Path,
    problems: &mut Problems,
) -> Result<Vec<[f64; 3]>> {
    let Some(HighlightPrediction { id, windows, .. }) = prediction else { return Ok(Vec::new()) };
    if windows.is_none() {
        problems.report(Error::missing(origin, "windows of query", id))?;
    }
    let mut sound = Vec::new();
    for (i, &row) in windows.iter().flatten().enumerate() {
        let checked = problems.check(check_row(row, origin, || format!("query {id}, window {}", i + 1)))?;
        sound.push(checked.map_or([0.0, 0.0, f64::NEG_INFINITY], |()| row));
    }
    Ok(sound)
}

/// How a query's predicted windows fit its labels at one threshold.
struct Matches {
    /// Whether the first window, in the order of the file, reaches the threshold with any label.
    first: bool,
    /// Average precision as in ActivityNet: the share of labels that are found, each weighed with the best precision
    /// from there on.
    precision: f64,
}

impl Matches {
    fn new(predicted: &[[f64; 3]], truth: &[[f64; 2]], threshold: f64) -> Self {
        let first = predicted.first().is_some_and(|p| truth.iter().any(|&t| iou([p[0], p[1]], t) >= threshold));
        let mut ranked = predicted[..predicted.len().min(MAX_WINDOWS)].to_vec();
        ranked.sort_by(|a, b| b[2].total_cmp(&a[2]));
        // From the best score down, each window takes the label that it overlaps most among those still free.
        let mut free = vec![true; truth.len()];
        let mut take = |p: &[f64; 3]| {
            let overlaps = truth.iter().map(|&t| iou([p[0], p[1]], t)).enumerate();
            let best = overlaps.filter(|&(i, o)| free[i] && o >= threshold).max_by(|a, b| a.1.total_cmp(&b.1));
            best.inspect(|&(i, _)| free[i] = false).is_some()
        };
        let hits: Vec<bool> = ranked.iter().map(&mut take).collect();
        let (mut found, mut precisions) = (0, Vec::new());
        for (i, _) in hits.iter().enumerate().filter(|&(_, &hit)| hit) {
            found += 1;
            precisions.push(f64::from(found) / (i + 1) as f64);
        }
        Self { first, precision: envelope_sum(&precisions) / truth.len() as f64 }
    }
}

/// The sum of precisions, each raised to the best that comes later: what is called interpolated.
fn envelope_sum(precisions: &[f64]) -> f64 {
    let raise = |best: &mut f64, &precision: &f64| {
        *best = best.max(precision);
        Some(*best)
    };
    precisions.iter().rev().scan(0.0, raise).sum()
}

fn highlights(
    found: &[Option<&HighlightPrediction>],
    split: &MomentSplit,
    origin: &Path,
    problems: &mut Problems,
) -> Result<BTreeMap<String, SaliencyMetrics>> {
    let durations: HashMap<&str, f64> = split.videos.iter().map(|v| (v.id.as_str(), v.duration)).collect();
    let mut scored = Vec::new();
    for (query, prediction) in split.queries.iter().zip(found) {
        let name = query.video.as_deref().unwrap_or_default();
        let Some(duration) = durations.get(name) else {
            problems.report(Error::missing(origin, "duration of video", name))?;
            scored.push((Vec::new(), Vec::new()));
            continue;
        };
        scored.push((labels(query, *duration)?, saliency(*prediction, origin, problems)?));
    }
    let level = |&(name, least): &(&str, u8)| {
        let (mut precision, mut hits) = (0.0, 0);
        for (labels, scores) in &scored {
            let best = scores.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1)).map(|(clip, _)| clip);
            hits += usize::from(best.and_then(|c| labels.get(c)).is_some_and(|l| l.iter().any(|&s| s >= least)));
            // Equal scores for all clips would still earn something: nothing predicted is not the same.
            for annotator in (0..ANNOTATORS).filter(|_| !scores.is_empty()) {
                let truth: Vec<bool> = labels.iter().map(|l| l[annotator] >= least).collect();
                precision += clip_precision(&truth, scores) / ANNOTATORS as f64;
            }
        }
        let n = scored.len() as f64;
        let metrics = SaliencyMetrics { map: percent(precision / n), hit1: percent(hits as f64 / n) };
        (format!("HL-min-{name}"), metrics)
    };
    Ok(LEVELS.iter().map(level).collect())
}

/// Every clip's scores by the annotators; 0 for clips that were not shown to them.
fn labels(query: &MomentQuery, duration: f64) -> Result<Vec<[u8; ANNOTATORS]>> {
    let clips = scored_clips(duration);
    let mut shown = BTreeMap::new();
    for saliency in &query.saliency {
        let clip = saliency.clip as usize;
        let bad = |problem| Error::malformed("saliency", format_args!("query {}, clip {clip}", query.id), problem);
        if clip >= clips {
            return Err(bad(format!("the video has {clips} clips")));
        }
        if saliency.scores.len() > ANNOTATORS {
            return Err(bad(format!("{} annotators, at most {ANNOTATORS} are known", saliency.scores.len())));
        }
        let mut scores = [0; ANNOTATORS];
        scores[..saliency.scores.len()].copy_from_slice(&saliency.scores);
        shown.insert(clip, scores);
    }
    Ok((0..clips).map(|clip| shown.get(&clip).copied().unwrap_or_default()).collect())
}

fn saliency(prediction: Option<&HighlightPrediction>, origin: &Path, problems: &mut Problems) -> Result<Vec<f64>> {
    let Some(prediction) = prediction else { return Ok(Vec::new()) };
    let id = prediction.id;
    let Some(scores) = &prediction.saliency else {
        return problems.report(Error::missing(origin, "saliency of query", id)).map(|()| Vec::new());
    };
    let count = scores.iter().filter(|s| !s.is_finite()).count() as u64;
    if count > 0 {
        let (origin, place) = (origin.display().to_string(), format!("saliency of query {id}"));
        return problems.report(Error::NonFinite { origin, place, count }).map(|()| Vec::new());
    }
    Ok(scores.clone())
}

/// Average precision of clips: the mean, over the recalls that are reached, of the best precision from there on. Clips
/// of equal score come at once; scores beyond the video are dropped, and clips without a score get 0.
fn clip_precision(truth: &[bool], scores: &[f64]) -> f64 {
    let mut clips: Vec<(f64, bool)> =
        truth.iter().enumerate().map(|(i, &t)| (scores.get(i).copied().unwrap_or(0.0), t)).collect();
    clips.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut positives, mut count, mut precisions) = (0, 0, Vec::new());
    for tied in clips.chunk_by(|a, b| a.0 == b.0) {
        let new = tied.iter().filter(|clip| clip.1).count();
        (positives, count) = (positives + new, count + tied.len());
        if new > 0 {
            precisions.push(positives as f64 / count as f64);
        }
    }
    envelope_sum(&precisions) / precisions.len().max(1) as f64
}

#[cfg(test)]
#[path = "highlights_tests.rs"]
mod tests;
