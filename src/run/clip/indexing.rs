//! A trained EERCF or GLCCL as the model of an index: its first stage finds candidates, its heads rank them.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::parts::processor;
use super::{Config, Data};
use crate::autograd::{Tape, Var};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::models::clip::TextFeatures;
use crate::models::clip4clip::{BaseConfig, VideoFeatures};
use crate::models::eercf::EercfConfig;
use crate::models::glccl::GlcclConfig;
use crate::models::text_image::Processor;
use crate::models::towers::{TowerModel, TwoStageModel};
use crate::retrieval::gallery::Gallery;
use crate::retrieval::index::{
    FrameVectors, IndexModel, ModelIdentity, QueryVectors, expect_directions, gated, hash_of, name_of, safetensors_of,
    unit,
};
use crate::tensor::Tensor;
use crate::train::{RunFolder, Slot, open, slot_path};
use crate::{Error, Result};

/// The best checkpoint of the run in `folder`, to make an index and to search in it: an EERCF or a GLCCL.
///
/// # Errors
/// As [`open`]; [`Error::Malformed`] for a run of another model.
pub fn open_trained(gpu: &Gpu, folder: impl AsRef<Path>) -> Result<Box<dyn IndexModel>> {
    let folder = folder.as_ref();
    let config = RunFolder::config(folder)?;
    // A run's settings are written out in full, so each model's own are there.
    if config["model"].get("rerank").is_some() {
        Ok(Box::new(TrainedModel::<EercfConfig>::open(gpu, folder, &config)?))
    } else if config["model"].get("guide").is_some() {
        Ok(Box::new(TrainedModel::<GlcclConfig>::open(gpu, folder, &config)?))
    } else {
        let why = "is no EERCF and no GLCCL: the others read features that are not made from videos here";
        Err(Error::malformed(folder.join("config.json"), "model", why))
    }
}

/// A model of a run that compares sentences with clips by heads of its own.
pub struct TrainedModel<C: Config> {
    model: C::Model,
    processor: Processor,
    identity: ModelIdentity,
    /// What the tower makes of an all-zero picture, which stands for frames that a clip lacks, as in training.
    padding: FrameVectors,
}

impl<C: Config> TrainedModel<C> {
    fn open(gpu: &Gpu, folder: &Path, config: &Value) -> Result<Self> {
        let data: Data = part(folder, config, "data")?;
        let model: C::Model = open(gpu, folder, Slot::Best)?;
        let base = model.config().base();
        let processor = processor(data.clip.as_deref(), base)?;
        let files = safetensors_of(&slot_path(folder, Slot::Best))?;
        let sha256 = hash_of(&config["model"].to_string(), &files)?;
        let identity = ModelIdentity { family: C::NAME.into(), name: name_of(folder)?, sha256 };
        let side = base.clip.as_ref().map_or(0, |clip| clip.image_size);
        let mut trained = Self { model, processor, identity, padding: FrameVectors::default() };
        trained.padding = trained.frames(&vec![0.0; 3 * side * side])?;
        Ok(trained)
    }

    fn gpu(&self) -> &Gpu {
        self.model.store().gpu()
    }

    fn base(&self) -> &BaseConfig {
        self.model.config().base()
    }

    /// Clips as the model takes videos: of the frames so many as it reads, at equal distances; where there are fewer,
    /// all-zero pictures stand for the others.
    fn features(&self, clips: &[FrameVectors]) -> Result<VideoFeatures> {
        let (width, patches, count) = (self.width(), self.patches(), self.base().frames);
        let (mut all, mut mask) = (FrameVectors::default(), Vec::with_capacity(clips.len() * count));
        for clip in clips {
            let has = clip.frames.len() / width;
            let taken = has.min(count);
            let place =
                |i: usize| if has <= count { i } else { (i * (has - 1) + (count - 1) / 2) / (count - 1).max(1) };
            all.extend(clip.chosen((0..taken).map(place), width, patches));
            (taken..count).for_each(|_| all.extend(self.padding.clone()));
            mask.extend((0..count).map(|i| if i < taken { 1.0 } else { 0.0 }));
        }
        let tape = Tape::inference(self.gpu());
        let constant = |shape: [usize; 3], values: &[f32]| -> Result<Var> {
            Ok(tape.constant(Tensor::from_slice(self.gpu(), shape, values)?))
        };
        let patches = match patches {
            0 => None,
            each => Some(constant([clips.len(), count * each, width], &all.patches)?),
        };
        Ok(VideoFeatures {
            frames: constant([clips.len(), count, width], &all.frames)?,
            mask: Tensor::from_slice(self.gpu(), [clips.len(), count], &mask)?,
            patches,
        })
    }

