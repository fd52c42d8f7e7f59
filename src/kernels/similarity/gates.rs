//! Gates that make text-guided frame averages without a tensor of them.
//!
//! A text row q (a sentence or a word) has dot products d with the frames Z of a video. Its guided average of the frames
//! is wZ with w = softmax(d / temperature), and the average's squared length is wKw', with the Gram matrix K = ZZ'. The
//! gates g = w / √(wKw') hold all of it: for any vector x, g · (Zx) is the dot product of x with the average made of unit
//! length. Gates do not change if w is scaled, so w is never divided by its sum; and as gKg' is 1, their gradient needs
//! nothing but the gates and K.

use crate::gpu::{Gpu, KernelFamily};
use crate::kernels::rows::reduce;
use crate::kernels::shape::{count_elements, expect_at_most};
use crate::kernels::{expect_iterations, inverse_temperature, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "gates";
const BACKWARD: &str = "gates backward";
const WGSL: &str = include_str!("../../../shaders/similarity/gates.wgsl");
const WGSL_DOTS: &str = include_str!("../../../shaders/similarity/gates_dots.wgsl");
const WGSL_GRAMS: &str = include_str!("../../../shaders/similarity/gates_grams.wgsl");

/// The most frames of a video.
pub const MOST_FRAMES: usize = 128;
/// The gradient for the Gram matrices sums so many rows in one go, or more if that made more parts than these.
const SPAN: usize = 256;
const MOST_PARTS: usize = 16;

const MASK: u32 = 1;
const WHICH: u32 = 2;

params! {
    struct Params { extents: [u32; 3] as [rows, videos, frames], flags: u32, inverse: f32 }
    flags [MASK, WHICH]
}

params! {
    struct GramParams { extents: [u32; 3] as [rows, videos, frames], tiles: u32, span: u32, parts: u32 }
}

/// How rows are spread over invocations: lanes that share one, rows side by side, rows one after another.
fn team(family: KernelFamily) -> [u32; 3] {
    match family {
        KernelFamily::Tiled => [16, 4, 1],
        KernelFamily::Subgroup { size } => [size, 1, 8],
    }
}

fn team_variant(name: &'static str, source: &'static str, family: KernelFamily) -> Variant {
    let [lanes, rows, sequence] = team(family);
    let tiled = family == KernelFamily::Tiled;
    let variant = Variant::own::<Params>(name, source).set("LANES", lanes).set("ROWS", rows).set("SEQUENCE", sequence);
    variant.maybe("MOST_FRAMES", tiled.then_some(MOST_FRAMES as u32)).on("SUBGROUP", !tiled)
}

fn variant(family: KernelFamily) -> Variant {
    team_variant("gates", WGSL, family)
}

fn dots_variant(family: KernelFamily) -> Variant {
    team_variant("gates_dots", WGSL_DOTS, family).set("SYMMETRIC", 1)
}

fn grams_variant() -> Variant {
    Variant::own::<GramParams>("gates_grams", WGSL_GRAMS)
}

pub(crate) fn variants() -> Vec<Variant> {
    let by_family = crate::kernels::lanes::FAMILIES.map(|family| [variant(family), dots_variant(family)]);
    by_family.into_iter().flatten().chain([grams_variant()]).collect()
}

fn grid(gpu: &Gpu, rows: usize) -> [u32; 3] {
    let [_, side_by_side, sequence] = team(gpu.family());
    gpu.grid(rows.div_ceil((side_by_side * sequence) as usize))
}

/// Text rows, videos of each, frames, and Gram matrices, after checks; a row has as many videos as there are matrices,
/// unless its videos are `listed`.
fn extents(op: &'static str, dots: &Tensor, grams: &Tensor, listed: bool) -> Result<[usize; 4]> {
    let [texts, videos, frames] = dots.extents(op, "dots", "[rows, videos, frames]")?;
    grams.expect_dtype(op, "grams", DType::F32)?;
    let items = match *grams.shape() {
        [items, a, b] if a == frames && b == frames && (listed || items == videos) => items,
        _ => {
            let items = if listed { "items".into() } else { videos.to_string() };
            return Err(Error::shape(op, "grams", format!("[{items}, {frames}, {frames}]"), grams.shape()));
        }
    };
    count_elements(op, dots.shape())?;
    count_elements(op, grams.shape())?;
    expect_at_most(op, "number of frames", frames, MOST_FRAMES, "sample fewer frames of a video")?;
    Ok([texts, videos, frames, items])
}

/// The gates of `dots` `[rows, videos, frames]`, of their shape: the softmax of dots / temperature over a video's
/// frames, divided by √(wKw') for the video's matrix K of `grams` `[videos, frames, frames]`.
///
/// Only frames whose `mask` `[videos, frames]` is above 0.5 take part; the gates of others are 0, and all are 0 where no
/// frame takes part or wKw' is not above 0. With `which` (u32, `[rows, videos]`) a row's video is another one of the
/// matrices and masks than its place says, of which there may be any number; one beyond the last has gates of 0.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`] unless all are as above, [`Error::Argument`] unless the temperature is above 0,
/// [`Error::LimitExceeded`] for more than [`MOST_FRAMES`] frames or 2³¹ elements; device errors.
pub fn forward(
    dots: &Tensor,
    grams: &Tensor,
    mask: Option<&Tensor>,
    which: Option<&Tensor>,
    temperature: f32,
) -> Result<Tensor> {
    let [texts, videos, frames, items] = extents(OP, dots, grams, which.is_some())?;
    let inverse = inverse_temperature(OP, temperature)?;
    if let Some(mask) = mask {
        mask.expect(OP, "mask", DType::F32, &[items, frames])?;
    }
    if let Some(which) = which {
        which.expect(OP, "which", DType::U32, &[texts, videos])?;
    }
    let gpu = dots.gpu();
    if dots.is_empty() || items == 0 {
        return Tensor::zeros(gpu, OP, dots.shape());
    }
    let gates = Tensor::uninit(gpu, OP, dots.shape())?;
    let rows = texts * videos;
    let flags = if mask.is_some() { MASK } else { 0 } | if which.is_some() { WHICH } else { 0 };
    let params = Params { extents: [rows, items, frames].map(|n| n as u32), flags, inverse };
    let tensors = [dots, grams, mask.unwrap_or(dots), which.unwrap_or(dots), &gates];
    let flops = 2 * (rows * frames * frames) as u64;
    launch(OP, &variant(gpu.family()), &tensors, &params, grid(gpu, rows), flops)?;
    Ok(gates)
}

/// The gradients of [`forward`]'s dot products and Gram matrices, each if `wanted`, from that of the `gates` that it
/// returned without `which`. A matrix is taken as it is, not as a symmetric one: the gradient of wKw' for K_ab is
/// w_a w_b.
///
/// # Errors
/// As [`forward`]; [`Error::Shape`] unless `upstream` and `gates` have one shape; [`Error::LimitExceeded`] on software
/// adapters for more than a million rows if the gradient of the Gram matrices is wanted.
pub fn backward(
    upstream: &Tensor,
    gates: &Tensor,
    grams: &Tensor,
    temperature: f32,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let op = BACKWARD;
    let [rows, videos, frames, _] = extents(op, gates, grams, false)?;
    let inverse = inverse_temperature(op, temperature)?;
    upstream.expect(op, "upstream", DType::F32, gates.shape())?;
    let gpu = gates.gpu();
    let [for_dots, for_grams] = wanted;
    if gates.is_empty() || wanted == [false; 2] {
        let zeros = |like: &Tensor| Tensor::zeros(gpu, op, like.shape());
        return Ok([for_dots.then(|| zeros(gates)).transpose()?, for_grams.then(|| zeros(grams)).transpose()?]);
    }
    // The second gradient starts from the slopes, which come with the first.
    let ddots = Tensor::uninit(gpu, op, gates.shape())?;
    let slopes = Tensor::uninit(gpu, op, [rows, videos])?;
    let params = Params { extents: [rows * videos, videos, frames].map(|n| n as u32), flags: 0, inverse };
    let flops = 2 * (gates.len() * frames) as u64;
    let tensors = [upstream, gates, grams, &ddots, &slopes];
    launch(op, &dots_variant(gpu.family()), &tensors, &params, grid(gpu, rows * videos), flops)?;
    let dgrams = for_grams.then(|| grams_gradient([rows, videos, frames], gates, &slopes)).transpose()?;
    Ok([for_dots.then_some(ddots), dgrams])
}

/// The gradient of the Gram matrices; `slopes` as `gates_dots.wgsl` writes them.
fn grams_gradient([rows, videos, frames]: [usize; 3], gates: &Tensor, slopes: &Tensor) -> Result<Tensor> {
    let gpu = gates.gpu();
    let span = SPAN.max(rows.div_ceil(MOST_PARTS));
    expect_iterations(gpu, BACKWARD, span + 1)?;
    let (parts, tiles) = (rows.div_ceil(span), frames.div_ceil(4));
    count_elements(BACKWARD, &[parts, videos, 16 * tiles * tiles])?;
    let extents = [rows, videos, frames].map(|n| n as u32);
    let params = GramParams { extents, tiles: tiles as u32, span: span as u32, parts: parts as u32 };
    let partial = Tensor::uninit(gpu, BACKWARD, [parts, videos, frames, frames])?;
    let grid = gpu.grid((parts * videos * tiles * tiles).div_ceil(64));
    let flops = 2 * (gates.len() * frames) as u64;
    launch(BACKWARD, &grams_variant(), &[gates, slopes, &partial], &params, grid, flops)?;
    reduce::sum_to(&partial, &[videos, frames, frames], 1.0)
}

/// The same in plain Rust.
pub mod cpu {
    /// Extents: rows, videos, frames.
    pub type Extents = [usize; 3];

    /// Gates. `videos[r]` is the matrix and mask of row r, counted over the videos of all text rows; the mask has an
    /// element for each frame of each matrix.
    pub fn forward(frames: usize, dots: &[f64], grams: &[f64], mask: &[f32], videos: &[usize], t: f64) -> Vec<f64> {
        let mut gates = Vec::new();
        for (d, &video) in dots.chunks_exact(frames).zip(videos) {
            let counts = |f: usize| mask.get(video * frames + f).is_some_and(|&m| m > 0.5);
            let top = (0..frames).filter(|&f| counts(f)).map(|f| d[f]).fold(f64::NEG_INFINITY, f64::max);
            let w: Vec<f64> = (0..frames).map(|f| if counts(f) { ((d[f] - top) / t).exp() } else { 0.0 }).collect();
            let weighted = w.iter().enumerate().filter(|(_, w)| **w > 0.0);
            let k = |a: usize, b: usize| grams[(video * frames + a) * frames + b];
            let square: f64 =
                weighted.clone().flat_map(|(a, x)| weighted.clone().map(move |(b, y)| x * y * k(a, b))).sum();
            gates.extend(w.iter().map(|w| if square > 0.0 { w / square.sqrt() } else { 0.0 }));
        }
        gates
    }

    /// The gradients of dots and grams, given that of the gates, `u`.
    pub fn backward(
        [rows, videos, frames]: Extents,
        u: &[f64],
        gates: &[f64],
        grams: &[f64],
        t: f64,
    ) -> (Vec<f64>, Vec<f64>) {
        let (mut ddots, mut dgrams) = (Vec::new(), vec![0.0; grams.len()]);
        for row in 0..rows * videos {
            let (g, u) = (&gates[row * frames..][..frames], &u[row * frames..][..frames]);
            let first = row % videos * frames * frames;
            let slope: f64 = g.iter().zip(u).map(|(g, u)| g * u).sum();
            for a in 0..frames {
                let k = |b: usize| (grams[first + a * frames + b] + grams[first + b * frames + a]) / 2.0;
                let product: f64 = (0..frames).map(|b| k(b) * g[b]).sum();
                ddots.push(g[a] * (u[a] - slope * product) / t);
                for b in 0..frames {
                    dgrams[first + a * frames + b] -= slope / 2.0 * g[a] * g[b];
                }
            }
        }
        (ddots, dgrams)
    }
}

#[cfg(test)]
mod tests;
