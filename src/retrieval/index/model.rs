//! What an index asks of a model.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::spec::{Clip, ClipPlan, IndexSpec, ModelIdentity};
use crate::models::text_image::Processor;
use crate::retrieval::exact::dot;
use crate::tensor::DType;
use crate::{Error, Result};

/// Of the softmax that weighs frames, as EERCF's gates of frames have it.
const GATE_TEMPERATURE: f64 = 0.1;

/// Vectors of frames one after another, before they are brought to unit length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameVectors {
    /// Of the frames (n, D).
    pub frames: Vec<f32>,
    /// Of their patches (n, P, D); empty for a model that needs none.
    pub patches: Vec<f32>,
}

/// What is searched for, as vectors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryVectors {
    /// What the first stage compares with the clips' vectors (D), of unit length.
    pub coarse: Vec<f32>,
    /// What is compared with frames (D), of unit length.
    pub frame: Vec<f32>,
    /// Of a sentence, what a model's own second stage takes beside it; empty for pictures and clips.
    pub text: Vec<f32>,
}

/// A model that makes an index, and ranks what the first stage finds in it.
pub trait IndexModel: Send + Sync {
    /// Which model it is.
    fn identity(&self) -> &ModelIdentity;

    /// Tokenizer and preprocessing.
    fn processor(&self) -> &Processor;

    /// The model in a line, and what stands in for what its files do not say.
    fn description(&self) -> (String, &[String]);

    /// Numbers of a vector, D.
    fn width(&self) -> usize;

    /// Patches of a frame that the second stage needs, P; 0 for none.
    fn patches(&self) -> usize;

    /// Normalised pixels (n, 3, H, H) to vectors.
    ///
    /// # Errors
    /// Device errors.
    fn frames(&self, pixels: &[f32]) -> Result<FrameVectors>;

    /// A vector of unit length for each clip (clips, D), from its frames: what the first stage compares.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for one without a direction; device errors.
    fn coarse(&self, clips: &[FrameVectors]) -> Result<Vec<f32>>;

    /// Sentences, none of them blank, as queries; and which of them were cut because they are longer than the model reads.
    ///
    /// # Errors
    /// Device errors.
    fn texts(&self, texts: &[&str]) -> Result<(Vec<QueryVectors>, Vec<usize>)>;

    /// The score of the second stage for each clip (clips), of which greater is better.
    ///
    /// # Errors
    /// Device errors.
    fn rerank(&self, query: &QueryVectors, clips: &[FrameVectors]) -> Result<Vec<f64>>;

    /// A picture as a query, a clip of one frame: its pixels as [`Preprocess::pixels`] makes them.
    ///
    /// [`Preprocess::pixels`]: crate::data::media::preprocess::Preprocess::pixels
    ///
    /// # Errors
    /// As [`IndexModel::frames`] and [`IndexModel::coarse`].
    fn picture(&self, pixels: &[u8]) -> Result<QueryVectors> {
        let vectors = self.frames(&self.processor().preprocess.normalize(pixels))?;
        let frame = unit(&vectors.frames);
        Ok(QueryVectors { coarse: self.coarse(&[vectors])?, frame, text: Vec::new() })
    }

    /// An index of what this model makes.
    fn spec(&self, clips: ClipPlan, precision: DType, bytes: bool) -> IndexSpec {
        IndexSpec {
            model: self.identity().clone(),
            width: self.width(),
            precision,
            bytes,
            patches: self.patches(),
            clips,
            preprocess: json!(self.processor().preprocess),
        }
    }

    /// That an index is of this model, and of pictures that were made as they are now.
    ///
    /// # Errors
    /// [`Error::Argument`], naming both.
    fn expect_made(&self, spec: &IndexSpec) -> Result<()> {
        let own = self.spec(spec.clips, spec.precision, spec.bytes);
        let bad = |why: String| Err(Error::argument("index", "model", why));
        if own.model.sha256 != spec.model.sha256 {
            let short = |model: &ModelIdentity| format!("{} ({} {:.12})", model.name, model.family, model.sha256);
            let (index, this) = (short(&spec.model), short(&own.model));
            return bad(format!(
                "is {this}, and the index was made by {index}: give that one, or make an index of this one"
            ));
        }
        if own.preprocess != spec.preprocess {
            let why = format!("makes pictures as {}, and the index was made as {}", own.preprocess, spec.preprocess);
            return bad(format!("{why}: restore the model's preprocessor_config.json, or make the index anew"));
        }
        Ok(())
    }
}

