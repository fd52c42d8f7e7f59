//! A test of an adapter: kernels against their twins on the CPU, for users who meet an adapter that nobody tried.

use super::elementwise::unary::{self, Activation, Unary};
use super::linear::matmul;
use super::ranking::nearest::{self, Rows};
use super::ranking::topk;
use super::rows::layer_norm::{self, Norm};
use super::rows::softmax;
use super::similarity::gathered;
use crate::Result;
use crate::gpu::Gpu;
use crate::tensor::Tensor;

/// A comparison of kernels with their twins.
#[derive(Debug)]
pub struct Check {
    /// What was compared.
    pub name: &'static str,
    /// The largest error, as a share of what is allowed.
    pub worst: Result<f64>,
}

impl Check {
    /// Whether every value is as close as it must be.
    pub fn passed(&self) -> bool {
        matches!(self.worst, Ok(share) if share <= 1.0)
    }
}

/// Compares a kernel of each family with its twin on the CPU.
pub fn self_test(gpu: &Gpu) -> Vec<Check> {
    CHECKS.iter().map(|&(name, worst)| Check { name, worst: worst(gpu) }).collect()
}

/// The largest error of a comparison, as a share of what is allowed.
type Worst = fn(&Gpu) -> Result<f64>;

/// A new family of kernels adds its line here.
const CHECKS: &[(&str, Worst)] = &[
    ("transfer", transfer),
    ("elementwise", elementwise_values),
    ("elementwise gradient", elementwise_gradients),
    ("matmul", product),
    ("softmax", softmax_rows),
    ("layer norm", normalised_rows),
    ("top-k", largest),
    ("nearest vectors", nearest_rows),
    ("products of listed pairs", listed_pairs),
    ("same bits twice", repetition),
];

/// Values over the range in which the functions are not trivial, and no power of two of them.
fn inputs() -> Vec<f32> {
    (0..1001).map(|i| (i as f32 - 500.0) * 0.0137).collect()
}

/// The largest |got - expected| as a share of `atol + rtol |expected|`.
fn share(got: &[f32], expected: impl Iterator<Item = f64>, rtol: f64, atol: f64) -> f64 {
    let errors = got.iter().zip(expected).map(|(&g, e)| (f64::from(g) - e).abs() / (atol + rtol * e.abs()));
    // f64::max would drop a NaN.
    errors.map(|error| if error.is_nan() { f64::INFINITY } else { error }).fold(0.0, f64::max)
}

/// The error of what must be equal.
fn exact(equal: bool) -> Result<f64> {
    Ok(if equal { 0.0 } else { f64::INFINITY })
}

fn wave(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin()).collect()
}

fn transfer(gpu: &Gpu) -> Result<f64> {
    let x = inputs();
    exact(Tensor::from_slice(gpu, [x.len()], &x)?.to_vec()? == x)
}

fn unary_ops() -> impl Iterator<Item = Unary> {
    let others = [Unary::Affine { scale: -0.5, shift: 2.0 }, Unary::Exp, Unary::Square];
    Activation::ALL.map(Unary::Activation).into_iter().chain(others)
}

fn elementwise_values(gpu: &Gpu) -> Result<f64> {
    let x = inputs();
    let tensor = Tensor::from_slice(gpu, [x.len()], &x)?;
    let mut worst = 0f64;
    for op in unary_ops() {
        let y = unary::forward(op, &tensor)?.to_vec()?;
        let twin = x.iter().map(|&v| unary::cpu::value_and_derivative(op, v.into()).0);
        worst = worst.max(share(&y, twin, 1e-5, 2e-6));
    }
    Ok(worst)
}

fn elementwise_gradients(gpu: &Gpu) -> Result<f64> {
    let x = inputs();
    let upstream = wave(x.len(), 0.71);
    let x_gpu = Tensor::from_slice(gpu, [x.len()], &x)?;
    let upstream_gpu = Tensor::from_slice(gpu, [x.len()], &upstream)?;
    let mut worst = 0f64;
    for op in unary_ops() {
        let dx = unary::backward(op, &x_gpu, &upstream_gpu)?.to_vec()?;
        let twin =
            x.iter().zip(&upstream).map(|(&v, &g)| unary::cpu::value_and_derivative(op, v.into()).1 * f64::from(g));
        worst = worst.max(share(&dx, twin, 1e-5, 2e-6));
    }
    Ok(worst)
}

fn product(gpu: &Gpu) -> Result<f64> {
    // No extent is a multiple of a tile's.
    let (m, k, n) = (33, 70, 65);
    let (a, b) = (wave(m * k, 0.37), wave(k * n, 0.71));
    let (a_gpu, b_gpu) = (Tensor::from_slice(gpu, [m, k], &a)?, Tensor::from_slice(gpu, [k, n], &b)?);
    let y = matmul::forward(&a_gpu, &b_gpu, &matmul::Options::default())?.y.to_vec()?;
    let term = |i: usize, j: usize, l: usize| f64::from(a[i * k + l]) * f64::from(b[l * n + j]);
    let twin = (0..m * n).map(|at| (0..k).map(|l| term(at / n, at % n, l)).sum());
    Ok(share(&y, twin, 1e-5, 2e-5))
}

