//! TVR's features in HDF5 files, beside its annotations.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::annotations::tvr::{DURATIONS, annotations};
use super::{Clips, MomentSource, MomentSplit, Problems, Timing, Widths, l2_normalize_rows, read_tvr, resample};
use crate::data::formats::hdf5::FeatureFile;
use crate::data::{Gone, checked_index, extents, require};
use crate::tensor::Array;
use crate::{Error, Result};

/// Widest video features that are normalised by default: wider ones were joined from normalised parts.
const WIDEST_NORMALIZED: usize = 3000;

/// Clips by which a video's streams may differ: extractors round the last, incomplete clip differently.
const CLIPS_APART: usize = 1;

/// The files of one split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TvrFiles {
    /// The queries: `tvr_{split}_release.jsonl`.
    pub annotations: PathBuf,
    /// All videos: `tvr_video2dur_idx.json`.
    pub durations: PathBuf,
    /// The split's name in that file: `train`, `val`, `test_public`.
    pub split: String,
    /// What is seen: files of a dataset (clips, width) a video, whose columns are joined in this order.
    pub video_features: Vec<PathBuf>,
    /// What is said: a file of the same form.
    pub sub_features: Option<PathBuf>,
    /// A file of a dataset (tokens, width) a query, named by its number.
    pub query_features: PathBuf,
}

impl TvrFiles {
    /// The published names in the folder `root`: the annotations, and the features under `tvr_feature_release`.
    pub fn in_folder(root: impl AsRef<Path>, split: &str) -> Self {
        let root = root.as_ref();
        let features = root.join("tvr_feature_release");
        let text = features.join("bert_feature/sub_query");
        let video = "video_feature/tvr_resnet152_rgb_max_i3d_rgb600_avg_cat_cl-1.5.h5";
        Self {
            annotations: annotations(root, split),
            durations: root.join(DURATIONS),
            split: split.to_owned(),
            video_features: vec![features.join(video)],
            sub_features: Some(text.join("tvr_sub_pretrained_w_sub_query_max_cl-1.5.h5")),
            query_features: text.join("tvr_query_pretrained_w_sub_query.h5"),
        }
    }
}

/// How features become what the model takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TvrOptions {
    /// Clips that a longer video is resampled to (128).
    pub max_clips: usize,
    /// Tokens that a longer query is cut to (30).
    pub max_tokens: usize,
    /// Whether each file of video features is divided by its rows' norms. `None`, the default, does so up to a width of
    /// 3000, as the official code wants it: the wider file was joined from normalised parts. Subtitles and queries always
    /// are.
    pub normalize_video: Option<bool>,
    /// Seconds of a clip (1.5).
    pub clip_seconds: f64,
    /// How long the clips of a resampled video last.
    pub timing: Timing,
}

impl Default for TvrOptions {
    fn default() -> Self {
        Self { max_clips: 128, max_tokens: 30, normalize_video: None, clip_seconds: 1.5, timing: Timing::Official }
    }
}

/// A split of TVR, or of any dataset in its form.
///
/// Opening checks that every video and query has its features, and all shapes; the values are read with each call. If bad
/// rows are skipped, opening also reads all values once, so that those with NaN or infinity are skipped then and there,
/// and do not end a training run hours later. Clips are resampled first and normalised then. Streams of a video that
/// differ by one clip are cut to the shorter.
#[derive(Debug)]
pub struct TvrDataset {
    /// The queries and videos that have features.
    split: MomentSplit,
    /// The place of each query's video.
    videos: Vec<Option<usize>>,
    /// The clips of each video, before resampling.
    clips: Vec<usize>,
    video: Vec<Features>,
    sub: Option<Features>,
    query: Features,
    options: TvrOptions,
}

impl TvrDataset {
    /// Opens the files of a split.
    ///
    /// # Errors
    /// Those of [`read_tvr`]; [`Error::Io`] and [`Error::Malformed`] for a file that is not HDF5; [`Error::Argument`] without
    /// any stream or for options that are 0. Problems of a video or query, which is skipped: [`Error::Missing`] for a
    /// dataset, or for a query's video that was skipped; [`Error::Malformed`] for one that is not (rows, width), is empty,
    /// has another width than the first, or belongs to a stream of more than one clip more or less than the others. If bad
    /// rows are skipped, also [`Error::NonFinite`]; else that error comes when the row is read. If they are not, all videos, or
    /// all queries, that lack a dataset are named at once.
    pub fn open(files: &TvrFiles, options: TvrOptions, problems: &mut Problems) -> Result<Self> {
        let invalid = |argument, why: &str| Error::argument("TvrDataset::open", argument, why);
        if options.max_clips == 0 || options.max_tokens == 0 {
            return Err(invalid("options", "must let pass at least one clip and one token"));
        }
        if !(options.clip_seconds.is_finite() && options.clip_seconds > 0.0) {
            return Err(invalid("clip_seconds", "must be positive"));
        }
        if files.video_features.is_empty() && files.sub_features.is_none() {
            return Err(invalid("files", "must name features of videos or of subtitles"));
        }
        let listed = read_tvr(&files.annotations, &files.durations, &files.split, problems)?;
        let mut video = files.video_features.iter().map(Features::open).collect::<Result<Vec<_>>>()?;
        let mut sub = files.sub_features.as_ref().map(Features::open).transpose()?;
        let mut query = Features::open(&files.query_features)?;

        let (mut split, mut clips, mut videos) = (MomentSplit::default(), Vec::new(), Vec::new());
        let (mut places, mut gone) = (HashMap::new(), Gone::default());
        let reads_values = problems.is_lenient();
        for listed in listed.videos {
            let count = count_clips(video.iter_mut().chain(&mut sub), &listed.id).and_then(|count| {
                if reads_values {
                    video.iter().chain(&sub).try_for_each(|f| f.values(&listed.id, count).map(drop))?;
                }
                Ok(count)
            });
            if let Some(count) = gone.check(count, problems)? {
                places.insert(listed.id.clone(), clips.len());
                clips.push(count);
                split.videos.push(listed);
            }
        }
        gone.finish()?;
        let mut gone = Gone::default();
        for listed in listed.queries {
            let name = listed.id.to_string();
            let place = listed.video.as_ref().map(|id| {
                let missing = || Error::missing(query.file.path(), "video of query", &name);
                places.get(id).copied().ok_or_else(missing)
            });
            let place = place.transpose().and_then(|place| {
                let count = query.rows(&name)?;
                if reads_values {
                    query.values(&name, count.min(options.max_tokens))?;
                }
                Ok(place)
            });
            if let Some(place) = gone.check(place, problems)? {
                videos.push(place);
                split.queries.push(listed);
            }
        }
        gone.finish()?;
        if split.videos.is_empty() || split.queries.is_empty() {
            return Err(Error::malformed(&files.annotations, "end", "no videos or queries with features"));
        }
        Ok(Self { split, videos, clips, video, sub, query, options })
    }
}