    /// Clips whose features fit into a binding, at least one.
    fn together(&self) -> usize {
        let bytes = 4 * self.base().frames * self.patches().max(1) * self.width();
        let limit = self.gpu().report().limits.max_storage_buffer_binding_size as usize;
        (limit / bytes.max(1)).max(1)
    }
}

impl<C: Config> IndexModel for TrainedModel<C> {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn processor(&self) -> &Processor {
        &self.processor
    }

    fn description(&self) -> (String, &[String]) {
        let BaseConfig { joint, frames, words, .. } = self.base();
        (format!("{}: clips of {frames} frames, texts of {words} tokens, vectors of {joint}", C::NAME), &[])
    }

    fn width(&self) -> usize {
        self.base().joint
    }

    fn patches(&self) -> usize {
        let clip = self.base().clip.as_ref().filter(|_| self.model.needs().patches);
        clip.map_or(0, |clip| clip.patches())
    }

    fn frames(&self, pixels: &[f32]) -> Result<FrameVectors> {
        let pixels = self.model.base().upload(self.gpu(), pixels)?;
        let count = pixels.shape()[0];
        let mask = Tensor::from_slice(self.gpu(), [1, count], &vec![1.0; count])?;
        let pixels = Tape::inference(self.gpu()).constant(pixels);
        let features = self.model.base().encode_frames(&pixels, &mask, self.patches() > 0)?;
        let patches = features.patches.map_or(Ok(Vec::new()), |patches| patches.value().to_vec())?;
        Ok(FrameVectors { frames: features.frames.value().to_vec()?, patches })
    }

    fn coarse(&self, clips: &[FrameVectors]) -> Result<Vec<f32>> {
        let mut coarse = Vec::with_capacity(clips.len() * self.width());
        for part in clips.chunks(self.together()) {
            let videos = self.model.prepare_videos(&self.features(part)?)?;
            let vectors = self.model.coarse_videos(&videos).value().to_vec()?;
            // To the last bit of what an index asks for.
            coarse.extend(vectors.chunks_exact(self.width()).flat_map(unit));
        }
        expect_directions(&coarse, self.width())?;
        Ok(coarse)
    }

    fn texts(&self, texts: &[&str]) -> Result<(Vec<QueryVectors>, Vec<usize>)> {
        let words = self.base().words;
        let tokens = self.processor.tokenizer.encode(texts, words)?;
        let tape = Tape::inference(self.gpu());
        let features = self.model.base().encode_texts(&tape, &tokens.ids, self.model.needs().words)?;
        let coarse = self.model.coarse_texts(&self.model.prepare_texts(&features)?).value().to_vec()?;
        let sentences = features.sentence.value().to_vec()?;
        let words = features.words.map_or(Ok(Vec::new()), |words| words.value().to_vec())?;
        let (width, each) = (self.width(), words.len() / texts.len().max(1));
        let query = |at: usize| {
            let sentence = &sentences[at * width..][..width];
            let text = [sentence, &words[at * each..][..each]].concat();
            QueryVectors { coarse: unit(&coarse[at * width..][..width]), frame: unit(sentence), text }
        };
        Ok(((0..texts.len()).map(query).collect(), tokens.cut))
    }

    fn rerank(&self, query: &QueryVectors, clips: &[FrameVectors]) -> Result<Vec<f64>> {
        // Pictures and clips have no words for the heads.
        if query.text.is_empty() {
            return Ok(clips.iter().map(|clip| gated(&query.frame, &clip.frames)).collect());
        }
        let (width, tape) = (self.width(), Tape::inference(self.gpu()));
        let (sentence, words) = query.text.split_at(width);
        let constant = |shape: &[usize], values: &[f32]| -> Result<Var> {
            Ok(tape.constant(Tensor::from_slice(self.gpu(), shape, values)?))
        };
        let words = (!words.is_empty()).then(|| constant(&[1, words.len() / width, width], words)).transpose()?;
        let texts = TextFeatures { sentence: constant(&[1, width], sentence)?, words };
        let parts = clips.chunks(self.together()).map(|part| self.features(part));
        let gallery = Gallery::from_features(&self.model, parts)?;
        let all: Vec<u32> = (0..clips.len() as u32).collect();
        let scores = gallery.fine(&self.model, &texts, &[all])?;
        Ok(scores.concat().into_iter().map(f64::from).collect())
    }
}

/// A part of a run's settings.
fn part<T: DeserializeOwned>(folder: &Path, config: &Value, name: &'static str) -> Result<T> {
    let bad = |e: serde_json::Error| Error::malformed(folder.join("config.json"), name, e);
    serde_json::from_value(config[name].clone()).map_err(bad)
}
