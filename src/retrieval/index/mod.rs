//! An index of videos on the disk: their clips as vectors, with what is needed to rank these again and to show them.
//!
//! | file | what it holds |
//! |---|---|
//! | `index.json` | what the index is ([`IndexSpec`]), its segments, and which of their videos are no longer there; after a line with its own hash |
//! | `segments/00000001/segment.json` | videos and clips of a segment, and the sums of its arrays; its hash is in `index.json` |
//! | `segments/00000001/coarse`, `frames`, `times`, .. | arrays as they lie in memory, little-endian, such as NumPy's `fromfile` reads |
//! | `lock` | held by the process that changes the index |
//!
//! Segments never change. Adding, deleting and compacting write new ones and then `index.json` anew, by a rename: whenever a
//! process or the machine stops, the index is as it was before or as it is after. Every byte has a sum, which is looked at
//! whenever it is read.

mod arrays;
#[cfg(all(feature = "images", feature = "text"))]
mod files;
mod manifest;
#[cfg(all(feature = "images", feature = "text"))]
mod model;
#[cfg(all(feature = "images", feature = "text"))]
mod plain;
mod quick;
#[cfg(all(feature = "images", feature = "text"))]
mod run;
mod segment;
mod spec;
#[cfg(test)]
mod tests;
#[cfg(all(feature = "images", feature = "text"))]
mod thumbnail;
mod writer;

use std::path::{Path, PathBuf};

use self::manifest::Manifest;
use self::segment::Segment;
use super::exact::{Scanned, ScannedValues, Vectors, pad_rows};
use crate::{Error, Result};

#[cfg(all(feature = "images", feature = "text"))]
pub use model::{FrameVectors, IndexModel, QueryVectors};
#[cfg(all(feature = "images", feature = "text"))]
pub(crate) use model::{expect_directions, gated, hash_of, mean_direction, name_of, safetensors_of, unit};
#[cfg(all(feature = "images", feature = "text"))]
pub use plain::PlainModel;
#[cfg(all(feature = "images", feature = "text"))]
pub use run::{IndexRun, Indexed};
pub use segment::{Video, VideoVectors};
pub use spec::{Clip, ClipPlan, IndexSpec, ModelIdentity};
pub use writer::{Compacted, IndexWriter};

/// The folder of all segments.
const SEGMENTS: &str = "segments";

/// How far the length of a clip's vector may be from 1.
const UNIT_TOLERANCE: f64 = 1e-3;
/// No vector is longer, rounded to halves or not.
const LONGEST: f32 = 1.003;

/// How often an index is opened anew because another process compacted it meanwhile.
const ATTEMPTS: usize = 4;

/// Videos that were indexed, to be searched: as they were when it was opened, whatever others add or delete later.
pub struct Index {
    folder: PathBuf,
    manifest: Manifest,
    segments: Vec<Segment>,
    /// Segment and number of each video that is still there, by their ids: what an index holds decides its order, not how
    /// it came there.
    videos: Vec<(u32, u32)>,
    /// Segment and number of each of their clips.
    clips: Vec<(u32, u32)>,
}

/// A clip of an index, with its video.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipRef<'a> {
    /// Its number in the index, which is another one when videos come or go.
    pub number: usize,
    /// Its video.
    pub video: &'a Video,
    /// Where in the video it is.
    pub clip: Clip,
}

/// What reading every byte of an index came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Segments that are whole.
    pub segments: usize,
    /// Their bytes, descriptions apart.
    pub bytes: u64,
}

