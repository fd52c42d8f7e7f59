//! Files of embeddings: videos, pictures and sentences in CLIP's space, and token features of sentences by BERT.

mod token_features;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::autograd::{Tape, Var};
use crate::data::formats::{atomic, npy, safetensors};
use crate::data::media::frames::{FrameSet, Note, Reading, Sampling, Shown, read_image};
use crate::data::media::pixels::Preprocess;
use crate::data::media::video::{Ffmpeg, LoadFailure, VideoInput, VideoSource, load_all};
use crate::data::tokenizer::{Cleaning, Padding, Tokenizer};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::models::clip::Clip;
use crate::tensor::{Array, Tensor};
use crate::{Error, Progress, Result};

pub use token_features::TokenFeatureInput;

/// Texts that go through a tower at a time.
const TEXTS: usize = 64;

/// What is encoded of texts and videos.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbedOptions {
    /// Tokens of a sentence.
    pub words: usize,
    /// Frames of a video, at equal distances in time.
    pub frames: usize,
    /// Frames a second out of which these are chosen; 0.2 is one in five seconds.
    pub rate: f64,
    /// The features of every token, too.
    pub tokens: bool,
    /// The features of every patch of videos, too.
    pub patches: bool,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self { words: 32, frames: 12, rate: 1.0, tokens: false, patches: false }
    }
}

/// Arrays by name, and the names of their rows.
///
/// "text", "image" and the "frames" of videos are as the towers give them, before they are brought to unit length; "video"
/// is the mean of its frames' directions, of unit length, as CLIP4Clip compares it. "mask" has a 1 for each frame and a 0
/// for padding; "words" and "patches" are the features of tokens and patches, and "word_mask" has a 1 for each token.
#[derive(Clone, Debug, Default)]
pub struct Embeddings {
    /// Each with a row for every text, picture or video.
    pub arrays: BTreeMap<String, Array>,
    /// Names of the rows of "text", "image" and "video".
    pub ids: BTreeMap<&'static str, Vec<String>>,
    /// What was wrong with videos that could be read all the same, with their ids.
    pub notes: Vec<(String, Note)>,
}

impl Embeddings {
    /// Adds rows to those of `name`.
    fn extend(&mut self, name: &str, rows: Array) -> Result<()> {
        let (mut shape, mut data) = (rows.shape().to_vec(), Vec::new());
        if let Some(known) = self.arrays.remove(name) {
            shape[0] += known.shape()[0];
            data = known.into_data();
        }
        data.extend_from_slice(rows.data());
        self.arrays.insert(name.into(), Array::new(shape, data)?);
        Ok(())
    }

    /// Writes a `.safetensors` file, or a folder of `.npy` files, and beside them the ids, whose path it returns.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<PathBuf> {
        let beside = if path.extension().is_some_and(|e| e == "safetensors") {
            safetensors::write(path, &self.arrays, &BTreeMap::new())?;
            path.with_extension("ids.json")
        } else {
            std::fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))?;
            for (name, array) in &self.arrays {
                npy::write_npy(path.join(format!("{name}.npy")), array)?;
            }
            path.join("ids.json")
        };
        atomic::write(&beside, |file| writeln!(file, "{:#}", json!(self.ids)))?;
        Ok(beside)
    }
}

/// A CLIP model with the tokenizer and the preprocessing of its folder.
pub struct ClipEncoder {
    clip: Clip,
    preprocess: Preprocess,
    folder: PathBuf,
}

impl ClipEncoder {
    /// The model of a folder in Hugging Face's layout, for inference; with `half`, matrices are held in half precision.
    /// The tokenizer is read when there are texts.
    ///
    /// # Errors
    /// As [`Clip::open`]; [`Error::Malformed`] for a preprocessing whose pictures the model does not take.
    pub fn open(gpu: &Gpu, folder: impl AsRef<Path>, half: bool) -> Result<Self> {
        let folder = folder.as_ref();
        let clip = if half { Clip::open_half(gpu, folder)? } else { Clip::open(gpu, folder, |_| true)? };
        let (size, processor) = (clip.config().image_size, folder.join("preprocessor_config.json"));
        let preprocess = if processor.is_file() { Preprocess::from_json(&processor)? } else { Preprocess::clip(size) };
        if preprocess.crop != size {
            let problem = format!("is {}, the model takes pictures of {size}", preprocess.crop);
            return Err(Error::malformed(&processor, "crop_size", problem));
        }
        Ok(Self { clip, preprocess, folder: folder.to_path_buf() })
    }

    /// Adds sentences to `out`; returns how many were cut to the tokens that `options` allow.
    ///
    /// # Errors
    /// As [`Tokenizer::open`]; device errors.
    pub fn add_texts(&self, texts: &[String], options: &EmbedOptions, out: &mut Embeddings) -> Result<usize> {
        if texts.is_empty() {
            return Ok(0);
        }
        let tokenizer = Tokenizer::open(&self.folder)?.with_cleaning(Cleaning::Official);
        tokenizer.expect_below(self.clip.config().vocabulary)?;
        let mut cut = 0;
        for chunk in texts.chunks(TEXTS) {
            let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
            let tokens = tokenizer.encode(&chunk, options.words, Padding::Zero)?;
            cut += tokens.truncated;
            let tape = Tape::inference(self.clip.store().gpu());
            let tower = &self.clip.towers().text;
            let features = tower.encode(&tape, &tokens.ids, options.words, None, options.tokens)?;
            out.extend("text", features.sentence.value().to_array()?)?;
            if let Some(words) = &features.words {
                out.extend("words", words.value().to_array()?)?;
                out.extend("word_mask", Array::new([chunk.len(), options.words], tokens.mask)?)?;
            }
        }
        out.ids.entry("text").or_default().extend_from_slice(texts);
        Ok(cut)
    }

