//! The folder that the published BiC-Net code reads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Dims, Sample, SampleSource};
use crate::data::Part;
use crate::data::captions::{self, Split};
use crate::data::formats::hdf5::{FeatureFile, FeatureSet};
use crate::data::formats::text::{Entries, read_json};
use crate::data::moments::Problems;
use crate::data::{Gone, checked_index, extents, require};
use crate::{Error, Result};

/// Which dataset's files are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatasetKind {
    /// `msrvtt_region_feature.h5` and `msr-vtt_features.h5`; the videos of a part stand in
    /// `MSRVTT_{split}_{train|validate|test}.csv`.
    MsrVtt {
        /// The split's name: `official`, `9000`, `7000`.
        split: String,
    },
    /// `msvd_region_feature.h5` and `msvd_features.h5`; videos 0 to 1199 train, to 1299 validate, to 1969 test.
    Msvd,
}

/// The published folder, opened for one part of a split.
///
/// * `text_default.h5`: a dataset (tokens, Dt) for each video, its captions one behind the other;
/// * `text_lens_default.json`: `{"<video>": [tokens of caption 0, ...]}`;
/// * region features `vfeats` (N, T, R, Dr) and frame features `feats` (N, T, Dg) in the files that [`DatasetKind`] names;
///   the row of video `video7` is 7;
/// * `datainfo.json` with the captions' words: optional, see [`BicnetDataset::raw_captions`].
///
/// Opening checks all shapes and that every listed video is complete; the values are read with each sample.
#[derive(Debug)]
pub struct BicnetDataset {
    root: PathBuf,
    videos: Vec<Video>,
    text: FeatureFile,
    region: FeatureSet,
    global: FeatureSet,
    dims: Dims,
}

#[derive(Debug)]
struct Video {
    id: String,
    row: usize,
    /// Where each caption's tokens begin, and at last where the final one's end.
    offsets: Vec<usize>,
}

impl BicnetDataset {
    /// Opens the folder `root`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Missing`] for a dataset, or a listed video without text, token counts, captions or feature
    /// row; [`Error::Malformed`] for shapes that do not fit each other, token counts that do not add up to the text's
    /// rows, a caption without tokens, and ids that are not `video` and a number; [`Error::Duplicate`].
    pub fn open(root: impl AsRef<Path>, kind: &DatasetKind, part: Part) -> Result<Self> {
        let root = root.as_ref();
        let (region_name, global_name) = match kind {
            DatasetKind::MsrVtt { .. } => ("msrvtt_region_feature.h5", "msr-vtt_features.h5"),
            DatasetKind::Msvd => ("msvd_region_feature.h5", "msvd_features.h5"),
        };
        let region_path = root.join(region_name);
        let region = FeatureFile::open(&region_path)?.dataset("vfeats")?;
        let [rows, frames, regions, region_width] = extents(&region_path, "vfeats", region.shape(), "(N, T, R, Dr)")?;
        let global_path = root.join(global_name);
        let global = FeatureFile::open(&global_path)?.dataset("feats")?;
        let [global_rows, global_frames, global_width] = extents(&global_path, "feats", global.shape(), "(N, T, Dg)")?;
        require(&global_path, "feats", "the frames T", frames, global_frames)?;

        let text = FeatureFile::open(root.join("text_default.h5"))?;
        let lengths_path = root.join("text_lens_default.json");
        let mut lengths = token_counts(&lengths_path)?;
        let mut text_width = None;
        let (mut videos, mut gone) = (Vec::new(), Gone::default());
        for (id, row) in listed(root, kind, part)? {
            let rows = [(&region_path, rows), (&global_path, global_rows)];
            let found = rows.into_iter().try_for_each(|(path, rows)| {
                if row < rows { Ok(()) } else { Err(Error::missing(path, "row of video", &id)) }
            });
            let video = found.and_then(|()| {
                let counts = lengths.remove(&id).ok_or_else(|| Error::missing(&lengths_path, "video", &id))?;
                let offsets = offsets(&lengths_path, &id, &counts)?;
                let [tokens, width] = extents(text.path(), &id, text.dataset(&id)?.shape(), "(tokens, Dt)")?;
                require(text.path(), &id, "the width Dt", *text_width.get_or_insert(width), width)?;
                let sum = offsets.last().copied().unwrap_or_default();
                require(text.path(), &id, "the sum of the caption's token counts", sum, tokens)?;
                Ok(Video { id, row, offsets })
            });
            videos.extend(gone.check(video, &mut Problems::strict())?);
        }
        gone.finish()?;
        let text_width = text_width.ok_or_else(|| Error::malformed(root, "split", "no videos"))?;
        let dims = Dims { text: text_width, regions, region: region_width, global: global_width };
        Ok(Self { root: root.to_path_buf(), videos, text, region, global, dims })
    }

