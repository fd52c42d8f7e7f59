//! Sentences, pictures and videos to rows of arrays.

use std::path::Path;

use super::EmbedOptions;
use super::work::Rows;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::data::media::frames::{FrameSet, Sampling, Shown, read_image};
use crate::data::media::video::VideoInput;
use crate::data::tokenizer::Tokens;
use crate::models::Model;
use crate::models::text_image::TextImageModel;
use crate::tensor::{Array, Tensor};

/// A text-image model that makes files of embeddings.
pub struct ClipEncoder {
    model: TextImageModel,
}

impl ClipEncoder {
    /// Encodes with this model.
    pub fn new(model: TextImageModel) -> Self {
        Self { model }
    }

    pub(super) fn tokens(&self, texts: &[String], options: &EmbedOptions) -> Result<Tokens> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        self.model.processor().tokens(&texts, options.words)
    }

    pub(super) fn texts(&self, tokens: &Tokens, options: &EmbedOptions) -> Result<Rows> {
        let tape = Tape::inference(self.model.clip().store().gpu());
        let features = self.model.text_features(&tape, tokens, options.tokens)?;
        let mut rows = vec![("text", features.sentence.value().to_array()?)];
        if let Some(words) = &features.words {
            rows.push(("words", words.value().to_array()?));
            let mask = Array::new([words.shape()[0], tokens.length], tokens.mask.clone())?;
            rows.push(("word_mask", mask));
        }
        Ok(rows)
    }

    pub(super) fn pixels(&self, path: &Path, options: &EmbedOptions) -> Result<Vec<f32>> {
        self.model.processor().preprocess.apply(&read_image(path, &options.reading)?)
    }

    pub(super) fn image(&self, pixels: &[f32]) -> Result<Rows> {
        let features = self.model.image_features(&self.upload(pixels)?, false)?;
        Ok(vec![("image", features.image.value().to_array()?)])
    }

    pub(super) fn video_input(&self, options: &EmbedOptions) -> VideoInput {
        let own = VideoInput::own(options.frames, self.model.processor().preprocess.clone());
        VideoInput { sampling: Sampling::Shown(Shown::rate(options.rate)), reading: options.reading, ..own }
    }

    pub(super) fn video(&self, set: FrameSet, options: &EmbedOptions) -> Result<Rows> {
        let count = set.mask.len();
        let features = self.model.image_features(&self.upload(&set.pixels)?, options.patches)?;
        let width = features.image.value().width();
        let frames = features.image.reshape([1, count, width])?;
        let seen = Tensor::from_slice(self.model.clip().store().gpu(), [1, count], &set.mask)?;
        // As CLIP4Clip compares it: the mean of the frames' unit vectors.
        let mean = frames.l2_normalize(1e-12)?.masked_mean(Some(&seen))?.l2_normalize(1e-12)?;
        let (mean, frames) = (mean.value().to_array()?, frames.value().to_array()?);
        let mut times: Vec<f32> = set.times.iter().map(|&time| time as f32).collect();
        times.resize(count, -1.0);
        let [mask, times] = [set.mask, times].map(|values| Array::new([1, count], values));
        let mut rows = vec![("video", mean), ("frames", frames), ("mask", mask?), ("times", times?)];
        if let Some(patches) = features.patches {
            let all = patches.reshape([1, count * patches.shape()[1], width])?;
            rows.push(("patches", all.value().to_array()?));
        }
        Ok(rows)
    }

    fn upload(&self, pixels: &[f32]) -> Result<Var> {
        let (size, gpu) = (self.model.clip().config().image_size, self.model.clip().store().gpu());
        let pixels = Tensor::from_slice(gpu, [pixels.len() / (3 * size * size), 3, size, size], pixels)?;
        Ok(Tape::inference(gpu).constant(pixels))
    }
}
