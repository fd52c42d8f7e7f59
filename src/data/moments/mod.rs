//! Moment retrieval: queries with the stretches of time that they describe, and the clips of untrimmed videos.
//!
//! Every annotation file becomes one [`MomentSplit`]; training, encoding and evaluation read features through
//! [`MomentSource`], one video or query at a time.

mod annotations;
mod features;
mod summary;
#[cfg(feature = "datasets")]
mod tvr;

pub use annotations::{read_activitynet, read_charades, read_didemo, read_neutral, read_tvr, write_neutral, write_tvr};
pub use features::{
    BatchOptions, Clips, MomentBatch, MomentSample, Timing, clip_span, collate, endpoint_features, l2_normalize_rows,
    pad_clips, pad_tokens, resample,
};
pub use summary::SplitSummary;
#[cfg(feature = "datasets")]
pub use tvr::{TvrDataset, TvrFiles, TvrOptions};

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::tensor::Array;
use crate::{Error, Result};

/// Which of a video's streams a query of TVR speaks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum QueryKind {
    /// What is seen.
    #[serde(rename = "v")]
    Video,
    /// What is said.
    #[serde(rename = "t")]
    Text,
    /// Both.
    #[serde(rename = "vt")]
    Both,
}

impl QueryKind {
    /// TVR's code: `v`, `t` or `vt`.
    pub fn code(self) -> &'static str {
        match self {
            QueryKind::Video => "v",
            QueryKind::Text => "t",
            QueryKind::Both => "vt",
        }
    }
}

/// How much a clip stands out for a query, by each annotator: QVHighlights' scale is 0 to 4.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saliency {
    /// The clip's number in its video.
    pub clip: u32,
    /// One score an annotator.
    pub scores: Vec<u8>,
}

/// A sentence and the moments that it describes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MomentQuery {
    /// The dataset's number: TVR's `desc_id`, others' `qid`. Unique in a split.
    pub id: u64,
    /// The sentence; not blank.
    pub text: String,
    /// The id of its video; `None` where it is withheld.
    pub video: Option<String>,
    /// Start and end in seconds, `0 <= start < end`. One in most datasets, several in QVHighlights, one an annotator in
    /// DiDeMo; empty where labels are withheld.
    pub windows: Vec<[f64; 2]>,
    /// TVR's type.
    pub kind: Option<QueryKind>,
    /// QVHighlights' scores; empty elsewhere.
    pub saliency: Vec<Saliency>,
}

impl MomentQuery {
    /// A query without a type and scores.
    pub fn new(id: u64, text: impl Into<String>, video: Option<String>, windows: Vec<[f64; 2]>) -> Self {
        Self { id, text: text.into(), video, windows, kind: None, saliency: Vec::new() }
    }
}

/// A video of a corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MomentVideo {
    /// The dataset's name of it; unique in a split.
    pub id: String,
    /// Seconds.
    pub duration: f64,
    /// The number that stands for it in submissions; TVR's are global, others' are places in the split.
    pub index: u64,
}

/// The queries and videos of one part of a dataset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MomentSplit {
    /// In the order of the file; no id twice.
    pub queries: Vec<MomentQuery>,
    /// Every video that can be found: those of the queries, and others where the dataset lists them.
    pub videos: Vec<MomentVideo>,
}

/// What becomes of bad rows: an error at the first, or a list of those that were skipped. Rows that the published files
/// have and that a reader puts right are listed apart, in both modes.
#[derive(Debug, Default)]
pub struct Problems {
    lenient: bool,
    skipped: Vec<Error>,
    mended: Vec<Error>,
}

impl Problems {
    /// The first bad row ends the reading.
    pub fn strict() -> Self {
        Self::default()
    }

    /// Bad rows are skipped and kept here.
    pub fn lenient() -> Self {
        Self { lenient: true, ..Self::default() }
    }

    /// Whether bad rows are skipped.
    pub fn is_lenient(&self) -> bool {
        self.lenient
    }

    /// Takes note of a row that is skipped.
    ///
    /// # Errors
    /// `problem`, if strict.
    pub fn report(&mut self, problem: Error) -> Result<()> {
        if !self.lenient {
            return Err(problem);
        }
        self.skipped.push(problem);
        Ok(())
    }

