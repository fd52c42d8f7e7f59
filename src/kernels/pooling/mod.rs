//! Pooling over the length axis: [B, S, D] to [B, D], with a mask [B, S] or without.

mod attention;

pub use attention::{AttentionPool, Pooled, attention, attention_backward};

use super::{expect_iterations, lanes, launch};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernels::shape::{count_elements, in_fours};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};

const MEAN: &str = include_str!("../../../shaders/pooling/pool_mean.wgsl");
const MAX: &str = include_str!("../../../shaders/pooling/pool_max.wgsl");

/// What becomes of the positions whose mask is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Masked {
    /// They do not exist: whatever is there has no influence, and where all are masked, the result is 0.
    #[default]
    Hide,
    /// A position of mask m counts as `x m + (1 - m) value`, as published models do it, with value -1e10 or -1e19:
    /// where all are masked, the maximum is the value, and attention's weights are equal.
    Fill(f32),
}

params! {
    struct MeanParams { extents: [u32; 4] as [bundles, per_row, length, width] }
}

params! {
    struct MaxParams { extents: [u32; 4] as [bundles, per_row, length, width], fill: f32 }
}

fn mean_variant(span: u32, vec4: bool, masked: bool, grad: bool) -> Variant {
    let variant = Variant::own::<MeanParams>("pool_mean", MEAN).set("SPAN", span);
    variant.on("VEC4", vec4).on("MASKED", masked).on("GRAD", grad)
}

fn max_variant(span: u32, vec4: bool, masked: bool, fill: bool, grad: bool) -> Variant {
    // Forward needs the mask in either case, backward where there is a fill.
    let variant = Variant::own::<MaxParams>("pool_max", MAX).set("SPAN", span);
    variant.on("VEC4", vec4).on("MASKED", masked && !grad).on("FILL", fill).on("GRAD", grad)
}

pub(crate) fn variants() -> Vec<Variant> {
    let mut all = attention::variants();
    for (span, vec4) in lanes::SPANS.into_iter().flat_map(|span| [(span, false), (span, true)]) {
        for masked in [false, true] {
            all.extend([false, true].map(|grad| mean_variant(span, vec4, masked, grad)));
            all.push(max_variant(span, vec4, masked, false, false));
        }
        all.push(max_variant(span, vec4, true, true, false));
        all.extend([false, true].map(|fill| max_variant(span, vec4, fill, fill, true)));
    }
    all
}

/// The extents of one call.
#[derive(Clone, Copy)]
struct Extents {
    batch: usize,
    length: usize,
    channels: usize,
    /// See [`lanes::span`].
    span: u32,
}

impl Extents {
    /// Those of `x`, [B, S, D], after checks of it and of the mask.
    fn of(op: &'static str, x: &Tensor, mask: Option<&Tensor>) -> Result<Self> {
        Self::check(op, x.gpu(), x.extents(op, "x", "[batch, length, channels]")?, mask)
    }

    /// Those of a gradient `g`, [B, D], of what was pooled over `length`.
    fn of_gradient(op: &'static str, g: &Tensor, length: usize, mask: Option<&Tensor>) -> Result<Self> {
        let [batch, channels] = g.extents(op, "gradient", "[batch, channels]")?;
        Self::check(op, g.gpu(), [batch, length, channels], mask)
    }

    fn check(op: &'static str, gpu: &Gpu, full: [usize; 3], mask: Option<&Tensor>) -> Result<Self> {
        let [batch, length, channels] = full;
        count_elements(op, &full)?;
        count_elements(op, &[batch, channels])?;
        // No kernel passes more often than three times over the length, or once over the channels.
        expect_iterations(gpu, op, length.saturating_mul(3).max(channels / 4).saturating_add(16))?;
        if let Some(mask) = mask {
            mask.expect(op, "mask", DType::F32, &[batch, length])?;
        }
        Ok(Self { batch, length, channels, span: lanes::span(gpu.family()) })
    }

    fn full(self) -> [usize; 3] {
        [self.batch, self.length, self.channels]
    }

    fn pooled(self) -> [usize; 2] {
        [self.batch, self.channels]
    }

    /// Whether four channels can be read at once.
    fn vec4(self) -> bool {
        self.channels.is_multiple_of(4)
    }

