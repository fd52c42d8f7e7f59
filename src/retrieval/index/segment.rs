//! Videos that were added to an index together: a folder that never changes.

use std::fs;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::arrays::{self, ArrayFile, ArrayInfo, Number, float_bytes};
use super::manifest::SegmentEntry;
use super::quick::Bytes;
use super::spec::{Clip, IndexSpec};
use crate::data::formats::atomic;
use crate::data::formats::text::read_at_most;
use crate::tensor::DType;
use crate::{Error, Result};

const DESCRIPTION: &str = "segment.json";
const MAX_BYTES: u64 = 1 << 30;

/// A video of an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// Its name in the index; there is one of each.
    pub id: String,
    /// The file, if it is one.
    pub path: Option<String>,
    /// Bytes of the file.
    pub size: u64,
    /// When the file was changed last, in nanoseconds since 1970.
    pub modified: u64,
    /// Seconds from the begin of the first frame to the end of the last one.
    pub duration: f64,
    /// The presentation time of the first frame: what must be added to the times of clips and frames to find them in the
    /// file.
    pub offset: f64,
    /// What was wrong with it, though it could be read, in words.
    pub notes: Vec<String>,
}

/// A video with its vectors, to be added to an index.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoVectors {
    /// What it is.
    pub video: Video,
    /// Its clips, by [`ClipPlan::clips`](super::ClipPlan::clips).
    pub clips: Vec<Clip>,
    /// A vector of unit length for each clip (clips, D): what the first stage compares.
    pub coarse: Vec<f32>,
    /// The vectors of its frames (frames, D), as the tower gives them.
    pub frames: Vec<f32>,
    /// When each frame is shown, in seconds from the first.
    pub times: Vec<f64>,
    /// The vectors of patches (frames, patches, D); empty for an index without.
    pub patches: Vec<f32>,
    /// A small picture of each clip, as JPEG; empty without pictures.
    pub thumbnails: Vec<Vec<u8>>,
}

/// A clip in a segment, and its video's number there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SegmentClip {
    pub video: usize,
    #[serde(flatten)]
    pub clip: Clip,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    videos: Vec<Video>,
    /// Of each clip: video, first frame among all of the segment, number of frames, start, end.
    clips: Vec<(usize, usize, usize, f64, f64)>,
    arrays: Arrays<ArrayInfo>,
    /// The greatest length of what bytes leave out of a vector, where there are bytes.
    residual: f32,
}

/// What a segment has of each kind.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arrays<T> {
    pub coarse: T,
    pub frames: T,
    pub times: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patches: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scales: Option<T>,
    /// JPEG files, one after another.
    pub thumbnails: T,
    /// Where each of them ends.
    pub thumbnail_ends: T,
}

/// A segment on the disk.
pub(super) struct Segment {
    pub entry: SegmentEntry,
    pub videos: Vec<Video>,
    pub clips: Vec<SegmentClip>,
    pub arrays: Arrays<ArrayFile>,
    pub residual: f32,
}

pub(super) fn name(number: u64) -> String {
    format!("{number:08}")
}

impl Segment {
    /// Opens the segment of `entry` in the folder of all segments.
    ///
    /// # Errors
    /// [`Error::Io`] for what is missing; [`Error::Malformed`] for damage and for what does not fit `spec`.
    pub fn open(segments: &Path, entry: &SegmentEntry, spec: &IndexSpec) -> Result<Self> {
        let folder = segments.join(name(entry.number));
        let path = folder.join(DESCRIPTION);
        let bytes = read_at_most(&path, MAX_BYTES)?;
        let bad = |place: &str, problem: String| Error::malformed(&path, place, problem);
        if format!("{:x}", Sha256::digest(&bytes)) != entry.sha256 {
            return Err(bad("hash", "the file is not what was written; it is damaged".into()));
        }
        let told: Description = serde_json::from_slice(&bytes).map_err(|e| bad("content", e.to_string()))?;
        let open = |name: &str, info: ArrayInfo| ArrayFile::open(folder.join(name), info);
        let Description { videos, clips, arrays, residual } = told;
        let arrays = Arrays {
            coarse: open("coarse", arrays.coarse)?,
            frames: open("frames", arrays.frames)?,
            times: open("times", arrays.times)?,
            patches: arrays.patches.map(|info| open("patches", info)).transpose()?,
            bytes: arrays.bytes.map(|info| open("bytes", info)).transpose()?,
            scales: arrays.scales.map(|info| open("scales", info)).transpose()?,
            thumbnails: open("thumbnails", arrays.thumbnails)?,
            thumbnail_ends: open("thumbnail_ends", arrays.thumbnail_ends)?,
        };
        let fits = arrays.coarse.rows() == clips.len()
            && arrays.thumbnail_ends.rows() == clips.len()
            && arrays.times.rows() == arrays.frames.rows()
            && [&arrays.coarse, &arrays.frames].iter().all(|a| a.width() == spec.width)
            && (entry.videos, entry.clips) == (videos.len(), clips.len())
            && clips.iter().all(|c| c.0 < videos.len() && c.1.saturating_add(c.2) <= arrays.frames.rows());
        if !fits {
            return Err(bad("content", "its parts do not fit each other".into()));
        }
        let clip = |(video, first, count, start, end)| SegmentClip { video, clip: Clip { start, end, first, count } };
        Ok(Self { entry: entry.clone(), videos, clips: clips.into_iter().map(clip).collect(), arrays, residual })
    }

