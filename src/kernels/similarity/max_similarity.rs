//! The similarity of every query to every video: the largest dot product with a clip of the video.
//!
//! | family | a workgroup's queries x clips | when |
//! |---|---|---|
//! | subgroup of s | 32 x 4s | more than 16 queries |
//! | | 8 x 4s (16 x 4s for s = 16) | otherwise |
//! | tiled | 64 x 64 | more than 8 queries |
//! | | 8 x 128 | otherwise |
//!
//! A workgroup walks the clips of one video and keeps only the best of each query, so the (queries, videos, clips) dot
//! products are never in memory. The kernels are those of [`crate::kernels::linear::matmul`] with this end.

use crate::gpu::KernelFamily;
use crate::kernels::shape::{count_elements, in_fours};
use crate::kernels::tile::{DISPATCH_FLOPS, Tile, runs, units};
use crate::kernels::{expect_iterations, lanes, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "max similarity";
const BACKWARD: &str = "max similarity backward";
const SUBGROUP: &str = include_str!("../../../shaders/similarity/max_similarity_subgroup.wgsl");
const TILED: &str = include_str!("../../../shaders/similarity/max_similarity_tiled.wgsl");
const QUERIES: &str = include_str!("../../../shaders/similarity/max_similarity_queries.wgsl");
const CLIPS: &str = include_str!("../../../shaders/similarity/max_similarity_clips.wgsl");

/// The score of a video without a valid clip: the published model's mask value.
pub const NO_CLIP: f32 = -1e10;

const MASK: u32 = 1;
const SCALE: u32 = 2;

params! {
    struct Params { extents: [u32; 4] as [queries, videos, clips, width], tiles: u32, first: u32, flags: u32 }
    flags [MASK, SCALE]
}

params! {
    struct GradParams { extents: [u32; 4] as [queries, videos, clips, width], per_row: u32, flags: u32 }
    flags [SCALE]
}

fn tiles() -> impl Iterator<Item = Tile> {
    Tile::subgroups().chain([Tile::LARGE, Tile::THIN])
}

fn choose(family: KernelFamily, queries: usize) -> Tile {
    match family {
        KernelFamily::Subgroup { size } if queries > 16 => Tile::high(size),
        KernelFamily::Subgroup { size } => Tile::low(size),
        KernelFamily::Tiled if queries > 8 => Tile::LARGE,
        KernelFamily::Tiled => Tile::THIN,
    }
}

/// Iterations of an invocation: over the clips, in steps of an extent and for the mask's end, and within over the width.
fn iterations(tile: Tile, e: &Extents) -> usize {
    let step = if matches!(tile, Tile::Subgroup { .. }) { 4 } else { 16 };
    e.clips.div_ceil(tile.extent().1) * (e.width.div_ceil(step) + 6) + 64
}

fn variant(tile: Tile, vec: bool, half: bool) -> Variant {
    let (name, source) = match tile {
        Tile::Subgroup { .. } => ("max_similarity_subgroup", SUBGROUP),
        Tile::Tiled { .. } => ("max_similarity_tiled", TILED),
    };
    let variant = Variant::own::<Params>(name, source).all(tile.defines(["Q_LOADS", "X_LOADS"]));
    variant.on("VEC", vec).on("HALF", half)
}

fn queries_variant(vec: bool, span: u32) -> Variant {
    Variant::own::<GradParams>("max_similarity_queries", QUERIES).set("SPAN", span).on("VEC", vec)
}

fn clips_variant(vec: bool, span: u32) -> Variant {
    Variant::own::<GradParams>("max_similarity_clips", CLIPS).set("SPAN", span).on("VEC", vec)
}

pub(crate) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for vec in [false, true] {
        all.extend(tiles().flat_map(|tile| [false, true].map(|half| variant(tile, vec, half))));
        all.extend(lanes::SPANS.into_iter().flat_map(|span| [queries_variant(vec, span), clips_variant(vec, span)]));
    }
    all
}

/// The extents of a call.
#[derive(Clone, Copy)]
struct Extents {
    queries: usize,
    videos: usize,
    clips: usize,
    width: usize,
    /// Whether clips are f16.
    half: bool,
}

