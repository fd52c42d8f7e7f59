//! Rows of the last dimension divided by their Euclidean length.

use bytemuck::{Pod, Zeroable};

use super::launch;
use super::layout::{RowPlan, checked_len};
use crate::Result;
use crate::shader::Variant;
use crate::tensor::{DType, Tensor};

const FORWARD: &str = include_str!("../../shaders/l2_normalize.wgsl");
const BACKWARD: &str = include_str!("../../shaders/l2_normalize_backward.wgsl");

/// What a row is divided by; a row of zeros stays one, with a finite gradient (for eps > 0).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divisor {
    /// max(length, eps).
    Clamped {
        /// The least divisor.
        eps: f32,
    },
    /// length + eps.
    Added {
        /// The summand.
        eps: f32,
    },
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    n: u32,
    eps: f32,
    add: u32,
}

fn variant(backward: bool, plan: RowPlan) -> Variant {
    if backward {
        Variant::own("l2_normalize_backward", BACKWARD, plan.defines())
    } else {
        Variant::own("l2_normalize", FORWARD, plan.defines())
    }
}

pub(super) fn variants() -> Vec<Variant> {
    RowPlan::all().into_iter().flat_map(|plan| [variant(false, plan), variant(true, plan)]).collect()
}

fn params(x: &Tensor, plan: RowPlan, divisor: Divisor) -> Params {
    let (eps, add) = match divisor {
        Divisor::Clamped { eps } => (eps, 0),
        Divisor::Added { eps } => (eps, 1),
    };
    Params { rows: x.rows() as u32, n: plan.elements(x.width()) as u32, eps, add }
}

/// y = x / divisor, of x's shape, and `[rows, 2]` statistics for [`backward`]: 1 / divisor and length.
///
/// # Errors
/// [`crate::Error::DType`] unless x is f32; device errors.
pub fn forward(x: &Tensor, divisor: Divisor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "l2_normalize";
    x.expect_dtype(OP, "x", DType::F32)?;
    checked_len(OP, x.shape())?;
    let y = Tensor::uninit(x.gpu(), OP, x.shape())?;
    let stats = Tensor::uninit(x.gpu(), OP, [x.rows(), 2])?;
    if !x.is_empty() {
        let plan = RowPlan::new(x.gpu(), x.rows(), x.width());
        launch(OP, &variant(false, plan), &[x, &y, &stats], &params(x, plan, divisor), plan.grid(x.gpu()), 0)?;
    }
    Ok((y, stats))
}

/// The gradient for x, from what [`forward`] returned and the gradient `g` of y.
///
/// # Errors
/// [`crate::Error::Shape`] unless `g` has y's shape and `stats` has `[rows, 2]`; device errors.
pub fn backward(y: &Tensor, g: &Tensor, stats: &Tensor, divisor: Divisor) -> Result<Tensor> {
    const OP: &str = "l2_normalize backward";
    y.expect_dtype(OP, "y", DType::F32)?;
    g.expect_dtype(OP, "gradient", DType::F32)?;
    stats.expect_dtype(OP, "stats", DType::F32)?;
    g.expect_shape(OP, "gradient", y.shape())?;
    stats.expect_shape(OP, "stats", &[y.rows(), 2])?;
    checked_len(OP, y.shape())?;
    let dx = Tensor::uninit(y.gpu(), OP, y.shape())?;
    if !y.is_empty() {
        let plan = RowPlan::new(y.gpu(), y.rows(), y.width());
        launch(OP, &variant(true, plan), &[y, g, stats, &dx], &params(y, plan, divisor), plan.grid(y.gpu()), 0)?;
    }
    Ok(dx)
}

/// The same in plain Rust, on one row and in f64.
pub mod cpu {
    use super::Divisor;

    fn length_and_divisor(x: &[f64], divisor: Divisor) -> (f64, f64) {
        let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
        match divisor {
            Divisor::Clamped { eps } => (length, length.max(eps.into())),
            Divisor::Added { eps } => (length, length + f64::from(eps)),
        }
    }

    /// One row, divided.
    pub fn forward(x: &[f64], divisor: Divisor) -> Vec<f64> {
        let (_, d) = length_and_divisor(x, divisor);
        x.iter().map(|v| v / d).collect()
    }

    /// Its gradient.
    pub fn backward(x: &[f64], g: &[f64], divisor: Divisor) -> Vec<f64> {
        let (length, d) = length_and_divisor(x, divisor);
        let constant = length == 0.0 || matches!(divisor, Divisor::Clamped { eps } if length < eps.into());
        let dot: f64 = x.iter().zip(g).map(|(x, g)| x * g).sum();
        let pull = if constant { 0.0 } else { dot / (d * d * length) };
        x.iter().zip(g).map(|(x, g)| g / d - x * pull).collect()
    }
}
