//! Folders of videos into an index. Child processes decode ahead of the GPU; what is encoded is kept as it comes, and
//! nothing that was given is dropped uncounted.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::files::{Found, VideoFile};
use super::model::{FrameVectors, IndexModel, alike};
use super::thumbnail;
use super::{ClipPlan, IndexWriter, Video, VideoVectors};
use crate::data::media::frames::{Reading, Sampling, Shown};
use crate::data::media::preprocess::Preprocess;
use crate::data::media::video::{Ffmpeg, LoadFailure, Selection};
use crate::retrieval::summary::Summary;
use crate::{Error, Progress, Result, StopFlag};

/// Frames that are encoded at once, always of one video: its vectors do not depend on its neighbours.
const BATCH: usize = 16;

/// Clips whose vectors are made at once.
const CLIPS: usize = 64;

/// What was added is made part of the index at least as often.
const COMMIT_AFTER: Duration = Duration::from_secs(20);

/// What an indexing run is given.
#[derive(Clone, Debug)]
pub struct IndexRun {
    /// Video files, and folders that are looked through with all that they hold.
    pub roots: Vec<PathBuf>,
    /// Whether videos of these folders that are no longer there leave the index.
    pub prune: bool,
    /// How videos are read.
    pub reading: Reading,
    /// Whether clips get small pictures.
    pub thumbnails: bool,
    /// Videos that are decoded side by side.
    pub decoders: usize,
}

/// What became of an indexing run.
#[derive(Debug, Default)]
pub struct Indexed {
    /// What became of every file.
    pub summary: Summary,
    /// Videos that were indexed and are no longer there; they left the index if that was asked for.
    pub vanished: Vec<String>,
    /// Seconds of video that were read.
    pub seconds: f64,
    /// Clips that were added.
    pub clips: usize,
}

impl Indexed {
    /// Counts a video, and adds it if its vectors are good.
    fn add(&mut self, vectors: VideoVectors, writer: &mut IndexWriter) {
        let (id, duration, clips) = (vectors.video.id.clone(), vectors.video.duration, vectors.clips.len());
        let notes = vectors.video.notes.clone();
        match writer.add(vectors) {
            Ok(()) => {
                self.summary.read += 1;
                self.seconds += duration;
                self.clips += clips;
                self.summary.notes.extend(notes.into_iter().map(|note| (id.clone(), note)));
            }
            Err(error) => self.fail(&id, error),
        }
    }

    fn fail(&mut self, id: &str, error: Error) {
        self.summary.failed.push(LoadFailure { id: id.into(), error });
    }
}

/// What a decoder tells.
enum Told {
    /// Some frames of a video, in order: pixels as the model takes them.
    Frames(Vec<u8>),
    /// The video's end: which of the frames count, with their times and small pictures; duration, and what was wrong.
    End(Box<Decoded>),
    /// It could not be read.
    Failed(Error),
}

struct Decoded {
    /// Time and number of each frame that counts.
    kept: Vec<(f64, usize)>,
    pictures: Vec<Vec<u8>>,
    duration: f64,
    notes: Vec<String>,
}

impl IndexRun {
    /// Brings `writer`'s index up to date with the files: those that are new or changed are read, nothing else.
    ///
    /// # Errors
    /// [`Error::Argument`] for an index of another model; [`Error::Io`]; [`Error::Interrupted`] after a stop, when what is
    /// done is part of the index; device errors. Videos that cannot be read end nothing: they are in the summary.
    pub fn run(
        &self,
        model: &dyn IndexModel,
        writer: &mut IndexWriter,
        ffmpeg: &Ffmpeg,
        progress: &mut dyn Progress,
        stop: &StopFlag,
    ) -> Result<Indexed> {
        model.expect_made(writer.spec())?;
        let found = Found::of(&self.roots, &writer.index()?)?;
        let mut done = Indexed { vanished: found.vanished, ..Indexed::default() };
        done.summary = Summary { resumed: found.known, read: found.known, ..Summary::default() };
        (done.summary.skipped, done.summary.failed) = (found.skipped, found.failed);
        if self.prune {
            writer.delete(&done.vanished.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        let decoding = Decoding { run: self, plan: writer.spec().clips, model, ffmpeg, stop };
        let ended = decoding.all(&found.wanted, writer, &mut done, progress);
        // Whatever ended it: what was encoded is kept.
        writer.commit()?;
        // Whatever was decoded first.
        done.summary.failed.sort_by(|a, b| a.id.cmp(&b.id));
        done.summary.notes.sort();
        ended?;
        if stop.is_set() {
            return Err(Error::Interrupted { saved: Some(writer.folder().to_path_buf()) });
        }
        Ok(done)
    }
}

struct Decoding<'a> {
    run: &'a IndexRun,
    plan: ClipPlan,
    model: &'a dyn IndexModel,
    ffmpeg: &'a Ffmpeg,
    stop: &'a StopFlag,
}

impl Decoding<'_> {
    /// Decodes `files` on several threads and encodes on this one.
    fn all(
        &self,
        files: &[VideoFile],
        writer: &mut IndexWriter,
        done: &mut Indexed,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let threads = self.run.decoders.clamp(1, files.len().max(1));
        let next = AtomicUsize::new(0);
        let preprocess = &self.model.processor().preprocess;
        thread::scope(|scope| {
            let (sender, told) = sync_channel(threads);
            for _ in 0..threads {
                let (sender, next) = (sender.clone(), &next);
                scope.spawn(move || self.decode_next(files, next, preprocess, &sender));
            }
            drop(sender);
            self.encode(files, &told, writer, done, progress)
        })
    }