impl Extents {
    /// Those of the operands, after checks of them and of what has an element for each clip.
    fn of(op: &'static str, q: &Tensor, x: &Tensor, per_clip: [(&'static str, Option<&Tensor>); 2]) -> Result<Self> {
        let [queries, width] = q.extents(op, "queries", "[queries, width]")?;
        let half = x.is_half(op, "clips")?;
        let e = match *x.shape() {
            [videos, clips, last] if last == width && width > 0 => Self { queries, videos, clips, width, half },
            _ => {
                let expected = format!("[videos, clips, {width}], and a width above 0");
                return Err(Error::shape(op, "clips", expected, x.shape()));
            }
        };
        if half && !width.is_multiple_of(2) {
            return Err(Error::shape(op, "clips", "an even width, as f16 are read in pairs", x.shape()));
        }
        for (argument, tensor) in per_clip {
            if let Some(tensor) = tensor {
                tensor.expect(op, argument, DType::F32, &[e.videos, e.clips])?;
            }
        }
        count_elements(op, &[e.queries, e.width])?;
        count_elements(op, &[e.queries, e.videos])?;
        count_elements(op, &[e.videos, e.clips, e.width])?;
        Ok(e)
    }

    /// Whether rows can be read as vec4.
    fn vec(self) -> bool {
        self.width.is_multiple_of(4)
    }

    /// As shaders take them, with a row's `width`.
    fn words(self, width: usize) -> [u32; 4] {
        [self.queries, self.videos, self.clips, width].map(|n| n as u32)
    }
}

/// For every query and video, the largest of scale * ⟨q, x⟩ over the video's clips x with a mask above 0.5, and the
/// first clip that has it: (scores f32, positions u32), both `[queries, videos]`.
///
/// q is f32 `[queries, width]`; clips are f32 or f16 `[videos, clips, width]`, with products and sums in f32. Mask and
/// scale are f32 `[videos, clips]`, and without them every clip counts, with a factor of 1. A scale of 1 / ‖x‖ makes
/// cosines of clips that are kept as they came. A video without a valid clip has the score [`NO_CLIP`] at position 2³² - 1. NaN counts as the largest, so that
/// it shows.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`] unless all are as above, with a width of at least 1 (an even one for
/// halves); [`Error::LimitExceeded`] for 2³¹ elements or more and, on software adapters, for videos of millions of
/// numbers; device errors.
pub fn forward(q: &Tensor, clips: &Tensor, mask: Option<&Tensor>, scale: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    run(q, clips, [mask, scale], choose, DISPATCH_FLOPS)
}

/// [`forward`], with the tile that `choose` gives, in dispatches of at most so many floating-point operations.
fn run(
    q: &Tensor,
    clips: &Tensor,
    [mask, scale]: [Option<&Tensor>; 2],
    choose: impl Fn(KernelFamily, usize) -> Tile,
    most_flops: u64,
) -> Result<(Tensor, Tensor)> {
    let e = Extents::of(OP, q, clips, [("mask", mask), ("scale", scale)])?;
    let gpu = q.gpu();
    let shape = [e.queries, e.videos];
    if e.clips == 0 {
        let pairs = e.queries * e.videos;
        let scores = Tensor::from_slice(gpu, shape, &vec![NO_CLIP; pairs])?;
        return Ok((scores, Tensor::from_u32(gpu, shape, &vec![u32::MAX; pairs])?));
    }
    let scores = Tensor::uninit(gpu, OP, shape)?;
    let positions = Tensor::uninit_of(gpu, OP, shape, DType::U32)?;
    if scores.is_empty() {
        return Ok((scores, positions));
    }
    let tile = choose(gpu.family(), e.queries);
    expect_iterations(gpu, OP, iterations(tile, &e))?;
    let tiles = e.queries.div_ceil(tile.extent().0);
    let total = count_elements(OP, &[e.videos, tiles])?;
    let variant = variant(tile, e.vec(), e.half);
    let tensors = [q, clips, mask.unwrap_or(q), scale.unwrap_or(q), &scores, &positions];
    let flags = if mask.is_some() { MASK } else { 0 } | if scale.is_some() { SCALE } else { 0 };
    let flops = 2 * (e.queries * e.clips * e.width) as u64 / tiles as u64;
    for (first, groups) in runs(total, units(flops, most_flops)) {
        let params = Params { extents: e.words(e.width), tiles: tiles as u32, first, flags };
        launch(OP, &variant, &tensors, &params, gpu.grid(groups as usize), flops * u64::from(groups))?;
    }
    Ok((scores, positions))
}

