//! Encoded videos on the GPU, and on disk.
//!
//! An index on disk is a folder of `index.json` and one safetensors file a segment, with a tensor (videos, clips, D) for
//! each stream. It is written beside its place and renamed, as a whole or not at all; every byte is verified when it is
//! read.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::autograd::{Tape, Var};
use crate::data::digest::{self, Digest};
use crate::data::moments::{Clips, MomentSource, MomentVideo, Problems, pad_clips};
use crate::data::{atomic, safetensors};
use crate::gpu::Gpu;
use crate::kernels::permute;
use crate::models::reloclnet::{Reloclnet, upload_streams};
use crate::tensor::{Array, Precision, Tensor};
use crate::{Error, Result};

const FORMAT: &str = "reelgrad-moments/1";
const MANIFEST: &str = "index.json";
const MAX_MANIFEST_BYTES: u64 = 1 << 30;
/// What every adapter can bind, and thus the most that a segment's stream may hold.
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
    pub precision: Precision,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self { batch: 64, precision: Precision::F32 }
    }
}

/// Encoded videos on the GPU, ready to be searched.
pub struct MomentIndex {
    gpu: Gpu,
    manifest: Manifest,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: String,
    /// SHA-256 of the parameters of the model that encoded the videos.
    model: String,
    precision: Precision,
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

/// Videos in the order of the index, as many as fit a binding.
pub(super) struct Segment {
    /// The number of its first video.
    pub first: usize,
    /// 1 for clips (videos, positions).
    pub mask: Tensor,
    /// For each stream its clips: (videos, positions, D) f32, or (videos, positions, D / 2) u32 of two halves each.
    pub clips: Vec<Tensor>,
    /// For each stream 1 / norm of every clip (videos, positions).
    pub scales: Vec<Tensor>,
}

impl Segment {
    pub fn len(&self) -> usize {
        self.mask.shape()[0]
    }
}

/// Names of the parameters and their values, as one hash.
pub(super) fn model_hash(model: &Reloclnet) -> Result<String> {
    let arrays = model.store().to_arrays()?;
    Ok(digest::of_values(arrays.iter().map(|(name, array)| (name.as_str(), array.data()))))
}

impl MomentIndex {
    /// Encodes the videos of `source`. Those that cannot be read go to `problems`; `progress` is told of how many of how
    /// many are done.
    ///
    /// # Errors
    /// What `source` and `problems` return; [`Error::Argument`] for an odd width in half precision, or for no video at
    /// all; device errors.
    pub fn build(
        model: &Reloclnet,
        source: &dyn MomentSource,
        options: IndexOptions,
        problems: &mut Problems,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let config = model.config();
        let (positions, width) = (config.max_clips, config.hidden_size);
        let gpu = model.store().gpu().clone();
        let streams = model.stream_names();
        if options.precision == Precision::F16 && !width.is_multiple_of(2) {
            let why = format!("of f16 needs an even width, the model's is {width}");
            return Err(Error::Argument { op: "MomentIndex::build", argument: "precision", why });
        }
        let mut builder = Builder { gpu: &gpu, options, positions, width, pending: Vec::new(), segments: Vec::new() };
        let mut videos = Vec::new();
        let total = source.videos().len();
        for start in (0..total).step_by(options.batch.max(1)) {
            let mut batch = Vec::new();
            for number in start..total.min(start + options.batch.max(1)) {
                if let Some(clips) = problems.check(source.clips(number))? {
                    videos.push(indexed(&source.videos()[number], &clips));
                    batch.push(clips);
                }
            }
            if !batch.is_empty() {
                builder.add(model, &batch)?;
            }
            progress((start + options.batch.max(1)).min(total), total);
        }
        let segments = builder.finish()?;
        if videos.is_empty() {
            let why = "has no video that can be read".to_string();
            return Err(Error::Argument { op: "MomentIndex::build", argument: "source", why });
        }
        let manifest = Manifest {
            format: FORMAT.into(),
            model: model_hash(model)?,
            precision: options.precision,
            positions,
            width,
            streams: streams.iter().map(|s| s.to_string()).collect(),
            videos,
            segments: Vec::new(),
        };
        Ok(Self { gpu, manifest, segments })
    }

