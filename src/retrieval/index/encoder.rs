//! What a text-image model makes of frames, clips, sentences and pictures.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::spec::{Clip, ClipPlan, IndexSpec, ModelIdentity};
use crate::autograd::{Tape, Var};
use crate::data::formats::weights::{self, Files};
use crate::data::media::pixels::Image;
use crate::gpu::Gpu;
use crate::models::Model;
use crate::models::text_image::{OpenOptions, Processor, TextImageModel};
use crate::retrieval::exact::dot;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// A text-image model and what an index must know of it.
pub struct IndexEncoder {
    model: TextImageModel,
    identity: ModelIdentity,
}

impl IndexEncoder {
    /// The model of a folder, or of a file of weights.
    ///
    /// # Errors
    /// As [`TextImageModel::open`].
    pub fn open(gpu: &Gpu, path: impl AsRef<Path>, options: OpenOptions<'_>) -> Result<Self> {
        let path = path.as_ref();
        let model = TextImageModel::open_with(gpu, path, options)?;
        let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
        let name = absolute.file_name().unwrap_or_default().to_string_lossy().to_string();
        let config = serde_json::json!(model.clip().config()).to_string();
        let identity = ModelIdentity { family: model.family().into(), name, sha256: hash_of(path, &config)? };
        Ok(Self { model, identity })
    }

    /// The model.
    pub fn model(&self) -> &TextImageModel {
        &self.model
    }

    /// Which model it is.
    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn gpu(&self) -> &Gpu {
        self.model.clip().store().gpu()
    }

    /// An index of what this model makes.
    pub fn spec(&self, clips: ClipPlan, precision: DType, bytes: bool) -> IndexSpec {
        let Processor { preprocess, .. } = self.model.processor();
        IndexSpec {
            model: self.identity.clone(),
            width: self.model.clip().config().joint,
            precision,
            bytes,
            patches: 0,
            clips,
            preprocess: json!(preprocess),
        }
    }

    /// That an index is of this model, and of pictures that were made as they are now.
    ///
    /// # Errors
    /// [`Error::Argument`], naming both.
    pub fn expect_made(&self, spec: &IndexSpec) -> Result<()> {
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

    /// Normalised pixels (n, 3, H, H) to vectors (n, D), as the tower gives them.
    ///
    /// # Errors
    /// Device errors.
    pub fn frames(&self, pixels: &[f32]) -> Result<Vec<f32>> {
        let side = self.model.clip().config().image_size;
        let pixels = Tensor::from_slice(self.gpu(), [pixels.len() / (3 * side * side), 3, side, side], pixels)?;
        let pixels = Tape::inference(self.gpu()).constant(pixels);
        self.model.image_features(&pixels, false)?.image.value().to_vec()
    }

    /// A vector of unit length for each clip of a video with these frames (frames, D): the mean of its frames' directions,
    /// as CLIP4Clip compares videos.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a mean that has no direction.
    pub fn coarse(&self, id: &str, frames: &[f32], clips: &[Clip]) -> Result<Vec<f32>> {
        let width = self.model.clip().config().joint;
        let directions: Vec<f32> = frames.chunks_exact(width).flat_map(unit).collect();
        let mut coarse = Vec::with_capacity(clips.len() * width);
        for clip in clips {
            let mut sum = vec![0.0f32; width];
            for frame in directions[clip.first * width..][..clip.count * width].chunks_exact(width) {
                sum.iter_mut().zip(frame).for_each(|(sum, value)| *sum += value);
            }
            let mean = unit(&sum);
            if mean.iter().any(|v| !v.is_finite()) || dot(&mean, &mean) < 0.5 {
                let place = format!("the mean of the clip at {} s", clip.start);
                return Err(Error::NonFinite { origin: id.into(), place, count: 1 });
            }
            coarse.extend(mean);
        }
        Ok(coarse)
    }

    /// Sentences to vectors (n, D) of unit length, and which of them were cut because they are longer than the model reads.
    ///
    /// # Errors
    /// [`Error::Argument`] for a sentence without a word; device errors.
    pub fn texts(&self, texts: &[&str]) -> Result<(Vec<f32>, Vec<usize>)> {
        if texts.iter().any(|text| text.trim().is_empty()) {
            return Err(Error::argument("search", "query", "is blank; say what to look for"));
        }
        let tokens = self.model.processor().tokens(texts, None)?;
        let tape = Tape::inference(self.gpu());
        let features = self.model.text_features(&tape, &tokens, false)?;
        Ok((units(&features.sentence)?, tokens.cut))
    }

    /// Pictures to vectors (n, D) of unit length.
    ///
    /// # Errors
    /// As [`TextImageModel::encode_images`].
    pub fn images(&self, images: &[Image]) -> Result<Vec<f32>> {
        let pixels = self.model.processor().pixels(self.gpu(), images)?;
        units(&self.model.image_features(&Tape::inference(self.gpu()).constant(pixels), false)?.image)
    }
}

/// The cosine of each frame with the next one.
pub(super) fn alike(frames: &[f32], width: usize) -> Vec<f32> {
    let directions: Vec<Vec<f32>> = frames.chunks_exact(width).map(unit).collect();
    directions.windows(2).map(|pair| dot(&pair[0], &pair[1]) as f32).collect()
}

fn units(features: &Var) -> Result<Vec<f32>> {
    let width = features.value().width();
    Ok(features.value().to_vec()?.chunks_exact(width).flat_map(unit).collect())
}

/// The direction of a vector; what has none stays as it is.
pub(in crate::retrieval) fn unit(vector: &[f32]) -> Vec<f32> {
    let length = dot(vector, vector).sqrt();
    if length > 0.0 { vector.iter().map(|&v| (f64::from(v) / length) as f32).collect() } else { vector.to_vec() }
}

/// SHA-256 of a model's configuration and weights.
fn hash_of(path: &Path, config: &str) -> Result<String> {
    let files = match weights::find(path)? {
        Some(Files::One(file)) => vec![file],
        Some(Files::Numbered(files)) => files,
        // The index names them; all that lie beside it are its own.
        Some(Files::Indexed(_)) | None => safetensors_of(path)?,
    };
    let mut hash = Sha256::new_with_prefix(config.as_bytes());
    for file in files {
        let mut open = File::open(&file).map_err(|e| Error::io("open", &file, e))?;
        io::copy(&mut open, &mut hash).map_err(|e| Error::io("read", &file, e))?;
    }
    Ok(format!("{:x}", hash.finalize()))
}

fn safetensors_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?;
    let paths = entries.map(|entry| entry.map(|e| e.path()).map_err(|e| Error::io("list", folder, e)));
    let mut files: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "safetensors"));
    files.sort();
    Ok(files)
}