    /// The number of frames of every video, T.
    pub fn frames(&self) -> usize {
        self.region.shape()[1]
    }

    /// The captions' words from `datainfo.json`, for the videos of this part in their order. They are only for showing:
    /// the features come from the other files, and their order is not checked against these.
    ///
    /// # Errors
    /// Those of [`captions::read_msrvtt`]; [`Error::Missing`] for a video without captions there.
    pub fn raw_captions(&self) -> Result<Split> {
        let path = self.root.join("datainfo.json");
        let ids: Vec<String> = self.videos.iter().map(|v| v.id.clone()).collect();
        let mut problems = Problems::strict();
        captions::read_msrvtt(&path, &mut problems)?.select(&ids, &path, &mut problems)
    }

    fn video(&self, op: &'static str, video: usize) -> Result<&Video> {
        Ok(&self.videos[checked_index(op, video, self.videos.len())?])
    }
}

impl SampleSource for BicnetDataset {
    fn len(&self) -> usize {
        self.videos.len()
    }

    fn dims(&self) -> Dims {
        self.dims
    }

    fn id(&self, video: usize) -> Result<&str> {
        Ok(&self.video("BicnetDataset::id", video)?.id)
    }

    fn captions(&self, video: usize) -> Result<usize> {
        Ok(self.video("BicnetDataset::captions", video)?.offsets.len() - 1)
    }

    fn sample(&self, video: usize, caption: usize) -> Result<Sample> {
        let op = "BicnetDataset::sample";
        let Video { id, row, offsets } = self.video(op, video)?;
        let caption = checked_index(op, caption, offsets.len() - 1)?;
        Ok(Sample {
            text: self.text.dataset(id)?.rows(offsets[caption]..offsets[caption + 1])?,
            region: self.region.row(*row)?,
            global: self.global.row(*row)?,
        })
    }
}

/// The videos of a part: their ids and rows.
fn listed(root: &Path, kind: &DatasetKind, part: Part) -> Result<Vec<(String, usize)>> {
    let DatasetKind::MsrVtt { split } = kind else {
        let rows = match part {
            Part::Train => 0..1200,
            Part::Validation => 1200..1300,
            Part::Test => 1300..1970,
        };
        return Ok(rows.map(|row| (format!("video{row}"), row)).collect());
    };
    let part = if part == Part::Validation { "validate" } else { part.name() };
    let path = root.join(format!("MSRVTT_{split}_{part}.csv"));
    let with_row = |id: String| match row_of(&id) {
        Some(row) => Ok((id, row)),
        None => Err(Error::malformed(&path, format_args!("video {id:?}"), "not \"video\" and a number")),
    };
    captions::read_msrvtt_ids(&path, &mut Problems::strict())?.into_iter().map(with_row).collect()
}

/// 7 for `video7`.
fn row_of(id: &str) -> Option<usize> {
    let digits = id.strip_prefix("video")?;
    // `parse` alone would take a sign.
    digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
}

/// The number of tokens of every caption of every video.
fn token_counts(path: &Path) -> Result<HashMap<String, Vec<usize>>> {
    let Entries(entries): Entries<Vec<usize>> = read_json(path)?;
    let mut counts = HashMap::new();
    for (i, (id, lengths)) in entries.into_iter().enumerate() {
        if counts.insert(id.clone(), lengths).is_some() {
            return Err(Error::duplicate(path, format_args!("entry {}", i + 1), "video", id));
        }
    }
    Ok(counts)
}

/// Where the captions of video `id` begin and end, from their token counts.
fn offsets(path: &Path, id: &str, counts: &[usize]) -> Result<Vec<usize>> {
    if counts.is_empty() {
        return Err(Error::missing(path, "caption of video", id));
    }
    let mut offsets = vec![0];
    let mut end = 0usize;
    for (caption, &count) in counts.iter().enumerate() {
        let sum = end.checked_add(count).filter(|_| count > 0);
        let place = || format!("video {id:?}, caption {caption}");
        end = sum.ok_or_else(|| Error::malformed(path, place(), format_args!("{count} tokens")))?;
        offsets.push(end);
    }
    Ok(offsets)
}