    /// The videos.
    pub fn videos(&self) -> &[IndexedVideo] {
        &self.manifest.videos
    }

    /// How the encodings are kept.
    pub fn precision(&self) -> Precision {
        self.manifest.precision
    }

    /// Bytes of the encodings on the GPU.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().flat_map(|s| s.clips.iter().chain(&s.scales).chain([&s.mask])).map(Tensor::bytes).sum()
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// [`Error::Argument`] unless `model` encoded the videos.
    pub(super) fn expect_model(&self, model: &Reloclnet) -> Result<()> {
        if model_hash(model)? == self.manifest.model {
            return Ok(());
        }
        let why = "was encoded by a model with other parameters".to_string();
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
        let mut manifest = self.manifest.clone();
        for (number, segment) in self.segments.iter().enumerate() {
            let file = format!("segment-{number:05}.safetensors");
            let shape = [segment.len(), manifest.positions, manifest.width];
            let mut arrays = BTreeMap::new();
            for (name, clips) in manifest.streams.iter().zip(&segment.clips) {
                let values = match manifest.precision {
                    Precision::F32 => clips.to_vec()?,
                    Precision::F16 => unpack_halves(&clips.to_u32()?),
                };
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
                crate::data::find_non_finite(&file, name, 0, &array)?;
                streams.push(array.into_data());
            }
            let videos = &manifest.videos[first..first + listed.videos];
            let lengths: Vec<usize> = videos.iter().map(|v| v.clips).collect();
            segments.push(Segment {
                first,
                mask: length_mask(gpu, &lengths, manifest.positions)?,
                scales: streams.iter().map(|s| scales(gpu, s, shape)).collect::<Result<_>>()?,
                clips: streams.iter().map(|s| keep(gpu, s, shape, manifest.precision)).collect::<Result<_>>()?,
            });
            first += listed.videos;
        }
        Ok(Self { gpu: gpu.clone(), manifest, segments })
    }

    pub(super) fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}

fn indexed(video: &MomentVideo, clips: &Clips) -> IndexedVideo {
    IndexedVideo {
        id: video.id.clone(),
        index: video.index,
        duration: video.duration,
        clips: clips.len(),
        seconds_per_clip: clips.seconds_per_clip,
    }
}

/// Reads the manifest and checks it against itself.
fn read_manifest(path: &Path) -> Result<Manifest> {
    let size = fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
    if size > MAX_MANIFEST_BYTES {
        return Err(Error::malformed(path, "size", format_args!("{size} bytes are too many for a manifest")));
    }
    let text = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|e| Error::malformed(path, format_args!("line {}", e.line()), e))?;
    let bad = |place: &str, problem: String| Err(Error::malformed(path, place, problem));
    if manifest.format != FORMAT {
        return bad("format", format!("{:?}, this version reads {FORMAT:?}", manifest.format));
    }
    let known = [&["video", "sub"][..], &["video"], &["sub"]];
    if !known.iter().any(|k| manifest.streams.iter().map(String::as_str).eq(k.iter().copied())) {
        return bad("streams", format!("{:?} are not video, sub or both", manifest.streams));
    }
    let even = manifest.precision == Precision::F32 || manifest.width.is_multiple_of(2);
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
    for (row, v) in manifest.videos.iter().enumerate() {
        let place = format!("video {row}");
        if !ids.insert(v.id.as_str()) {
            return Err(Error::Duplicate { path: path.into(), place, kind: "video", id: v.id.clone() });
        }
        let times = [v.duration, v.seconds_per_clip];
        if v.clips == 0 || v.clips > manifest.positions || times.iter().any(|t| !t.is_finite() || *t <= 0.0) {
            return bad(&place, format!("{} clips of {} s are impossible", v.clips, v.seconds_per_clip));
        }
    }
    Ok(manifest)
}

/// Batches on their way into segments.
struct Builder<'a> {
    gpu: &'a Gpu,
    options: IndexOptions,
    positions: usize,
    width: usize,
    /// Encoded batches: clips of each stream, and lengths.
    pending: Vec<(Vec<Tensor>, Vec<usize>)>,
    segments: Vec<Segment>,
}