    /// Whether the video is still there.
    pub fn has(&self, video: usize) -> bool {
        self.entry.deleted.binary_search(&video).is_err()
    }

    /// The videos that are still there.
    pub fn live_videos(&self) -> impl Iterator<Item = usize> {
        (0..self.videos.len()).filter(|&video| self.has(video))
    }

    /// The clips of a video, which lie side by side.
    pub fn clips_of(&self, video: usize) -> Range<usize> {
        self.clips.partition_point(|c| c.video < video)..self.clips.partition_point(|c| c.video <= video)
    }

    /// The frames of a video, which do so as well.
    pub fn frames_of(&self, video: usize) -> Range<usize> {
        let clips = self.clips[self.clips_of(video)].iter().map(|c| c.clip);
        let first = clips.clone().map(|c| c.first).min().unwrap_or_default();
        first..clips.map(|c| c.first + c.count).max().unwrap_or(first)
    }

    /// The JPEG of a clip; empty if there is none.
    pub fn thumbnail(&self, clip: usize) -> Result<Vec<u8>> {
        let before = if clip == 0 { 0 } else { self.arrays.thumbnail_ends.integers(clip - 1, 1)?[0] };
        let end = self.arrays.thumbnail_ends.integers(clip, 1)?[0];
        self.arrays.thumbnails.read(before as usize, end.saturating_sub(before) as usize)
    }

    /// A video with everything that was added of it.
    pub fn vectors(&self, video: usize, spec: &IndexSpec) -> Result<VideoVectors> {
        let own = self.clips_of(video);
        let from = own.start;
        let clips: Vec<Clip> = self.clips[own].iter().map(|c| c.clip).collect();
        let Range { start: first, end } = self.frames_of(video);
        let frames = end - first;
        let patches = match &self.arrays.patches {
            Some(patches) => patches.floats(first * spec.patches, frames * spec.patches)?,
            None => Vec::new(),
        };
        let thumbnails: Vec<Vec<u8>> = (from..from + clips.len()).map(|c| self.thumbnail(c)).collect::<Result<_>>()?;
        let has_thumbnails = thumbnails.iter().any(|jpeg| !jpeg.is_empty());
        Ok(VideoVectors {
            video: self.videos[video].clone(),
            coarse: self.arrays.coarse.floats(from, clips.len())?,
            frames: self.arrays.frames.floats(first, frames)?,
            times: self.arrays.times.doubles(first, frames)?,
            patches,
            thumbnails: if has_thumbnails { thumbnails } else { Vec::new() },
            clips: clips.into_iter().map(|c| Clip { first: c.first - first, ..c }).collect(),
        })
    }

    /// Reads every byte; returns how many there are.
    pub fn verify(&self) -> Result<u64> {
        let Arrays { coarse, frames, times, patches, bytes, scales, thumbnails, thumbnail_ends } = &self.arrays;
        let always = [coarse, frames, times, thumbnails, thumbnail_ends];
        let some = [patches, bytes, scales].into_iter().flatten();
        always.into_iter().chain(some).try_fold(0, |sum, array| Ok(sum + array.verify()?))
    }
}