impl Index {
    /// The index in `folder`.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none; [`Error::Malformed`] for damage, other versions and what is missing of it;
    /// [`Error::Io`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        for _ in 1..ATTEMPTS {
            let manifest = Manifest::read(folder)?;
            match Self::with(folder, manifest.clone()) {
                Err(_) if Manifest::read(folder)? != manifest => {}
                opened => return opened,
            }
        }
        Self::with(folder, Manifest::read(folder)?)
    }

    fn with(folder: &Path, manifest: Manifest) -> Result<Self> {
        let (all, spec) = (folder.join(SEGMENTS), &manifest.spec);
        let open = |entry| Segment::open(&all, entry, spec);
        let segments: Vec<Segment> = manifest.segments.iter().map(open).collect::<Result<_>>()?;
        let numbered = segments.iter().enumerate();
        let live = numbered.flat_map(|(s, segment)| segment.live_videos().map(move |video| (s as u32, video as u32)));
        let mut videos: Vec<(u32, u32)> = live.collect();
        videos.sort_by_key(|&(s, video)| &segments[s as usize].videos[video as usize].id);
        let clips_of =
            |&(s, video): &(u32, u32)| segments[s as usize].clips_of(video as usize).map(move |clip| (s, clip as u32));
        let clips = videos.iter().flat_map(clips_of).collect();
        Ok(Self { folder: folder.to_path_buf(), manifest, segments, videos, clips })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What all videos have in common.
    pub fn spec(&self) -> &IndexSpec {
        &self.manifest.spec
    }

    /// The videos, in the order of their ids; clips are numbered in this order, and in that of time.
    pub fn videos(&self) -> impl Iterator<Item = &Video> {
        self.videos.iter().map(|&(segment, video)| &self.segments[segment as usize].videos[video as usize])
    }

    /// How many clips there are.
    pub fn len(&self) -> usize {
        self.clips.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.clips.is_empty()
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Clip `number`.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn clip(&self, number: usize) -> Result<ClipRef<'_>> {
        let (segment, at) = self.place(number)?;
        let found = segment.clips[at];
        Ok(ClipRef { number, video: &segment.videos[found.video], clip: found.clip })
    }

    /// The numbers of a video's clips.
    ///
    /// # Errors
    /// [`Error::Missing`] for a video that there is not.
    pub fn clips_of(&self, video: &str) -> Result<std::ops::Range<usize>> {
        let missing = || Error::missing(&self.folder, "video", video);
        let id = |&(segment, number): &(u32, u32)| self.segments[segment as usize].videos[number as usize].id.as_str();
        self.videos.binary_search_by_key(&video, id).map_err(|_| missing())?;
        // Clips lie in the order of their videos.
        let of = |&(segment, clip): &(u32, u32)| {
            let segment = &self.segments[segment as usize];
            segment.videos[segment.clips[clip as usize].video].id.as_str()
        };
        let first = self.clips.partition_point(|clip| of(clip) < video);
        Ok(first..self.clips.partition_point(|clip| of(clip) <= video))
    }

    /// The vectors of `count` clips from `first` on (count, D), which the first stage compares.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`]; [`Error::Malformed`] for damage; [`Error::Io`].
    pub fn coarse(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        let mut values = Vec::with_capacity(count.min(self.len()) * self.spec().width);
        self.for_runs(first, count, |segment, from, rows| {
            values.extend(segment.arrays.coarse.floats(from, rows)?);
            Ok(())
        })?;
        Ok(values)
    }

    /// The vectors of a clip's frames (frames, D), as the tower gave them, and when each is shown.
    ///
    /// # Errors
    /// As [`Index::coarse`].
    pub fn frames(&self, number: usize) -> Result<(Vec<f32>, Vec<f64>)> {
        let (segment, at) = self.place(number)?;
        let Clip { first, count, .. } = segment.clips[at].clip;
        Ok((segment.arrays.frames.floats(first, count)?, segment.arrays.times.doubles(first, count)?))
    }

    /// The same for all frames of the clip's video that are shown between `from` and `to` seconds, and when the next one
    /// is, or the video ends.
    ///
    /// # Errors
    /// As [`Index::coarse`].
    pub fn frames_between(&self, number: usize, from: f64, to: f64) -> Result<(Vec<f32>, Vec<f64>, f64)> {
        let (segment, at) = self.place(number)?;
        let video = segment.clips[at].video;
        let all = segment.frames_of(video);
        let times = segment.arrays.times.doubles(all.start, all.len())?;
        // The frame that stands at `from` belongs to it.
        let first = times.partition_point(|&time| time <= from).saturating_sub(1);
        let end = times.partition_point(|&time| time < to).max(first + 1).min(times.len());
        let until = times.get(end).copied().unwrap_or(segment.videos[video].duration);
        let frames = segment.arrays.frames.floats(all.start + first, end - first)?;
        Ok((frames, times[first..end].to_vec(), until))
    }

    /// The vectors of a clip's patches (frames, patches, D); empty for an index without.
    ///
    /// # Errors
    /// As [`Index::coarse`].
    pub fn patches(&self, number: usize) -> Result<Vec<f32>> {
        let (segment, at) = self.place(number)?;
        let (Clip { first, count, .. }, each) = (segment.clips[at].clip, self.spec().patches);
        match &segment.arrays.patches {
            Some(patches) => patches.floats(first * each, count * each),
            None => Ok(Vec::new()),
        }
    }

    /// The picture of a clip as JPEG; empty if it has none.
    ///
    /// # Errors
    /// As [`Index::coarse`].
    pub fn thumbnail(&self, number: usize) -> Result<Vec<u8>> {
        let (segment, at) = self.place(number)?;
        segment.thumbnail(at)
    }

    /// Reads every byte.
    ///
    /// # Errors
    /// [`Error::Malformed`] for the first damage; [`Error::Io`].
    pub fn verify(&self) -> Result<Verified> {
        let mut done = Verified::default();
        for segment in &self.segments {
            done.bytes += segment.verify()?;
            done.segments += 1;
        }
        Ok(done)
    }

    /// Segment of a clip, and the clip's number there.
    fn place(&self, number: usize) -> Result<(&Segment, usize)> {
        let missing = || Error::IndexOutOfRange { op: "Index", index: number as u64, len: self.len() as u64 };
        let &(segment, clip) = self.clips.get(number).ok_or_else(missing)?;
        Ok((&self.segments[segment as usize], clip as usize))
    }

    /// Calls `each` with the stretches of segments that the clips are: segment, first clip there, and how many.
    fn for_runs(
        &self,
        first: usize,
        count: usize,
        mut each: impl FnMut(&Segment, usize, usize) -> Result<()>,
    ) -> Result<()> {
        let end = first.saturating_add(count);
        if end > self.len() {
            return Err(Error::IndexOutOfRange { op: "Index", index: end as u64, len: self.len() as u64 });
        }
        let neighbours = |a: &(u32, u32), b: &(u32, u32)| a.0 == b.0 && a.1 + 1 == b.1;
        for run in self.clips[first..end].chunk_by(neighbours) {
            each(&self.segments[run[0].0 as usize], run[0].1 as usize, run.len())?;
        }
        Ok(())
    }
}

