//! A published dataset as texts and videos for models on CLIP's towers: captions through a tokenizer, videos through
//! ffmpeg or from folders of frames.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::PairSource;
use crate::data::captions::Split;
use crate::data::media::frames::{FrameSet, Note, Sampling};
use crate::data::media::video::{Ffmpeg, LoadFailure, VideoInput, VideoSource};
use crate::data::moments::Problems;
use crate::data::tokenizer::Tokenizer;
use crate::data::{Gone, checked_index};
use crate::{Error, Result};

/// Captions and videos of a split. Videos are decoded whenever they are asked for.
pub struct PairDataset {
    split: Split,
    sources: Vec<VideoSource>,
    /// Places of video and caption.
    items: Vec<(usize, usize)>,
    ids: Vec<u32>,
    words: usize,
    /// Texts that lost tokens.
    cut: Vec<usize>,
    input: VideoInput,
    /// Absent where all videos are folders of frames.
    ffmpeg: Option<Ffmpeg>,
    lenient: bool,
    failures: Mutex<BTreeMap<usize, Error>>,
    notes: Mutex<BTreeMap<usize, Vec<Note>>>,
}

impl PairDataset {
    /// Every caption of `split`, padded to `words` ids as the tokenizer does it, with its video in the folder `videos`.
    /// `input` says how videos are read; a video's own stretch, if it has one, wins over its sampling.
    ///
    /// # Errors
    /// [`Error::Malformed`] without any video. A problem of a video that is not there: [`Error::Missing`]; strict, all of
    /// them are named at once. Lenient, such videos are left out, and those that
    /// cannot be decoded are recorded when it shows: see [`PairSource::failures`]. [`Error::NoProgram`] for
    /// video files without ffmpeg.
    pub fn open(
        mut split: Split,
        videos: impl AsRef<Path>,
        tokenizer: &Tokenizer,
        words: usize,
        input: VideoInput,
        problems: &mut Problems,
    ) -> Result<Self> {
        let mut sources = Vec::with_capacity(split.videos.len());
        let (mut kept, mut gone) = (Vec::with_capacity(split.videos.len()), Gone::default());
        let listed = split.videos.len();
        for video in split.videos {
            if let Some(source) = gone.check(VideoSource::find(videos.as_ref(), &video.file), problems)? {
                sources.push(source);
                kept.push(video);
            }
        }
        gone.finish()?;
        if kept.is_empty() {
            return Err(Error::malformed(
                videos,
                "videos",
                format_args!("none of the {listed} listed videos is there"),
            ));
        }
        split.videos = kept;
        let items: Vec<(usize, usize)> = split.items().collect();
        let texts: Vec<&str> = items.iter().map(|&(v, c)| split.videos[v].captions[c].as_str()).collect();
        let tokens = tokenizer.encode(&texts, words)?;
        let has_files = sources.iter().any(|source| matches!(source, VideoSource::File(_)));
        Ok(Self {
            ffmpeg: has_files.then(Ffmpeg::find).transpose()?,
            sources,
            items,
            words,
            cut: tokens.cut,
            ids: tokens.ids,
            input,
            lenient: problems.is_lenient(),
            failures: Mutex::default(),
            notes: Mutex::default(),
            split,
        })
    }

    /// The captions and videos.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// What was wrong with videos that could be read all the same, each once, with their ids: damage without loss of time,
    /// and files that are no frames. Videos that lost time are errors.
    pub fn notes(&self) -> Vec<(String, Vec<Note>)> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().map(|(&video, notes)| (self.split.videos[video].id.clone(), notes.clone())).collect()
    }

    /// The captions that did not fit and lost tokens before their end token, as in the official code: the id of the video,
    /// and the caption's number among its own, from 0.
    pub fn cut(&self) -> impl Iterator<Item = (&str, usize)> {
        self.cut.iter().map(|&text| {
            let (video, caption) = self.items[text];
            (self.split.videos[video].id.as_str(), caption)
        })
    }
}

impl PairSource for PairDataset {
    fn texts(&self) -> usize {
        self.items.len()
    }

    fn videos(&self) -> usize {
        self.sources.len()
    }

    fn video_of(&self, text: usize) -> Result<usize> {
        Ok(self.items[checked_index("caption", text, self.items.len())?].0)
    }

    fn tokens(&self, text: usize) -> Result<Vec<u32>> {
        let text = checked_index("caption", text, self.items.len())?;
        Ok(self.ids[text * self.words..(text + 1) * self.words].to_vec())
    }

    fn frames(&self, video: usize) -> Result<FrameSet> {
        let video = checked_index("video", video, self.sources.len())?;
        let stretch = &self.split.videos[video];
        let mut input = self.input.clone();
        if stretch.start > 0.0 || stretch.end.is_some() {
            match &mut input.sampling {
                // Whole seconds, from the one in which it starts to the one in which it ends.
                Sampling::Published(published) => {
                    published.start = stretch.start as u32;
                    published.end = stretch.end.map(|end| end.ceil() as u32);
                }
                Sampling::Shown(shown) => (shown.start, shown.end) = (stretch.start, stretch.end),
            }
        }
        let set = self.sources[video].load(self.ffmpeg.as_ref(), &input)?;
        let lost = |note: &&Note| matches!(note, Note::Damaged { stated: Some(_), .. });
        if let Some(note) = set.notes.iter().find(lost) {
            // Trained on unnoticed, half a video would stand for a whole one.
            return Err(Error::malformed(self.sources[video].path(), "frames", note));
        }
        if let Some(first) = set.notes.first() {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            notes.entry(video).or_insert_with(|| {
                log::warn!("{}: {first}", self.sources[video].path().display());
                set.notes.clone()
            });
        }
        Ok(set)
    }

    fn frames_of(&self, videos: &[usize]) -> Vec<Result<FrameSet>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(videos.len()).max(1);
        let each = videos.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = videos
                .chunks(each)
                .map(|part| scope.spawn(move || part.iter().map(|&v| self.frames(v)).collect::<Vec<_>>()))
                .collect();
            // A thread that panicked gives nothing, which the caller sees by the count.
            workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
        })
    }

    /// Strict, the error; lenient, it is recorded, and one frame of the mean colour stands for the video.
    fn stand_in(&self, video: usize, error: Error) -> Result<FrameSet> {
        if !self.lenient {
            return Err(error);
        }
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).entry(video).or_insert(error);
        let side = self.input.preprocess.crop;
        FrameSet::new(vec![0.0; 3 * side * side], 1, self.input.max_frames)
    }

    fn failures(&self) -> Vec<LoadFailure> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |(video, error): (usize, Error)| LoadFailure { id: self.split.videos[video].id.clone(), error };
        std::mem::take(&mut *failures).into_iter().map(named).collect()
    }
}

#[cfg(all(test, feature = "images"))]
#[path = "dataset_tests.rs"]
mod tests;
