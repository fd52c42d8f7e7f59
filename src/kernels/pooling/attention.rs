//! Attention pooling: a weighted sum over the length, with weights from a softmax of given logits.

use super::{Extents, Masked, fill_of};
use crate::gpu::KernelFamily;
use crate::kernels::elementwise::dropout::Dropout;
use crate::kernels::lanes::SPANS;
use crate::kernels::launch;
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const WGSL: &str = include_str!("../../../shaders/pooling/pool_attention.wgsl");
const ROWS: &str = include_str!("../../../shaders/pooling/pool_attention_rows.wgsl");

/// The ways to pool.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttentionPool {
    /// What becomes of the logits of masked positions.
    pub masked: Masked,
    /// Applied to the weights before they multiply x, by the element's index in the weights.
    pub dropout: Option<Dropout>,
}

/// The result of [`attention`], which [`attention_backward`] needs again.
#[derive(Clone, Debug)]
pub struct Pooled {
    /// The weighted sum, [B, D].
    pub y: Tensor,
    /// The weights before dropout, of the logits' shape; they sum to 1 over the length, or to 0 where all is hidden.
    pub weights: Tensor,
}

params! {
    struct Params {
        extents: [u32; 4] as [bundles, per_row, length, width], fill: f32, threshold: u32, scale: f32,
        words: [u32; 4] as [seed_low, seed_high, stream_low, stream_high],
    }
}

params! {
    struct RowParams {
        rows: u32, length: u32, width: u32, threshold: u32, scale: f32,
        words: [u32; 4] as [seed_low, seed_high, stream_low, stream_high],
    }
}

/// What a variant depends on, besides forward or backward.
#[derive(Clone, Copy)]
struct Kind {
    span: u32,
    vec4: bool,
    shared: bool,
    masked: bool,
    fill: bool,
    dropout: bool,
}

fn forward_variant(k: Kind) -> Variant {
    Variant::own::<Params>("pool_attention", WGSL)
        .set("SPAN", k.span)
        .on("VEC4", k.vec4)
        .on("SHARED", k.shared)
        .on("WIDE", k.vec4 && !k.shared)
        .on("HIDE", k.masked && !k.fill)
        .on("FILL", k.fill)
        .on("DROPOUT", k.dropout)
}

fn backward_variant(k: Kind, family: KernelFamily) -> Variant {
    if !k.shared {
        return forward_variant(Kind { masked: false, ..k }).set("GRAD", 1);
    }
    let subgroup = if let KernelFamily::Subgroup { size } = family { Some(size) } else { None };
    Variant::own::<RowParams>("pool_attention_rows", ROWS)
        .on("VEC4", k.vec4)
        .on("FILL", k.fill)
        .on("DROPOUT", k.dropout)
        .maybe("SUBGROUP", subgroup)
}

pub(crate) fn variants() -> Vec<Variant> {
    let subgroups = [4, 8, 16].map(|size| KernelFamily::Subgroup { size });
    let mut all = Vec::new();
    for bits in 0..16 {
        let [vec4, dropout, fill, shared] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
        for span in SPANS {
            for masked in [false, true].into_iter().filter(|&masked| masked || !fill) {
                all.push(forward_variant(Kind { span, vec4, shared, masked, fill, dropout }));
            }
        }
        let kind = |span| Kind { span, vec4, shared, masked: fill, fill, dropout };
        if shared {
            let families = subgroups.into_iter().chain([KernelFamily::Tiled]);
            all.extend(families.map(|family| backward_variant(kind(1), family)));
        } else {
            all.extend(SPANS.map(|span| backward_variant(kind(span), KernelFamily::Tiled)));
        }
    }
    all
}

/// A call, after its checks.
struct Call {
    extents: Extents,
    kind: Kind,
    params: Params,
}

impl Call {
    /// `logits` is what must have the logits' shape, called `argument`.
    fn check(
        op: &'static str,
        x: &Tensor,
        logits: &Tensor,
        argument: &'static str,
        mask: Option<&Tensor>,
        options: AttentionPool,
    ) -> Result<Self> {
        let e = Extents::of(op, x, mask)?;
        logits.expect_dtype(op, argument, DType::F32)?;
        let shared = logits.shape() == [e.batch, e.length];
        if !shared && logits.shape() != e.full() {
            let expected = format!("{:?} or {:?}", e.full(), &e.full()[..2]);
            return Err(Error::shape(op, argument, expected, logits.shape()));
        }
        if let Some(dropout) = options.dropout {
            dropout.check(op)?;
        }
        let dropout = options.dropout.filter(|d| d.probability > 0.0);
        let fill = fill_of(mask, options.masked);
        let params = Params {
            extents: e.words(),
            fill: fill.unwrap_or(0.0),
            threshold: dropout.map_or(0, |d| d.threshold()),
            scale: dropout.map_or(1.0, |d| d.scale()),
            words: dropout.map_or([0; 4], |d| d.words()),
        };
        let kind = Kind {
            span: e.span,
            vec4: e.vec4(),
            shared,
            masked: mask.is_some(),
            fill: fill.is_some(),
            dropout: dropout.is_some(),
        };
        Ok(Self { extents: e, kind, params })
    }
}