    /// Adds JPEG and PNG files to `out`; returns those that could not be read.
    pub fn add_images(&self, files: &[PathBuf], out: &mut Embeddings) -> Result<Vec<LoadFailure>> {
        let (mut ids, mut failures) = (Vec::new(), Vec::new());
        for path in files {
            let id = path.display().to_string();
            match read_image(path, &Reading::OWN).and_then(|image| self.preprocess.apply(&image)) {
                Ok(pixels) => {
                    let features = self.clip.towers().image.encode(&self.upload(&pixels)?, false)?;
                    out.extend("image", features.image.value().to_array()?)?;
                    ids.push(id);
                }
                Err(error) => failures.push(LoadFailure { id, error }),
            }
        }
        if !files.is_empty() {
            out.ids.entry("image").or_default().extend(ids);
        }
        Ok(failures)
    }

    /// Adds videos to `out`, each with its id; returns those that could not be read. They are decoded side by side, and
    /// encoded one after the other as they come.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id that is there twice; [`Error::Missing`] without ffmpeg where there are video files;
    /// device errors.
    pub fn add_videos(
        &self,
        videos: &[(String, VideoSource)],
        options: &EmbedOptions,
        out: &mut Embeddings,
        progress: &mut dyn Progress,
    ) -> Result<Vec<LoadFailure>> {
        if videos.is_empty() {
            return Ok(Vec::new());
        }
        let has_files = videos.iter().any(|(_, source)| matches!(source, VideoSource::File(_)));
        let ffmpeg = has_files.then(Ffmpeg::find).transpose()?;
        let sampling = Sampling::Shown(Shown::rate(options.rate));
        let input = VideoInput { sampling, ..VideoInput::own(options.frames, self.preprocess.clone()) };
        let sources: BTreeMap<&str, &VideoSource> = videos.iter().map(|(id, source)| (id.as_str(), source)).collect();
        if sources.len() < videos.len() {
            let why = "name a video twice, or two with the same name".into();
            return Err(Error::Argument { op: "ClipEncoder", argument: "videos", why });
        }
        let ids: Vec<String> = videos.iter().map(|(id, _)| id.clone()).collect();
        let mut encoded = vec![Vec::new(); ids.len()];
        let (mut done, threads) = (0, std::thread::available_parallelism().map_or(1, usize::from));
        let load = |id: &str| sources[id].load(ffmpeg.as_ref(), &input);
        let failures = load_all(&ids, threads, load, |number, mut set| {
            out.notes.extend(set.notes.drain(..).map(|note| (ids[number].clone(), note)));
            encoded[number] = self.video(set, options.patches)?;
            done += 1;
            progress.step(done, ids.len() as u64, &ids[number]);
            Ok(())
        })?;
        encoded.into_iter().flatten().try_for_each(|(name, row)| out.extend(name, row))?;
        let failed: BTreeSet<&str> = failures.iter().map(|failure| failure.id.as_str()).collect();
        out.ids.entry("video").or_default().extend(ids.iter().filter(|id| !failed.contains(id.as_str())).cloned());
        Ok(failures)
    }

    /// What is written of a video, by name, a row each.
    fn video(&self, set: FrameSet, patches: bool) -> Result<Vec<(&'static str, Array)>> {
        let count = set.mask.len();
        let features = self.clip.towers().image.encode(&self.upload(&set.pixels)?, patches)?;
        let width = features.image.value().width();
        let frames = features.image.reshape([1, count, width])?;
        let seen = Tensor::from_slice(self.clip.store().gpu(), [1, count], &set.mask)?;
        // As CLIP4Clip compares it: the mean of the frames' unit vectors.
        let mean = frames.l2_normalize(1e-12)?.masked_mean(Some(&seen))?.l2_normalize(1e-12)?;
        let (mean, frames) = (mean.value().to_array()?, frames.value().to_array()?);
        let mut found = vec![("video", mean), ("frames", frames), ("mask", Array::new([1, count], set.mask)?)];
        if let Some(patches) = features.patches {
            let all = patches.reshape([1, count * patches.shape()[1], width])?;
            found.push(("patches", all.value().to_array()?));
        }
        Ok(found)
    }

    fn upload(&self, pixels: &[f32]) -> Result<Var> {
        let (size, gpu) = (self.clip.config().image_size, self.clip.store().gpu());
        let pixels = Tensor::from_slice(gpu, [pixels.len() / (3 * size * size), 3, size, size], pixels)?;
        Ok(Tape::inference(gpu).constant(pixels))
    }
}

/// A video file, or a folder of frames, under its path.
pub fn video_at(path: &Path) -> (String, VideoSource) {
    let source = if path.is_dir() { VideoSource::Frames } else { VideoSource::File };
    (path.display().to_string(), source(path.to_path_buf()))
}

#[cfg(test)]
mod tests;
