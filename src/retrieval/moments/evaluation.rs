//! Evaluation of files of moments that any system wrote.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::{Value, json};

use super::baselines::{CentrePrior, SpanGrid, random_span};
use super::metrics::{self, MAX_ROWS, THRESHOLDS};
use super::{HighlightPrediction, Submission, charades, highlights};
use crate::data::moments::{
    MomentQuery, MomentSplit, MomentVideo, Problems, read_charades, read_didemo, read_neutral, read_tvr,
};
use crate::progress::counted;
use crate::retrieval::by_name;
use crate::{Error, Result};

/// Whose metrics, and what the files look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Benchmark {
    /// TVR's submission and annotations.
    #[default]
    Tvr,
    /// DiDeMo; the submission is in TVR's form.
    Didemo,
    /// QVHighlights' lines.
    Qvhighlights,
    /// Charades-STA; predictions are in QVHighlights' form.
    Charades,
}

impl FromStr for Benchmark {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let benchmarks = [
            ("tvr", Self::Tvr),
            ("didemo", Self::Didemo),
            ("qvhighlights", Self::Qvhighlights),
            ("charades", Self::Charades),
        ];
        by_name(("evaluate", "format"), text, benchmarks)
    }
}

/// Predictions, and the annotations that they are evaluated against.
#[derive(Clone, Debug, Default)]
pub struct MomentFiles {
    /// What both files are.
    pub benchmark: Benchmark,
    /// Moments that a system found: TVR's submission (`.json`), or lines as for QVHighlights (`.jsonl`).
    pub submission: PathBuf,
    /// TVR's and QVHighlights' `.jsonl`, DiDeMo's `.json`, Charades-STA's `.txt` or `.jsonl`.
    pub ground_truth: PathBuf,
    /// All videos of TVR with their durations, `tvr_video2dur_idx.json`; needed for TVR's form.
    pub durations: Option<PathBuf>,
    /// The part of `durations`.
    pub split: String,
    /// First drops moments that overlap a better one of the same video by more than this; for TVR's form.
    pub nms: Option<f64>,
}

impl MomentFiles {
    /// Reads both files and counts. What `problems` lets pass counts as a miss.
    ///
    /// # Errors
    /// [`Error::Argument`] for `nms` outside of 0 to 1 or of another form, and where durations are lacking; those of the
    /// readers, and of [`metrics::evaluate`], [`highlights::evaluate`], [`charades::evaluate`].
    pub fn evaluate(&self, problems: &mut Problems) -> Result<MomentReport> {
        let tvr = matches!(self.benchmark, Benchmark::Tvr | Benchmark::Didemo);
        if self.nms.is_some_and(|iou| !tvr || !(0.0..=1.0).contains(&iou)) {
            return Err(wrong("nms", "must lie between 0 and 1, and files must have TVR's form".into()));
        }
        let split = self.ground_truth(problems)?;
        let (table, metrics) = if tvr {
            let mut submission = Submission::read(&self.submission)?;
            if let Some(threshold) = self.nms {
                submission.suppress(threshold, MAX_ROWS);
            }
            let metrics = metrics::evaluate(&submission, &split.queries, problems)?;
            let guesses = (self.benchmark == Benchmark::Tvr).then(|| guesses(&split.queries, &split.videos));
            (format!("{metrics}{}", guesses.transpose()?.unwrap_or_default()), json!(metrics))
        } else {
            let predictions = HighlightPrediction::read_jsonl(&self.submission)?;
            if self.benchmark == Benchmark::Qvhighlights {
                let metrics = highlights::evaluate(&predictions, &split, &self.submission, problems)?;
                (metrics.to_string(), json!(metrics))
            } else {
                let metrics = charades::evaluate(&predictions, &split.queries, &self.submission, problems)?;
                (metrics.to_string(), json!(metrics))
            }
        };
        let problems = problems.skipped().iter().map(Error::to_string).collect();
        Ok(MomentReport { queries: split.queries.len(), videos: split.videos.len(), table, metrics, problems })
    }

