//! Steps of Adam, AdamW and BertAdam over flat buffers, and clipping by norm that never leaves the GPU.
//!
//! All parameters live in one f32 tensor, and so do their gradients and the two moving averages, at equal places. A
//! [`Group`] is the list of ranges that share hyper-parameters: one dispatch steps all of it that a binding can hold. The
//! gradients must not be views of the same memory as the others: a dispatch cannot both read and write a buffer.

use super::{lanes, launch};
use crate::gpu::{Gpu, KernelFamily};
use crate::kernels::shape::count_elements;
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const WGSL: &str = include_str!("../../../shaders/optimizer/optimizer.wgsl");
const WGSL_NORM: &str = include_str!("../../../shaders/optimizer/optimizer_norm.wgsl");

/// Elements a workgroup steps.
const BLOCK: usize = 4096;
/// Views start at multiples of so many elements.
const VIEW: usize = 64;

/// Ranges of flat buffers, cut into blocks.
#[derive(Clone, Debug)]
pub struct Group {
    ranges: usize,
    blocks: usize,
    elements: usize,
    /// The largest end of a range.
    end: usize,
    /// Whether every range starts at a multiple of four.
    aligned: bool,
    /// The blocks in their order, by the part of the buffers that is bound for them.
    windows: Vec<Window>,
    /// `[1, 2]`: all blocks; and `[ranges, 2]`: each range's.
    all: Tensor,
    each: Tensor,
}

/// Blocks that one binding holds.
#[derive(Clone, Debug)]
struct Window {
    start: usize,
    len: usize,
    /// `[blocks, 4]`: first element in the window, length, range, number in the group.
    table: Tensor,
}

impl Window {
    /// Cuts `blocks`, with their first elements in the buffers, into runs that lie within `limit` elements.
    fn cut(gpu: &Gpu, blocks: &[[u32; 4]], limit: usize) -> Result<Vec<Self>> {
        let mut windows = Vec::new();
        let mut rest = blocks;
        while !rest.is_empty() {
            let (mut start, mut end, mut count) = (usize::MAX, 0, 0);
            for block in rest {
                let low = start.min(block[0] as usize / VIEW * VIEW);
                let high = end.max((block[0] + block[1]) as usize);
                if count > 0 && high - low > limit {
                    break;
                }
                (start, end, count) = (low, high, count + 1);
            }
            let (here, after) = rest.split_at(count);
            let table: Vec<u32> = here.iter().flat_map(|b| [b[0] - start as u32, b[1], b[2], b[3]]).collect();
            windows.push(Self { start, len: end - start, table: Tensor::from_u32(gpu, [count, 4], &table)? });
            rest = after;
        }
        Ok(windows)
    }

    /// The part of a flat buffer that is bound.
    fn of(&self, flat: &Tensor) -> Result<Tensor> {
        flat.view(self.start, [self.len])
    }

    fn blocks(&self) -> usize {
        self.table.rows()
    }
}

impl Group {
    /// A group of ranges `(first element, length)` that do not overlap; steps are fastest if all of them start at
    /// multiples of four.
    ///
    /// # Errors
    /// [`Error::Argument`] if ranges overlap, [`Error::LimitExceeded`] beyond 32 bits; device errors.
    pub fn new(gpu: &Gpu, ranges: &[(usize, usize)]) -> Result<Self> {
        let mut sorted: Vec<(usize, usize)> = ranges.iter().copied().filter(|r| r.1 > 0).collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|w| w[0].0.saturating_add(w[0].1) > w[1].0) {
            let why = format!("{:?} and {:?} overlap", pair[0], pair[1]);
            return Err(Error::Argument { op: "optimizer", argument: "ranges", why });
        }
        let end = sorted.last().map_or(0, |r| r.0.saturating_add(r.1));
        count_elements("optimizer", &[end.saturating_add(BLOCK)])?;
        let (mut table, mut spans) = (Vec::new(), Vec::new());
        for (number, &(start, len)) in ranges.iter().enumerate() {
            spans.extend([table.len() as u32, len.div_ceil(BLOCK) as u32]);
            for at in (0..len).step_by(BLOCK) {
                table.push([(start + at) as u32, BLOCK.min(len - at) as u32, number as u32, table.len() as u32]);
            }
        }
        let blocks = table.len();
        let limit = (gpu.report().limits.max_storage_buffer_binding_size / 4) as usize;
        Ok(Self {
            ranges: ranges.len(),
            blocks,
            elements: ranges.iter().map(|r| r.1).sum(),
            end,
            aligned: sorted.iter().all(|r| r.0.is_multiple_of(4)),
            windows: Window::cut(gpu, &table, limit)?,
            all: Tensor::from_u32(gpu, [1, 2], &[0, blocks as u32])?,
            each: Tensor::from_u32(gpu, [ranges.len(), 2], &spans)?,
        })
    }

    /// How many ranges there are.
    pub fn ranges(&self) -> usize {
        self.ranges
    }

    /// How many elements they hold together.
    pub fn elements(&self) -> usize {
        self.elements
    }
}

