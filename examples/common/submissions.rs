//! `evaluate --submission`: metrics of any system's file of moments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use reelgrad::data::moments::{
    MomentQuery, MomentSplit, MomentVideo, Problems, read_charades, read_didemo, read_neutral, read_tvr,
};
use reelgrad::retrieval::moments::baselines::{CentrePrior, SpanGrid, random_span};
use reelgrad::retrieval::moments::highlights::{self, HighlightMetrics};
use reelgrad::retrieval::moments::metrics::{self, MAX_ROWS, MomentMetrics, THRESHOLDS, TOP};
use reelgrad::retrieval::moments::{HighlightPrediction, Submission, charades};
use reelgrad::{Error, Result};
use serde_json::{Value, json};

#[derive(Args)]
pub struct MomentOptions {
    /// Moments that a system found: TVR's submission (.json), or lines as for QVHighlights (.jsonl).
    #[arg(long, value_name = "FILE", requires = "ground_truth")]
    pub submission: Option<PathBuf>,
    /// The annotations that it is evaluated against: TVR's and QVHighlights' .jsonl, DiDeMo's .json, Charades-STA's .txt or
    /// .jsonl.
    #[arg(long, value_name = "FILE", requires = "submission")]
    ground_truth: Option<PathBuf>,
    /// What both files are. A submission for DiDeMo is in TVR's form, one for Charades-STA in QVHighlights'.
    #[arg(long, value_enum, default_value = "tvr")]
    format: Format,
    /// All videos of TVR with their durations, tvr_video2dur_idx.json; needed for TVR's form.
    #[arg(long, value_name = "FILE", requires = "submission")]
    durations: Option<PathBuf>,
    /// The part of --durations.
    #[arg(long, default_value = "val")]
    split: String,
    /// First drop moments that overlap a better one of the same video by more than this; TVR's form only.
    #[arg(long, value_name = "IOU", requires = "submission")]
    nms: Option<f64>,
    /// Count missing queries and bad rows as misses and list them, instead of ending at the first.
    #[arg(long, requires = "submission")]
    lenient: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Tvr,
    Didemo,
    Qvhighlights,
    Charades,
}

impl Format {
    fn is_tvr(self) -> bool {
        matches!(self, Format::Tvr | Format::Didemo)
    }
}

impl MomentOptions {
    /// The table, and the same as JSON.
    pub fn evaluate(&self, submission: &Path) -> Result<(String, Value)> {
        let usable = |iou: f64| self.format.is_tvr() && (0.0..=1.0).contains(&iou);
        if self.nms.is_some_and(|iou| !usable(iou)) {
            let why = "must lie between 0 and 1, and files must have TVR's form".into();
            return Err(Error::Argument { op: "evaluate", argument: "nms", why });
        }
        let mut problems = if self.lenient { Problems::lenient() } else { Problems::strict() };
        let split = self.ground_truth(&mut problems)?;
        let (table, metrics) = match self.format {
            Format::Tvr | Format::Didemo => self.tvr(submission, &split, &mut problems)?,
            Format::Qvhighlights => {
                let predictions = HighlightPrediction::read_jsonl(submission)?;
                let metrics = highlights::evaluate(&predictions, &split, submission, &mut problems)?;
                (highlights_table(&metrics), json!(metrics))
            }
            Format::Charades => {
                let predictions = HighlightPrediction::read_jsonl(submission)?;
                let metrics = charades::evaluate(&predictions, &split.queries, submission, &mut problems)?;
                (named(&metrics), json!(metrics))
            }
        };
        let skipped: Vec<String> = problems.skipped().iter().map(Error::to_string).collect();
        let mut text = format!("{} queries, {} videos; in percent\n\n{table}", split.queries.len(), split.videos.len());
        if !skipped.is_empty() {
            text.push_str(&format!("\n\n{} problems, counted as misses:\n{}", skipped.len(), skipped.join("\n")));
        }
        let report = json!({
            "schema": "reelgrad.evaluate/1",
            "queries": split.queries.len(),
            "videos": split.videos.len(),
            "metrics": metrics,
            "problems": skipped,
        });
        Ok((text, report))
    }

    /// The annotations, and for TVR's form the videos of the whole part.
    fn ground_truth(&self, problems: &mut Problems) -> Result<MomentSplit> {
        let path = self.ground_truth.as_deref().unwrap_or(Path::new(""));
        let is = |extension: &str| path.extension().is_some_and(|e| e == extension);
        match self.format {
            Format::Didemo if is("json") => read_didemo(path, problems),
            Format::Tvr | Format::Didemo => {
                let missing = || Error::Argument {
                    op: "evaluate",
                    argument: "durations",
                    why: "is needed for TVR's form: tvr_video2dur_idx.json, which lists the videos".into(),
                };
                read_tvr(path, self.durations.as_deref().ok_or_else(missing)?, &self.split, problems)
            }
            Format::Charades if is("txt") => read_charades(path, problems),
            Format::Charades | Format::Qvhighlights => read_neutral(path, problems),
        }
    }