    /// The annotations, and for TVR's form the videos of the whole part.
    fn ground_truth(&self, problems: &mut Problems) -> Result<MomentSplit> {
        let path = &self.ground_truth;
        let is = |extension: &str| path.extension().is_some_and(|e| e == extension);
        match self.benchmark {
            Benchmark::Didemo if is("json") => read_didemo(path, problems),
            Benchmark::Tvr | Benchmark::Didemo => {
                let why = "is needed for TVR's form: tvr_video2dur_idx.json, which lists the videos";
                let durations = self.durations.as_deref().ok_or_else(|| wrong("durations", why.into()))?;
                read_tvr(path, durations, &self.split, problems)
            }
            Benchmark::Charades if is("txt") => read_charades(path, problems),
            Benchmark::Charades | Benchmark::Qvhighlights => read_neutral(path, problems),
        }
    }
}

/// Metrics of a file of moments; displayed as a table.
#[derive(Clone, Debug)]
pub struct MomentReport {
    /// Number of queries.
    pub queries: usize,
    /// Number of videos.
    pub videos: usize,
    /// The metrics under the benchmark's own names.
    pub metrics: Value,
    /// What was let pass, in words.
    pub problems: Vec<String>,
    table: String,
}

impl MomentReport {
    /// The report as JSON, of the schema `reelgrad.evaluate/1`.
    pub fn to_json(&self) -> Value {
        json!({
            "schema": "reelgrad.evaluate/1",
            "queries": self.queries,
            "videos": self.videos,
            "metrics": self.metrics,
            "problems": self.problems,
        })
    }
}

impl fmt::Display for MomentReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (queries, videos) = (counted(self.queries, "query", "queries"), counted(self.videos, "video", "videos"));
        write!(f, "{queries}, {videos}; in percent\n\n{}", self.table)?;
        if !self.problems.is_empty() {
            let all = self.problems.join("\n");
            let problems = counted(self.problems.len(), "problem, counted as a miss", "problems, counted as misses");
            write!(f, "\n\n{problems}:\n{all}")?;
        }
        Ok(())
    }
}

/// R@1 of guessing, for ReLoCLNet's moments: 2 to 15 clips of 1.5 s.
fn guesses(queries: &[MomentQuery], videos: &[MomentVideo]) -> Result<String> {
    let grid = SpanGrid { seconds_per_clip: 1.5, lengths: 2..16, max_clips: 128 };
    let centre = CentrePrior::mean_seconds(queries)?;
    let mut rows = [Vec::new(), Vec::new(), Vec::new()];
    for threshold in THRESHOLDS {
        let random = random_span(queries, videos, &grid, threshold)?;
        let centre = centre.svmr(queries, videos, threshold)?;
        rows.iter_mut().zip([random.vcmr, random.svmr, centre]).for_each(|(row, value)| row.push(value));
    }
    let mut text =
        format!("\n\nR@1 of guessing in {}{:>10}{:>12}", counted(videos.len(), "video", "videos"), "0.5", "0.7");
    // The mean of the very labels: a stronger guess than the training split's.
    let names = ["VCMR, random moment", "SVMR, random moment", "SVMR, centre, mean length"];
    for (name, row) in names.iter().zip(rows) {
        let values: String = row.iter().map(|value| format!("{value:>12.4}")).collect();
        text.push_str(&format!("\n{name:<28}{values}"));
    }
    Ok(text)
}

