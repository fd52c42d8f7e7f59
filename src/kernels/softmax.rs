//! Softmax, its logarithm, and the logarithm of a sum of exponentials, over the last dimension.
//!
//! All three work on z = `scale` * x. A mask (0 or 1) restricts a row to where it is 1: what is masked has softmax 0,
//! logarithm [`f32::MIN`] and gradient 0, whatever x holds there. A row that is masked as a whole has softmax 0,
//! logsumexp [`f32::MIN`] and gradient 0.

use bytemuck::{Pod, Zeroable};

use super::launch;
use super::layout::{RowPlan, checked_len};
use crate::shader::Variant;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const FORWARD: &str = include_str!("../../shaders/softmax.wgsl");
const BACKWARD: &str = include_str!("../../shaders/softmax_backward.wgsl");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Softmax,
    LogSoftmax,
    LogSumExp,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Softmax, Self::LogSoftmax, Self::LogSumExp];

    fn define(self) -> (&'static str, u32) {
        match self {
            Self::Softmax => ("SOFTMAX", 1),
            Self::LogSoftmax => ("LOG_SOFTMAX", 1),
            Self::LogSumExp => ("LOGSUMEXP", 1),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::LogSoftmax => "log_softmax",
            Self::LogSumExp => "logsumexp",
        }
    }

    fn backward_name(self) -> &'static str {
        match self {
            Self::Softmax => "softmax backward",
            Self::LogSoftmax => "log_softmax backward",
            Self::LogSumExp => "logsumexp backward",
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    n: u32,
    mask_stride: u32,
    scale: f32,
}

fn variant(kind: Kind, backward: bool, masked: bool, plan: RowPlan) -> Variant {
    let mut defines = plan.defines();
    defines.push(kind.define());
    if masked {
        defines.push(("MASK", 1));
    }
    if backward {
        Variant::own("softmax_backward", BACKWARD, defines)
    } else {
        Variant::own("softmax", FORWARD, defines)
    }
}

pub(super) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for plan in RowPlan::all() {
        for kind in Kind::ALL {
            for masked in [false, true] {
                all.push(variant(kind, false, masked, plan));
                if !masked || kind == Kind::LogSumExp {
                    all.push(variant(kind, true, masked, plan));
                }
            }
        }
    }
    all
}

/// e^z / Σ e^z along the last dimension, with z = `scale` * x; of x's shape.
///
/// `mask`: of x's shape, or one row of x's width.
///
/// # Errors
/// [`Error::Shape`] if the mask has another shape; [`Error::DType`] unless both are f32; device errors.
pub fn softmax(x: &Tensor, scale: f32, mask: Option<&Tensor>) -> Result<Tensor> {
    forward(Kind::Softmax, x, scale, mask)
}

/// The gradient for x of [`softmax`], from its output `y` and the output's gradient `g`; the mask shows in `y`.
///
/// # Errors
/// [`Error::Shape`] unless `g` has the shape of `y`; device errors.
pub fn softmax_backward(y: &Tensor, g: &Tensor, scale: f32) -> Result<Tensor> {
    backward(Kind::Softmax, y, g, scale)
}

/// z - log Σ e^z along the last dimension, with z = `scale` * x; of x's shape.
///
/// # Errors
/// As [`softmax`].
pub fn log_softmax(x: &Tensor, scale: f32, mask: Option<&Tensor>) -> Result<Tensor> {
    forward(Kind::LogSoftmax, x, scale, mask)
}

/// The gradient for x of [`log_softmax`], from its output `y` and the output's gradient `g`; the mask shows in `y`.
///
/// # Errors
/// As [`softmax_backward`].
pub fn log_softmax_backward(y: &Tensor, g: &Tensor, scale: f32) -> Result<Tensor> {
    backward(Kind::LogSoftmax, y, g, scale)
}

/// log Σ e^z along the last dimension, with z = `scale` * x; x's shape without its last dimension.
///
/// # Errors
/// As [`softmax`].
pub fn logsumexp(x: &Tensor, scale: f32, mask: Option<&Tensor>) -> Result<Tensor> {
    forward(Kind::LogSumExp, x, scale, mask)
}

/// The gradient for x of [`logsumexp`], from its arguments, its output `lse` and the output's gradient `g`.
///
/// # Errors
/// [`Error::Shape`] unless `lse` and `g` have x's shape without its last dimension; as [`softmax`].
pub fn logsumexp_backward(
    x: &Tensor,
    scale: f32,
    mask: Option<&Tensor>,
    lse: &Tensor,
    g: &Tensor,
) -> Result<Tensor> {
    let op = Kind::LogSumExp.backward_name();
    let mask_stride = check(op, x, mask)?;
    lse.expect_shape(op, "lse", outer(x))?;
    g.expect_shape(op, "gradient", outer(x))?;
    g.expect_dtype(op, "gradient", DType::F32)?;
    let dx = Tensor::uninit(x.gpu(), op, x.shape())?;
    let plan = RowPlan::new(x.gpu(), x.rows(), x.width());
    let tensors: Vec<&Tensor> = [lse, g, x].into_iter().chain(mask).chain([&dx]).collect();
    run(op, &variant(Kind::LogSumExp, true, mask.is_some(), plan), &tensors, x, plan, mask_stride, scale)?;
    Ok(dx)
}

