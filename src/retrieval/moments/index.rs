//! Encoded videos on the GPU, and on disk.
//!
//! An index on disk is a folder of `index.json` and one safetensors file a segment, with a tensor (videos, clips, D) for
//! each stream. It is written beside its place and renamed, as a whole or not at all; every byte is verified when it is
//! read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::segment::Segment;
use crate::autograd::{Tape, Var};
use crate::data::find_non_finite;
use crate::data::formats::digest::Digest;
use crate::data::formats::text::{parse_json, read_at_most};
use crate::data::formats::{atomic, safetensors};
use crate::data::moments::{Clips, MomentSource, MomentVideo, Problems, pad_clips};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::models::reloclnet::{Reloclnet, upload_streams};
use crate::tensor::{Array, DType, Tensor, halves};
use crate::{Error, Progress, Result};

const FORMAT: &str = "reelgrad-moments/1";
const MANIFEST: &str = "index.json";
const MAX_MANIFEST_BYTES: u64 = 1 << 30;
/// What every adapter can bind.
const SEGMENT_BYTES: usize = 128 << 20;

/// A video of an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexedVideo {
    /// Its name.
    pub id: String,
    /// The number that stands for it in submissions.
    pub index: u64,
    /// Seconds.
    pub duration: f64,
    /// Clips that are no padding.
    pub clips: usize,
    /// Seconds from one clip's start to the next one's.
    pub seconds_per_clip: f64,
}

/// How videos are encoded.
#[derive(Clone, Copy, Debug)]
pub struct IndexOptions {
    /// Videos that are encoded together.
    pub batch: usize,
    /// How the encodings are kept, in memory and on disk.
    pub precision: DType,
    /// Bytes of a stream that are kept together, at most, but for one video that needs more; 128 MiB are what every
    /// adapter can bind.
    pub segment_bytes: usize,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self { batch: 64, precision: DType::F32, segment_bytes: SEGMENT_BYTES }
    }
}

/// Encoded videos on the GPU, ready to be searched.
pub struct MomentIndex {
    pub(super) gpu: Gpu,
    manifest: Manifest,
    pub(super) segments: Vec<Segment>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: String,
    /// SHA-256 of the parameters of the model that encoded the videos.
    model: String,
    precision: DType,
    /// Positions of a video, padding included.
    positions: usize,
    width: usize,
    streams: Vec<String>,
    videos: Vec<IndexedVideo>,
    segments: Vec<SegmentFile>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SegmentFile {
    videos: usize,
    file: String,
    digest: Digest,
}

/// The configuration, and the parameters' names and values, as one hash.
fn model_hash(model: &Reloclnet) -> Result<String> {
    model.store().hash(&serde_json::json!(model.config()).to_string())
}

impl MomentIndex {
    /// Encodes the videos of `source`. Those that cannot be read go to `problems`; `progress` counts videos.
    ///
    /// # Errors
    /// What `source` and `problems` return; [`Error::Argument`] for an odd width in half precision, or for no video at
    /// all; [`Error::NonFinite`], naming video, stream and clip; [`Error::HalfOverflow`]; [`Error::Duplicate`] for a video
    /// that is there twice; [`Error::Malformed`] for one of impossible times; device errors.
    pub fn build(
        model: &Reloclnet,
        source: &dyn MomentSource,
        options: IndexOptions,
        problems: &mut Problems,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        let mut builder = Builder::new(model, options.precision, options.segment_bytes)?;
        let total = source.videos().len();
        for start in (0..total).step_by(options.batch.max(1)) {
            let end = total.min(start.saturating_add(options.batch.max(1)));
            let mut batch = Vec::new();
            for number in start..end {
                let Some(clips) = problems.check(source.clips(number))? else { continue };
                let MomentVideo { id, index, duration } = source.videos()[number].clone();
                let seconds_per_clip = clips.seconds_per_clip;
                batch.push((IndexedVideo { id, index, duration, clips: clips.len(), seconds_per_clip }, clips));
            }
            if !batch.is_empty() {
                builder.encode(batch)?;
            }
            progress.step(end as u64, total as u64, "videos");
        }
        builder.finish()
    }

