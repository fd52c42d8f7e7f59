//! Layer norm over the last dimension, in the common form and in the one of BiC-Net, with an optional residual input.

use crate::kernels::launch;
use crate::kernels::rows::RowPlan;
use crate::kernels::rows::reduce;
use crate::kernels::shape::{count_elements, in_fours};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const FORWARD: &str = include_str!("../../../shaders/rows/layer_norm.wgsl");
const BACKWARD: &str = include_str!("../../../shaders/rows/layer_norm_backward.wgsl");
const PARAMS: &str = include_str!("../../../shaders/rows/layer_norm_params.wgsl");

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

params! {
    struct RowParams { rows: u32, n: u32, width: f32, eps: f32, unbiased: u32 }
}

params! {
    struct ColumnParams { rows: u32, n: u32, blocks: u32, span: u32, eps: f32, unbiased: u32 }
}

/// Rows that one invocation sums for the gradients of gain and bias.
const ROWS_PER_BLOCK: usize = 64;

fn forward_variant(plan: RowPlan, residual: bool, sum: bool) -> Variant {
    let variant = plan.specialise(Variant::own::<RowParams>("layer_norm", FORWARD));
    variant.on("RESIDUAL", residual).on("SUM", sum)
}

fn backward_variant(plan: RowPlan) -> Variant {
    plan.specialise(Variant::own::<RowParams>("layer_norm_backward", BACKWARD))
}

fn params_variant(vec4: bool) -> Variant {
    Variant::own::<ColumnParams>("layer_norm_params", PARAMS).on("VEC4", vec4)
}

pub(crate) fn variants() -> Vec<Variant> {
    let forward = RowPlan::all_straight().into_iter().flat_map(|plan| {
        [(false, false), (true, false), (true, true)].map(|(residual, sum)| forward_variant(plan, residual, sum))
    });
    let backward = RowPlan::all().into_iter().map(backward_variant);
    forward.chain(backward).chain([false, true].map(params_variant)).collect()
}

