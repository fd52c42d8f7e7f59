//! Videos: files that ffmpeg decodes, or folders of frames.

mod child;
mod ffmpeg;
mod probe;
mod read;
mod survey;

#[cfg(test)]
mod tests;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

#[cfg(feature = "images")]
use super::frames::read_frames;
use super::frames::{Choice, FrameSet, Published, Reading, Sampling};
use super::preprocess::Preprocess;
use crate::data::is_inside;
use crate::{Error, Result};

pub use ffmpeg::{Ffmpeg, Limit, Limits};
pub use probe::VideoInfo;
pub use read::{Frames, Selection};
pub use survey::{Survey, SurveyedFrame};

/// The endings of video files, in the order in which they are looked for. Large and small letters are the same.
pub const EXTENSIONS: [&str; 19] = [
    "mp4", "webm", "mkv", "avi", "mov", "m4v", "3gp", "3g2", "ts", "mts", "m2ts", "mpg", "mpeg", "vob", "flv", "wmv",
    "asf", "ogv", "gif",
];

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
    /// How they are read.
    pub reading: Reading,
    /// What is done with each.
    pub preprocess: Preprocess,
}

impl VideoInput {
    /// For one's own videos: the frames shown at every second, and of these at most `max_frames` at equal distances in
    /// time; square pixels.
    pub fn own(max_frames: usize, preprocess: Preprocess) -> Self {
        let (sampling, choice) = (Sampling::default(), Choice::default());
        Self { sampling, choice, max_frames, reading: Reading::OWN, preprocess }
    }

    /// As the published loaders read: frames by their number, pixels as they are stored.
    pub fn published(published: Published, choice: Choice, max_frames: usize, preprocess: Preprocess) -> Self {
        let sampling = Sampling::Published(published);
        Self { sampling, choice, max_frames, reading: Reading::PUBLISHED, preprocess }
    }

    /// The frames that are read of a video file.
    pub fn selection(&self) -> Selection {
        let Self { sampling, choice, max_frames, reading, .. } = *self;
        Selection { sampling, choice, max_frames, reading }
    }
}

impl VideoSource {
    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            VideoSource::File(path) | VideoSource::Frames(path) => path,
        }
    }

    /// Finds the video `id` in `folder`: the file `id` if the id has its ending already, else a file `id` with one of
    /// [`EXTENSIONS`], in their order, else the folder of frames `id`.
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
        let with_extension = EXTENSIONS
            .iter()
            .flat_map(|e| [e.to_string(), e.to_ascii_uppercase()].map(|e| folder.join(format!("{id}.{e}"))));
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
    /// As [`Ffmpeg::read`], [`Preprocess::apply`] and those of folders of frames; [`Error::Argument`] for a file
    /// without `ffmpeg`.
    pub fn load(&self, ffmpeg: Option<&Ffmpeg>, input: &VideoInput) -> Result<FrameSet> {
        let VideoInput { max_frames, preprocess, .. } = input;
        match self {
            VideoSource::File(path) => {
                let why = || format!("is needed for the file {}", path.display());
                let ffmpeg = ffmpeg.ok_or_else(|| Error::argument("VideoSource::load", "ffmpeg", why()))?;
                let found = ffmpeg.read(path, &input.selection(), |_, image| preprocess.pixels(&image))?;
                let (times, frames): (Vec<f64>, Vec<_>) = found.kept.into_iter().unzip();
                let pixels = frames.iter().flat_map(|bytes| preprocess.normalize(bytes)).collect();
                let set = FrameSet::new(pixels, times.len(), *max_frames)?;
                Ok(FrameSet { times, notes: found.notes, ..set })
            }
            #[cfg(feature = "images")]
            VideoSource::Frames(folder) => read_frames(folder, input.choice, *max_frames, &input.reading, preprocess),
            #[cfg(not(feature = "images"))]
            VideoSource::Frames(folder) => {
                Err(Error::malformed(folder, "frames", "reading them needs the crate's feature `images`"))
            }
        }
    }
}

/// What lies in a folder of videos.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Videos and folders of frames with their names, in the order of these.
    pub videos: Vec<(String, VideoSource)>,
    /// The names of files that are no videos by their content, ascending.
    pub others: Vec<String>,
}

impl Listing {
    /// Looks at everything in `folder`: folders are taken for folders of frames, files by their names or by how they begin.
    /// Hidden ones are among the others.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let failed = |e| Error::io("list", folder, e);
        let mut found = Self::default();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_string();
            match () {
                () if name.starts_with('.') => found.others.push(name),
                () if path.is_dir() => found.videos.push((name, VideoSource::Frames(path))),
                // What has the name of a video and is none is an error when it is read.
                () if named_as_video(&path) || begins_as_video(&path) => {
                    found.videos.push((name, VideoSource::File(path)));
                }
                () => found.others.push(name),
            }
        }
        found.videos.sort_by(|a, b| a.0.cmp(&b.0));
        found.others.sort();
        Ok(found)
    }
}

fn named_as_video(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// Whether a file begins as one of the containers that are read does.
fn begins_as_video(path: &Path) -> bool {
    let mut head = Vec::new();
    if super::regular_file(path).is_ok() {
        // A file that cannot be read is none.
        let _ = fs::File::open(path).map(|file| file.take(512).read_to_end(&mut head));
    }
    let at = |place: usize, bytes: &[u8]| head.get(place..).is_some_and(|rest| rest.starts_with(bytes));
    let packets = |first: usize, size: usize| at(first, b"G") && at(first + size, b"G");
    let animated = |kind: &[u8]| head.windows(kind.len()).any(|bytes| bytes == kind);
    let starts: [&[u8]; 7] = [
        b"\x1a\x45\xdf\xa3",
        b"\0\0\x01\xba",
        b"\0\0\x01\xb3",
        b"FLV\x01",
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
        b"OggS",
        b"GIF8",
    ];
    let boxes: [&[u8]; 6] = [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"];
    starts.iter().any(|start| at(0, start))
        || boxes.iter().any(|name| at(4, name))
        || (at(0, b"RIFF") && (at(8, b"AVI ") || (at(8, b"WEBP") && animated(b"ANIM"))))
        || (at(0, b"\x89PNG") && animated(b"acTL"))
        || packets(0, 188)
        || packets(4, 192)
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
