//! A run over many inputs: what is done is kept as it comes, and nothing that was given is dropped uncounted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::encoder::ClipEncoder;
use super::work::{Piece, Work, source_of};
use super::{EmbedOptions, Embeddings, Inputs};
use crate::data::media::video::{Ffmpeg, Limits, LoadFailure, VideoSource, load_all};
use crate::{Error, Progress, Result, StopFlag};

/// Sentences that are encoded at a time.
const TEXTS: usize = 64;

/// What a run shows, and what ends it early.
pub struct EmbedHooks<'a> {
    /// Files done, and of how many.
    pub progress: &'a mut dyn Progress,
    /// Ends the run after the file at hand; what is done is kept.
    pub stop: StopFlag,
}

/// What became of all inputs.
#[derive(Debug, Default)]
pub struct Summary {
    /// Sentences, pictures and videos that were read, those of an earlier run among them.
    pub read: usize,
    /// How many of them were done by an earlier run.
    pub resumed: usize,
    /// What was left out, by its kind.
    pub skipped: BTreeMap<String, usize>,
    /// What could not be read.
    pub failed: Vec<LoadFailure>,
    /// Sentences that were cut.
    pub cut: Vec<String>,
    /// What was wrong with videos that could be read all the same, with their ids.
    pub notes: Vec<(String, String)>,
}

impl Summary {
    /// `5 read, 2 skipped (1 blank, 1 hidden), 1 failed`.
    pub fn line(&self) -> String {
        let skipped: usize = self.skipped.values().sum();
        let kinds: Vec<String> = self.skipped.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
        let resumed = if self.resumed == 0 { String::new() } else { format!(" ({} before)", self.resumed) };
        format!("{} read{resumed}, {skipped} skipped{kinds}, {} failed", self.read, self.failed.len())
    }
}

/// A run whose arguments are good: its folder is there, and so is ffmpeg if videos need it. Nothing is computed yet.
pub struct EmbedRun {
    inputs: Inputs,
    options: EmbedOptions,
    work: Work,
    ffmpeg: Option<Ffmpeg>,
}

impl EmbedRun {
    /// Checks what a run is given, before a model is loaded. `out` is a `.safetensors` file or a folder of `.npy` files;
    /// until it is whole, what is done lies in `out.work`, and with `resume` a run goes on from there.
    ///
    /// # Errors
    /// [`Error::Argument`] without inputs, for an id that is there twice, and for an output that is there already;
    /// [`Error::ResumeChanges`] for another model or other options than the run began with; [`Error::NoProgram`] without
    /// ffmpeg where there are video files; [`Error::Io`] where nothing can be written.
    pub fn new(inputs: Inputs, options: EmbedOptions, model: &Path, out: &Path, resume: bool) -> Result<Self> {
        inputs.check()?;
        let has_files = inputs.videos.iter().any(|(_, source)| matches!(source, VideoSource::File(_)));
        let ffmpeg = has_files.then(Ffmpeg::find).transpose()?;
        let about = json!({ "model": model_of(model)?, "options": format!("{options:?}") });
        Ok(Self { work: Work::open(out, &about, resume)?, inputs, options, ffmpeg })
    }