    /// The index in `folder`; if there is none, one is made of `source` and kept there for the next time. `precision` is that
    /// of a new index, F16 by default, and that which an old one must have, if it is given.
    ///
    /// # Errors
    /// [`Error::Argument`] for an index of other videos than those of `source`; those of [`MomentIndex::open`],
    /// [`MomentIndex::build`] and [`MomentIndex::save`].
    pub fn open_or_build(
        model: &Reloclnet,
        source: &dyn MomentSource,
        folder: &Path,
        precision: Option<DType>,
        problems: &mut Problems,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        if !folder.exists() {
            let options = IndexOptions { precision: precision.unwrap_or(DType::F16), ..IndexOptions::default() };
            let index = Self::build(model, source, options, problems, progress)?;
            index.save(folder)?;
            return Ok(index);
        }
        let index = Self::open(model.store().gpu(), folder)?;
        let known: HashMap<&str, u64> = source.videos().iter().map(|v| (v.id.as_str(), v.index)).collect();
        let same = index.videos().iter().all(|v| known.get(v.id.as_str()) == Some(&v.index));
        let whole = index.videos().len() == known.len() || problems.is_lenient();
        let what = match precision {
            Some(precision) if precision != index.precision() => "is of another precision",
            _ if same && whole => return Ok(index),
            _ => "holds other videos than this part",
        };
        let why = format!("{} {what}: choose another folder, or remove it", folder.display());
        Err(Error::Argument { op: "MomentIndex", argument: "index", why })
    }

    /// Makes an index of videos that were encoded elsewhere, such as by PyTorch with the parameters of `model`: each with
    /// its clips, (positions, D) for every stream of the model, at the last level of the context encoder. `positions` are
    /// the model's `max_clips`: the official network looks at padded clips too.
    ///
    /// # Errors
    /// Those of `videos`, and of [`MomentIndex::build`] for what it makes; [`Error::Argument`] for another number of streams
    /// than the model has; [`Error::Shape`]; [`Error::Malformed`] for more clips than positions.
    pub fn from_encodings(
        model: &Reloclnet,
        videos: impl IntoIterator<Item = Result<(IndexedVideo, Vec<Array>)>>,
        precision: DType,
    ) -> Result<Self> {
        let mut builder = Builder::new(model, precision, SEGMENT_BYTES)?;
        let wanted = model.stream_names().len();
        for video in videos {
            let (video, streams) = video?;
            if streams.len() != wanted {
                let why = format!("hold {} streams of {:?}, the model has {wanted}", streams.len(), video.id);
                return Err(Error::Argument { op: "MomentIndex::from_encodings", argument: "videos", why });
            }
            if let Some(clips) = streams.iter().find(|clips| clips.shape() != builder.extents) {
                let expected = format!("{:?}", builder.extents);
                return Err(Error::shape("MomentIndex::from_encodings", "videos", expected, clips.shape()));
            }
            builder.push(video, &streams.iter().map(Array::data).collect::<Vec<_>>())?;
        }
        builder.finish()
    }

    /// The videos.
    pub fn videos(&self) -> &[IndexedVideo] {
        &self.manifest.videos
    }

    /// The video that this number stands for in predictions.
    pub fn video(&self, number: u64) -> Option<&IndexedVideo> {
        self.videos().iter().find(|v| v.index == number)
    }

    /// How the encodings are kept.
    pub fn precision(&self) -> DType {
        self.manifest.precision
    }

    /// Bytes of the encodings on the GPU.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(Segment::bytes).sum()
    }

    /// [`Error::Argument`] unless `model` encoded the videos.
    pub(super) fn expect_model(&self, model: &Reloclnet) -> Result<()> {
        if model_hash(model)? == self.manifest.model {
            return Ok(());
        }
        let why = "was encoded by another model: make it anew".to_string();
        Err(Error::Argument { op: "MomentSearch", argument: "index", why })
    }