impl Builder<'_> {
    /// Videos in a segment, at most.
    fn capacity(&self) -> usize {
        let bytes = if self.options.precision == Precision::F16 { 2 } else { 4 };
        (SEGMENT_BYTES / (self.positions * self.width * bytes).max(1)).max(self.options.batch)
    }

    fn add(&mut self, model: &Reloclnet, batch: &[Clips]) -> Result<()> {
        let held: usize = self.pending.iter().map(|(_, lengths)| lengths.len()).sum();
        if held + batch.len() > self.capacity() {
            self.close()?;
        }
        let references: Vec<&Clips> = batch.iter().collect();
        let (video, sub, mask) = pad_clips(&references, model.config().batch_options())?;
        let streams = upload_streams(self.gpu, model.config(), [&video, &sub], &mask)?;
        let tape = Tape::inference(self.gpu);
        let features: Vec<Var> = streams.iter().map(|s| tape.constant(s.features.clone())).collect();
        let masks: Vec<Tensor> = streams.iter().map(|s| s.mask.clone()).collect();
        let levels = model.encode_clips(&features, &masks)?;
        let clips = levels.into_iter().map(|l| l.last.into_value()).collect();
        self.pending.push((clips, batch.iter().map(Clips::len).collect()));
        Ok(())
    }

    /// Makes a segment of what is pending.
    fn close(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let lengths: Vec<usize> = pending.iter().flat_map(|(_, lengths)| lengths.clone()).collect();
        if lengths.is_empty() {
            return Ok(());
        }
        let shape = [lengths.len(), self.positions, self.width];
        let streams = pending.first().map_or(0, |(clips, _)| clips.len());
        let (mut clips, mut norms) = (Vec::new(), Vec::new());
        for stream in 0..streams {
            let parts: Vec<&Tensor> = pending.iter().map(|(clips, _)| &clips[stream]).collect();
            let whole = permute::concat(&parts, 0)?;
            let values = whole.to_vec()?;
            norms.push(scales(self.gpu, &values, shape)?);
            clips.push(match self.options.precision {
                Precision::F32 => whole,
                Precision::F16 => keep(self.gpu, &values, shape, Precision::F16)?,
            });
        }
        let first = self.segments.last().map_or(0, |s| s.first + s.len());
        let mask = length_mask(self.gpu, &lengths, self.positions)?;
        self.segments.push(Segment { first, mask, clips, scales: norms });
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Segment>> {
        self.close()?;
        Ok(self.segments)
    }
}

/// 1 for the first clips of each video.
fn length_mask(gpu: &Gpu, lengths: &[usize], positions: usize) -> Result<Tensor> {
    let row = |&n: &usize| (0..positions).map(move |i| if i < n { 1.0 } else { 0.0 });
    Tensor::from_slice(gpu, [lengths.len(), positions], &lengths.iter().flat_map(row).collect::<Vec<f32>>())
}

/// 1 / norm of every clip; the norm is at least 1e-12, as the model's cosines have it.
fn scales(gpu: &Gpu, clips: &[f32], [videos, positions, width]: [usize; 3]) -> Result<Tensor> {
    let scale = |row: &[f32]| 1.0 / row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
    Tensor::from_slice(gpu, [videos, positions], &clips.chunks_exact(width).map(scale).collect::<Vec<f32>>())
}

/// Uploads clips in this precision.
fn keep(gpu: &Gpu, clips: &[f32], [videos, positions, width]: [usize; 3], precision: Precision) -> Result<Tensor> {
    match precision {
        Precision::F32 => Tensor::from_slice(gpu, [videos, positions, width], clips),
        Precision::F16 => Tensor::from_u32(gpu, [videos, positions, width / 2], &pack_halves(clips)),
    }
}

/// Pairs of halves, the first in the low bits, as `unpack2x16float` of WGSL reads them.
fn pack_halves(values: &[f32]) -> Vec<u32> {
    let bits = |v: f32| u32::from(half::f16::from_f32(v).to_bits());
    values.chunks_exact(2).map(|pair| bits(pair[0]) | bits(pair[1]) << 16).collect()
}

fn unpack_halves(words: &[u32]) -> Vec<f32> {
    let half = |bits: u32| half::f16::from_bits(bits as u16).to_f32();
    words.iter().flat_map(|&w| [half(w & 0xffff), half(w >> 16)]).collect()
}