    /// Invocations for all and for each item of the batch; the length; channels in elements of the shader.
    fn words(self) -> [u32; 4] {
        let (width, _) = in_fours(self.channels);
        let per_row = width.div_ceil(self.span as usize);
        [self.batch * per_row, per_row, self.length, width].map(|n| n as u32)
    }

    fn grid(self, gpu: &Gpu) -> [u32; 3] {
        gpu.grid(self.words()[0].div_ceil(64) as usize)
    }
}

/// The mean over the length, weighted by the mask: `sum mask x / sum mask`, where a sum of 0 counts as 1; [B, D].
///
/// A weight of 0 hides its position, whatever x holds there.
///
/// # Errors
/// [`crate::Error::Shape`] unless x is [B, S, D] and the mask [B, S]; [`crate::Error::DType`] unless both are f32;
/// [`crate::Error::LimitExceeded`] on software adapters for more than 21,839 positions; device errors.
pub fn mean(x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let op = "mean pooling";
    let e = Extents::of(op, x, mask)?;
    let y = Tensor::uninit(x.gpu(), op, e.pooled())?;
    let tensors: Vec<&Tensor> = [x, &y].into_iter().chain(mask).collect();
    mean_launch(op, e, &tensors, mask.is_some(), false)?;
    Ok(y)
}

/// The gradient of [`mean`]'s x, [B, `length`, D], from the result's, [B, D].
///
/// # Errors
/// As [`mean`].
pub fn mean_backward(gradient: &Tensor, length: usize, mask: Option<&Tensor>) -> Result<Tensor> {
    let op = "mean pooling backward";
    let e = Extents::of_gradient(op, gradient, length, mask)?;
    let dx = Tensor::uninit(gradient.gpu(), op, e.full())?;
    let tensors: Vec<&Tensor> = [gradient, &dx].into_iter().chain(mask).collect();
    mean_launch(op, e, &tensors, mask.is_some(), true)?;
    Ok(dx)
}

fn mean_launch(op: &'static str, e: Extents, tensors: &[&Tensor], masked: bool, grad: bool) -> Result<()> {
    let variant = mean_variant(e.span, e.vec4(), masked, grad);
    launch(op, &variant, tensors, &MeanParams { extents: e.words() }, e.grid(tensors[0].gpu()), 0)
}

/// The maximum over the length, [B, D], and its position, u32 [B, D], for [`max_backward`].
///
/// Of equal values the first counts. Where nothing counts, the maximum is 0 at position 2³² - 1.
///
/// # Errors
/// As [`mean`].
pub fn max(x: &Tensor, mask: Option<&Tensor>, masked: Masked) -> Result<(Tensor, Tensor)> {
    let op = "max pooling";
    let e = Extents::of(op, x, mask)?;
    let y = Tensor::uninit(x.gpu(), op, e.pooled())?;
    let at = Tensor::uninit_of(x.gpu(), op, e.pooled(), DType::U32)?;
    let fill = fill_of(mask, masked);
    let tensors: Vec<&Tensor> = [x, &at, &y].into_iter().chain(mask).collect();
    max_launch(op, e, &tensors, &max_variant(e.span, e.vec4(), mask.is_some(), fill.is_some(), false), fill)?;
    Ok((y, at))
}

/// The gradient of [`max`]'s x, [B, `length`, D], from the maximum's, [B, D], and its positions. All of it goes to that
/// position, multiplied by the mask there where masked positions are filled; nowhere where the position is 2³² - 1.
///
/// # Errors
/// As [`mean`].
pub fn max_backward(
    gradient: &Tensor,
    positions: &Tensor,
    length: usize,
    mask: Option<&Tensor>,
    masked: Masked,
) -> Result<Tensor> {
    let op = "max pooling backward";
    let e = Extents::of_gradient(op, gradient, length, mask)?;
    positions.expect(op, "positions", DType::U32, gradient.shape())?;
    let dx = Tensor::uninit(gradient.gpu(), op, e.full())?;
    let fill = fill_of(mask, masked);
    let tensors: Vec<&Tensor> = [gradient, positions, &dx].into_iter().chain(mask.filter(|_| fill.is_some())).collect();
    max_launch(op, e, &tensors, &max_variant(e.span, e.vec4(), false, fill.is_some(), true), fill)?;
    Ok(dx)
}