    /// Passes `result` on; a failure that is skipped is `None`.
    ///
    /// # Errors
    /// As [`Problems::report`].
    pub fn check<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(problem) => self.report(problem).map(|()| None),
        }
    }

    /// Takes note of a row that was put right, saying how.
    pub fn mend(&mut self, what: Error) {
        self.mended.push(what);
    }

    /// What was skipped, in the order of reading.
    pub fn skipped(&self) -> &[Error] {
        &self.skipped
    }

    /// What was put right, in the order of reading.
    pub fn mended(&self) -> &[Error] {
        &self.mended
    }
}

/// Widths of a source's features, without endpoint features; 0 for a stream that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// Of a query's tokens.
    pub query: usize,
    /// Of what is seen in a clip.
    pub video: usize,
    /// Of what is said in a clip.
    pub sub: usize,
}

/// Queries and videos with their features, read on demand.
pub trait MomentSource: Send + Sync {
    /// The widths that all features share.
    fn widths(&self) -> Widths;

    /// The corpus and the queries.
    fn split(&self) -> &MomentSplit;

    /// The corpus.
    fn videos(&self) -> &[MomentVideo] {
        &self.split().videos
    }

    /// The queries.
    fn queries(&self) -> &[MomentQuery] {
        &self.split().queries
    }

    /// The place in [`MomentSource::videos`] of a query's video; `None` where labels are withheld.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    fn video_of(&self, query: usize) -> Result<Option<usize>>;

    /// A video's clips: at least one, at most as many as the model takes, normalised as the model wants them.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`]; [`Error::Missing`], [`Error::Malformed`], [`Error::NonFinite`] for the file.
    fn clips(&self, video: usize) -> Result<Clips>;

    /// A query's token features, (tokens, width): at least one, normalised, cut to what the model takes.
    ///
    /// # Errors
    /// As [`MomentSource::clips`].
    fn tokens(&self, query: usize) -> Result<Array>;

    /// A query with its video, labelled with its window of this number.
    ///
    /// # Errors
    /// As [`MomentSource::clips`]; [`Error::Argument`] for a query without labels.
    fn sample(&self, query: usize, window: usize) -> Result<MomentSample> {
        let unlabelled =
            || Error::argument("MomentSource::sample", "query", format!("{query} has no labels to train on"));
        let video = self.video_of(query)?.ok_or_else(unlabelled)?;
        let window = *self.queries()[query].windows.get(window).ok_or_else(unlabelled)?;
        let clips = self.clips(video)?;
        let span = clip_span(window, clips.seconds_per_clip, clips.len());
        Ok(MomentSample { tokens: self.tokens(query)?, clips, span })
    }
}

/// Seconds that a video lasts at most, a hundred days: what claims more is damaged, or hostile.
pub(crate) const MAX_SECONDS: f64 = 8_640_000.0;

/// Seconds of a clip that QVHighlights' annotators scored.
const SCORED_SECONDS: f64 = 2.0;

/// Annotators of a clip in QVHighlights.
pub(crate) const ANNOTATORS: usize = 3;

/// The clips of a video that have a saliency: those that are whole.
pub(crate) fn scored_clips(duration: f64) -> usize {
    (duration.min(MAX_SECONDS) / SCORED_SECONDS).max(0.0) as usize
}

/// Refuses a window that no moment can have.
///
/// # Errors
/// [`Error::Malformed`] at `place` of `path`: not finite, negative, reversed or empty, beyond a hundred days, or with its
/// start beyond `duration`. An end beyond the duration by up to `slack` seconds is let pass: annotators overshoot the last
/// frame.
pub fn check_window(path: &Path, place: &str, window: [f64; 2], duration: Option<f64>, slack: f64) -> Result<()> {
    check_ends(path, place, window, window, duration, slack)
}

/// As [`check_window`], of what was `given` and became `window`; the error quotes the former.
fn check_ends(
    path: &Path,
    place: &str,
    given: [f64; 2],
    window: [f64; 2],
    duration: Option<f64>,
    slack: f64,
) -> Result<()> {
    let [start, end] = window;
    let problem = if !(start.is_finite() && end.is_finite()) {
        "is not finite"
    } else if start < 0.0 {
        "starts before 0"
    } else if start > end {
        "ends before it starts"
    } else if start == end {
        "is empty"
    } else if duration.is_some_and(|d| start >= d || end > d + slack) || end > MAX_SECONDS {
        "reaches beyond the video's end"
    } else {
        return Ok(());
    };
    let of = duration.map_or_else(String::new, |d| format!(" of {d} s"));
    let [start, end] = given;
    Err(Error::malformed(path, place, format_args!("the moment [{start}, {end}]{of} {problem}")))
}