    /// What reading a video may take, in place of the defaults.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { ffmpeg: self.ffmpeg.map(|ffmpeg| ffmpeg.with_limits(limits)), ..self }
    }

    /// Encodes what is not done yet, and writes the output when all is.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a stop, with the folder to go on from; [`Error::Io`]; device errors. Inputs that cannot
    /// be read end nothing: they are in the summary.
    pub fn run(self, encoder: &ClipEncoder, hooks: &mut EmbedHooks<'_>) -> Result<(Summary, Embeddings, PathBuf)> {
        let mut summary = Summary { skipped: self.inputs.skipped.clone(), ..Summary::default() };
        let mut all = Embeddings::default();
        self.texts(encoder, hooks, &mut summary, &mut all)?;
        self.images(encoder, hooks, &mut summary, &mut all)?;
        self.videos(encoder, hooks, &mut summary, &mut all)?;
        let beside = if all.arrays.is_empty() { PathBuf::new() } else { self.work.finish(&all)? };
        Ok((summary, all, beside))
    }

    /// An error if the run was asked to stop.
    fn expect_going(&self, hooks: &EmbedHooks<'_>) -> Result<()> {
        if hooks.stop.is_set() {
            return Err(Error::Interrupted { saved: Some(self.work.folder().to_path_buf()) });
        }
        Ok(())
    }

    fn texts(
        &self,
        encoder: &ClipEncoder,
        hooks: &mut EmbedHooks<'_>,
        summary: &mut Summary,
        all: &mut Embeddings,
    ) -> Result<()> {
        let texts = &self.inputs.texts;
        for (number, chunk) in texts.chunks(TEXTS).enumerate() {
            self.expect_going(hooks)?;
            let source = chunk.iter().fold(Sha256::new(), |hash, text| hash.chain_update(text).chain_update([0]));
            let piece = Piece { kind: "text", id: number.to_string(), source: format!("{:x}", source.finalize()) };
            let tokens = encoder.tokens(chunk, &self.options)?;
            summary.cut.extend(tokens.cut.iter().map(|&i| chunk[i].clone()));
            if self.work.has(&piece) {
                summary.resumed += chunk.len();
            } else {
                self.work.put(&piece, encoder.texts(&tokens, &self.options)?, &[])?;
            }
            self.work.collect(&piece, all)?;
            summary.read += chunk.len();
            hooks.progress.step(summary.read as u64, texts.len() as u64, "sentences");
        }
        if !texts.is_empty() {
            all.ids.insert("text", texts.clone());
        }
        Ok(())
    }

    fn images(
        &self,
        encoder: &ClipEncoder,
        hooks: &mut EmbedHooks<'_>,
        summary: &mut Summary,
        all: &mut Embeddings,
    ) -> Result<()> {
        let files = &self.inputs.images;
        let mut ids = Vec::new();
        for (number, path) in files.iter().enumerate() {
            self.expect_going(hooks)?;
            let id = path.display().to_string();
            let done = source_of(path).and_then(|source| {
                let piece = Piece { kind: "image", id: id.clone(), source };
                let known = self.work.has(&piece);
                let pixels = if known { None } else { Some(encoder.pixels(path, &self.options)?) };
                Ok((piece, pixels))
            });
            match done {
                Ok((piece, pixels)) => {
                    match pixels {
                        Some(pixels) => self.work.put(&piece, encoder.image(&pixels)?, &[])?,
                        None => summary.resumed += 1,
                    }
                    self.work.collect(&piece, all)?;
                    ids.push(id);
                }
                Err(error) => summary.failed.push(LoadFailure { id, error }),
            }
            hooks.progress.step(number as u64 + 1, files.len() as u64, "pictures");
        }
        summary.read += ids.len();
        if !files.is_empty() {
            all.ids.insert("image", ids);
        }
        Ok(())
    }

    fn videos(
        &self,
        encoder: &ClipEncoder,
        hooks: &mut EmbedHooks<'_>,
        summary: &mut Summary,
        all: &mut Embeddings,
    ) -> Result<()> {
        let sources: BTreeMap<&str, &VideoSource> = self.inputs.videos.iter().map(|(id, s)| (id.as_str(), s)).collect();
        let piece = |id: &str| -> Result<Piece> {
            let source = source_of(sources[id].path())?;
            Ok(Piece { kind: "video", id: id.to_string(), source })
        };
        let done = |id: &&String| piece(id).is_ok_and(|piece| self.work.has(&piece));
        let ids: Vec<String> = self.inputs.videos.iter().map(|(id, _)| id.clone()).collect();
        let left: Vec<String> = ids.iter().filter(|id| !done(id)).cloned().collect();
        summary.resumed += ids.len() - left.len();
        let mut finished = ids.len() - left.len();
        let (input, threads) =
            (encoder.video_input(&self.options), std::thread::available_parallelism().map_or(1, usize::from));
        let stop = hooks.stop.clone();
        let load = |id: &str| {
            // A decoder that Ctrl-C ends with this process must not count as a damaged file.
            if stop.is_set() {
                return Err(Error::Interrupted { saved: None });
            }
            Ok((piece(id)?, sources[id].load(self.ffmpeg.as_ref(), &input)?))
        };
        let failed = load_all(&left, threads, load, |number, (piece, set)| {
            let notes: Vec<String> = set.notes.iter().map(|note| note.to_string()).collect();
            self.work.put(&piece, encoder.video(set, &self.options)?, &notes)?;
            finished += 1;
            hooks.progress.step(finished as u64, ids.len() as u64, &left[number]);
            self.expect_going(hooks)
        })?;
        self.expect_going(hooks)?;
        let lost: BTreeSet<&str> = failed.iter().map(|failure| failure.id.as_str()).collect();
        let kept: Vec<String> = ids.iter().filter(|id| !lost.contains(id.as_str())).cloned().collect();
        for id in &kept {
            let notes = self.work.collect(&piece(id)?, all)?;
            summary.notes.extend(notes.into_iter().map(|note| (id.clone(), note)));
        }
        summary.read += kept.len();
        if !ids.is_empty() {
            all.ids.insert("video", kept);
        }
        summary.failed.extend(failed);
        Ok(())
    }
}

/// What tells one model from another without reading all of it: the names, sizes and times of its files.
fn model_of(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
    Ok(format!("{}, {}", absolute.display(), source_of(path)?))
}