    /// Decodes one file after the other, until there is none left or nobody wants it.
    fn decode_next(
        &self,
        files: &[VideoFile],
        next: &AtomicUsize,
        preprocess: &Preprocess,
        sender: &SyncSender<(usize, Told)>,
    ) {
        while !self.stop.is_set() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(number) else { return };
            // The receiver is gone when the other side has failed.
            if sender.send((number, self.decode(file, number, preprocess, sender))).is_err() {
                return;
            }
        }
    }

    /// Decodes a video, whose frames go to `sender` as they come.
    fn decode(
        &self,
        file: &VideoFile,
        number: usize,
        preprocess: &Preprocess,
        sender: &SyncSender<(usize, Told)>,
    ) -> Told {
        let sampling = Sampling::Shown(Shown::rate(self.plan.rate));
        let selection = Selection::all(sampling, self.run.reading);
        let (mut batch, mut count, mut pictures) = (Vec::new(), 0, Vec::new());
        let interrupted = || Error::Interrupted { saved: None };
        let found = self.ffmpeg.read(&file.path, &selection, |_, image| {
            batch.extend(preprocess.pixels(&image)?);
            pictures.push(if self.run.thumbnails { thumbnail::jpeg(&image)? } else { Vec::new() });
            count += 1;
            if count % BATCH == 0 {
                let full = std::mem::take(&mut batch);
                sender.send((number, Told::Frames(full))).map_err(|_| interrupted())?;
            }
            if self.stop.is_set() { Err(interrupted()) } else { Ok(count - 1) }
        });
        match found {
            Err(error) => Told::Failed(error),
            Ok(found) => {
                if !batch.is_empty() && sender.send((number, Told::Frames(batch))).is_err() {
                    return Told::Failed(interrupted());
                }
                let notes = found.notes.iter().map(ToString::to_string).collect();
                let decoded = Decoded { kept: found.kept, pictures, duration: found.duration, notes };
                Told::End(Box::new(decoded))
            }
        }
    }

    /// Takes what the decoders tell, until all are done.
    fn encode(
        &self,
        files: &[VideoFile],
        told: &Receiver<(usize, Told)>,
        writer: &mut IndexWriter,
        done: &mut Indexed,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let (mut vectors, mut ended, mut committed): (HashMap<usize, FrameVectors>, u64, _) =
            (HashMap::new(), 0, Instant::now());
        for (number, told) in told {
            let file = &files[number];
            match told {
                Told::Frames(bytes) => {
                    let pixels = self.model.processor().preprocess.normalize(&bytes);
                    vectors.entry(number).or_default().extend(self.model.frames(&pixels)?);
                    continue;
                }
                Told::End(decoded) => {
                    let frames = vectors.remove(&number).unwrap_or_default();
                    match self.video(file, &frames, *decoded) {
                        Ok(video) => done.add(video, writer),
                        Err(error) => done.fail(&file.id, error),
                    }
                }
                // What was under way when it was stopped is no failure.
                Told::Failed(Error::Interrupted { .. }) => continue,
                Told::Failed(error) => {
                    vectors.remove(&number);
                    done.fail(&file.id, error);
                }
            }
            ended += 1;
            progress.step(ended, files.len() as u64, &format!("{:.2} h of video", done.seconds / 3600.0));
            if writer.is_full() || committed.elapsed() >= COMMIT_AFTER {
                writer.commit()?;
                committed = Instant::now();
            }
        }
        Ok(())
    }

    /// A video out of the vectors of all frames that were decoded.
    fn video(&self, file: &VideoFile, all: &FrameVectors, decoded: Decoded) -> Result<VideoVectors> {
        let Decoded { kept, pictures, duration, notes } = decoded;
        let (width, patches) = (self.model.width(), self.model.patches());
        let offset = kept.first().map_or(0.0, |(time, _)| *time);
        let vectors = all.chosen(kept.iter().map(|&(_, at)| at), width, patches);
        let times: Vec<f64> = kept.iter().map(|(time, _)| time - offset).collect();
        let alike = if self.plan.cut_below.is_some() { alike(&vectors.frames, width) } else { Vec::new() };
        let clips = self.plan.clips(&times, duration, &alike);
        let mut coarse = Vec::with_capacity(clips.len() * width);
        for part in clips.chunks(CLIPS) {
            let frames: Vec<FrameVectors> = part.iter().map(|clip| vectors.of_clip(clip, width, patches)).collect();
            coarse.extend(self.model.coarse(&frames)?);
        }
        // That of the frame in the middle.
        let thumbnails = match self.run.thumbnails {
            true => clips.iter().map(|clip| pictures[kept[clip.first + clip.count / 2].1].clone()).collect(),
            false => Vec::new(),
        };
        let path = Some(file.id.clone());
        let VideoFile { size, modified, .. } = *file;
        let video = Video { id: file.id.clone(), path, size, modified, duration, offset, notes };
        let FrameVectors { frames, patches } = vectors;
        Ok(VideoVectors { video, clips, coarse, frames, times, patches, thumbnails })
    }
}
