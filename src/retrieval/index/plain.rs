//! An index of a text-image model as a hub has it.

use std::path::Path;

use serde_json::json;

use super::model::{
    FrameVectors, IndexModel, QueryVectors, expect_directions, gated, hash_of, mean_direction, name_of, safetensors_of,
    unit,
};
use super::spec::ModelIdentity;
use crate::Result;
use crate::autograd::Tape;
use crate::data::formats::weights::{self, Files};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::models::text_image::{OpenOptions, Processor, TextImageModel};
use crate::tensor::Tensor;

/// A CLIP, SigLIP or Chinese-CLIP: a clip's vector is the mean of its frames' directions, as CLIP4Clip compares videos;
/// the second stage is the text-gated interaction of EERCF (Tian et al., AAAI 2024), which has no parameters.
pub struct PlainModel {
    model: TextImageModel,
    identity: ModelIdentity,
}

impl PlainModel {
    /// The model of a folder, or of a file of weights.
    ///
    /// # Errors
    /// As [`TextImageModel::open`].
    pub fn open(gpu: &Gpu, path: impl AsRef<Path>, options: OpenOptions<'_>) -> Result<Self> {
        let path = path.as_ref();
        let model = TextImageModel::open_with(gpu, path, options)?;
        let files = match weights::find(path)? {
            Some(Files::One(file)) => vec![file],
            Some(Files::Numbered(files)) => files,
            // The index names them; all that lie beside it are its own.
            Some(Files::Indexed(_)) | None => safetensors_of(path)?,
        };
        let sha256 = hash_of(&json!(model.clip().config()).to_string(), &files)?;
        let identity = ModelIdentity { family: model.family().into(), name: name_of(path)?, sha256 };
        Ok(Self { model, identity })
    }

    fn gpu(&self) -> &Gpu {
        self.model.clip().store().gpu()
    }
}

impl IndexModel for PlainModel {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn processor(&self) -> &Processor {
        self.model.processor()
    }

    fn description(&self) -> (String, &[String]) {
        (self.model.description(), self.model.notes())
    }

    fn width(&self) -> usize {
        self.model.clip().config().joint
    }

    fn patches(&self) -> usize {
        0
    }

    fn frames(&self, pixels: &[f32]) -> Result<FrameVectors> {
        let side = self.model.clip().config().image_size;
        let pixels = Tensor::from_slice(self.gpu(), [pixels.len() / (3 * side * side), 3, side, side], pixels)?;
        let pixels = Tape::inference(self.gpu()).constant(pixels);
        let frames = self.model.image_features(&pixels, false)?.image.value().to_vec()?;
        Ok(FrameVectors { frames, patches: Vec::new() })
    }

    fn coarse(&self, clips: &[FrameVectors]) -> Result<Vec<f32>> {
        let width = self.width();
        let coarse: Vec<f32> = clips.iter().flat_map(|clip| mean_direction(&clip.frames, width)).collect();
        expect_directions(&coarse, width)?;
        Ok(coarse)
    }

    fn texts(&self, texts: &[&str]) -> Result<(Vec<QueryVectors>, Vec<usize>)> {
        let tokens = self.model.processor().tokens(texts, None)?;
        let features = self.model.text_features(&Tape::inference(self.gpu()), &tokens, false)?;
        let sentences = features.sentence.value().to_vec()?;
        let query = |sentence: &[f32]| {
            let frame = unit(sentence);
            QueryVectors { coarse: frame.clone(), frame, text: Vec::new() }
        };
        Ok((sentences.chunks_exact(self.width()).map(query).collect(), tokens.cut))
    }

    fn rerank(&self, query: &QueryVectors, clips: &[FrameVectors]) -> Result<Vec<f64>> {
        Ok(clips.iter().map(|clip| gated(&query.frame, &clip.frames)).collect())
    }
}