    /// Writes the index to the folder `path`, which must not exist.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left behind then.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let exists = || std::io::Error::new(std::io::ErrorKind::AlreadyExists, "there is something of this name");
        if path.exists() {
            return Err(Error::io("create", path, exists()));
        }
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".tmp-{}", std::process::id()));
        let temporary = path.with_file_name(name);
        let written = self.write_to(&temporary).and_then(|()| {
            fs::rename(&temporary, path).map_err(|e| Error::io("rename", path, e))?;
            atomic::sync_folder(path).map_err(|e| Error::io("write", path, e))
        });
        if written.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_dir_all(&temporary);
        }
        written
    }

    fn write_to(&self, folder: &Path) -> Result<()> {
        fs::create_dir(folder).map_err(|e| Error::io("create", folder, e))?;
        // An index that was opened lists the files it came from.
        let mut manifest = Manifest { segments: Vec::new(), ..self.manifest.clone() };
        for (number, segment) in self.segments.iter().enumerate() {
            let file = format!("segment-{number:05}.safetensors");
            let shape = [segment.len(), manifest.positions, manifest.width];
            let mut arrays = BTreeMap::new();
            for (name, values) in manifest.streams.iter().zip(segment.values()?) {
                arrays.insert(name.clone(), Array::new(shape, values)?);
            }
            safetensors::write_as(folder.join(&file), &arrays, &BTreeMap::new(), manifest.precision)?;
            let digest = Digest::of_file(&folder.join(&file))?;
            manifest.segments.push(SegmentFile { videos: segment.len(), file, digest });
        }
        atomic::write(&folder.join(MANIFEST), |file| {
            file.write_all(&serde_json::to_vec(&manifest)?)?;
            file.write_all(b"\n")
        })
    }

    /// Reads an index and verifies it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for a manifest that contradicts itself, a segment that is missing, changed or
    /// of another shape; [`Error::NonFinite`]; device errors.
    pub fn open(gpu: &Gpu, path: impl AsRef<Path>) -> Result<Self> {
        let folder = path.as_ref();
        let manifest = read_manifest(&folder.join(MANIFEST))?;
        let mut segments = Vec::new();
        let mut first = 0;
        for listed in &manifest.segments {
            let file = folder.join(&listed.file);
            if Digest::of_file(&file)? != listed.digest {
                return Err(Error::malformed(&file, "content", "was changed after it was written"));
            }
            let tensors = safetensors::TensorFile::open(&file)?;
            let shape = [listed.videos, manifest.positions, manifest.width];
            let mut streams = Vec::new();
            for name in &manifest.streams {
                if tensors.shape(name)? != shape {
                    return Err(Error::malformed(&file, name, format_args!("must have shape {shape:?}")));
                }
                let array = tensors.array(name)?;
                find_non_finite(&file, name, 0, &array)?;
                streams.push(array.into_data());
            }
            let videos = &manifest.videos[first..first + listed.videos];
            let extents = [manifest.positions, manifest.width];
            segments.push(Segment::upload(gpu, first, videos, &streams, extents, manifest.precision)?);
            first += listed.videos;
        }
        Ok(Self { gpu: gpu.clone(), manifest, segments })
    }
}

/// Reads the manifest and checks it against itself.
fn read_manifest(path: &Path) -> Result<Manifest> {
    let manifest: Manifest = parse_json(path, &read_at_most(path, MAX_MANIFEST_BYTES)?)?;
    let bad = |place: &str, problem: String| Err(Error::malformed(path, place, problem));
    if manifest.format != FORMAT {
        return bad("format", format!("{:?}, this version reads {FORMAT:?}", manifest.format));
    }
    let known = [&["video", "sub"][..], &["video"], &["sub"]];
    if !known.iter().any(|k| manifest.streams.iter().map(String::as_str).eq(k.iter().copied())) {
        return bad("streams", format!("{:?} are not video, sub or both", manifest.streams));
    }
    if manifest.precision == DType::U32 {
        return bad("precision", "u32 is neither f32 nor f16".into());
    }
    let even = manifest.precision == DType::F32 || manifest.width.is_multiple_of(2);
    if manifest.positions == 0 || manifest.width == 0 || !even {
        return bad("width", format!("{} x {} is no size", manifest.positions, manifest.width));
    }
    let listed = manifest.segments.iter().try_fold(0usize, |n, s| n.checked_add(s.videos));
    if listed != Some(manifest.videos.len()) || manifest.segments.iter().any(|s| s.videos == 0) {
        return bad("segments", format!("must hold the {} videos", manifest.videos.len()));
    }
    // A name is a name, never a way out of the folder.
    if let Some(s) = manifest.segments.iter().find(|s| Path::new(&s.file).file_name() != Some(s.file.as_ref())) {
        return bad("segments", format!("{:?} is not a file name", s.file));
    }
    let mut ids = HashSet::new();
    let mut videos = manifest.videos.iter().enumerate();
    videos.try_for_each(|(row, video)| check_video(path, row, video, manifest.positions, &mut ids))?;
    Ok(manifest)
}

/// Refuses a video that no index can hold: `row` of `path`, after those of `ids`.
fn check_video(
    path: &Path,
    row: usize,
    video: &IndexedVideo,
    positions: usize,
    ids: &mut HashSet<String>,
) -> Result<()> {
    let IndexedVideo { id, duration, clips, seconds_per_clip, .. } = video;
    let place = format!("video {row}");
    if !ids.insert(id.clone()) {
        return Err(Error::duplicate(path, place, "video", id));
    }
    if *clips == 0 || *clips > positions || [duration, seconds_per_clip].iter().any(|t| !(t.is_finite() && **t > 0.0)) {
        let problem = format!("{clips} clips of {seconds_per_clip} s in {duration} s are impossible");
        return Err(Error::malformed(path, place, problem));
    }
    Ok(())
}

/// Refuses values that are NaN or infinite, or become so in this precision; `whose` says of what they are the clips.
fn check_values(clips: &[f32], precision: DType, width: usize, whose: &str) -> Result<()> {
    if let Some(first) = clips.iter().position(|v| !v.is_finite()) {
        let count = clips.iter().filter(|v| !v.is_finite()).count() as u64;
        let place = format!("{whose}, clip {}", first / width);
        return Err(Error::NonFinite { origin: "encodings".into(), place, count });
    }
    if precision == DType::F16 { halves::check("encodings", whose, clips) } else { Ok(()) }
}

