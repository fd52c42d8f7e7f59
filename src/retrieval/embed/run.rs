//! A run over many inputs: what is done is kept as it comes, and nothing that was given is dropped uncounted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::encoder::ClipEncoder;
use super::work::{Piece, Work, source_of};
use super::{EmbedOptions, Embeddings, Inputs};
use crate::data::media::video::{Ffmpeg, Limits, LoadFailure, VideoSource, load_all};
use crate::retrieval::summary::Summary;
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

    /// Encodes what is not done yet, and writes the output when all is. Returns what became of the inputs, what was
    /// written, and the file that names the rows; nothing is written if nothing could be read.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a stop, with the folder to go on from; [`Error::Io`]; device errors. Inputs that cannot
    /// be read end nothing: they are in the summary.
    pub fn run(
        self,
        encoder: &ClipEncoder,
        hooks: &mut EmbedHooks<'_>,
    ) -> Result<(Summary, Embeddings, Option<PathBuf>)> {
        let summary = Summary { skipped: self.inputs.skipped.clone(), ..Summary::default() };
        let mut running = Running { run: &self, encoder, hooks, summary, all: Embeddings::default() };
        running.texts()?;
        running.images()?;
        running.videos()?;
        let Running { summary, all, .. } = running;
        let beside = self.work.finish(&all)?;
        Ok((summary, all, beside))
    }
}

/// A run, and what it came to so far.
struct Running<'a, 'h> {
    run: &'a EmbedRun,
    encoder: &'a ClipEncoder,
    hooks: &'a mut EmbedHooks<'h>,
    summary: Summary,
    all: Embeddings,
}

impl Running<'_, '_> {
    /// An error if the run was asked to stop.
    fn expect_going(&self) -> Result<()> {
        if self.hooks.stop.is_set() {
            return Err(Error::Interrupted { saved: Some(self.run.work.folder().to_path_buf()) });
        }
        Ok(())
    }

    /// The files that are there, as pieces; the others have failed.
    fn pieces<'p>(&mut self, kind: &'static str, files: impl Iterator<Item = (String, &'p Path)>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (id, path) in files {
            match source_of(path) {
                Ok(source) => pieces.push(Piece { kind, id, source }),
                Err(error) => self.summary.failed.push(LoadFailure { id, error }),
            }
        }
        pieces
    }

    /// Adds what was kept of the pieces to the output, a row each.
    fn collect(&mut self, kind: &'static str, pieces: Vec<Piece>) -> Result<()> {
        for piece in &pieces {
            let notes = self.run.work.collect(piece, &mut self.all)?;
            self.summary.notes.extend(notes.into_iter().map(|note| (piece.id.clone(), note)));
        }
        self.summary.read += pieces.len();
        self.all.ids.insert(kind, pieces.into_iter().map(|piece| piece.id).collect());
        Ok(())
    }

    fn texts(&mut self) -> Result<()> {
        let EmbedRun { inputs, options, work, .. } = self.run;
        let total = inputs.texts.len() as u64;
        for (number, chunk) in inputs.texts.chunks(TEXTS).enumerate() {
            self.expect_going()?;
            let source = chunk.iter().fold(Sha256::new(), |hash, text| hash.chain_update(text).chain_update([0]));
            let piece = Piece { kind: "text", id: number.to_string(), source: format!("{:x}", source.finalize()) };
            let tokens = self.encoder.tokens(chunk, options)?;
            self.summary.cut.extend(tokens.cut.iter().map(|&i| chunk[i].clone()));
            if work.has(&piece) {
                self.summary.resumed += chunk.len();
            } else {
                work.put(&piece, self.encoder.texts(&tokens, options)?, &[])?;
            }
            work.collect(&piece, &mut self.all)?;
            self.summary.read += chunk.len();
            self.hooks.progress.step(self.summary.read as u64, total, "sentences");
        }
        if total > 0 {
            self.all.ids.insert("text", inputs.texts.clone());
        }
        Ok(())
    }

    fn images(&mut self) -> Result<()> {
        let EmbedRun { inputs, options, work, .. } = self.run;
        let pieces =
            self.pieces("image", inputs.images.iter().map(|path| (path.display().to_string(), path.as_path())));
        let (total, mut done) = (pieces.len() as u64, Vec::new());
        for (number, piece) in pieces.into_iter().enumerate() {
            self.expect_going()?;
            if work.has(&piece) {
                self.summary.resumed += 1;
                done.push(piece);
            } else {
                match self.encoder.pixels(Path::new(&piece.id), options) {
                    Ok(pixels) => {
                        work.put(&piece, self.encoder.image(&pixels)?, &[])?;
                        done.push(piece);
                    }
                    Err(error) => self.summary.failed.push(LoadFailure { id: piece.id, error }),
                }
            }
            self.hooks.progress.step(number as u64 + 1, total, "pictures");
        }
        if total > 0 { self.collect("image", done) } else { Ok(()) }
    }

    fn videos(&mut self) -> Result<()> {
        let EmbedRun { inputs, options, work, ffmpeg } = self.run;
        let sources: BTreeMap<&str, &VideoSource> = inputs.videos.iter().map(|(id, s)| (id.as_str(), s)).collect();
        let pieces = self.pieces("video", inputs.videos.iter().map(|(id, source)| (id.clone(), source.path())));
        let (total, left): (usize, Vec<&Piece>) = (pieces.len(), pieces.iter().filter(|p| !work.has(p)).collect());
        let ids: Vec<String> = left.iter().map(|piece| piece.id.clone()).collect();
        let mut done = total - ids.len();
        self.summary.resumed += done;
        let (input, threads) =
            (self.encoder.video_input(options), std::thread::available_parallelism().map_or(1, usize::from));
        let stop = self.hooks.stop.clone();
        let load = |id: &str| match stop.is_set() {
            true => Err(Error::Interrupted { saved: None }),
            false => sources[id].load(ffmpeg.as_ref(), &input),
        };
        let failed = load_all(&ids, threads, load, |number, set| {
            let notes: Vec<String> = set.notes.iter().map(|note| note.to_string()).collect();
            work.put(left[number], self.encoder.video(set, options)?, &notes)?;
            done += 1;
            self.hooks.progress.step(done as u64, total as u64, &ids[number]);
            self.expect_going()
        })?;
        self.expect_going()?;
        let lost: BTreeSet<&str> = failed.iter().map(|failure| failure.id.as_str()).collect();
        let read = pieces.into_iter().filter(|piece| !lost.contains(piece.id.as_str())).collect();
        if total > 0 {
            self.collect("video", read)?;
        }
        self.summary.failed.extend(failed);
        Ok(())
    }
}

/// What tells one model from another without reading all of it: the names, sizes and times of its files.
fn model_of(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
    Ok(format!("{}, {}", absolute.display(), source_of(path)?))
}