fn max_launch(op: &'static str, e: Extents, tensors: &[&Tensor], variant: &Variant, fill: Option<f32>) -> Result<()> {
    let params = MaxParams { extents: e.words(), fill: fill.unwrap_or(0.0) };
    launch(op, variant, tensors, &params, e.grid(tensors[0].gpu()), 0)
}

/// What masked positions count as, where there are any.
fn fill_of(mask: Option<&Tensor>, masked: Masked) -> Option<f32> {
    match (mask, masked) {
        (Some(_), Masked::Fill(value)) => Some(value),
        _ => None,
    }
}

/// The same in plain Rust, in f64. `shape` is [B, S, D].
pub mod cpu {
    use super::Masked;
    pub use super::attention::cpu::*;

    /// As [`super::mean`].
    pub fn mean(x: &[f64], shape: [usize; 3], mask: Option<&[f64]>) -> Vec<f64> {
        let [batch, length, channels] = shape;
        let mut y = vec![0.0; batch * channels];
        for b in 0..batch {
            let total = total(mask, b, length);
            for s in (0..length).filter(|s| weight(mask, b * length + s) != 0.0) {
                for c in 0..channels {
                    let i = (b * length + s) * channels + c;
                    y[b * channels + c] += weight(mask, b * length + s) * x[i] / total;
                }
            }
        }
        y
    }

    /// As [`super::mean_backward`].
    pub fn mean_backward(gradient: &[f64], shape: [usize; 3], mask: Option<&[f64]>) -> Vec<f64> {
        let [batch, length, channels] = shape;
        let mut dx = vec![0.0; batch * length * channels];
        for (i, d) in dx.iter_mut().enumerate() {
            let (row, c) = (i / channels, i % channels);
            let b = row / length;
            *d = weight(mask, row) * gradient[b * channels + c] / total(mask, b, length);
        }
        dx
    }

    /// As [`super::max`].
    pub fn max(x: &[f64], shape: [usize; 3], mask: Option<&[f64]>, masked: Masked) -> (Vec<f64>, Vec<u32>) {
        let [batch, length, channels] = shape;
        let mut y = vec![0.0; batch * channels];
        let mut positions = vec![u32::MAX; batch * channels];
        for (column, (y, position)) in y.iter_mut().zip(&mut positions).enumerate() {
            let (b, c) = (column / channels, column % channels);
            for s in 0..length {
                let row = b * length + s;
                if let Some(v) = counted(x[row * channels + c], weight(mask, row), masked)
                    && (*position == u32::MAX || v > *y || (v.is_nan() && !y.is_nan()))
                {
                    (*y, *position) = (v, s as u32);
                }
            }
        }
        (y, positions)
    }

    /// As [`super::max_backward`].
    pub fn max_backward(
        gradient: &[f64],
        positions: &[u32],
        shape: [usize; 3],
        mask: Option<&[f64]>,
        masked: Masked,
    ) -> Vec<f64> {
        let [_, length, channels] = shape;
        let mut dx = vec![0.0; shape.iter().product()];
        for (column, &position) in positions.iter().enumerate().filter(|p| *p.1 != u32::MAX) {
            let row = column / channels * length + position as usize;
            dx[row * channels + column % channels] = gradient[column] * slope(weight(mask, row), masked);
        }
        dx
    }

    /// What `x` counts as under mask `m`; none where it is hidden.
    pub(super) fn counted(x: f64, m: f64, masked: Masked) -> Option<f64> {
        match masked {
            Masked::Hide => (m != 0.0).then_some(x),
            Masked::Fill(value) if m == 0.0 => Some(value.into()),
            Masked::Fill(value) => Some(x * m + (1.0 - m) * f64::from(value)),
        }
    }

    /// The derivative of [`counted`].
    pub(super) fn slope(m: f64, masked: Masked) -> f64 {
        match masked {
            Masked::Hide => f64::from(u8::from(m != 0.0)),
            Masked::Fill(_) => m,
        }
    }

    pub(super) fn weight(mask: Option<&[f64]>, row: usize) -> f64 {
        mask.map_or(1.0, |m| m[row])
    }

    fn total(mask: Option<&[f64]>, b: usize, length: usize) -> f64 {
        let total: f64 = (0..length).map(|s| weight(mask, b * length + s)).sum();
        if total == 0.0 { 1.0 } else { total }
    }
}

#[cfg(test)]
mod tests;
