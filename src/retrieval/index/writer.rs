//! Changing an index.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::manifest::Manifest;
use super::segment::{self, Segment, VideoVectors};
use super::spec::IndexSpec;
use super::{Index, SEGMENTS, UNIT_TOLERANCE};
use crate::data::formats::lock;
use crate::retrieval::exact::dot;
use crate::tensor::{DType, halves};
use crate::{Error, Result};

const LOCK: &str = "lock";

/// Bytes of a segment, about: what is added is written when it comes to so many.
const SEGMENT_BYTES: usize = 256 << 20;

/// The one process that may change an index.
///
/// What was added is part of the index once [`IndexWriter::commit`] has returned; a process or machine that stops before
/// leaves the index as it was.
pub struct IndexWriter {
    folder: PathBuf,
    manifest: Manifest,
    /// Where each video is: segment and number.
    ids: HashMap<String, (u64, usize)>,
    pending: Vec<VideoVectors>,
    pending_bytes: usize,
    /// Ids of pending videos.
    added: HashSet<String>,
    /// Kept open for its lock.
    _lock: File,
}

/// What [`IndexWriter::compact`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments that were written anew.
    pub rewritten: usize,
    /// What they became.
    pub written: usize,
}

impl IndexWriter {
    /// Whether there can be a new index in `folder`, which is made for it: it holds nothing yet, and can be written. To be
    /// asked before the hours that an index takes.
    ///
    /// # Errors
    /// [`Error::Argument`] for a folder that holds something; [`Error::Io`].
    pub fn expect_room(folder: impl AsRef<Path>) -> Result<()> {
        Self::take_room(folder.as_ref()).map(drop)
    }

    /// The lock of a folder that can become an index.
    fn take_room(folder: &Path) -> Result<File> {
        fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        let entries = fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?;
        // One that died before it had written the manifest leaves the lock and an empty folder of segments.
        let mut others = entries.flatten().filter(|entry| entry.file_name() != LOCK && entry.file_name() != SEGMENTS);
        match others.next() {
            None => Self::lock(folder),
            Some(other) => {
                let why = format!("{} is not empty: it holds {}", folder.display(), other.file_name().display());
                Err(Error::argument("index", "folder", why))
            }
        }
    }

    /// A new index in `folder`, which is made and may hold nothing.
    ///
    /// # Errors
    /// As [`IndexWriter::expect_room`]; [`Error::Argument`] for an impossible `spec`.
    pub fn create(folder: impl AsRef<Path>, spec: IndexSpec) -> Result<Self> {
        let folder = folder.as_ref();
        spec.check()?;
        let lock = Self::take_room(folder)?;
        let segments = folder.join(SEGMENTS);
        fs::create_dir_all(&segments).map_err(|e| Error::io("create", &segments, e))?;
        let manifest = Manifest { spec, next: 1, segments: Vec::new() };
        manifest.write(folder)?;
        Self::new(folder, manifest, lock)
    }