/// `y = sum over S of dropout(w) x`, where w is the softmax over S of `logits`: [B, S, D], or [B, S] for weights that
/// all channels share. x is [B, S, D], the mask [B, S].
///
/// # Errors
/// [`Error::Shape`] unless the shapes are those; [`Error::DType`] unless all are f32; [`Error::Argument`] for a
/// probability that is none; device errors.
pub fn attention(x: &Tensor, logits: &Tensor, mask: Option<&Tensor>, options: AttentionPool) -> Result<Pooled> {
    let op = "attention pooling";
    let Call { extents: e, kind, params } = Call::check(op, x, logits, "logits", mask, options)?;
    let weights = Tensor::uninit(x.gpu(), op, logits.shape())?;
    let y = Tensor::uninit(x.gpu(), op, e.pooled())?;
    if e.channels == 0 {
        // No invocation runs, and shared weights are not empty.
        weights.fill_zero()?;
    }
    let tensors: Vec<&Tensor> = [x, logits, &weights, &y].into_iter().chain(mask).collect();
    launch(op, &forward_variant(kind), &tensors, &params, e.grid(x.gpu()), 0)?;
    Ok(Pooled { y, weights })
}

/// The gradients of x and of the logits, from the gradient of y, [B, D]; mask and options as in [`attention`], whose
/// result is `pooled`.
///
/// # Errors
/// As [`attention`].
pub fn attention_backward(
    gradient: &Tensor,
    x: &Tensor,
    pooled: &Pooled,
    mask: Option<&Tensor>,
    options: AttentionPool,
) -> Result<(Tensor, Tensor)> {
    let op = "attention pooling backward";
    let Pooled { y, weights } = pooled;
    let Call { extents: e, kind, params } = Call::check(op, x, weights, "weights", mask, options)?;
    for (tensor, argument) in [(gradient, "gradient"), (y, "y")] {
        tensor.expect(op, argument, DType::F32, &e.pooled())?;
    }
    let gpu = x.gpu();
    let dx = Tensor::uninit(gpu, op, x.shape())?;
    let dlogits = Tensor::uninit(gpu, op, weights.shape())?;
    let mask = mask.filter(|_| kind.fill);
    let tensors: Vec<&Tensor> = [x, weights, y, gradient, &dx, &dlogits].into_iter().chain(mask).collect();
    let variant = backward_variant(kind, gpu.family());
    if kind.shared {
        let Params { extents: [_, _, length, width], threshold, scale, words, .. } = params;
        let rows = e.batch * e.length;
        let params = RowParams { rows: rows as u32, length, width, threshold, scale, words };
        launch(op, &variant, &tensors, &params, gpu.grid(rows), 0)?;
    } else {
        launch(op, &variant, &tensors, &params, e.grid(gpu), 0)?;
    }
    Ok((dx, dlogits))
}

/// The same in plain Rust.
pub mod cpu {
    use super::super::cpu::{counted, slope, weight};
    use super::super::{AttentionPool, Masked};
    use crate::kernels::elementwise::dropout;

    /// As [`super::attention`], for x of `shape` [B, S, D] and as many logits as x has elements or rows: y and weights.
    pub fn attention(
        x: &[f64],
        logits: &[f64],
        shape: [usize; 3],
        mask: Option<&[f64]>,
        options: AttentionPool,
    ) -> (Vec<f64>, Vec<f64>) {
        let [batch, length, channels] = shape;
        let each = if logits.len() == x.len() { channels } else { 1 };
        let mut weights = vec![0.0; logits.len()];
        for b in 0..batch {
            for c in 0..each {
                let at = |s: usize| (b * length + s) * each + c;
                let logit = |s: usize| counted(logits[at(s)], weight(mask, b * length + s), options.masked);
                let top = (0..length).filter_map(logit).fold(f64::NEG_INFINITY, f64::max);
                let share = |s: usize| logit(s).map_or(0.0, |a| (a - top).exp());
                let total: f64 = (0..length).map(share).sum();
                for s in 0..length {
                    weights[at(s)] = if total == 0.0 { 0.0 } else { share(s) / total };
                }
            }
        }
        let mut y = vec![0.0; batch * channels];
        for (i, &x) in x.iter().enumerate() {
            let (row, c) = (i / channels, i % channels);
            let at = row * each + c % each;
            let visible = options.masked != Masked::Hide || weight(mask, row) != 0.0;
            if visible {
                y[row / length * channels + c] += factor(options, at) * weights[at] * x;
            }
        }
        (y, weights)
    }

    /// As [`super::attention_backward`], from the forward pass's arguments: the gradients of x and of the logits.
    pub fn attention_backward(
        gradient: &[f64],
        x: &[f64],
        logits: &[f64],
        shape: [usize; 3],
        mask: Option<&[f64]>,
        options: AttentionPool,
    ) -> (Vec<f64>, Vec<f64>) {
        let [batch, length, channels] = shape;
        let each = if logits.len() == x.len() { channels } else { 1 };
        let (_, weights) = attention(x, logits, shape, mask, options);
        let mut dx = vec![0.0; x.len()];
        let mut dweights = vec![0.0; logits.len()];
        for i in 0..x.len() {
            let (row, c) = (i / channels, i % channels);
            let (at, g) = (row * each + c % each, gradient[row / length * channels + c]);
            if weights[at] != 0.0 {
                dx[i] = factor(options, at) * weights[at] * g;
                dweights[at] += factor(options, at) * x[i] * g;
            }
        }
        let mut dlogits = vec![0.0; logits.len()];
        for b in 0..batch {
            for c in 0..each {
                let at = |s: usize| (b * length + s) * each + c;
                let mean: f64 = (0..length).map(|s| weights[at(s)] * dweights[at(s)]).sum();
                for s in 0..length {
                    let slope = slope(weight(mask, b * length + s), options.masked);
                    dlogits[at(s)] = slope * weights[at(s)] * (dweights[at(s)] - mean);
                }
            }
        }
        (dx, dlogits)
    }

    fn factor(options: AttentionPool, index: usize) -> f64 {
        options.dropout.map_or(1.0, |d| dropout::cpu::factor(d, index).into())
    }
}
