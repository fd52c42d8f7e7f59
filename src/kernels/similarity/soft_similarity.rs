//! The similarity of every text to every video as a soft maximum: over the dot products s of a text with a video's
//! items, Σ q s with q = softmax(s / temperature).
//!
//! (texts, videos, items) dot products are never in memory as a whole: [`forward`] and [`backward`] make those of some
//! texts with some videos at a time, by [`crate::kernels::linear::matmul`], and [`rows`] reduces them.

use crate::gpu::Gpu;
use crate::kernels::elementwise::binary;
use crate::kernels::linear::matmul::product;
use crate::kernels::rows::RowPlan;
use crate::kernels::shape::count_elements;
use crate::kernels::{inverse_temperature, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "soft similarity";
const BACKWARD: &str = "soft similarity backward";
const WGSL: &str = include_str!("../../../shaders/similarity/soft_similarity.wgsl");
const WGSL_GRAD: &str = include_str!("../../../shaders/similarity/soft_similarity_grad.wgsl");

/// The elements that a part of a call may have.
#[derive(Clone, Copy)]
struct Limits {
    scores: usize,
    items: usize,
}

/// 32 MiB of scores, and 64 MiB of items, which every adapter can bind.
const LIMITS: Limits = Limits { scores: 8 << 20, items: 16 << 20 };

params! {
    struct Params { rows: u32, n: u32, groups: u32, first: u32, stride: u32, mask_first: u32, scale: f32 }
}

fn variant(backward: bool, masked: bool, plan: RowPlan) -> Variant {
    let (name, source) = if backward { ("soft_similarity_grad", WGSL_GRAD) } else { ("soft_similarity", WGSL) };
    plan.specialise(Variant::own::<Params>(name, source)).on("MASK", masked)
}

pub(crate) fn variants() -> Vec<Variant> {
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    kinds
        .iter()
        .flat_map(|&(backward, masked)| RowPlan::all().into_iter().map(move |p| variant(backward, masked, p)))
        .collect()
}

/// Where the rows of scores belong: those of `groups` neighbours to `first` and behind in the results, the next
/// `groups` to `stride` further on. A row's mask is number `mask_first` plus its place within them.
#[derive(Clone, Copy)]
struct Rows {
    groups: usize,
    first: usize,
    stride: usize,
    mask_first: usize,
}

impl Rows {
    /// Launches the kernel on scores `[.., n]`: with `y` and `lse` to be written, or with them and `y`'s gradient to be
    /// read.
    fn run(
        self,
        scores: &Tensor,
        mask: Option<&Tensor>,
        scale: f32,
        [y, lse]: [&Tensor; 2],
        gradient: Option<&Tensor>,
    ) -> Result<()> {
        let op = if gradient.is_some() { BACKWARD } else { OP };
        let plan = RowPlan::new(op, scores.gpu(), scores.rows(), scores.width())?;
        let params = Params {
            rows: scores.rows() as u32,
            n: plan.elements(scores.width()) as u32,
            groups: self.groups as u32,
            first: self.first as u32,
            stride: self.stride as u32,
            mask_first: self.mask_first as u32,
            scale,
        };
        let tensors: Vec<&Tensor> = match gradient {
            None => [scores].into_iter().chain(mask).chain([y, lse]).collect(),
            Some(g) => [scores, y, lse, g].into_iter().chain(mask).collect(),
        };
        let variant = variant(gradient.is_some(), mask.is_some(), plan);
        launch(op, &variant, &tensors, &params, plan.grid(scores.gpu()), 0)
    }
}

/// How the rows of scores `[.., n]` share the masks `[groups, n]`.
fn masked_rows(op: &'static str, scores: &Tensor, mask: Option<&Tensor>) -> Result<Rows> {
    scores.expect_dtype(op, "scores", DType::F32)?;
    count_elements(op, scores.shape())?;
    let (rows, width) = (scores.rows(), scores.width());
    let groups = match mask {
        None => rows,
        Some(mask) => match mask.extents(op, "mask", "[groups, n]")? {
            [groups, n] if n == width && rows.is_multiple_of(groups) => groups,
            _ => return Err(Error::shape(op, "mask", format!("[a divisor of {rows}, {width}]"), mask.shape())),
        },
    };
    Ok(Rows { groups, first: 0, stride: groups, mask_first: 0 })
}

/// Over the last dimension of `scores` (f32), Σ q s with q = softmax(s / temperature), and log Σ exp(s / temperature),
/// which [`rows_backward`] needs: both of the scores' shape without that dimension.
///
/// `mask`: f32 `[groups, n]`; row i counts only where row i mod groups of it is 1. A row where nothing counts has the
/// sum 0. NaN that counts makes the sum NaN.
///
/// # Errors
/// [`Error::Shape`] if the mask does not fit, [`Error::DType`] unless both are f32, [`Error::Argument`] unless
/// `temperature` is above 0; [`Error::LimitExceeded`] on software adapters for rows of some 2.8 million elements; device
/// errors.
pub fn rows(scores: &Tensor, mask: Option<&Tensor>, temperature: f32) -> Result<(Tensor, Tensor)> {
    let at = masked_rows(OP, scores, mask)?;
    let scale = inverse_temperature(OP, temperature)?;
    let outer = &scores.shape()[..scores.shape().len().saturating_sub(1)];
    let (y, lse) = results(scores.gpu(), outer, scores.width() == 0)?;
    if !scores.is_empty() {
        at.run(scores, mask, scale, [&y, &lse], None)?;
    }
    Ok((y, lse))
}

/// The two results of a call, filled in already if there is `nothing` to sum.
fn results(gpu: &Gpu, shape: &[usize], nothing: bool) -> Result<(Tensor, Tensor)> {
    let (y, lse) = (Tensor::uninit(gpu, OP, shape)?, Tensor::uninit(gpu, OP, shape)?);
    if nothing {
        y.fill_zero()?;
        lse.write(&vec![f32::MIN; lse.len()])?;
    }
    Ok((y, lse))
}

/// Turns `scores` into their gradient, in place: from the arguments of [`rows`], its results, and `g`, the gradient of
/// the first.
///
/// # Errors
/// As [`rows`]; [`Error::Shape`] unless the results and `g` have the scores' shape without its last dimension.
pub fn rows_backward(
    scores: &Tensor,
    mask: Option<&Tensor>,
    temperature: f32,
    (y, lse): (&Tensor, &Tensor),
    g: &Tensor,
) -> Result<()> {
    let at = masked_rows(BACKWARD, scores, mask)?;
    let scale = inverse_temperature(BACKWARD, temperature)?;
    for (argument, tensor) in [("y", y), ("lse", lse), ("gradient", g)] {
        tensor.expect(BACKWARD, argument, DType::F32, &scores.shape()[..scores.shape().len().saturating_sub(1)])?;
    }
    if scores.is_empty() { Ok(()) } else { at.run(scores, mask, scale, [y, lse], Some(g)) }
}

/// The extents of a call.
#[derive(Clone, Copy)]
struct Extents {
    texts: usize,
    videos: usize,
    items: usize,
    width: usize,
}

/// Some texts with some videos.
#[derive(Clone, Copy)]
struct Part {
    first_text: usize,
    texts: usize,
    first_video: usize,
    videos: usize,
}

impl Extents {
    fn of(op: &'static str, texts: &Tensor, items: &Tensor, mask: Option<&Tensor>) -> Result<Self> {
        texts.expect_dtype(op, "texts", DType::F32)?;
        items.expect_dtype(op, "items", DType::F32)?;
        let (count, videos, per_video, width) = match (texts.shape(), items.shape()) {
            (&[count, width], &[videos, items, last]) if last == width && width > 0 => (count, videos, items, width),
            (left, right) => {
                let why = "texts must be [texts, width] and items [videos, items, width], with a width above 0";
                return Err(Error::mismatch(op, left, right, why));
            }
        };
        if let Some(mask) = mask {
            mask.expect(op, "mask", DType::F32, &[videos, per_video])?;
        }
        count_elements(op, &[count, videos])?;
        count_elements(op, &[videos, per_video])?;
        Ok(Self { texts: count, videos, items: per_video, width })
    }

    fn is_empty(self) -> bool {
        self.texts == 0 || self.videos == 0 || self.items == 0
    }

    /// Cuts the call into parts, within limits that are above what 64 texts and 64 videos need. Views begin at multiples
    /// of 64 elements, and so do parts.
    fn parts(self, limits: Limits) -> Vec<Part> {
        let per_video = self.items * self.width;
        // 64 over what it shares with the elements of a video.
        let unit = 64 >> per_video.trailing_zeros().min(6);
        let texts = if self.texts * unit * self.items <= limits.scores {
            self.texts
        } else {
            (limits.scores / (unit * self.items) / 64 * 64).clamp(64, self.texts.max(64))
        };
        let videos = (limits.scores / (texts * self.items)).min(limits.items / per_video) / unit * unit;
        let videos = videos.max(unit);
        let starts = (0..self.texts).step_by(texts).flat_map(|t| (0..self.videos).step_by(videos).map(move |n| (t, n)));
        starts
            .map(|(first_text, first_video)| Part {
                first_text,
                texts: texts.min(self.texts - first_text),
                first_video,
                videos: videos.min(self.videos - first_video),
            })
            .collect()
    }
}

impl Part {
    /// The part's rows of texts or of their gradient, and its items or theirs, each as a matrix.
    fn texts(self, e: &Extents, texts: &Tensor) -> Result<Tensor> {
        texts.view(self.first_text * e.width, [self.texts, e.width])
    }

    fn items(self, e: &Extents, items: &Tensor) -> Result<Tensor> {
        items.view(self.first_video * e.items * e.width, [self.videos * e.items, e.width])
    }

    /// The dot products, `[texts, videos, items]`.
    fn scores(self, e: &Extents, texts: &Tensor, items: &Tensor) -> Result<Tensor> {
        let scores = product(&self.texts(e, texts)?, &self.items(e, items)?, false, true)?;
        scores.reshape([self.texts, self.videos, e.items])
    }

    fn rows(self, e: &Extents) -> Rows {
        let first = self.first_text * e.videos + self.first_video;
        Rows { groups: self.videos, first, stride: e.videos, mask_first: self.first_video }
    }
}

/// For every text and video, Σ q s over the dot products s of the text with the video's items, q = softmax(s /
/// temperature); and log Σ exp(s / temperature), which [`backward`] needs. Both are `[texts, videos]`.
///
/// `texts` are f32 `[texts, width]`, `items` f32 `[videos, items, width]`, and `mask`, 1 for items that count, f32
/// `[videos, items]`. A video without such an item scores 0. At most some 32 MiB of dot products are in memory at once.
///
/// # Errors
/// [`Error::ShapeMismatch`], [`Error::Shape`] and [`Error::DType`] unless all are as above, with a width of at least 1;
/// [`Error::Argument`] unless `temperature` is above 0; as [`rows`].
pub fn forward(texts: &Tensor, items: &Tensor, mask: Option<&Tensor>, temperature: f32) -> Result<(Tensor, Tensor)> {
    run(texts, items, mask, temperature, LIMITS)
}

/// [`forward`] in parts within `limits`.
fn run(
    texts: &Tensor,
    items: &Tensor,
    mask: Option<&Tensor>,
    temperature: f32,
    limits: Limits,
) -> Result<(Tensor, Tensor)> {
    let e = Extents::of(OP, texts, items, mask)?;
    let scale = inverse_temperature(OP, temperature)?;
    let (y, lse) = results(texts.gpu(), &[e.texts, e.videos], e.items == 0)?;
    if !e.is_empty() {
        for part in e.parts(limits) {
            let scores = part.scores(&e, texts, items)?;
            part.rows(&e).run(&scores, mask, scale, [&y, &lse], None)?;
        }
    }
    Ok((y, lse))
}

/// The gradients of [`forward`]'s texts and items, each if `wanted`, from its arguments, its results and `upstream`, the
/// gradient of the first. The dot products are made again, in parts.
///
/// # Errors
/// As [`forward`]; [`Error::Shape`] unless the results and `upstream` are `[texts, videos]`.
pub fn backward(
    texts: &Tensor,
    items: &Tensor,
    mask: Option<&Tensor>,
    temperature: f32,
    results: (&Tensor, &Tensor),
    upstream: &Tensor,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    run_backward(texts, items, mask, temperature, results, upstream, wanted, LIMITS)
}

/// [`backward`] in parts within `limits`.
#[allow(clippy::too_many_arguments)]
fn run_backward(
    texts: &Tensor,
    items: &Tensor,
    mask: Option<&Tensor>,
    temperature: f32,
    (y, lse): (&Tensor, &Tensor),
    upstream: &Tensor,
    wanted: [bool; 2],
    limits: Limits,
) -> Result<[Option<Tensor>; 2]> {
    let e = Extents::of(BACKWARD, texts, items, mask)?;
    let scale = inverse_temperature(BACKWARD, temperature)?;
    for (argument, tensor) in [("y", y), ("lse", lse), ("upstream", upstream)] {
        tensor.expect(BACKWARD, argument, DType::F32, &[e.texts, e.videos])?;
    }
    let gradient = |wanted: bool, like: &Tensor| {
        let make = if e.is_empty() { Tensor::zeros } else { Tensor::uninit };
        wanted.then(|| make(texts.gpu(), BACKWARD, like.shape().to_vec())).transpose()
    };
    let (d_texts, d_items) = (gradient(wanted[0], texts)?, gradient(wanted[1], items)?);
    let parts = if e.is_empty() { Vec::new() } else { e.parts(limits) };
    for part in parts {
        let d = part.scores(&e, texts, items)?;
        part.rows(&e).run(&d, mask, scale, [y, lse], Some(upstream))?;
        let d = d.reshape([part.texts, part.videos * e.items])?;
        if let Some(d_texts) = &d_texts {
            let sum = product(&d, &part.items(&e, items)?, false, false)?;
            add(&part.texts(&e, d_texts)?, &sum, part.first_video == 0)?;
        }
        if let Some(d_items) = &d_items {
            let sum = product(&d, &part.texts(&e, texts)?, true, false)?;
            add(&part.items(&e, d_items)?, &sum, part.first_text == 0)?;
        }
    }
    Ok([d_texts, d_items])
}

/// Adds to `total`, or overwrites what has not been written yet.
fn add(total: &Tensor, sum: &Tensor, first: bool) -> Result<()> {
    if first { total.copy_from(sum) } else { binary::add_assign(total, sum) }
}

/// The same in plain Rust, on one row and in f64.
pub mod cpu {
    use crate::kernels::rows::softmax::cpu::valid;

    /// Σ q s and log Σ exp(s / temperature) over the entries whose mask is above 0.5.
    pub fn forward(scores: &[f64], mask: Option<&[f32]>, temperature: f64) -> (f64, f64) {
        let seen: Vec<f64> = (0..scores.len()).filter(|&i| valid(mask, i)).map(|i| scores[i]).collect();
        if seen.is_empty() {
            return (0.0, f32::MIN.into());
        }
        let top = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e = |s: f64| ((s - top) / temperature).exp();
        let sum: f64 = seen.iter().map(|&s| e(s)).sum();
        (seen.iter().map(|&s| e(s) * s).sum::<f64>() / sum, top / temperature + sum.ln())
    }

    /// The gradient of the scores, given that of the first result.
    pub fn backward(scores: &[f64], mask: Option<&[f32]>, temperature: f64, g: f64) -> Vec<f64> {
        let (y, lse) = forward(scores, mask, temperature);
        let slope = |s: f64| (s / temperature - lse).exp() * (1.0 + (s - y) / temperature);
        (0..scores.len()).map(|i| if valid(mask, i) { g * slope(scores[i]) } else { 0.0 }).collect()
    }
}

#[cfg(test)]
mod tests;