    fn tvr(&self, path: &Path, split: &MomentSplit, problems: &mut Problems) -> Result<(String, Value)> {
        let mut submission = Submission::read(path)?;
        if let Some(threshold) = self.nms {
            submission.suppress(threshold, MAX_ROWS);
        }
        let metrics = metrics::evaluate(&submission, &split.queries, problems)?;
        let mut table = tvr_table(&metrics);
        if self.format == Format::Tvr {
            table.push_str(&baselines(&split.queries, &split.videos)?);
        }
        Ok((table, json!(metrics)))
    }
}

fn tvr_table(metrics: &MomentMetrics) -> String {
    let mut text = format!("{:<14}", "");
    for threshold in THRESHOLDS {
        text.push_str(&TOP.map(|k| format!("{:>12}", format!("R@{k} {threshold}"))).concat());
    }
    let keys = || THRESHOLDS.iter().flat_map(|t| TOP.iter().map(move |k| format!("{t}-r{k}")));
    let tasks = [("VCMR", &metrics.vcmr, &metrics.vcmr_by_type), ("SVMR", &metrics.svmr, &metrics.svmr_by_type)];
    for (task, recalls, by_type) in tasks {
        let Some(recalls) = recalls else { continue };
        text.push_str(&row(task, keys().map(|key| recalls.get(&key).copied())));
        for kind in ["v", "t", "vt"] {
            if let Some(by_type) = by_type.as_ref().filter(|b| b.recalls.contains_key(&format!("{kind}-0.5-r1"))) {
                let value = |key| by_type.recalls.get(&format!("{kind}-{key}")).copied();
                text.push_str(&row(&format!("  {kind}"), keys().map(value)));
            }
        }
    }
    if let Some(recalls) = &metrics.vr {
        text.push_str(&format!("\n\n{:<14}{}", "", TOP.map(|k| format!("{:>12}", format!("R@{k}"))).concat()));
        text.push_str(&row("VR", TOP.iter().map(|k| recalls.get(&format!("r{k}")).copied())));
    }
    if let Some(by_type) =
        metrics.vcmr_by_type.as_ref().or(metrics.svmr_by_type.as_ref()).or(metrics.vr_by_type.as_ref())
    {
        text.push_str(&format!("\n\nkinds of queries: {}", by_type.desc_type_ratio));
    }
    text
}

/// R@1 of guessing, for ReLoCLNet's moments: 2 to 15 clips of 1.5 s.
fn baselines(queries: &[MomentQuery], corpus: &[MomentVideo]) -> Result<String> {
    let grid = SpanGrid { seconds_per_clip: 1.5, lengths: 2..16, max_clips: 128 };
    let centre = CentrePrior::mean_seconds(queries)?;
    let mut text = format!("\n\nR@1 of guessing in {} videos{:>10}{:>12}", corpus.len(), "0.5", "0.7");
    let [low, high] = THRESHOLDS;
    let (low_random, high_random) =
        (random_span(queries, corpus, &grid, low)?, random_span(queries, corpus, &grid, high)?);
    let mut line = |name: &str, low: f64, high: f64| text.push_str(&format!("\n{name:<28}{low:>12.4}{high:>12.4}"));
    line("VCMR, random moment", low_random.vcmr, high_random.vcmr);
    line("SVMR, random moment", low_random.svmr, high_random.svmr);
    // The mean of the very labels: a stronger guess than the training split's.
    line("SVMR, centre, mean length", centre.svmr(queries, corpus, low)?, centre.svmr(queries, corpus, high)?);
    Ok(text)
}

fn highlights_table(metrics: &HighlightMetrics) -> String {
    let mut text = String::new();
    if !metrics.moments.is_empty() {
        let columns = ["R1@0.5", "R1@0.7", "mAP@0.5", "mAP@0.75", "mAP"];
        text.push_str(&format!("{:<14}{}", "moments", columns.map(|c| format!("{c:>12}")).concat()));
        for name in ["full", "short", "middle", "long"] {
            if let Some(class) = metrics.moments.get(name) {
                let r1 = ["0.5", "0.7"].map(|t| class.r1.get(t).copied());
                let map = ["0.5", "0.75", "average"].map(|t| class.map.get(t).copied());
                text.push_str(&row(name, r1.into_iter().chain(map)));
            }
        }
    }
    if !metrics.highlights.is_empty() {
        let gap = if text.is_empty() { "" } else { "\n\n" };
        text.push_str(&format!("{gap}{:<14}{:>12}{:>12}", "highlights", "mAP", "Hit@1"));
        for (name, _) in highlights::LEVELS {
            if let Some(level) = metrics.highlights.get(&format!("HL-min-{name}")) {
                text.push_str(&row(name, [level.map, level.hit1].map(Some).into_iter()));
            }
        }
    }
    text
}

fn row(name: &str, values: impl Iterator<Item = Option<f64>>) -> String {
    let values = values.map(|v| v.map_or(format!("{:>12}", "-"), |v| format!("{v:>12.2}")));
    format!("\n{name:<14}{}", values.collect::<String>())
}

/// Names above values.
fn named(metrics: &BTreeMap<String, f64>) -> String {
    let names: String = metrics.keys().map(|name| format!("{name:>9}")).collect();
    let values: String = metrics.values().map(|value| format!("{value:>9.2}")).collect();
    format!("{names}\n{values}")
}
