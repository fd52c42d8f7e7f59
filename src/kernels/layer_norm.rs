//! Layer norm over the last dimension, in the common form and in the one of BiC-Net, with an optional residual input.

use bytemuck::{Pod, Zeroable};

use super::layout::{RowPlan, checked_len};
use super::{launch, reduce};
use crate::shader::Variant;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const FORWARD: &str = include_str!("../../shaders/layer_norm.wgsl");
const BACKWARD: &str = include_str!("../../shaders/layer_norm_backward.wgsl");
const PARAMS: &str = include_str!("../../shaders/layer_norm_params.wgsl");

/// How a row is normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// (x - mean) / sqrt(variance + eps), with the variance over n.
    Biased {
        /// What keeps the root away from 0.
        eps: f32,
    },
    /// (x - mean) / (deviation + eps), with the deviation over n - 1, and 0 for rows of one element.
    Unbiased {
        /// What keeps the divisor away from 0.
        eps: f32,
    },
}

impl Norm {
    fn parts(self) -> (f32, u32) {
        match self {
            Self::Biased { eps } => (eps, 0),
            Self::Unbiased { eps } => (eps, 1),
        }
    }
}

/// What [`forward`] returns.
#[derive(Clone, Debug)]
pub struct Output {
    /// `gain` * normalised + `bias`, of x's shape.
    pub y: Tensor,
    /// x + residual, where it was asked for.
    pub sum: Option<Tensor>,
    /// `[rows, 2]`, for [`backward`]: a row's mean, and 1 / sqrt(variance + eps) ([`Norm::Biased`]) or its deviation
    /// ([`Norm::Unbiased`]).
    pub stats: Tensor,
}