fn softmax_rows(gpu: &Gpu) -> Result<f64> {
    let x = inputs();
    let width = 143;
    let y = softmax::softmax(&Tensor::from_slice(gpu, [x.len() / width, width], &x)?, 1.0, None)?.to_vec()?;
    let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
    let twin = wide.chunks(width).flat_map(|row| softmax::cpu::softmax(row, 1.0, None));
    Ok(share(&y, twin, 1e-5, 1e-7))
}

fn normalised_rows(gpu: &Gpu) -> Result<f64> {
    let (x, width, norm) = (inputs(), 143, Norm::Biased { eps: 1e-5 });
    let gain: Vec<f32> = (0..width).map(|i| (i as f32 * 0.37).cos()).collect();
    let [gain_gpu, bias_gpu] =
        [Tensor::from_slice(gpu, [width], &gain)?, Tensor::from_slice(gpu, [width], &x[..width])?];
    let rows = Tensor::from_slice(gpu, [x.len() / width, width], &x)?;
    let y = layer_norm::forward(&rows, None, &gain_gpu, &bias_gpu, norm)?.y.to_vec()?;
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let (gain, bias) = (wide(&gain), wide(&x[..width]));
    let twin = x.chunks(width).flat_map(|row| layer_norm::cpu::forward(&wide(row), &gain, &bias, norm));
    Ok(share(&y, twin, 1e-5, 1e-5))
}

fn largest(gpu: &Gpu) -> Result<f64> {
    let (k, width) = (10, 143);
    let x: Vec<f32> = inputs().iter().map(|v| (v * 17.0).sin()).collect();
    let (_, at) = topk::forward(&Tensor::from_slice(gpu, [x.len() / width, width], &x)?, k)?;
    let twin: Vec<u32> = x.chunks(width).flat_map(|row| topk::cpu::topk(row, k)).collect();
    exact(at.to_u32()? == twin)
}

fn nearest_rows(gpu: &Gpu) -> Result<f64> {
    // Of eighths, so that sums are exact in any order.
    let (width, kept) = (32, 9);
    let eighths = |n: usize, step| wave(n, step).into_iter().map(|v| (v * 8.0).round() / 8.0).collect::<Vec<f32>>();
    let (queries, rows) = (eighths(2 * width, 0.37), eighths(1500 * width, 0.71));
    let rows_gpu = Tensor::from_slice(gpu, [1500, width], &rows)?;
    let found = nearest::forward(&Tensor::from_slice(gpu, [2, width], &queries)?, Rows::Floats(&rows_gpu), kept)?;
    let twin = nearest::cpu::forward(&queries, &rows, width, kept).into_iter().flatten();
    exact(found.rows.to_u32()?.into_iter().eq(twin.map(|(row, _)| row)))
}

fn listed_pairs(gpu: &Gpu) -> Result<f64> {
    let (width, items, pairs) = (28, 7, [[2, 0], [0, 0], [1, 3], [2, 1]]);
    let (texts, videos) = (wave(3 * width, 0.37), wave(4 * items * width, 0.71));
    let texts_gpu = Tensor::from_slice(gpu, [3, 1, width], &texts)?;
    let videos_gpu = Tensor::from_slice(gpu, [4, items, width], &videos)?;
    let y = gathered::forward(&texts_gpu, &videos_gpu, &pairs)?.to_vec()?;
    let twin = gathered::cpu::forward([1, items, width], &texts, &videos, &pairs);
    Ok(share(&y, twin.into_iter().map(f64::from), 1e-5, 2e-5))
}

fn repetition(gpu: &Gpu) -> Result<f64> {
    let x = inputs();
    let tensor = Tensor::from_slice(gpu, [x.len()], &x)?;
    let run = || unary::forward(Unary::Activation(Activation::Gelu), &tensor)?.to_vec();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    exact(bits(run()?) == bits(run()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::gpus;

    #[test]
    fn every_check_passes_on_every_device() {
        for gpu in gpus() {
            let checks = self_test(&gpu);
            assert_eq!(checks.len(), CHECKS.len());
            assert!(checks.iter().all(Check::passed), "{checks:?}");
        }
    }

    #[test]
    fn wrong_values_do_not_pass() {
        let worst = |got: f32| Check { name: "x", worst: Ok(share(&[got], [1.0].into_iter(), 1e-5, 1e-5)) };
        assert!(worst(1.0).passed() && worst(1.00001).passed());
        for wrong in [1.0001, f32::NAN, f32::INFINITY] {
            assert!(!worst(wrong).passed(), "{wrong}");
        }
    }
}