fn check(
    op: &'static str,
    x: &Tensor,
    same: &[(&'static str, &Tensor)],
    rows: &[(&'static str, &Tensor)],
) -> Result<()> {
    x.expect_dtype(op, "x", DType::F32)?;
    count_elements(op, x.shape())?;
    if x.shape().is_empty() {
        return Err(Error::shape(op, "x", "at least one dimension", &[]));
    }
    for (argument, tensor) in same {
        tensor.expect(op, argument, DType::F32, x.shape())?;
    }
    for (argument, tensor) in rows {
        tensor.expect(op, argument, DType::F32, &[x.width()])?;
    }
    Ok(())
}

/// Normalises the rows of x, or of x + `residual`; `gain` and `bias` have x's width.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`] for what does not fit x; [`Error::LimitExceeded`] on software adapters for
/// rows of some 2.8 million elements; device errors.
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
        let plan = RowPlan::new(OP, gpu, x.rows(), x.width())?.straight(x.width());
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
    stats.expect(OP, "stats", DType::F32, &[x.rows(), 2])?;
    let gpu = x.gpu();
    let dx = Tensor::uninit(gpu, OP, x.shape())?;
    if x.is_empty() {
        let zeros = || Tensor::zeros(gpu, OP, [x.width()]);
        return Ok((dx, zeros()?, zeros()?));
    }
    let plan = RowPlan::new(OP, gpu, x.rows(), x.width())?;
    let params = row_params(x, plan, norm);
    launch(OP, &backward_variant(plan), &[dy, x, gain, stats, &dx], &params, plan.grid(gpu), 0)?;

    let blocks = x.rows().div_ceil(ROWS_PER_BLOCK);
    let (n, vec4) = in_fours(x.width());
    let dgain = Tensor::uninit(gpu, OP, [blocks, x.width()])?;
    let dbias = Tensor::uninit(gpu, OP, [blocks, x.width()])?;
    let params = ColumnParams {
        rows: params.rows,
        n: n as u32,
        blocks: blocks as u32,
        span: x.rows().div_ceil(blocks) as u32,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::*;
    use crate::parity::golden;

    const NORMS: [Norm; 2] = [Norm::Biased { eps: 1e-5 }, Norm::Unbiased { eps: 1e-6 }];

    #[test]
    fn rows_equal_the_twin() {
        for gpu in gpus() {
            for (rows, n) in
                [(1, 1), (9, 3), (17, 4), (33, 16), (5, 31), (9, 32), (8, 64), (3, 65), (130, 68), (11, 256), (7, 1030)]
            {
                for (norm, with_residual, keep_sum) in [
                    (NORMS[0], false, false),
                    (NORMS[1], true, true),
                    (NORMS[0], true, false),
                    (NORMS[1], false, false),
                ] {
                    let x = noise(rows * n, 1);
                    let residual: Vec<f32> = noise(rows * n, 2).iter().map(|v| v + 3.0).collect();
                    let (gain, bias, dy) = (noise(n, 3), noise(n, 4), noise(rows * n, 5));
                    let t = |data: &[f32], shape: &[usize]| poisoned(&gpu, shape, data);
                    let (tx, tr) = (t(&x, &[rows, n]), t(&residual, &[rows, n]));
                    let (tgain, tbias, tdy) = (t(&gain, &[n]), t(&bias, &[n]), t(&dy, &[rows, n]));
                    let add = with_residual.then_some(Residual { tensor: &tr, keep_sum });
                    let out = forward(&tx, add, &tgain, &tbias, norm).unwrap();

                    let total: Vec<f32> =
                        if with_residual { x.iter().zip(&residual).map(|(a, b)| a + b).collect() } else { x.clone() };
                    let (wgain, wbias) = (to_f64(&gain), to_f64(&bias));
                    let row = |v: &[f32], r: usize| to_f64(&v[r * n..(r + 1) * n]);
                    let expected: Vec<f64> =
                        (0..rows).flat_map(|r| cpu::forward(&row(&total, r), &wgain, &wbias, norm)).collect();
                    assert_close(&out.y, &to_f32(&expected), 1e-4, 1e-5);
                    assert_eq!(out.sum.is_some(), keep_sum);
                    if let Some(sum) = &out.sum {
                        assert_eq!(sum.to_vec().unwrap(), total);
                    }

                    let ttotal = t(&total, &[rows, n]);
                    let (dx, dgain, dbias) = backward(&tdy, &ttotal, &tgain, &out.stats, norm).unwrap();
                    let (mut edx, mut edgain, mut edbias) = (vec![], vec![0.0; n], vec![0.0; n]);
                    for r in 0..rows {
                        let (d, g, b) = cpu::backward(&row(&dy, r), &row(&total, r), &wgain, norm);
                        edx.extend(d);
                        edgain.iter_mut().zip(g).for_each(|(a, v)| *a += v);
                        edbias.iter_mut().zip(b).for_each(|(a, v)| *a += v);
                    }
                    assert_close(&dx, &to_f32(&edx), 1e-3, 1e-4);
                    assert_close(&dgain, &to_f32(&edgain), 1e-3, 1e-4);
                    assert_close(&dbias, &to_f32(&edbias), 1e-4, 1e-5);
                    let (again, again_gain, _) = backward(&tdy, &ttotal, &tgain, &out.stats, norm).unwrap();
                    assert_eq!(dx.to_vec().unwrap(), again.to_vec().unwrap());
                    assert_eq!(dgain.to_vec().unwrap(), again_gain.to_vec().unwrap());
                }
            }
        }
    }

    #[test]
    fn the_twins_gradient_equals_differences() {
        for norm in NORMS {
            let [x, gain, bias, dy] = [1, 2, 3, 4].map(|seed| to_f64(&noise(6, seed)));
            let loss = |x: &[f64], gain: &[f64], bias: &[f64]| -> f64 {
                cpu::forward(x, gain, bias, norm).iter().zip(&dy).map(|(y, d)| y * d).sum()
            };
            let (dx, dgain, dbias) = cpu::backward(&dy, &x, &gain, norm);
            let near = |a: &[f64], b: &[f64]| assert_slices_close(&to_f32(a), &to_f32(b), 1e-5, 1e-7);
            near(&dx, &differences(&x, |x| loss(x, &gain, &bias)));
            near(&dgain, &differences(&gain, |gain| loss(&x, gain, &bias)));
            near(&dbias, &differences(&bias, |bias| loss(&x, &gain, bias)));
        }
    }

    #[test]
    fn constant_rows_have_finite_gradients() {
        for gpu in gpus() {
            for n in [1, 4] {
                for norm in NORMS {
                    let x = Tensor::from_slice(&gpu, [1, n], &vec![2.5; n]).unwrap();
                    let ones = Tensor::from_slice(&gpu, [n], &vec![1.0; n]).unwrap();
                    let out = forward(&x, None, &ones, &ones, norm).unwrap();
                    assert_eq!(out.y.to_vec().unwrap(), vec![1.0; n]);
                    let dy = noise_tensor(&gpu, &[1, n], 1);
                    let (dx, _, _) = backward(&dy, &x, &ones, &out.stats, norm).unwrap();
                    assert!(dx.to_vec().unwrap().iter().all(|v| v.is_finite()));
                }
            }
        }
    }

    #[test]
    fn goldens() {
        let names = ["eps12", "eps5", "unbiased"];
        for (name, case) in names.iter().flat_map(|n| ["0", "1", "smallvar"].map(|case| (*n, case))) {
            let unbiased = name == "unbiased";
            let file =
                if unbiased { format!("op-layer_norm_{name}-{case}") } else { format!("op-layer_norm-{name}-{case}") };
            let golden = golden::open(&file);
            let eps = golden.config["eps"].as_f64().unwrap() as f32;
            let norm = if unbiased { Norm::Unbiased { eps } } else { Norm::Biased { eps } };
            let gain_name = if unbiased { "gain" } else { "weight" };
            for gpu in gpus() {
                let tensor = |name: &str| Tensor::from_slice(&gpu, golden.shape(name), &golden.f32(name)).unwrap();
                let (x, gain) = (tensor("input.x"), tensor(&format!("input.{gain_name}")));
                let out = forward(&x, None, &gain, &tensor("input.bias"), norm).unwrap();
                golden.check("output.y", &out.y.to_vec().unwrap());
                let (dx, dgain, dbias) = backward(&tensor("input.cotangent"), &x, &gain, &out.stats, norm).unwrap();
                golden.check("grad_input.x", &dx.to_vec().unwrap());
                golden.check(&format!("grad_input.{gain_name}"), &dgain.to_vec().unwrap());
                golden.check("grad_input.bias", &dbias.to_vec().unwrap());
            }
        }
    }

    #[test]
    fn wrong_shapes_are_errors_and_empty_ones_are_not() {
        for gpu in gpus() {
            let (x, row) = (noise_tensor(&gpu, &[2, 3], 1), noise_tensor(&gpu, &[3], 1));
            let short = noise_tensor(&gpu, &[2], 1);
            let wrong = forward(&x, None, &row, &short, NORMS[0]);
            assert!(matches!(wrong, Err(Error::Shape { argument: "bias", .. })));
            let residual = Residual { tensor: &row, keep_sum: false };
            let wrong = forward(&x, Some(residual), &row, &row, NORMS[0]);
            assert!(matches!(wrong, Err(Error::Shape { argument: "residual", .. })));
            assert!(matches!(backward(&x, &x, &row, &short, NORMS[0]), Err(Error::Shape { argument: "stats", .. })));
            let none = Tensor::from_slice(&gpu, [0, 3], &[]).unwrap();
            let out = forward(&none, None, &row, &row, NORMS[0]).unwrap();
            let (dx, dgain, dbias) = backward(&none, &none, &row, &out.stats, NORMS[0]).unwrap();
            assert!(dx.is_empty());
            assert_eq!((dgain.to_vec().unwrap(), dbias.to_vec().unwrap()), (vec![0.0; 3], vec![0.0; 3]));
        }
    }

    /// Software adapters end loops that are too long.
    #[test]
    fn long_rows_are_normalised_to_their_end() {
        for gpu in gpus() {
            for (rows, n) in [(9, 30_522), (1, 300_001)] {
                let (x, dy) = (noise(rows * n, 1), noise(rows * n, 2));
                let (gain, bias) = (noise(n, 3), noise(n, 4));
                let [tx, tdy] = [&x, &dy].map(|v| poisoned(&gpu, &[rows, n], v));
                let [tgain, tbias] = [&gain, &bias].map(|v| poisoned(&gpu, &[n], v));
                let row = |v: &[f32], r: usize| to_f64(&v[r * n..(r + 1) * n]);
                let (wgain, wbias) = (to_f64(&gain), to_f64(&bias));
                let out = forward(&tx, None, &tgain, &tbias, NORMS[0]).unwrap();
                let y: Vec<f64> = (0..rows).flat_map(|r| cpu::forward(&row(&x, r), &wgain, &wbias, NORMS[0])).collect();
                assert_close(&out.y, &to_f32(&y), 1e-4, 1e-5);
                let (dx, ..) = backward(&tdy, &tx, &tgain, &out.stats, NORMS[0]).unwrap();
                let expected: Vec<f64> =
                    (0..rows).flat_map(|r| cpu::backward(&row(&dy, r), &row(&x, r), &wgain, NORMS[0]).0).collect();
                assert_close(&dx, &to_f32(&expected), 1e-3, 1e-4);
            }
        }
    }
}
