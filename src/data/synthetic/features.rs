//! Features of frames and of their quarters: fixed random projections, which stand for frozen networks.

use std::thread;

use super::render::{FRAME_BYTES, FRAMES, SIZE};
use super::stream;
use crate::Result;
use crate::random::Random;
use crate::tensor::Array;

/// The length of a frame's feature vector.
pub const FRAME_DIMS: usize = 128;

/// Regions of a frame: its quarters, by rows.
pub const REGIONS: usize = 4;

/// The length of a region's feature vector.
pub const REGION_DIMS: usize = 64;

const REGION_BYTES: usize = FRAME_BYTES / REGIONS;

/// The features of all videos of a [`World`](super::World), row = video.
///
/// Each dimension has mean 0 and variance 1 over the training videos.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// (videos, [`FRAMES`], [`FRAME_DIMS`]).
    pub frames: Array,
    /// (videos, [`FRAMES`], [`REGIONS`], [`REGION_DIMS`]).
    pub regions: Array,
}

/// Projects the pixels that `render` gives of each of `videos`, of which the first `training` are for training, on all
/// processors.
pub fn features(
    seed: u64,
    videos: usize,
    training: usize,
    render: impl Fn(usize) -> Vec<u8> + Sync,
) -> Result<Features> {
    const FRAME_ROW: usize = FRAMES * FRAME_DIMS;
    const REGION_ROW: usize = FRAMES * REGIONS * REGION_DIMS;
    let frame_matrix = Projection::new(FRAME_BYTES, FRAME_DIMS, Random::new(seed, stream::FRAME_MATRIX));
    let region_matrix = Projection::new(REGION_BYTES, REGION_DIMS, Random::new(seed, stream::REGION_MATRIX));

    let mut frames = vec![0.0; videos * FRAME_ROW];
    let mut regions = vec![0.0; videos * REGION_ROW];
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let share = videos.div_ceil(workers).max(1);
    thread::scope(|scope| {
        let parts = frames.chunks_mut(share * FRAME_ROW).zip(regions.chunks_mut(share * REGION_ROW));
        for (worker, (frames, regions)) in parts.enumerate() {
            let (frame_matrix, region_matrix, render) = (&frame_matrix, &region_matrix, &render);
            scope.spawn(move || {
                let rows = frames.chunks_exact_mut(FRAME_ROW).zip(regions.chunks_exact_mut(REGION_ROW));
                for (i, (frames, regions)) in rows.enumerate() {
                    let pixels = render(worker * share + i);
                    let pixels: Vec<f32> = pixels.iter().map(|&p| f32::from(p) / 255.0 - 0.1).collect();
                    frame_matrix.apply(&pixels, frames);
                    region_matrix.apply(&quarters(&pixels), regions);
                }
            });
        }
    });
    standardise(&mut frames, FRAME_DIMS, training * FRAME_ROW);
    standardise(&mut regions, REGION_DIMS, training * REGION_ROW);
    Ok(Features {
        frames: Array::new([videos, FRAMES, FRAME_DIMS], frames)?,
        regions: Array::new([videos, FRAMES, REGIONS, REGION_DIMS], regions)?,
    })
}

/// Reorders pixels from (frame, height, width, RGB) to (frame, quarter, half height, half width, RGB).
fn quarters(pixels: &[f32]) -> Vec<f32> {
    const HALF: usize = SIZE / 2;
    const HALF_ROW: usize = HALF * 3;
    let mut reordered = Vec::with_capacity(pixels.len());
    for frame in pixels.chunks_exact(FRAME_BYTES) {
        for quarter in 0..REGIONS {
            let (top, left) = (quarter / 2 * HALF, quarter % 2);
            for y in top..top + HALF {
                let start = (2 * y + left) * HALF_ROW;
                reordered.extend_from_slice(&frame[start..start + HALF_ROW]);
            }
        }
    }
    reordered
}

/// Outputs that are computed together.
const LANES: usize = 8;

/// A matrix of independent N(0, 16 / inputs) entries.
struct Projection {
    inputs: usize,
    outputs: usize,
    /// Groups of [`LANES`] outputs: (outputs / LANES, inputs, LANES).
    weights: Vec<[f32; LANES]>,
}