/// Encoded videos on their way into an index.
struct Builder<'a> {
    model: &'a Reloclnet,
    precision: DType,
    /// Positions of a video, and width.
    extents: [usize; 2],
    /// Videos in a segment, at most.
    capacity: usize,
    videos: Vec<IndexedVideo>,
    ids: HashSet<String>,
    /// For each stream the clips of the videos that are in no segment yet.
    pending: Vec<Vec<f32>>,
    segments: Vec<Segment>,
}

impl<'a> Builder<'a> {
    fn new(model: &'a Reloclnet, precision: DType, segment_bytes: usize) -> Result<Self> {
        let (positions, width) = (model.config().max_clips, model.config().hidden_size);
        precision.expect_float("MomentIndex", "precision")?;
        if precision == DType::F16 && !width.is_multiple_of(2) {
            let why = format!("of f16 needs an even width, the model's is {width}");
            return Err(Error::Argument { op: "MomentIndex", argument: "precision", why });
        }
        let bytes = positions * width * precision.bytes();
        Ok(Self {
            model,
            precision,
            extents: [positions, width],
            capacity: (segment_bytes / bytes.max(1)).max(1),
            videos: Vec::new(),
            ids: HashSet::new(),
            pending: vec![Vec::new(); model.stream_names().len()],
            segments: Vec::new(),
        })
    }

    fn encode(&mut self, batch: Vec<(IndexedVideo, Clips)>) -> Result<()> {
        let (model, gpu) = (self.model, self.model.store().gpu());
        let clips: Vec<&Clips> = batch.iter().map(|(_, clips)| clips).collect();
        let (video, sub, mask) = pad_clips(&clips, model.config().batch_options())?;
        let streams = upload_streams(gpu, model.config(), [&video, &sub], &mask)?;
        let tape = Tape::inference(gpu);
        let features: Vec<Var> = streams.iter().map(|s| tape.constant(s.features.clone())).collect();
        let masks: Vec<Tensor> = streams.iter().map(|s| s.mask.clone()).collect();
        let levels = model.encode_clips(&features, &masks)?;
        let encoded = Tensor::read_all(&levels.iter().map(|l| l.last.value()).collect::<Vec<_>>())?;
        let size = self.extents.iter().product::<usize>().max(1);
        for (i, (video, _)) in batch.into_iter().enumerate() {
            let own: Vec<&[f32]> = encoded.iter().map(|stream| &stream[i * size..][..size]).collect();
            self.push(video, &own)?;
        }
        Ok(())
    }

    /// Adds a video: for each stream its clips (positions, D).
    fn push(&mut self, video: IndexedVideo, streams: &[&[f32]]) -> Result<()> {
        check_video(Path::new("videos"), self.videos.len(), &video, self.extents[0], &mut self.ids)?;
        if self.videos.len() - self.held() == self.capacity {
            self.close()?;
        }
        for (name, clips) in self.model.stream_names().iter().zip(streams) {
            check_values(clips, self.precision, self.extents[1], &format!("video {:?}, stream {name}", video.id))?;
        }
        self.videos.push(video);
        self.pending.iter_mut().zip(streams).for_each(|(all, clips)| all.extend_from_slice(clips));
        Ok(())
    }

    /// Videos that are in segments.
    fn held(&self) -> usize {
        self.segments.last().map_or(0, |s| s.first + s.len())
    }

    /// Makes a segment of what is pending.
    fn close(&mut self) -> Result<()> {
        let (gpu, first) = (self.model.store().gpu(), self.held());
        let videos = &self.videos[first..];
        self.segments.push(Segment::upload(gpu, first, videos, &self.pending, self.extents, self.precision)?);
        self.pending.iter_mut().for_each(Vec::clear);
        Ok(())
    }

    fn finish(mut self) -> Result<MomentIndex> {
        if self.videos.is_empty() {
            let why = "are none that can be read".to_string();
            return Err(Error::Argument { op: "MomentIndex", argument: "videos", why });
        }
        self.close()?;
        let [positions, width] = self.extents;
        let manifest = Manifest {
            format: FORMAT.into(),
            model: model_hash(self.model)?,
            precision: self.precision,
            positions,
            width,
            streams: self.model.stream_names().iter().map(|s| s.to_string()).collect(),
            videos: self.videos,
            segments: Vec::new(),
        };
        Ok(MomentIndex { gpu: self.model.store().gpu().clone(), manifest, segments: self.segments })
    }
}
