//! Captions of videos: the annotation files of text-video retrieval, and the neutral JSON lines.
//!
//! Every reader gives a [`Split`]; `Dataset` (feature `datasets`) knows which files make up a published one, and
//! [`check`] looks through its parts. What a reader drops silently changes the metrics, so an unknown or repeated
//! video, a video without captions and a blank caption are problems that name the line or entry: errors, or counted
//! where [`Problems`] are lenient.

mod check;
#[cfg(feature = "datasets")]
mod dataset;
mod lists;
mod lsmdc;
mod msrvtt;
mod neutral;
mod paragraphs;
#[cfg(feature = "datasets")]
mod table;

pub use check::{PartReport, Report, Shared, check};
#[cfg(feature = "datasets")]
pub use dataset::Dataset;
pub use lists::{read_caption_lists, read_id_list};
pub use lsmdc::read_lsmdc;
pub use msrvtt::read_msrvtt;
#[cfg(feature = "datasets")]
pub use msrvtt::{read_msrvtt_ids, read_msrvtt_test};
pub use neutral::read_jsonl;
pub use paragraphs::{read_activitynet_paragraphs, read_didemo_paragraphs};

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::moments::Problems;
use crate::{Error, Result};

/// A video, or a stretch of one, and what is said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoCaptions {
    /// The dataset's name of the video, such as `video9770`.
    pub id: String,
    /// What to look for in the folder of videos: a file, a file without its extension, or a folder of frames. Most
    /// often the id. It may hold dots that begin no extension, so an extension is to be appended, never replaced.
    pub file: String,
    /// Where the stretch starts, in seconds from the start of the file.
    pub start: f64,
    /// Where the stretch ends, in seconds, after its start; `None` is the end of the file.
    pub end: Option<f64>,
    /// At least one caption; none is blank. Equal ones occur: MSVD holds thousands.
    pub captions: Vec<String>,
}

impl VideoCaptions {
    /// A whole file that is called as its id.
    pub fn new(id: impl Into<String>, captions: Vec<String>) -> Self {
        let id = id.into();
        Self { file: id.clone(), id, start: 0.0, end: None, captions }
    }
}

/// Videos in the order of their file, each with its captions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    /// The videos; no id occurs twice.
    pub videos: Vec<VideoCaptions>,
}

impl Split {
    /// The number of captions of all videos.
    pub fn caption_count(&self) -> usize {
        self.videos.iter().map(|v| v.captions.len()).sum()
    }

    /// Every caption with its video, as places in [`Split::videos`] and in its captions: what training goes through by
    /// default.
    pub fn items(&self) -> impl Iterator<Item = (usize, usize)> {
        let videos = self.videos.iter().enumerate();
        videos.flat_map(|(video, v)| (0..v.captions.len()).map(move |caption| (video, caption)))
    }

    /// The videos `ids`, in that order. `path` is the file that holds the captions, for the error.
    ///
    /// # Errors
    /// [`Error::Malformed`] where none of several ids has captions. A problem of an id without captions:
    /// [`Error::Missing`].
    pub fn select(&self, ids: &[String], path: impl AsRef<Path>, problems: &mut Problems) -> Result<Split> {
        let by_id: HashMap<&str, &VideoCaptions> = self.videos.iter().map(|v| (v.id.as_str(), v)).collect();
        let mut videos = Vec::new();
        for id in ids {
            let video = by_id.get(id.as_str()).ok_or_else(|| Error::missing(&path, "video", id));
            videos.extend(problems.check(video)?.map(|&video| video.clone()));
        }
        if videos.is_empty() {
            let problem = format!("none of the {} listed videos has captions here", ids.len());
            return Err(Error::malformed(path, "videos", problem));
        }
        Ok(Split { videos })
    }
}

/// Collects a [`Split`] and checks what is added.
struct Builder<'a> {
    path: &'a Path,
    problems: &'a mut Problems,
    split: Split,
    index: HashMap<String, Seen>,
}

/// A known video: its place, and whether it is complete.
struct Seen {
    video: usize,
    whole: bool,
}

impl<'a> Builder<'a> {
    fn new(path: &'a Path, problems: &'a mut Problems) -> Self {
        Self { path, problems, split: Split::default(), index: HashMap::new() }
    }

    /// Adds captions to a video that may be known already, or a `whole` video, which must be the only one of its id.
    fn add(&mut self, place: &str, video: Result<VideoCaptions>, whole: bool) -> Result<()> {
        let Some(mut video) = self.problems.check(video)? else { return Ok(()) };
        if video.id.trim().is_empty() {
            return self.problems.report(Error::malformed(self.path, place, "the video id is blank"));
        }
        if video.captions.is_empty() {
            return self.problems.report(Error::missing(self.path, "caption of video", &video.id));
        }
        let given = video.captions.len();
        video.captions.retain(|caption| !caption.trim().is_empty());
        for _ in video.captions.len()..given {
            let (path, place, id) = (self.path.to_path_buf(), place.to_owned(), video.id.clone());
            self.problems.report(Error::Blank { path, place, kind: "caption of video", id })?;
        }
        if video.captions.is_empty() {
            return Ok(());
        }
        match self.index.entry(video.id.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Seen { video: self.split.videos.len(), whole });
                self.split.videos.push(video);
                Ok(())
            }
            Entry::Occupied(entry) => {
                let seen = entry.get();
                let known = &mut self.split.videos[seen.video];
                if seen.whole || whole {
                    return self.problems.report(Error::duplicate(self.path, place, "video", video.id));
                }
                if (&known.file, known.start, known.end) != (&video.file, video.start, video.end) {
                    let problem = format!("the video {:?} has another file or stretch than above", video.id);
                    return self.problems.report(Error::malformed(self.path, place, problem));
                }
                known.captions.extend(video.captions);
                Ok(())
            }
        }
    }

    /// The videos; there is at least one.
    fn finish(self) -> Result<Split> {
        if self.split.videos.is_empty() {
            return Err(Error::malformed(self.path, "end", "no videos"));
        }
        Ok(self.split)
    }
}

/// Collects ids and checks that they are not blank and differ.
struct Ids<'a> {
    path: &'a Path,
    problems: &'a mut Problems,
    list: Vec<String>,
    seen: HashSet<String>,
}

impl<'a> Ids<'a> {
    fn new(path: &'a Path, problems: &'a mut Problems) -> Self {
        Self { path, problems, list: Vec::new(), seen: HashSet::new() }
    }

    fn add(&mut self, place: &str, id: Result<&str>) -> Result<()> {
        let Some(id) = self.problems.check(id)?.map(str::trim) else { return Ok(()) };
        if id.is_empty() {
            return self.problems.report(Error::malformed(self.path, place, "the video id is blank"));
        }
        if !self.seen.insert(id.to_owned()) {
            return self.problems.report(Error::duplicate(self.path, place, "video", id));
        }
        self.list.push(id.to_owned());
        Ok(())
    }

    /// The ids; there is at least one.
    fn finish(self) -> Result<Vec<String>> {
        if self.list.is_empty() {
            return Err(Error::malformed(self.path, "end", "no video ids"));
        }
        Ok(self.list)
    }
}

#[cfg(test)]
mod tests;