    /// The index in `folder`, to be changed. What a process has left that died while it changed it, is removed.
    ///
    /// # Errors
    /// As [`Index::open`]; [`Error::Io`] while another process changes it.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        // Before the lock, which would be made where there is no index.
        Manifest::read(folder)?;
        let lock = Self::lock(folder)?;
        Self::new(folder, Manifest::read(folder)?, lock)
    }

    fn lock(folder: &Path) -> Result<File> {
        lock::exclusive(&folder.join(LOCK), "index")
    }

    fn new(folder: &Path, manifest: Manifest, lock: File) -> Result<Self> {
        let mut writer = Self {
            folder: folder.to_path_buf(),
            manifest,
            ids: HashMap::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            added: HashSet::new(),
            _lock: lock,
        };
        writer.remove_orphans()?;
        writer.list_ids()?;
        Ok(writer)
    }

    fn segments(&self) -> PathBuf {
        self.folder.join(SEGMENTS)
    }

    /// Removes segments that the manifest does not name.
    fn remove_orphans(&self) -> Result<()> {
        let segments = self.segments();
        let known: HashSet<String> = self.manifest.segments.iter().map(|entry| segment::name(entry.number)).collect();
        for entry in fs::read_dir(&segments).map_err(|e| Error::io("list", &segments, e))?.flatten() {
            if known.contains(entry.file_name().to_string_lossy().as_ref()) {
                continue;
            }
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                // Some systems keep what another process reads; it goes the next time.
                log::warn!("cannot remove {}: {error}", entry.path().display());
            }
        }
        Ok(())
    }

    fn list_ids(&mut self) -> Result<()> {
        self.ids.clear();
        for entry in &self.manifest.segments {
            let segment = Segment::open(&self.segments(), entry, &self.manifest.spec)?;
            let live = segment.live_videos().map(|video| (segment.videos[video].id.clone(), (entry.number, video)));
            self.ids.extend(live);
        }
        Ok(())
    }

    /// The index's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What all videos have in common.
    pub fn spec(&self) -> &IndexSpec {
        &self.manifest.spec
    }

    /// Whether there is a video `id`, added ones included.
    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains_key(id) || self.added.contains(id)
    }

    /// Adds a video, or puts it in the place of the one with its id. It is written when there are enough of them, and part
    /// of the index from the next [`IndexWriter::commit`] on.
    ///
    /// # Errors
    /// [`Error::Duplicate`] for one that was added since the last commit; [`Error::Shape`] for vectors that do not fit the
    /// index or each other; [`Error::NonFinite`]; [`Error::HalfOverflow`]; [`Error::Argument`] without a clip, and for clips of other frames.
    pub fn add(&mut self, vectors: VideoVectors) -> Result<()> {
        if self.added.contains(&vectors.video.id) {
            return Err(Error::duplicate(&self.folder, "added", "video", &vectors.video.id));
        }
        check(&vectors, &self.manifest.spec)?;
        self.added.insert(vectors.video.id.clone());
        let floats = vectors.coarse.len() + vectors.frames.len() + vectors.patches.len();
        self.pending_bytes +=
            floats * self.manifest.spec.precision.bytes() + vectors.thumbnails.iter().map(Vec::len).sum::<usize>();
        self.pending.push(vectors);
        Ok(())
    }

    /// Whether so much was added that it is time to commit.
    pub fn is_full(&self) -> bool {
        self.pending_bytes >= SEGMENT_BYTES
    }

    /// How many videos were added since the last commit.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Makes what was added part of the index.
    ///
    /// # Errors
    /// [`Error::Io`]: then the index is as it was, and what was added waits for the next commit.
    pub fn commit(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut next = self.manifest.clone();
        let number = next.next;
        let entry = segment::write(&self.segments(), number, &next.spec, &self.pending)?;
        let replaced: Vec<&(u64, usize)> = self.added.iter().filter_map(|id| self.ids.get(id)).collect();
        mark_deleted(&mut next, replaced.into_iter().copied());
        next.next += 1;
        next.segments.push(entry);
        self.swap(next)?;
        let added = self.pending.drain(..).enumerate().map(|(at, vectors)| (vectors.video.id, (number, at)));
        self.ids.extend(added);
        self.added.clear();
        self.pending_bytes = 0;
        Ok(())
    }

    /// Takes videos out of the index, at once. Their bytes go with the next [`IndexWriter::compact`].
    ///
    /// # Errors
    /// [`Error::Missing`] for one that is not there: then none was taken out; [`Error::Io`].
    pub fn delete(&mut self, ids: &[&str]) -> Result<()> {
        let place = |id: &&str| {
            let missing = || Error::missing(&self.folder, "video", *id);
            self.ids.get(*id).copied().ok_or_else(missing)
        };
        let places: Vec<(u64, usize)> = ids.iter().map(place).collect::<Result<_>>()?;
        if places.is_empty() {
            return Ok(());
        }
        let mut next = self.manifest.clone();
        mark_deleted(&mut next, places.into_iter());
        self.swap(next)?;
        for id in ids {
            self.ids.remove(*id);
        }
        Ok(())
    }

    /// Writes anew what holds deleted videos, and joins small segments, in their order; answers stay the same.
    ///
    /// # Errors
    /// [`Error::Malformed`] for damage; [`Error::Io`]: then the index is as it was.
    pub fn compact(&mut self) -> Result<Compacted> {
        self.commit()?;
        let opened: Vec<Segment> =
            self.manifest.segments.iter().map(|e| self.open_segment(e)).collect::<Result<_>>()?;
        let mut next = Manifest { segments: Vec::new(), ..self.manifest.clone() };
        let (mut done, mut rest) = (Compacted::default(), opened.as_slice());
        while let Some(first) = rest.first() {
            let run = if is_settled(first) { 0 } else { rest.iter().take_while(|s| !is_settled(s)).count() };
            if run == 0 || (run == 1 && first.entry.deleted.is_empty()) {
                next.segments.push(first.entry.clone());
                rest = &rest[1..];
                continue;
            }
            let written = self.rewrite(&rest[..run], &mut next)?;
            done.rewritten += run;
            done.written += written;
            rest = &rest[run..];
        }
        // Closed before they are removed: some systems refuse otherwise.
        drop(opened);
        if done.rewritten > 0 {
            self.swap(next)?;
            self.list_ids()?;
        }
        // Those that were written anew, and those of which every video was deleted.
        self.remove_orphans()?;
        Ok(done)
    }

    fn open_segment(&self, entry: &super::manifest::SegmentEntry) -> Result<Segment> {
        Segment::open(&self.segments(), entry, &self.manifest.spec)
    }

    /// Writes the videos of `old` that are still there as new segments; returns how many these are.
    fn rewrite(&self, old: &[Segment], next: &mut Manifest) -> Result<usize> {
        let (mut written, mut batch, mut bytes) = (0, Vec::new(), 0);
        let mut flush = |batch: &mut Vec<VideoVectors>, next: &mut Manifest| -> Result<()> {
            if !batch.is_empty() {
                next.segments.push(segment::write(&self.segments(), next.next, &next.spec, batch)?);
                next.next += 1;
                written += 1;
                batch.clear();
            }
            Ok(())
        };
        for segment in old {
            for video in segment.live_videos() {
                let vectors = segment.vectors(video, &next.spec)?;
                bytes += 4 * (vectors.coarse.len() + vectors.frames.len() + vectors.patches.len());
                batch.push(vectors);
                if bytes >= SEGMENT_BYTES {
                    flush(&mut batch, next)?;
                    bytes = 0;
                }
            }
        }
        flush(&mut batch, next)?;
        Ok(written)
    }

    /// Makes `next` the manifest; until then nothing has changed.
    fn swap(&mut self, next: Manifest) -> Result<()> {
        next.write(&self.folder)?;
        self.manifest = next;
        Ok(())
    }

    /// The index as it is, without what was not committed.
    ///
    /// # Errors
    /// As [`Index::open`].
    pub fn index(&self) -> Result<Index> {
        Index::open(&self.folder)
    }
}