impl FrameVectors {
    /// Adds those of further frames.
    pub(crate) fn extend(&mut self, more: Self) {
        self.frames.extend(more.frames);
        self.patches.extend(more.patches);
    }

    /// Those of the frames that `numbers` name, of frames of `width` numbers and `patches` patches.
    pub(crate) fn chosen(&self, numbers: impl Iterator<Item = usize> + Clone, width: usize, patches: usize) -> Self {
        let of = |all: &[f32], each: usize| {
            numbers.clone().flat_map(|n| &all[n * each..][..each]).copied().collect::<Vec<f32>>()
        };
        Self { frames: of(&self.frames, width), patches: of(&self.patches, patches * width) }
    }

    /// Those of a clip, from a video's.
    pub(super) fn of_clip(&self, clip: &Clip, width: usize, patches: usize) -> Self {
        self.chosen(clip.first..clip.first + clip.count, width, patches)
    }
}

/// The direction of a vector; what has none stays as it is.
pub(crate) fn unit(vector: &[f32]) -> Vec<f32> {
    let length = dot(vector, vector).sqrt();
    if length > 0.0 { vector.iter().map(|&v| (f64::from(v) / length) as f32).collect() } else { vector.to_vec() }
}

/// The direction of the mean of the directions of `frames` (n, D).
pub(crate) fn mean_direction(frames: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0f32; width];
    for frame in frames.chunks_exact(width) {
        sum.iter_mut().zip(unit(frame)).for_each(|(sum, value)| *sum += value);
    }
    unit(&sum)
}

/// That `vectors` (n, D) have directions, or which has none.
pub(crate) fn expect_directions(vectors: &[f32], width: usize) -> Result<()> {
    let has_none = |v: &[f32]| v.iter().any(|v| !v.is_finite()) || dot(v, v) < 0.5;
    match vectors.chunks_exact(width).position(has_none) {
        None => Ok(()),
        Some(clip) => {
            let place = format!("the mean of the frames of clip {}", clip + 1);
            Err(Error::NonFinite { origin: "the model".into(), place, count: 1 })
        }
    }
}

/// The cosine of each frame with the next one.
pub(super) fn alike(frames: &[f32], width: usize) -> Vec<f32> {
    let directions: Vec<Vec<f32>> = frames.chunks_exact(width).map(unit).collect();
    directions.windows(2).map(|pair| dot(&pair[0], &pair[1]) as f32).collect()
}

/// The cosine of `query` (D) with the mean of the directions of `frames` (frames, D), each weighted by the softmax of its
/// cosine with the query, as EERCF gates frames.
pub(crate) fn gated(query: &[f32], frames: &[f32]) -> f64 {
    let directions: Vec<Vec<f32>> = frames.chunks_exact(query.len()).map(unit).collect();
    let cosines: Vec<f64> = directions.iter().map(|frame| dot(query, frame)).collect();
    let most = cosines.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut mean = vec![0.0; query.len()];
    for (direction, cosine) in directions.iter().zip(&cosines) {
        let weight = ((cosine - most) / GATE_TEMPERATURE).exp();
        mean.iter_mut().zip(direction).for_each(|(sum, &value)| *sum += weight * f64::from(value));
    }
    let length = mean.iter().map(|v| v * v).sum::<f64>().sqrt();
    let along: f64 = mean.iter().zip(query).map(|(v, &q)| v * f64::from(q)).sum();
    // Frames that cancel each other out have no direction.
    if length > 0.0 { along / length } else { 0.0 }
}

/// SHA-256 of a model's configuration and of its files, in their order.
pub(crate) fn hash_of(config: &str, files: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new_with_prefix(config.as_bytes());
    for file in files {
        let mut open = File::open(file).map_err(|e| Error::io("open", file, e))?;
        io::copy(&mut open, &mut hash).map_err(|e| Error::io("read", file, e))?;
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// The safetensors files of a folder, by name.
pub(crate) fn safetensors_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?;
    let paths = entries.map(|entry| entry.map(|e| e.path()).map_err(|e| Error::io("list", folder, e)));
    let mut files: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "safetensors"));
    files.sort();
    Ok(files)
}

/// What a model's folder or file is called.
pub(crate) fn name_of(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
    Ok(absolute.file_name().unwrap_or_default().to_string_lossy().to_string())
}