/// How a step changes a parameter p, given its gradient g (after clipping) and the averages
/// m ← β₁ m + (1 - β₁) g and v ← β₂ v + (1 - β₂) g².
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Update {
    /// g ← g + decay p first; then with m̂ = m / (1 - β₁ᵗ) and v̂ = v / (1 - β₂ᵗ), p ← p - rate m̂ / (√v̂ + ε).
    Adam(Numbers),
    /// p ← (1 - rate decay) p first; then as Adam.
    AdamW(Numbers),
    /// p ← p - rate (m / (√v + ε) + decay p), without bias correction; the step's number is not used.
    BertAdam(Numbers),
    /// BertAdam as PyTorch does it on tensors of halves: p, g, m, v and the result of every operation are rounded to the
    /// nearest half, ties to even; beyond 65,504 is infinity. The buffers stay f32.
    HalfBertAdam(Numbers),
}

/// The hyper-parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers {
    /// The learning rate, any schedule included.
    pub rate: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
    /// Weight decay.
    pub decay: f64,
    /// t: 1 for the first step.
    pub step: u64,
    /// What the step leaves of a larger parameter.
    pub max: Option<f64>,
}

/// Norms of gradients and the factors that clip them, both on the GPU.
#[derive(Clone, Debug)]
pub struct Clip {
    /// The norms before this clipping: one, or one a range.
    pub norm: Tensor,
    /// min(1, limit / (norm + 1e-6)), times the factor of a clipping before this: what [`step`] takes.
    pub scale: Tensor,
}

params! {
    struct Params {
        blocks: u32, each: u32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, rate: f32, root: f32, eps: f32,
        decay: f32, most: f32,
    }
}

params! {
    struct NormParams { groups: u32, limit: f32 }
}

const ADAM: &[(&str, u32)] = &[("ADAM", 1)];
const ADAMW: &[(&str, u32)] = &[("ADAMW", 1)];
const BERT: &[(&str, u32)] = &[("BERT", 1)];
const HALF: &[(&str, u32)] = &[("BERT", 1), ("HALF", 1)];