/// Writes videos as segment `number`; it is there as a whole or not at all. A folder of this number that a process has
/// left which died is in nobody's manifest, and goes.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn write(segments: &Path, number: u64, spec: &IndexSpec, videos: &[VideoVectors]) -> Result<SegmentEntry> {
    let folder = segments.join(name(number));
    let temporary = segments.join(format!(".{}.tmp", name(number)));
    for left in [&folder, &temporary] {
        if left.exists() {
            fs::remove_dir_all(left).map_err(|e| Error::io("remove", left, e))?;
        }
    }
    fs::create_dir(&temporary).map_err(|e| Error::io("create", &temporary, e))?;
    let written = fill(&temporary, number, spec, videos).and_then(|entry| {
        let inside = temporary.join(DESCRIPTION);
        let moved = atomic::sync_folder(&inside).and_then(|()| fs::rename(&temporary, &folder));
        moved.and_then(|()| atomic::sync_folder(&folder)).map_err(|e| Error::io("write", &folder, e))?;
        Ok(entry)
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

fn fill(folder: &Path, number: u64, spec: &IndexSpec, videos: &[VideoVectors]) -> Result<SegmentEntry> {
    let float = if spec.precision == DType::F16 { Number::F16 } else { Number::F32 };
    let floats = |name: &str, width: usize, part: fn(&VideoVectors) -> &Vec<f32>| -> Result<ArrayInfo> {
        let mut values = Vec::new();
        videos.iter().for_each(|vectors| values.extend_from_slice(part(vectors)));
        arrays::write(&folder.join(name), float, [values.len() / width, width], &float_bytes(float, &values))
    };
    let coarse: Vec<f32> = videos.iter().flat_map(|v| &v.coarse).copied().collect();
    let times: Vec<u8> = videos.iter().flat_map(|v| &v.times).flat_map(|t| t.to_le_bytes()).collect();
    let (jpegs, ends) = thumbnails(videos);
    let whole = |name: &str, number, count, bytes: &[u8]| arrays::write(&folder.join(name), number, [count, 1], bytes);
    let quick = spec.bytes.then(|| Bytes::of(&coarse, spec.width, spec.precision));
    let written = Arrays {
        coarse: floats("coarse", spec.width, |v| &v.coarse)?,
        frames: floats("frames", spec.width, |v| &v.frames)?,
        times: whole("times", Number::F64, times.len() / 8, &times)?,
        patches: (spec.patches > 0).then(|| floats("patches", spec.width, |v| &v.patches)).transpose()?,
        bytes: quick.as_ref().map(|q| q.write_values(folder)).transpose()?,
        scales: quick.as_ref().map(|q| q.write_scales(folder)).transpose()?,
        thumbnails: whole("thumbnails", Number::U8, jpegs.len(), &jpegs)?,
        thumbnail_ends: whole("thumbnail_ends", Number::U64, ends.len() / 8, &ends)?,
    };
    let (mut clips, mut before) = (Vec::new(), 0);
    for (number, vectors) in videos.iter().enumerate() {
        clips.extend(vectors.clips.iter().map(|c| (number, before + c.first, c.count, c.start, c.end)));
        before += vectors.times.len();
    }
    let entry = (videos.len(), clips.len());
    let residual = quick.map_or(0.0, |q| q.residual);
    let videos = videos.iter().map(|v| v.video.clone()).collect();
    let path = folder.join(DESCRIPTION);
    let description = Description { videos, clips, arrays: written, residual };
    let text = serde_json::to_vec(&description).map_err(|e| Error::malformed(&path, "content", e))?;
    atomic::write(&path, |file| std::io::Write::write_all(file, &text))?;
    let sha256 = format!("{:x}", Sha256::digest(&text));
    Ok(SegmentEntry { number, sha256, videos: entry.0, clips: entry.1, deleted: Vec::new() })
}

/// The JPEG files of all clips, and as bytes of u64 where each ends.
fn thumbnails(videos: &[VideoVectors]) -> (Vec<u8>, Vec<u8>) {
    let (mut jpegs, mut ends) = (Vec::new(), Vec::new());
    for vectors in videos {
        for clip in 0..vectors.clips.len() {
            jpegs.extend_from_slice(vectors.thumbnails.get(clip).map_or(&[], Vec::as_slice));
            ends.extend((jpegs.len() as u64).to_le_bytes());
        }
    }
    (jpegs, ends)
}
