//! Videos: files that ffmpeg decodes, or folders of frames.

mod child;
mod ffmpeg;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

#[cfg(feature = "images")]
use super::frames::read_frames;
use super::frames::{Choice, FrameSet, Sampling};
use super::preprocess::Preprocess;
use crate::data::is_inside;
use crate::{Error, Result};

pub use ffmpeg::{Ffmpeg, VideoInfo};

/// The extensions of video files, in the order in which they are looked for.
pub const EXTENSIONS: [&str; 4] = ["mp4", "webm", "mkv", "avi"];

/// Where the frames of a video come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VideoSource {
    /// A video file.
    File(PathBuf),
    /// A folder of frames.
    Frames(PathBuf),
}

/// How a video becomes a network's input.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoInput {
    /// Which frames of a video file are read; folders of frames are sampled already.
    pub sampling: Sampling,
    /// Which of them are used.
    pub choice: Choice,
    /// How many the network takes.
    pub max_frames: usize,
    /// What is done with each.
    pub preprocess: Preprocess,
}

impl VideoSource {
    /// The file, or the folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Frames(path) => path,
        }
    }

    /// Finds the video `id` in `folder`: the file `id` if the id has its extension already, else `id.mp4`, `.webm`,
    /// `.mkv` or `.avi`, else the folder of frames `id`.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id that leads out of the folder; [`Error::Missing`].
    pub fn find(folder: impl AsRef<Path>, id: &str) -> Result<Self> {
        let folder = folder.as_ref();
        if !is_inside(id) {
            let why = format!("{id:?} does not lead to a file in the folder");
            return Err(Error::argument("VideoSource::find", "id", why));
        }
        let exact = folder.join(id);
        let with_extension = EXTENSIONS.iter().map(|extension| folder.join(format!("{id}.{extension}")));
        if let Some(file) = std::iter::once(exact.clone()).chain(with_extension).find(|file| file.is_file()) {
            return Ok(VideoSource::File(file));
        }
        if exact.is_dir() {
            return Ok(VideoSource::Frames(exact));
        }
        Err(Error::missing(folder, "video", id))
    }

    /// Reads the video as a network's input. Folders of frames need no `ffmpeg`, but the feature `images`.
    ///
    /// # Errors
    /// As [`Ffmpeg::decode_each`], [`Preprocess::apply`] and those of folders of frames; [`Error::Argument`] for a file
    /// without `ffmpeg`.
    pub fn load(&self, ffmpeg: Option<&Ffmpeg>, input: &VideoInput) -> Result<FrameSet> {
        let VideoInput { sampling, choice, max_frames, preprocess } = input;
        match self {
            VideoSource::File(path) => {
                let mut frames = Vec::new();
                let why = || format!("is needed for the file {}", path.display());
                let ffmpeg = ffmpeg.ok_or_else(|| Error::argument("VideoSource::load", "ffmpeg", why()))?;
                ffmpeg.decode_each(path, sampling, |image| {
                    frames.push(preprocess.pixels(&image)?);
                    Ok(())
                })?;
                let chosen = choice.indices(frames.len(), *max_frames);
                let pixels = chosen.iter().flat_map(|&frame| preprocess.normalize(&frames[frame])).collect();
                FrameSet::new(pixels, chosen.len(), *max_frames)
            }
            #[cfg(feature = "images")]
            VideoSource::Frames(folder) => read_frames(folder, *choice, *max_frames, preprocess),
            #[cfg(not(feature = "images"))]
            VideoSource::Frames(folder) => {
                Err(Error::malformed(folder, "frames", "reading them needs the crate's feature `images`"))
            }
        }
    }
}

/// A video that could not be read.
#[derive(Debug)]
pub struct LoadFailure {
    /// Its id.
    pub id: String,
    /// Why.
    pub error: Error,
}

/// The error, which mostly names the file already.
impl std::fmt::Display for LoadFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let error = self.error.to_string();
        if error.contains(&self.id) { f.write_str(&error) } else { write!(f, "{}: {error}", self.id) }
    }
}

/// Runs `load` for every id on `threads` threads, and hands what they give to `take` on this one, with the id's number
/// and in the order in which they are done. At most `threads` results wait. Ids that fail do not end it: they are
/// returned, in the order of the ids.
///
/// # Errors
/// The first error of `take`, which ends everything.
pub fn load_all<T: Send>(
    ids: &[String],
    threads: usize,
    load: impl Fn(&str) -> Result<T> + Sync,
    mut take: impl FnMut(usize, T) -> Result<()>,
) -> Result<Vec<LoadFailure>> {
    let threads = threads.clamp(1, ids.len().max(1));
    let (next, mut failed) = (AtomicUsize::new(0), Vec::new());
    thread::scope(|scope| {
        let (sender, results) = sync_channel(threads);
        for _ in 0..threads {
            let (sender, next, load) = (sender.clone(), &next, &load);
            let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
            let loaded = numbers.map_while(|number| Some((number, load(ids.get(number)?))));
            // The receiver is gone when `take` has failed.
            scope.spawn(move || loaded.map(|result| sender.send(result)).all(|sent| sent.is_ok()));
        }
        drop(sender);
        for (number, result) in results {
            match result {
                Ok(value) => take(number, value)?,
                Err(error) => failed.push((number, error)),
            }
        }
        Ok::<_, Error>(())
    })?;
    failed.sort_by_key(|&(number, _)| number);
    Ok(failed.into_iter().map(|(number, error)| LoadFailure { id: ids[number].clone(), error }).collect())
}