fn wrong(argument: &'static str, why: String) -> Error {
    Error::Argument { op: "evaluate", argument, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Folder;

    const TRUTH: &str = r#"{"desc_id": 1, "desc": "x", "vid_name": "a", "ts": [0, 6], "type": "v", "duration": 60}"#;
    const DURATIONS: &str = r#"{"val": {"a": [60.0, 7], "b": [30.0, 9]}}"#;
    const FOUND: &str = r#"{"video2idx": {"a": 7, "b": 9}, "VCMR": [{"desc_id": 1, "predictions": [
        [9, 0, 6, 0.9], [7, 0, 6, 0.8], [7, 0, 5.9, 0.7]]}]}"#;

    fn tvr(folder: &Folder) -> MomentFiles {
        MomentFiles {
            submission: folder.file("found.json", FOUND),
            ground_truth: folder.file("truth.jsonl", TRUTH),
            durations: Some(folder.file("durations.json", DURATIONS)),
            split: "val".into(),
            ..MomentFiles::default()
        }
    }

    #[test]
    fn tvr_gets_its_metrics_and_what_guessing_gives() {
        let folder = Folder::new();
        let report = tvr(&folder).evaluate(&mut Problems::strict()).unwrap();
        assert_eq!((report.queries, report.videos), (1, 2));
        assert_eq!(
            (&report.metrics["VCMR"]["0.5-r1"], &report.metrics["VCMR"]["0.5-r5"]),
            (&json!(0.0), &json!(100.0))
        );
        let text = report.to_string();
        assert!(text.starts_with("1 query, 2 videos; in percent\n"), "{text}");
        assert!(text.contains("R@1 of guessing in 2 videos") && text.contains("\nSVMR, centre, mean length"), "{text}");
        assert_eq!(report.to_json()["schema"], "reelgrad.evaluate/1");
        assert!(MomentFiles { nms: Some(0.5), ..tvr(&folder) }.evaluate(&mut Problems::strict()).is_ok());
    }

    #[test]
    fn what_is_let_pass_is_listed() {
        let folder = Folder::new();
        let empty = r#"{"video2idx": {"a": 7}, "VCMR": []}"#;
        let files = MomentFiles { submission: folder.file("none.json", empty), ..tvr(&folder) };
        assert!(matches!(files.evaluate(&mut Problems::strict()), Err(Error::Missing { .. })));
        let report = files.evaluate(&mut Problems::lenient()).unwrap();
        assert_eq!(report.problems.len(), 1);
        assert!(report.to_string().contains("\n\n1 problem, counted as a miss:\n"));
    }

    #[test]
    fn numbers_that_are_none_are_misses_of_their_row() {
        let folder = Folder::new();
        let found = FOUND.replace("[7, 0, 6, 0.8]", "[7, 0, NaN, 0.8]");
        let files = MomentFiles { submission: folder.file("nan.json", found), ..tvr(&folder) };
        match files.evaluate(&mut Problems::strict()) {
            Err(Error::NonFinite { place, .. }) => assert_eq!(place, "VCMR query 1, row 2"),
            other => panic!("{other:?}"),
        }
        let report = files.evaluate(&mut Problems::lenient()).unwrap();
        assert_eq!((report.problems.len(), &report.metrics["VCMR"]["0.5-r5"]), (1, &json!(100.0)));
    }

    #[test]
    fn lines_are_evaluated_as_their_benchmark_does() {
        let folder = Folder::new();
        let ground_truth = folder.file("truth.txt", "a 0.0 10.0##x.\n");
        let predictions = "{\"qid\": 0, \"pred_relevant_windows\": [[0, 6, 0.9]]}\n";
        let submission = folder.file("found.jsonl", predictions);
        let files = MomentFiles { benchmark: Benchmark::Charades, submission, ground_truth, ..MomentFiles::default() };
        let mut problems = Problems::lenient();
        let report = files.evaluate(&mut problems).unwrap();
        assert!(report.metrics["mIoU"].is_number(), "{report}");
        assert!(report.to_string().contains("R1@0.5"), "{report}");
    }

    #[test]
    fn what_cannot_be_evaluated_is_an_error() {
        let folder = Folder::new();
        let refused = |files: MomentFiles, name: &str| match files.evaluate(&mut Problems::strict()) {
            Err(Error::Argument { argument, .. }) => assert_eq!(argument, name),
            other => panic!("{name}: {other:?}"),
        };
        refused(MomentFiles { nms: Some(1.5), ..tvr(&folder) }, "nms");
        refused(MomentFiles { nms: Some(0.5), benchmark: Benchmark::Charades, ..tvr(&folder) }, "nms");
        refused(MomentFiles { durations: None, ..tvr(&folder) }, "durations");
        assert!(matches!("tv".parse::<Benchmark>(), Err(Error::Argument { argument: "format", .. })));
        assert_eq!("charades".parse::<Benchmark>().unwrap(), Benchmark::Charades);
    }
}
