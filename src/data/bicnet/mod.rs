//! Samples and batches of BiC-Net: precomputed text, region and frame features.
//!
//! Two folder layouts give the same [`Sample`]s: `BicnetDataset`, the files that the published code reads (feature
//! `datasets`), and [`NeutralDataset`]. Training sees them as a [`SampleSource`].

mod neutral;
#[cfg(feature = "datasets")]
mod official;

pub use neutral::NeutralDataset;
#[cfg(feature = "datasets")]
pub use official::{BicnetDataset, DatasetKind};

use super::batch::{mask, stack};
use crate::tensor::Array;
use crate::{Error, Result};

/// Sizes that are equal for all samples of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Width of a token's features, Dt (1536 as published).
    pub text: usize,
    /// Regions of a frame, R (36 as published).
    pub regions: usize,
    /// Width of a region's features, Dr (2048 as published).
    pub region: usize,
    /// Width of a frame's features, Dg (2560 as published).
    pub global: usize,
}

/// One video with one of its captions; all values are finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Features of the caption's tokens, (L, Dt).
    pub text: Array,
    /// Features of the regions, (T, R, Dr).
    pub region: Array,
    /// Features of the frames, (T, Dg).
    pub global: Array,
}

/// Videos with captions, in a fixed order, read on demand.
pub trait SampleSource: Send + Sync {
    /// The number of videos, at least 1.
    fn len(&self) -> usize;

    /// Whether there are no videos.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sizes that all samples share.
    fn dims(&self) -> Dims;

    /// The name of a video.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    fn id(&self, video: usize) -> Result<&str>;

    /// The number of captions of a video, at least 1.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    fn captions(&self, video: usize) -> Result<usize>;

    /// A video with one of its captions.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`] for either index; [`Error::NonFinite`]; [`Error::Malformed`] for damaged values;
    /// [`Error::Io`].
    fn sample(&self, video: usize, caption: usize) -> Result<Sample>;
}

/// B samples, padded with zeros to the longest of each kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Token features, (B, L, Dt).
    pub text: Array,
    /// 1 for a token, 0 for padding, (B, L).
    pub text_mask: Array,
    /// Region features, (B, T, R, Dr).
    pub region: Array,
    /// Frame features, (B, T, Dg).
    pub global: Array,
    /// All ones, (B, T): the published code attends to padding frames. See [`Batch::frame_mask`].
    pub global_mask: Array,
    /// The true number of frames of each video.
    pub frames: Vec<usize>,
}

impl Batch {
    /// 1 for a frame, 0 for padding, (B, T).
    pub fn frame_mask(&self) -> Array {
        mask(self.frames.iter().copied(), self.global_mask.shape()[1])
    }
}

/// Joins samples into one batch.
///
/// # Errors
/// [`Error::Argument`] without samples; [`Error::Shape`] for an array of the wrong rank or an empty one;
/// [`Error::ShapeMismatch`] where the widths or region counts of two samples, or the frame counts of a sample's region and
/// frame features, differ.
pub fn collate(samples: &[Sample]) -> Result<Batch> {
    const OP: &str = "bicnet::collate";
    let stacked = |argument, form: &[&str], of: fn(&Sample) -> &Array| {
        let arrays: Vec<&Array> = samples.iter().map(of).collect();
        let longest = arrays.iter().filter_map(|array| array.shape().first()).max();
        stack(OP, argument, &arrays, form, longest.copied().unwrap_or_default())
    };
    let text = stacked("text", &["L", "Dt"], |s| &s.text)?;
    let region = stacked("region", &["T", "R", "Dr"], |s| &s.region)?;
    let global = stacked("global", &["T", "Dg"], |s| &s.global)?;
    if let Some(s) = samples.iter().find(|s| s.region.shape()[0] != s.global.shape()[0]) {
        let (left, right) = (s.region.shape().to_vec(), s.global.shape().to_vec());
        return Err(Error::ShapeMismatch { op: OP, left, right, why: "region and frame features need equal frames" });
    }
    Ok(Batch {
        text_mask: mask(samples.iter().map(|s| s.text.shape()[0]), text.shape()[1]),
        global_mask: Array::new(&global.shape()[..2], vec![1.0; samples.len() * global.shape()[1]])?,
        frames: samples.iter().map(|s| s.global.shape()[0]).collect(),
        text,
        region,
        global,
    })
}

#[cfg(test)]
mod tests;