/// Whether a segment can stay: nothing of it is deleted, and it is not small.
fn is_settled(segment: &Segment) -> bool {
    let floats = segment.arrays.frames.rows() * segment.arrays.frames.width();
    segment.entry.deleted.is_empty() && floats * 4 >= SEGMENT_BYTES / 4
}

/// Marks videos, by segment and number, as no longer there.
fn mark_deleted(manifest: &mut Manifest, places: impl Iterator<Item = (u64, usize)>) {
    let mut by_segment: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    places.for_each(|(segment, video)| by_segment.entry(segment).or_default().push(video));
    for entry in &mut manifest.segments {
        entry.deleted.extend(by_segment.remove(&entry.number).unwrap_or_default());
        entry.deleted.sort_unstable();
        entry.deleted.dedup();
    }
    manifest.segments.retain(|entry| entry.deleted.len() < entry.videos);
}

fn check(vectors: &VideoVectors, spec: &IndexSpec) -> Result<()> {
    let VideoVectors { video, clips, coarse, frames, times, patches, thumbnails } = vectors;
    let bad = |argument, why: String| Err(Error::argument("IndexWriter::add", argument, why));
    if clips.is_empty() {
        return bad("clips", format!("of {:?}: there is none", video.id));
    }
    let outside = |c: &&super::Clip| c.count == 0 || c.first.saturating_add(c.count) > times.len();
    if let Some(clip) = clips.iter().find(outside) {
        let why = format!(
            "of {:?}: one has the frames {} to {}, of {}",
            video.id,
            clip.first,
            clip.first + clip.count,
            times.len()
        );
        return bad("clips", why);
    }
    if !thumbnails.is_empty() && thumbnails.len() != clips.len() {
        return bad("thumbnails", format!("of {:?}: {} of {} clips", video.id, thumbnails.len(), clips.len()));
    }
    let sized = [
        ("coarse", coarse, clips.len()),
        ("frames", frames, times.len()),
        ("patches", patches, times.len() * spec.patches),
    ];
    for (name, values, rows) in sized {
        if values.len() != rows * spec.width {
            let expected = format!("[{rows}, {}]", spec.width);
            return Err(Error::shape("IndexWriter::add", name, expected, &[values.len()]));
        }
        let wrong = values.iter().filter(|v| !v.is_finite()).count() as u64;
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let place = format!("{name}, row {}", at / spec.width);
            return Err(Error::NonFinite { origin: video.id.clone(), place, count: wrong });
        }
    }
    if spec.precision == DType::F16 {
        sized.iter().try_for_each(|(name, values, _)| halves::check(&video.id, name, values))?;
    }
    let length = |row: &[f32]| dot(row, row).sqrt();
    let skewed = |row: &&[f32]| (length(row) - 1.0).abs() > UNIT_TOLERANCE;
    match coarse.chunks_exact(spec.width).find(skewed) {
        Some(row) => bad("coarse", format!("of {:?}: one has a length of {}, not of 1", video.id, length(row))),
        None => Ok(()),
    }
}
