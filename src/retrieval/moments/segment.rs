//! A part of an index in GPU memory.

use super::IndexedVideo;
use crate::Result;
use crate::gpu::Gpu;
use crate::tensor::{DType, Tensor, halves};

/// Videos in the order of the index, as many as are kept together.
pub(super) struct Segment {
    /// The number of its first video.
    pub first: usize,
    /// 1 for clips (videos, positions).
    pub mask: Tensor,
    /// For each stream its clips, (videos, positions, D), f32 or f16.
    pub clips: Vec<Tensor>,
    /// For each stream 1 / norm of every clip (videos, positions).
    pub scales: Vec<Tensor>,
}

impl Segment {
    /// Uploads `videos`, of which the first has the number `first`, and for each stream their clips, (videos, positions,
    /// D), where `extents` are the latter two.
    pub fn upload(
        gpu: &Gpu,
        first: usize,
        videos: &[IndexedVideo],
        streams: &[Vec<f32>],
        extents: [usize; 2],
        precision: DType,
    ) -> Result<Self> {
        let shape = [videos.len(), extents[0], extents[1]];
        let (mut clips, mut norms) = (Vec::new(), Vec::new());
        for stream in streams {
            let kept = Tensor::uninit_of(gpu, "clips", shape, precision)?;
            kept.write(stream)?;
            // Of what is kept, so that an index that was read back scores the same.
            norms.push(match precision {
                DType::F16 => scales(gpu, &halves::to_f32(&halves::round(stream)), shape)?,
                _ => scales(gpu, stream, shape)?,
            });
            clips.push(kept);
        }
        Ok(Self { first, mask: mask(gpu, videos, extents[0])?, clips, scales: norms })
    }

    /// The number of videos.
    pub fn len(&self) -> usize {
        self.mask.shape()[0]
    }

    /// For each stream its clips, read back.
    pub fn values(&self) -> Result<Vec<Vec<f32>>> {
        self.clips.iter().map(Tensor::to_vec).collect()
    }

    /// Bytes in GPU memory.
    pub fn bytes(&self) -> u64 {
        self.clips.iter().chain(&self.scales).chain([&self.mask]).map(Tensor::bytes).sum()
    }
}

/// 1 for the clips of each video, 0 for padding.
fn mask(gpu: &Gpu, videos: &[IndexedVideo], positions: usize) -> Result<Tensor> {
    let mut mask = vec![0.0; videos.len() * positions];
    for (row, video) in mask.chunks_exact_mut(positions).zip(videos) {
        row[..video.clips].fill(1.0);
    }
    Tensor::from_slice(gpu, [videos.len(), positions], &mask)
}

/// 1 / norm of every clip; the norm is at least 1e-12, as the model's cosines have it.
fn scales(gpu: &Gpu, clips: &[f32], [videos, positions, width]: [usize; 3]) -> Result<Tensor> {
    let scale = |row: &[f32]| 1.0 / row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
    Tensor::from_slice(gpu, [videos, positions], &clips.chunks_exact(width.max(1)).map(scale).collect::<Vec<f32>>())
}