/// A shape without its last dimension.
fn outer(x: &Tensor) -> &[usize] {
    &x.shape()[..x.shape().len().saturating_sub(1)]
}

/// Checks the arguments and returns how many elements lie between two rows of the mask.
fn check(op: &'static str, x: &Tensor, mask: Option<&Tensor>) -> Result<usize> {
    x.expect_dtype(op, "x", DType::F32)?;
    checked_len(op, x.shape())?;
    let Some(mask) = mask else { return Ok(0) };
    mask.expect_dtype(op, "mask", DType::F32)?;
    if mask.shape() == x.shape() {
        Ok(x.width())
    } else if mask.len() == x.width() && mask.width() == x.width() {
        Ok(0)
    } else {
        let expected = format!("{:?} or [{}]", x.shape(), x.width());
        Err(Error::Shape { op, argument: "mask", expected, got: mask.shape().to_vec() })
    }
}

fn forward(kind: Kind, x: &Tensor, scale: f32, mask: Option<&Tensor>) -> Result<Tensor> {
    let op = kind.name();
    let mask_stride = check(op, x, mask)?;
    let y = Tensor::uninit(x.gpu(), op, if kind == Kind::LogSumExp { outer(x) } else { x.shape() })?;
    if x.width() == 0 && !y.is_empty() {
        // Rows of nothing: no shader can write to a binding that small, and this is no hot path.
        y.write(&vec![f32::MIN; y.len()])?;
        return Ok(y);
    }
    let plan = RowPlan::new(x.gpu(), x.rows(), x.width());
    let tensors: Vec<&Tensor> = [x].into_iter().chain(mask).chain([&y]).collect();
    run(op, &variant(kind, false, mask.is_some(), plan), &tensors, x, plan, mask_stride, scale)?;
    Ok(y)
}

fn backward(kind: Kind, y: &Tensor, g: &Tensor, scale: f32) -> Result<Tensor> {
    let op = kind.backward_name();
    check(op, y, None)?;
    g.expect_shape(op, "gradient", y.shape())?;
    g.expect_dtype(op, "gradient", DType::F32)?;
    let dx = Tensor::uninit(y.gpu(), op, y.shape())?;
    let plan = RowPlan::new(y.gpu(), y.rows(), y.width());
    run(op, &variant(kind, true, false, plan), &[y, g, &dx], y, plan, 0, scale)?;
    Ok(dx)
}

fn run(
    op: &'static str,
    variant: &Variant,
    tensors: &[&Tensor],
    x: &Tensor,
    plan: RowPlan,
    mask_stride: usize,
    scale: f32,
) -> Result<()> {
    if x.is_empty() {
        return Ok(());
    }
    let params = Params {
        rows: x.rows() as u32,
        n: plan.elements(x.width()) as u32,
        mask_stride: plan.elements(mask_stride) as u32,
        scale,
    };
    launch(op, variant, tensors, &params, plan.grid(x.gpu()), 0)
}

/// The same in plain Rust, on one row and in f64.
pub mod cpu {
    /// Softmax of one row; `mask` as in [`super::softmax`].
    pub fn softmax(x: &[f64], scale: f64, mask: Option<&[f32]>) -> Vec<f64> {
        log_softmax(x, scale, mask).into_iter().map(|y| if y == f64::from(f32::MIN) { 0.0 } else { y.exp() }).collect()
    }

    /// Its gradient.
    pub fn softmax_backward(y: &[f64], g: &[f64], scale: f64) -> Vec<f64> {
        let dot: f64 = y.iter().zip(g).map(|(y, g)| y * g).sum();
        y.iter().zip(g).map(|(y, g)| scale * y * (g - dot)).collect()
    }

    /// Log-softmax of one row.
    pub fn log_softmax(x: &[f64], scale: f64, mask: Option<&[f32]>) -> Vec<f64> {
        let lse = logsumexp(x, scale, mask);
        let value = |i: usize| if valid(mask, i) { scale * x[i] - lse } else { f32::MIN.into() };
        (0..x.len()).map(value).collect()
    }

    /// Its gradient.
    pub fn log_softmax_backward(y: &[f64], g: &[f64], scale: f64) -> Vec<f64> {
        let masked = |y: f64| y == f64::from(f32::MIN);
        let sum: f64 = y.iter().zip(g).filter(|(y, _)| !masked(**y)).map(|(_, g)| g).sum();
        y.iter().zip(g).map(|(&y, g)| if masked(y) { 0.0 } else { scale * (g - y.exp() * sum) }).collect()
    }

    /// Logsumexp of one row.
    pub fn logsumexp(x: &[f64], scale: f64, mask: Option<&[f32]>) -> f64 {
        let z: Vec<f64> = (0..x.len()).filter(|&i| valid(mask, i)).map(|i| scale * x[i]).collect();
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if z.is_empty() { f32::MIN.into() } else { top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln() }
    }

    /// Its gradient, for an upstream gradient `g`.
    pub fn logsumexp_backward(x: &[f64], scale: f64, mask: Option<&[f32]>, lse: f64, g: f64) -> Vec<f64> {
        let value = |i: usize| if valid(mask, i) { scale * g * (scale * x[i] - lse).exp() } else { 0.0 };
        (0..x.len()).map(value).collect()
    }

    fn valid(mask: Option<&[f32]>, i: usize) -> bool {
        mask.is_none_or(|m| m[i] > 0.5)
    }
}