/// What is added to x before it is normalised.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// The summand, of x's shape.
    pub tensor: &'a Tensor,
    /// Whether to return the sum: the next residual, or what [`backward`] needs.
    pub keep_sum: bool,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RowParams {
    rows: u32,
    n: u32,
    width: f32,
    eps: f32,
    unbiased: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ColumnParams {
    rows: u32,
    n: u32,
    blocks: u32,
    eps: f32,
    unbiased: u32,
}

/// Rows that one invocation sums for the gradients of gain and bias.
const ROWS_PER_BLOCK: usize = 64;

fn forward_variant(plan: RowPlan, residual: bool, sum: bool) -> Variant {
    let mut defines = plan.defines();
    if residual {
        defines.push(("RESIDUAL", 1));
    }
    if sum {
        defines.push(("SUM", 1));
    }
    Variant::own("layer_norm", FORWARD, defines)
}

fn backward_variant(plan: RowPlan) -> Variant {
    Variant::own("layer_norm_backward", BACKWARD, plan.defines())
}

fn params_variant(vec4: bool) -> Variant {
    Variant::own("layer_norm_params", PARAMS, if vec4 { vec![("VEC4", 1)] } else { vec![] })
}

pub(super) fn variants() -> Vec<Variant> {
    let rows = RowPlan::all().into_iter().flat_map(|plan| {
        [
            forward_variant(plan, false, false),
            forward_variant(plan, true, false),
            forward_variant(plan, true, true),
            backward_variant(plan),
        ]
    });
    rows.chain([false, true].map(params_variant)).collect()
}

fn check(op: &'static str, x: &Tensor, same: &[(&'static str, &Tensor)], rows: &[(&'static str, &Tensor)]) -> Result<()> {
    x.expect_dtype(op, "x", DType::F32)?;
    checked_len(op, x.shape())?;
    if x.shape().is_empty() {
        let expected = "at least one dimension".into();
        return Err(Error::Shape { op, argument: "x", expected, got: vec![] });
    }
    for (argument, tensor) in same {
        tensor.expect_dtype(op, argument, DType::F32)?;
        tensor.expect_shape(op, argument, x.shape())?;
    }
    for (argument, tensor) in rows {
        tensor.expect_dtype(op, argument, DType::F32)?;
        tensor.expect_shape(op, argument, &[x.width()])?;
    }
    Ok(())
}

/// Normalises the rows of x, or of x + `residual`; `gain` and `bias` have x's width.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`] for what does not fit x; device errors.
pub fn forward(x: &Tensor, residual: Option<Residual<'_>>, gain: &Tensor, bias: &Tensor, norm: Norm) -> Result<Output> {
    const OP: &str = "layer_norm";
    let same: Vec<(&'static str, &Tensor)> = residual.iter().map(|r| ("residual", r.tensor)).collect();
    check(OP, x, &same, &[("gain", gain), ("bias", bias)])?;
    let gpu = x.gpu();
    let y = Tensor::uninit(gpu, OP, x.shape())?;
    let stats = Tensor::uninit(gpu, OP, [x.rows(), 2])?;
    let keep_sum = residual.is_some_and(|r| r.keep_sum);
    let sum = keep_sum.then(|| Tensor::uninit(gpu, OP, x.shape())).transpose()?;
    if !x.is_empty() {
        let plan = RowPlan::new(gpu, x.rows(), x.width());
        let mut tensors = vec![x, gain, bias];
        tensors.extend(residual.map(|r| r.tensor));
        tensors.extend([&y, &stats]);
        tensors.extend(sum.as_ref());
        let variant = forward_variant(plan, residual.is_some(), keep_sum);
        launch(OP, &variant, &tensors, &row_params(x, plan, norm), plan.grid(gpu), 0)?;
    }
    Ok(Output { y, sum, stats })
}

/// The gradients for x (and, equally, for the residual), gain and bias, from the output's gradient `dy`.
///
/// `x` is what was normalised: with a residual, the sum.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    dy: &Tensor,
    x: &Tensor,
    gain: &Tensor,
    stats: &Tensor,
    norm: Norm,
) -> Result<(Tensor, Tensor, Tensor)> {
    const OP: &str = "layer_norm backward";
    check(OP, x, &[("gradient", dy)], &[("gain", gain)])?;
    stats.expect_dtype(OP, "stats", DType::F32)?;
    stats.expect_shape(OP, "stats", &[x.rows(), 2])?;
    let gpu = x.gpu();
    let dx = Tensor::uninit(gpu, OP, x.shape())?;
    if x.is_empty() {
        let zeros = || Tensor::zeros(gpu, OP, [x.width()]);
        return Ok((dx, zeros()?, zeros()?));
    }
    let plan = RowPlan::new(gpu, x.rows(), x.width());
    let params = row_params(x, plan, norm);
    launch(OP, &backward_variant(plan), &[dy, x, gain, stats, &dx], &params, plan.grid(gpu), 0)?;

    let blocks = x.rows().div_ceil(ROWS_PER_BLOCK);
    let vec4 = x.width() % 4 == 0;
    let n = if vec4 { x.width() / 4 } else { x.width() };
    let dgain = Tensor::uninit(gpu, OP, [blocks, x.width()])?;
    let dbias = Tensor::uninit(gpu, OP, [blocks, x.width()])?;
    let params = ColumnParams {
        rows: params.rows,
        n: n as u32,
        blocks: blocks as u32,
        eps: params.eps,
        unbiased: params.unbiased,
    };
    let grid = gpu.grid((blocks * n).div_ceil(64));
    launch(OP, &params_variant(vec4), &[dy, x, stats, &dgain, &dbias], &params, grid, 0)?;
    Ok((dx, reduce::sum(&dgain, 0)?, reduce::sum(&dbias, 0)?))
}

fn row_params(x: &Tensor, plan: RowPlan, norm: Norm) -> RowParams {
    let (eps, unbiased) = norm.parts();
    let n = plan.elements(x.width()) as u32;
    RowParams { rows: x.rows() as u32, n, width: x.width() as f32, eps, unbiased }
}

/// The same in plain Rust, on one row and in f64.
pub mod cpu {
    use super::Norm;

    /// Mean, divisor and deviation (over n - 1; 0 for one element) of a row.
    fn statistics(x: &[f64], norm: Norm) -> (f64, f64, f64) {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let square: f64 = x.iter().map(|v| (v - mean) * (v - mean)).sum();
        let deviation = (square / (n - 1.0).max(1.0)).sqrt();
        let divisor = match norm {
            Norm::Biased { eps } => (square / n + f64::from(eps)).sqrt(),
            Norm::Unbiased { eps } => deviation + f64::from(eps),
        };
        (mean, divisor, deviation)
    }

    /// One row, normalised.
    pub fn forward(x: &[f64], gain: &[f64], bias: &[f64], norm: Norm) -> Vec<f64> {
        let (mean, divisor, _) = statistics(x, norm);
        (0..x.len()).map(|i| gain[i] * (x[i] - mean) / divisor + bias[i]).collect()
    }

    /// The row's gradient, and what it adds to the gradients of gain and bias.
    pub fn backward(dy: &[f64], x: &[f64], gain: &[f64], norm: Norm) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let n = x.len() as f64;
        let (mean, divisor, deviation) = statistics(x, norm);
        let w: Vec<f64> = gain.iter().zip(dy).map(|(g, d)| g * d).collect();
        let average = w.iter().sum::<f64>() / n;
        let along: f64 = w.iter().zip(x).map(|(w, x)| w * (x - mean)).sum();
        // d(divisor) / dx_i = (x_i - mean) * slope
        let slope = match norm {
            Norm::Biased { .. } => 1.0 / (n * divisor),
            Norm::Unbiased { .. } if deviation > 0.0 => 1.0 / ((n - 1.0) * deviation),
            Norm::Unbiased { .. } => 0.0,
        };
        let dx = (0..x.len())
            .map(|i| (w[i] - average) / divisor - (x[i] - mean) * slope * along / (divisor * divisor))
            .collect();
        let dgain = (0..x.len()).map(|i| dy[i] * (x[i] - mean) / divisor).collect();
        (dx, dgain, dy.to_vec())
    }
}