fn variant(kind: &[(&'static str, u32)], vec4: bool, clip: bool) -> Variant {
    Variant::own::<Params>("optimizer", WGSL).all(kind.iter().copied()).on("VEC4", vec4).on("CLIP", clip)
}

fn norm_variant(stage: &'static str, vec4: bool, family: KernelFamily) -> Variant {
    let variant = Variant::own::<NormParams>("optimizer_norm", WGSL_NORM).all(lanes::defines(family));
    variant.set(stage, 1).on("VEC4", vec4)
}

pub(crate) fn variants() -> Vec<Variant> {
    let kinds: [&[_]; 4] = [ADAM, ADAMW, BERT, HALF];
    let steps = kinds.into_iter().flat_map(|kind| {
        [(false, false), (false, true), (true, false), (true, true)].map(|(vec4, clip)| variant(kind, vec4, clip))
    });
    let stages = [("SQUARES", false), ("SQUARES", true), ("NORM", false), ("AFTER", false)];
    let norms =
        stages.into_iter().flat_map(|(stage, vec4)| lanes::FAMILIES.map(|family| norm_variant(stage, vec4, family)));
    steps.chain(norms).collect()
}

fn expect_flat(op: &'static str, argument: &'static str, tensor: &Tensor, group: &Group) -> Result<()> {
    tensor.expect_dtype(op, argument, DType::F32)?;
    match *tensor.shape() {
        [len] if len >= group.end => Ok(()),
        _ => {
            let expected = format!("[at least {}], as the group's ranges reach", group.end);
            Err(Error::shape(op, argument, expected, tensor.shape()))
        }
    }
}

fn clip(grads: &Tensor, group: &Group, limit: f32, each: bool, before: Option<&Tensor>) -> Result<Clip> {
    let op = "clip";
    expect_flat(op, "grads", grads, group)?;
    if let Some(before) = before {
        lanes::expect_scalar(op, before)?;
    }
    let gpu = grads.gpu();
    let part = Tensor::uninit(gpu, op, [group.blocks])?;
    let squares = norm_variant("SQUARES", group.aligned, gpu.family());
    for window in &group.windows {
        let params = NormParams { groups: window.blocks() as u32, limit };
        let tensors = [&window.of(grads)?, &window.table, &part];
        launch(op, &squares, &tensors, &params, gpu.grid(window.blocks()), 0)?;
    }
    let (spans, shape) = if each { (&group.each, vec![group.ranges]) } else { (&group.all, vec![]) };
    let (norm, scale) = (Tensor::uninit(gpu, op, shape.clone())?, Tensor::uninit(gpu, op, shape)?);
    let params = NormParams { groups: norm.len() as u32, limit: limit.min(f32::MAX) };
    let grid = gpu.grid(norm.len());
    let family = lanes::family(gpu, op, group.blocks, 1)?;
    match before {
        Some(before) => {
            let tensors = [&part, spans, before, &norm, &scale];
            launch(op, &norm_variant("AFTER", false, family), &tensors, &params, grid, 0)?;
        }
        None => launch(op, &norm_variant("NORM", false, family), &[&part, spans, &norm, &scale], &params, grid, 0)?,
    }
    Ok(Clip { norm, scale })
}

/// The norm of the gradients in all of the group's ranges together (shape `[]`), and the factor that brings it down to
/// `limit`; an infinite limit only measures. The order of the sum is fixed. NaN gradients make both NaN.
///
/// # Errors
/// [`Error::Shape`] unless `grads` is flat and holds the group's ranges; device errors.
pub fn clip_global(grads: &Tensor, group: &Group, limit: f32) -> Result<Clip> {
    clip(grads, group, limit, false, None)
}

/// The norm of the gradients in each of the group's ranges (shape `[ranges]`), and the factors that bring them down to
/// `limit`. With `before`, the scale of a global clipping, the norms are of the gradients after it, and the factors
/// include it.
///
/// # Errors
/// As [`clip_global`]; [`Error::Shape`] unless `before` has one element.
pub fn clip_ranges(grads: &Tensor, group: &Group, limit: f32, before: Option<&Tensor>) -> Result<Clip> {
    clip(grads, group, limit, true, before)
}

/// Steps the group's ranges of `params`, `m` and `v`, in place; what lies between the ranges stays as it is. `scale`
/// clips: one factor, or one for each range of this group.
///
/// # Errors
/// [`Error::Shape`] unless the four buffers are flat, of one length, and hold the group's ranges, or if `scale` fits
/// neither; device errors.
pub fn step(
    params: &Tensor,
    grads: &Tensor,
    m: &Tensor,
    v: &Tensor,
    group: &Group,
    update: &Update,
    scale: Option<&Tensor>,
) -> Result<()> {
    let op = "optimizer";
    expect_flat(op, "params", params, group)?;
    for (argument, tensor) in [("grads", grads), ("m", m), ("v", v)] {
        tensor.expect(op, argument, DType::F32, params.shape())?;
    }
    let mut each = 0;
    if let Some(scale) = scale {
        scale.expect_dtype(op, "scale", DType::F32)?;
        if scale.len() != 1 {
            scale.expect_shape(op, "scale", &[group.ranges])?;
            each = 1;
        }
    }
    let (kind, n) = match update {
        Update::Adam(n) => (ADAM, n),
        Update::AdamW(n) => (ADAMW, n),
        Update::BertAdam(n) => (BERT, n),
        Update::HalfBertAdam(n) => (HALF, n),
    };
    // Powers and quotients in f64: 1 - β₂ᵗ has few digits left in f32 at the first steps.
    let correction = |beta: f64| 1.0 - beta.powf(n.step.max(1) as f64);
    let (rate, root) = match update {
        Update::BertAdam(_) | Update::HalfBertAdam(_) => (n.rate, 1.0),
        _ => (n.rate / correction(n.beta1), 1.0 / correction(n.beta2).sqrt()),
    };
    let decay = if let Update::AdamW(_) = update { 1.0 - n.rate * n.decay } else { n.decay };
    let numbers = |blocks: usize| Params {
        blocks: blocks as u32,
        each,
        beta1: n.beta1 as f32,
        rest1: (1.0 - n.beta1) as f32,
        beta2: n.beta2 as f32,
        rest2: (1.0 - n.beta2) as f32,
        rate: rate as f32,
        root: root as f32,
        eps: n.eps as f32,
        decay: decay as f32,
        most: n.max.map_or(f32::INFINITY, |max| max as f32),
    };
    let variant = variant(kind, group.aligned, scale.is_some());
    for window in &group.windows {
        let buffers = [window.of(params)?, window.of(grads)?, window.of(m)?, window.of(v)?];
        let tensors: Vec<&Tensor> = buffers.iter().chain([&window.table]).chain(scale).collect();
        launch(op, &variant, &tensors, &numbers(window.blocks()), params.gpu().grid(window.blocks()), 0)?;
    }
    Ok(())
}

/// The same in plain Rust.
pub mod cpu {
    use half::f16;

    use super::{Numbers, Update};

    /// The factor that brings gradients down to `limit`, and their norm.
    pub fn clip(grads: &[f64], limit: f64) -> (f64, f64) {
        let norm = grads.iter().map(|g| g * g).sum::<f64>().sqrt();
        ((limit / (norm + 1e-6)).min(1.0), norm)
    }

    /// The parameter and its averages (p, m, v) after a step with gradient g.
    pub fn step((mut p, m, v): (f64, f64, f64), mut g: f64, update: &Update) -> (f64, f64, f64) {
        let (Update::Adam(n) | Update::AdamW(n) | Update::BertAdam(n) | Update::HalfBertAdam(n)) = update;
        match update {
            Update::Adam(_) => g += n.decay * p,
            Update::AdamW(_) => p *= 1.0 - n.rate * n.decay,
            Update::BertAdam(_) => {}
            Update::HalfBertAdam(_) => {
                let (p, m, v) = half_step((p as f32, m as f32, v as f32), g as f32, n);
                return (p.into(), m.into(), v.into());
            }
        }
        let m = n.beta1 * m + (1.0 - n.beta1) * g;
        let v = n.beta2 * v + (1.0 - n.beta2) * g * g;
        let p = if let Update::BertAdam(_) = update {
            p - n.rate * (m / (v.sqrt() + n.eps) + n.decay * p)
        } else {
            let corrected = |x: f64, beta: f64| x / (1.0 - beta.powf(n.step as f64));
            p - n.rate * corrected(m, n.beta1) / (corrected(v, n.beta2).sqrt() + n.eps)
        };
        (n.max.map_or(p, |max| p.min(max)), m, v)
    }

    /// x to the nearest half.
    pub fn half(x: f32) -> f32 {
        f16::from_f32(x).to_f32()
    }

    /// [`Update::HalfBertAdam`]: each operation in f32, and its result rounded.
    fn half_step((p, m, v): (f32, f32, f32), g: f32, n: &Numbers) -> (f32, f32, f32) {
        let (p, g) = (half(p), half(g));
        let m = half(half(n.beta1 as f32 * m) + (1.0 - n.beta1) as f32 * g);
        let v = half(half(n.beta2 as f32 * v) + (1.0 - n.beta2) as f32 * (g * g));
        let change = half(m / half(half(v.sqrt()) + n.eps as f32));
        let change = half(change + half(n.decay as f32 * p));
        let p = half(p - half(n.rate as f32 * change));
        (n.max.map_or(p, |max| p.min(max as f32)), m, v)
    }
}

#[cfg(test)]
mod tests;