impl MomentSource for TvrDataset {
    fn widths(&self) -> Widths {
        let width = |features: &Features| features.width.unwrap_or_default();
        Widths {
            query: width(&self.query),
            video: self.video.iter().map(width).sum(),
            sub: self.sub.as_ref().map_or(0, width),
        }
    }

    fn split(&self) -> &MomentSplit {
        &self.split
    }

    fn video_of(&self, query: usize) -> Result<Option<usize>> {
        Ok(self.videos[checked_index("TvrDataset::video_of", query, self.videos.len())?])
    }

    fn clips(&self, video: usize) -> Result<Clips> {
        let video = checked_index("TvrDataset::clips", video, self.clips.len())?;
        let (id, count) = (&self.split.videos[video].id, self.clips[video]);
        let TvrOptions { max_clips, normalize_video, clip_seconds, timing, .. } = self.options;
        let read = |features: &Features, normalize: bool| -> Result<Array> {
            let mut rows = resample(&features.values(id, count)?, max_clips)?;
            if normalize {
                l2_normalize_rows(&mut rows);
            }
            Ok(rows)
        };
        let narrow = |features: &Features| features.width <= Some(WIDEST_NORMALIZED);
        let seen = self.video.iter().map(|f| read(f, normalize_video.unwrap_or_else(|| narrow(f))));
        Ok(Clips {
            video: join_columns(seen.collect::<Result<_>>()?)?,
            sub: self.sub.as_ref().map(|f| read(f, true)).transpose()?,
            seconds_per_clip: timing.seconds_per_clip(clip_seconds, count, count.min(max_clips)),
        })
    }

    fn tokens(&self, query: usize) -> Result<Array> {
        let query = checked_index("TvrDataset::tokens", query, self.videos.len())?;
        let set = self.query.file.dataset(&self.split.queries[query].id.to_string())?;
        let count = set.shape().first().copied().unwrap_or_default();
        let mut tokens = set.rows(0..count.min(self.options.max_tokens))?;
        l2_normalize_rows(&mut tokens);
        Ok(tokens)
    }
}

/// A file whose datasets are (rows, width), all of one width.
#[derive(Debug)]
struct Features {
    file: FeatureFile,
    /// Known from the first dataset on.
    width: Option<usize>,
}

impl Features {
    fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { file: FeatureFile::open(path)?, width: None })
    }

    /// The rows of a dataset, whose shape is checked.
    fn rows(&mut self, name: &str) -> Result<usize> {
        let path = self.file.path();
        let place = format!("dataset {name:?}");
        let [rows, width] = extents(path, &place, self.file.dataset(name)?.shape(), "(rows, width)")?;
        require(path, &place, "the width", *self.width.get_or_insert(width), width)?;
        Ok(rows)
    }

    /// The first `count` rows of a dataset.
    fn values(&self, name: &str, count: usize) -> Result<Array> {
        self.file.dataset(name)?.rows(0..count)
    }
}

/// The clips that all streams of a video have.
fn count_clips<'a>(streams: impl Iterator<Item = &'a mut Features>, id: &str) -> Result<usize> {
    let mut least: Option<usize> = None;
    for stream in streams {
        let count = stream.rows(id)?;
        let before = *least.get_or_insert(count);
        if before.abs_diff(count) > CLIPS_APART {
            let problem = format!("{count} clips, where another stream of the video has {before}");
            return Err(Error::malformed(stream.file.path(), format_args!("dataset {id:?}"), problem));
        }
        least = Some(before.min(count));
    }
    Ok(least.unwrap_or_default())
}

/// Arrays of equal rows side by side; none if there are none.
fn join_columns(mut parts: Vec<Array>) -> Result<Option<Array>> {
    if parts.len() < 2 {
        return Ok(parts.pop());
    }
    let rows = parts[0].shape()[0];
    let width: usize = parts.iter().map(|p| p.shape()[1]).sum();
    let mut data = Vec::with_capacity(rows * width);
    for row in 0..rows {
        parts.iter().for_each(|part| data.extend_from_slice(part.row(row)));
    }
    Array::new([rows, width], data).map(Some)
}

#[cfg(test)]
#[path = "tvr_tests.rs"]
mod tests;