impl Projection {
    fn new(inputs: usize, outputs: usize, mut random: Random) -> Self {
        let scale = 4.0 / (inputs as f32).sqrt();
        let weights = (0..outputs / LANES * inputs).map(|_| [(); LANES].map(|()| random.normal() * scale)).collect();
        Self { inputs, outputs, weights }
    }

    /// Projects rows of `inputs` to rows of `outputs` values; the number of rows is a multiple of 4.
    fn apply(&self, rows: &[f32], projected: &mut [f32]) {
        // Four rows and eight outputs at a time, so that sums stay in registers and each weight is loaded once.
        let blocks = rows.chunks_exact(4 * self.inputs).zip(projected.chunks_exact_mut(4 * self.outputs));
        for (rows, projected) in blocks {
            let (ab, cd) = rows.split_at(2 * self.inputs);
            let ((a, b), (c, d)) = (ab.split_at(self.inputs), cd.split_at(self.inputs));
            for (group, weights) in self.weights.chunks_exact(self.inputs).enumerate() {
                let sums = sums(weights, [a, b, c, d]);
                for (projected, sums) in projected.chunks_exact_mut(self.outputs).zip(sums) {
                    projected[group * LANES..][..LANES].copy_from_slice(&sums);
                }
            }
        }
    }
}

/// The products of four rows with a group of weights.
fn sums(weights: &[[f32; LANES]], [a, b, c, d]: [&[f32]; 4]) -> [[f32; LANES]; 4] {
    let mut sums = [[0.0f32; LANES]; 4];
    for ((((w, &a), &b), &c), &d) in weights.iter().zip(a).zip(b).zip(c).zip(d) {
        for (sums, x) in sums.iter_mut().zip([a, b, c, d]) {
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum += w * x;
            }
        }
    }
    sums
}

/// Shifts and scales each of the `dims` innermost dimensions to mean 0 and variance 1 over the first `training` values.
fn standardise(values: &mut [f32], dims: usize, training: usize) {
    let mut sums = vec![[0.0f64; 2]; dims];
    for row in values[..training].chunks_exact(dims) {
        for ([sum, squares], &v) in sums.iter_mut().zip(row) {
            *sum += f64::from(v);
            *squares += f64::from(v) * f64::from(v);
        }
    }
    let count = (training / dims).max(1) as f64;
    let moments: Vec<_> = sums
        .iter()
        .map(|[sum, squares]| {
            let mean = sum / count;
            // The floor only guards against division by zero.
            (mean, 1.0 / (squares / count - mean * mean).max(1e-12).sqrt())
        })
        .collect();
    for row in values.chunks_exact_mut(dims) {
        for (v, (mean, scale)) in row.iter_mut().zip(&moments) {
            *v = ((f64::from(*v) - mean) * scale) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projection_is_the_matrix_product() {
        let projection = Projection::new(5, 16, Random::new(2, 0));
        let rows: Vec<f32> = (0..40).map(|i| (i % 7) as f32 - 3.0).collect();
        let mut projected = vec![0.0; 8 * 16];
        projection.apply(&rows, &mut projected);
        for (i, &got) in projected.iter().enumerate() {
            let (row, output) = (i / 16, i % 16);
            let weight = |k: usize| projection.weights[output / LANES * 5 + k][output % LANES];
            let expected: f32 = (0..5).map(|k| rows[row * 5 + k] * weight(k)).sum();
            assert!((got - expected).abs() < 1e-4, "{got} {expected}");
        }
    }

    #[test]
    fn quarters_are_cut_by_rows() {
        let pixels: Vec<f32> = (0..2 * FRAME_BYTES).map(|i| i as f32).collect();
        let cut = quarters(&pixels);
        assert_eq!(cut.len(), pixels.len());
        for (y, x, quarter) in [(0, 0, 0), (3, 17, 1), (16, 15, 2), (31, 31, 3)] {
            let from = FRAME_BYTES + (y * SIZE + x) * 3 + 1;
            let to = FRAME_BYTES + quarter * REGION_BYTES + ((y % 16) * 16 + x % 16) * 3 + 1;
            assert_eq!(cut[to], pixels[from]);
        }
    }
}