/// What the first stage searches: the vectors of clips.
impl Vectors for Index {
    fn count(&self) -> usize {
        self.len()
    }

    fn width(&self) -> usize {
        self.spec().width
    }

    fn exact(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        self.coarse(first, count)
    }

    fn scanned_bytes(&self) -> usize {
        let spec = self.spec();
        match spec.bytes {
            true => quick::stored_bytes(spec.width),
            false => spec.precision.bytes() * spec.width.next_multiple_of(4),
        }
    }

    fn scanned(&self, first: usize, count: usize) -> Result<Scanned> {
        let spec = self.spec();
        if !spec.bytes {
            let values = pad_rows(&self.coarse(first, count)?, spec.width, 4);
            return Ok(Scanned {
                values: ScannedValues::Floats(values, spec.precision),
                longest: LONGEST,
                residual: 0.0,
            });
        }
        let (mut values, mut scales, mut residual) = (Vec::new(), Vec::new(), 0.0f32);
        self.for_runs(first, count, |segment, from, rows| {
            let parts = segment.arrays.bytes.as_ref().zip(segment.arrays.scales.as_ref());
            let missing = || Error::missing(&self.folder, "array", "bytes");
            let (bytes, factors) = parts.ok_or_else(missing)?;
            values.extend(bytes.read(from, rows)?);
            scales.extend(factors.floats(from, rows)?);
            residual = residual.max(segment.residual);
            Ok(())
        })?;
        Ok(Scanned { values: ScannedValues::Bytes(values, scales), longest: LONGEST, residual })
    }
}