/// The gradients of [`forward`]'s queries, `[queries, width]`, and clips, `[videos, clips, width]`, each if `wanted`,
/// from that of the scores, `upstream`, and the positions, both `[queries, videos]`. All of a score's gradient goes to
/// the clip at its position, nothing where there is none. The scale has no gradient.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    q: &Tensor,
    clips: &Tensor,
    positions: &Tensor,
    scale: Option<&Tensor>,
    upstream: &Tensor,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    clips.expect_dtype(BACKWARD, "clips", DType::F32)?;
    let e = Extents::of(BACKWARD, q, clips, [("scale", scale), ("scale", None)])?;
    upstream.expect(BACKWARD, "upstream", DType::F32, &[e.queries, e.videos])?;
    positions.expect(BACKWARD, "positions", DType::U32, &[e.queries, e.videos])?;
    let (width, _) = in_fours(e.width);
    let span = lanes::span(q.gpu().family());
    let columns = e.clips.saturating_add(e.queries).saturating_mul(span as usize + 2);
    expect_iterations(q.gpu(), BACKWARD, columns.max(e.videos).saturating_add(1))?;
    let per_row = width.div_ceil(span as usize);
    let flags = if scale.is_some() { SCALE } else { 0 };
    let params = GradParams { extents: e.words(width), per_row: per_row as u32, flags };
    let gradient = |like: &Tensor, other: &Tensor, variant: Variant, rows: usize| -> Result<Tensor> {
        if upstream.is_empty() || clips.is_empty() {
            return Tensor::zeros(q.gpu(), BACKWARD, like.shape());
        }
        let d = Tensor::uninit(q.gpu(), BACKWARD, like.shape())?;
        let tensors = [upstream, positions, other, scale.unwrap_or(upstream), &d];
        let flops = 2 * (e.queries * e.videos * e.width) as u64;
        launch(BACKWARD, &variant, &tensors, &params, q.gpu().grid((rows * per_row).div_ceil(64)), flops)?;
        Ok(d)
    };
    let [for_q, for_clips] = wanted;
    Ok([
        for_q.then(|| gradient(q, clips, queries_variant(e.vec(), span), e.queries)).transpose()?,
        for_clips.then(|| gradient(clips, q, clips_variant(e.vec(), span), e.videos)).transpose()?,
    ])
}

/// The same in plain Rust.
pub mod cpu {
    /// Extents: queries, videos, clips, width.
    pub type Extents = [usize; 4];

    /// Scores and positions; `mask` and `scale` have an element for each clip.
    pub fn forward(
        [queries, videos, clips, width]: Extents,
        q: &[f64],
        x: &[f64],
        mask: &[f32],
        scale: &[f64],
    ) -> (Vec<f64>, Vec<u32>) {
        let (mut scores, mut positions) = (Vec::new(), Vec::new());
        for m in 0..queries {
            for n in 0..videos {
                let (mut best, mut at) = (f64::from(super::NO_CLIP), u32::MAX);
                for l in (0..clips).filter(|l| mask[n * clips + l] > 0.5) {
                    let row = n * clips + l;
                    let pairs = q[m * width..].iter().zip(&x[row * width..(row + 1) * width]);
                    let value = scale[row] * pairs.map(|(a, b)| a * b).sum::<f64>();
                    if at == u32::MAX || value > best || (value.is_nan() && !best.is_nan()) {
                        (best, at) = (value, l as u32);
                    }
                }
                scores.push(best);
                positions.push(at);
            }
        }
        (scores, positions)
    }

    /// Gradients of q and x, given those of the scores, `g`.
    pub fn backward(
        [queries, videos, clips, width]: Extents,
        q: &[f64],
        x: &[f64],
        positions: &[u32],
        scale: &[f64],
        g: &[f64],
    ) -> (Vec<f64>, Vec<f64>) {
        let (mut dq, mut dx) = (vec![0.0; q.len()], vec![0.0; x.len()]);
        for m in 0..queries {
            for n in 0..videos {
                let at = positions[m * videos + n];
                if at == u32::MAX {
                    continue;
                }
                let row = n * clips + at as usize;
                let factor = g[m * videos + n] * scale[row];
                for d in 0..width {
                    dq[m * width + d] += factor * x[row * width + d];
                    dx[row * width + d] += factor * q[m * width + d];
                }
            }
        }
        (dq, dx)
    }
}

#[cfg(test)]
mod tests;
