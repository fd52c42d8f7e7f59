//! Cross entropy against integer targets, and the symmetric InfoNCE loss of a square matrix of scores.

use crate::gpu::KernelFamily;
use crate::kernels::loss::total;
use crate::kernels::shape::{count_elements, expect_below};
use crate::kernels::{lanes, launch};
use crate::shader::{Variant, params};
use crate::tensor::Tensor;
use crate::{Error, Result};

const WGSL: &str = include_str!("../../../shaders/loss/cross_entropy.wgsl");
const WGSL_GRAD: &str = include_str!("../../../shaders/loss/cross_entropy_grad.wgsl");

/// What [`backward`] needs besides the logits.
#[derive(Clone, Debug)]
pub struct Saved {
    targets: Tensor,
    lse: Tensor,
}

/// What [`info_nce_backward`] needs besides the scores.
#[derive(Clone, Debug)]
pub struct SavedPairs {
    lse: Tensor,
}

impl SavedPairs {
    /// The log of the sum of exponentials of each row, then of each column: `[2, batch]`.
    pub fn lse(&self) -> &Tensor {
        &self.lse
    }
}

params! {
    struct Params { n: u32, c: u32 }
}

params! {
    struct GradParams { n: u32, c: u32, chunks: u32, scale: f32 }
}

fn variant(symmetric: bool, family: KernelFamily) -> Variant {
    Variant::own::<Params>("cross_entropy", WGSL).all(lanes::defines(family)).on("SYMMETRIC", symmetric)
}

fn grad_variant(symmetric: bool) -> Variant {
    Variant::own::<GradParams>("cross_entropy_grad", WGSL_GRAD).on("SYMMETRIC", symmetric)
}

pub(crate) fn variants() -> Vec<Variant> {
    [false, true]
        .into_iter()
        .flat_map(|symmetric| {
            let forward = lanes::FAMILIES.map(|family| variant(symmetric, family));
            forward.into_iter().chain([grad_variant(symmetric)])
        })
        .collect()
}

fn grad_params(n: usize, c: usize) -> (GradParams, usize) {
    let chunks = c.div_ceil(256);
    (GradParams { n: n as u32, c: c as u32, chunks: chunks as u32, scale: 1.0 / n as f32 }, n * chunks)
}

/// The mean over rows of -log softmax(`logits`)\[target\], of shape `[]`; 0 if there are no rows. `logits` is
/// `[rows, classes]`, with one target below `classes` a row.
///
/// # Errors
/// [`Error::Shape`] unless `logits` has two dimensions and there are as many targets as rows,
/// [`Error::IndexOutOfRange`] for a target beyond the classes, [`Error::DType`] unless f32, [`Error::LimitExceeded`] on
/// software adapters for some two million classes; device errors.
pub fn forward(logits: &Tensor, targets: &[u32]) -> Result<(Tensor, Saved)> {
    let op = "cross_entropy";
    let [n, c] = logits.extents(op, "logits", "[rows, classes]")?;
    if targets.len() != n {
        return Err(Error::shape(op, "targets", format!("one a row, [{n}]"), &[targets.len()]));
    }
    expect_below(op, targets, c)?;
    count_elements(op, logits.shape())?;
    let gpu = logits.gpu();
    let targets = Tensor::from_u32(gpu, [n], targets)?;
    let (part, lse) = (Tensor::uninit(gpu, op, [n])?, Tensor::uninit(gpu, op, [n])?);
    let params = Params { n: n as u32, c: c as u32 };
    let family = lanes::family(gpu, op, c, 2)?;
    launch(op, &variant(false, family), &[logits, &targets, &part, &lse], &params, gpu.grid(n), 0)?;
    Ok((total::forward(op, &part, 1.0 / n.max(1) as f32)?, Saved { targets, lse }))
}

/// The gradient with respect to `logits`, (softmax - one-hot) / rows times that of the loss (one element).
///
/// # Errors
/// [`Error::Shape`] unless `logits` is what [`forward`] had and `upstream` has one element; device errors.
pub fn backward(logits: &Tensor, saved: &Saved, upstream: &Tensor) -> Result<Tensor> {
    let op = "cross_entropy backward";
    lanes::expect_scalar(op, upstream)?;
    saved.lse.expect_shape(op, "logits", &[logits.rows()])?;
    let dx = Tensor::uninit(logits.gpu(), op, logits.shape())?;
    let (params, groups) = grad_params(logits.rows(), logits.width());
    let tensors = [logits, &saved.targets, &saved.lse, upstream, &dx];
    launch(op, &grad_variant(false), &tensors, &params, logits.gpu().grid(groups), 0)?;
    Ok(dx)
}

/// Symmetric InfoNCE of `scores` `[batch, batch]`, already divided by the temperature, with the positives on the
/// diagonal: the mean of the cross entropies of its rows and of its columns. The loss has shape `[]`.
///
/// # Errors
/// [`Error::Shape`] unless `scores` is square, [`Error::DType`] unless f32; device errors.
pub fn info_nce(scores: &Tensor) -> Result<(Tensor, SavedPairs)> {
    let op = "info_nce";
    let n = lanes::expect_square(op, scores)?;
    let gpu = scores.gpu();
    let (part, lse) = (Tensor::uninit(gpu, op, [n])?, Tensor::uninit(gpu, op, [2, n])?);
    let params = Params { n: n as u32, c: n as u32 };
    let family = lanes::family(gpu, op, n, 4)?;
    launch(op, &variant(true, family), &[scores, &part, &lse], &params, gpu.grid(n), 0)?;
    Ok((total::forward(op, &part, 1.0 / n.max(1) as f32)?, SavedPairs { lse }))
}

/// The gradient of [`info_nce`] with respect to `scores`, given that of the loss (one element).
///
/// # Errors
/// [`Error::Shape`] unless `scores` is what [`info_nce`] had and `upstream` has one element; device errors.
pub fn info_nce_backward(scores: &Tensor, saved: &SavedPairs, upstream: &Tensor) -> Result<Tensor> {
    let op = "info_nce backward";
    let n = lanes::expect_square(op, scores)?;
    saved.lse.expect_shape(op, "scores", &[2, n])?;
    lanes::expect_scalar(op, upstream)?;
    let ds = Tensor::uninit(scores.gpu(), op, scores.shape())?;
    let (params, groups) = grad_params(n, n);
    let tensors = [scores, &saved.lse, upstream, &ds];
    launch(op, &grad_variant(true), &tensors, &params, scores.gpu().grid(groups), 0)?;
    Ok(ds)
}

/// The same in plain Rust.
pub mod cpu {
    fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
        let top = values.clone().fold(f64::NEG_INFINITY, f64::max);
        top + values.map(|v| (v - top).exp()).sum::<f64>().ln()
    }

    /// The mean cross entropy of rows of `c` logits and its gradient.
    pub fn loss_and_gradient(logits: &[f64], c: usize, targets: &[u32]) -> (f64, Vec<f64>) {
        let n = targets.len() as f64;
        let mut loss = 0.0;
        let mut gradient = Vec::with_capacity(logits.len());
        for (row, &target) in logits.chunks(c.max(1)).zip(targets) {
            let lse = log_sum_exp(row.iter().copied());
            loss += (lse - row[target as usize]) / n;
            let hot = |j: usize| if j == target as usize { 1.0 } else { 0.0 };
            gradient.extend(row.iter().enumerate().map(|(j, &x)| ((x - lse).exp() - hot(j)) / n));
        }
        (loss, gradient)
    }

    /// Symmetric InfoNCE of `n * n` scores and its gradient.
    pub fn info_nce(scores: &[f64], n: usize) -> (f64, Vec<f64>) {
        let transpose = |x: &[f64]| (0..n * n).map(|k| x[k % n * n + k / n]).collect::<Vec<_>>();
        let diagonal: Vec<u32> = (0..n as u32).collect();
        let (rows, d_rows) = loss_and_gradient(scores, n, &diagonal);
        let (columns, d_columns) = loss_and_gradient(&transpose(scores), n, &diagonal);
        let gradient = d_rows.iter().zip(transpose(&d_columns)).map(|(a, b)| 0.5 * (a + b)).collect();
        (0.5 * (rows + columns), gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, gpus, noise, noise_tensor, poisoned};
    use crate::parity::golden;

    fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&v| v.into()).collect()
    }

    fn scaled(x: &[f64], by: f64) -> Vec<f32> {
        x.iter().map(|v| (v * by) as f32).collect()
    }

    #[test]
    fn rows_equal_the_twin() {
        for gpu in gpus() {
            for (n, c) in [(1usize, 1usize), (1, 7), (3, 8), (5, 9), (2, 63), (64, 64), (65, 65), (7, 257), (300, 3)] {
                for spread in [1.0f32, 50.0] {
                    let x: Vec<f32> = noise(n * c, (n + c) as u64).iter().map(|v| v * spread).collect();
                    let targets: Vec<u32> = (0..n).map(|i| (i * 31 % c) as u32).collect();
                    let (loss, gradient) = cpu::loss_and_gradient(&wide(&x), c, &targets);
                    let logits = poisoned(&gpu, &[n, c], &x);
                    let run = || {
                        let (loss, saved) = forward(&logits, &targets).unwrap();
                        let g = Tensor::from_slice(&gpu, [], &[-1.5]).unwrap();
                        (loss, backward(&logits, &saved, &g).unwrap())
                    };
                    let (got, dx) = run();
                    assert_close(&got, &[loss as f32], 1e-5, 1e-6);
                    assert_close(&dx, &scaled(&gradient, -1.5), 2e-5, 1e-6);
                    let again = run();
                    assert_eq!(got.to_vec().unwrap(), again.0.to_vec().unwrap());
                    assert_eq!(dx.to_vec().unwrap(), again.1.to_vec().unwrap());
                }
            }
        }
    }

    #[test]
    fn more_rows_than_workgroups_in_one_dimension() {
        for gpu in gpus() {
            let (n, c) = (66_001, 2);
            let x = noise(n * c, 6);
            let targets: Vec<u32> = (0..n as u32).map(|i| i % 2).collect();
            let (loss, gradient) = cpu::loss_and_gradient(&wide(&x), c, &targets);
            let logits = Tensor::from_slice(&gpu, [n, c], &x).unwrap();
            let (got, saved) = forward(&logits, &targets).unwrap();
            assert_close(&got, &[loss as f32], 1e-5, 1e-6);
            let g = Tensor::from_slice(&gpu, [], &[n as f32]).unwrap();
            let dx = backward(&logits, &saved, &g).unwrap();
            assert_close(&dx, &scaled(&gradient, n as f64), 2e-5, 1e-6);
        }
    }

    #[test]
    fn info_nce_equals_the_twin() {
        for gpu in gpus() {
            for n in [1usize, 2, 7, 8, 9, 63, 64, 65, 259] {
                let x: Vec<f32> = noise(n * n, n as u64).iter().map(|v| v * 20.0).collect();
                let (loss, gradient) = cpu::info_nce(&wide(&x), n);
                let scores = poisoned(&gpu, &[n, n], &x);
                let run = || {
                    let (loss, saved) = info_nce(&scores).unwrap();
                    let g = Tensor::from_slice(&gpu, [1], &[2.0]).unwrap();
                    (loss, info_nce_backward(&scores, &saved, &g).unwrap())
                };
                let (got, ds) = run();
                assert_close(&got, &[loss as f32], 1e-5, 1e-6);
                assert_close(&ds, &scaled(&gradient, 2.0), 2e-5, 1e-6);
                let again = run();
                assert_eq!(got.to_vec().unwrap(), again.0.to_vec().unwrap());
                assert_eq!(ds.to_vec().unwrap(), again.1.to_vec().unwrap());
            }
        }
    }

    #[test]
    fn twins_agree_with_finite_differences() {
        let slopes = |x: &[f64], f: &dyn Fn(&[f64]) -> f64| -> Vec<f64> {
            let at = |i: usize, h: f64| {
                let mut moved = x.to_vec();
                moved[i] += h;
                f(&moved)
            };
            (0..x.len()).map(|i| (at(i, 1e-5) - at(i, -1e-5)) / 2e-5).collect()
        };
        let assert_near = |a: &[f64], b: &[f64]| {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-8), "{a:?} {b:?}");
        };
        let x = wide(&noise(15, 4));
        let targets = [4, 0, 2];
        let (_, gradient) = cpu::loss_and_gradient(&x, 5, &targets);
        assert_near(&slopes(&x, &|x| cpu::loss_and_gradient(x, 5, &targets).0), &gradient);
        let x = wide(&noise(16, 5));
        let (_, gradient) = cpu::info_nce(&x, 4);
        assert_near(&slopes(&x, &|x| cpu::info_nce(x, 4).0), &gradient);
    }

    #[test]
    fn nan_is_not_hidden() {
        for gpu in gpus() {
            let mut x = noise(81, 5);
            x[3] = f32::NAN;
            let x = Tensor::from_slice(&gpu, [9, 9], &x).unwrap();
            let one = Tensor::from_slice(&gpu, [], &[1.0]).unwrap();
            let (loss, saved) = info_nce(&x).unwrap();
            assert!(loss.item().unwrap().is_nan());
            assert!(info_nce_backward(&x, &saved, &one).unwrap().to_vec().unwrap()[4].is_nan());
            let (loss, saved) = forward(&x, &[0; 9]).unwrap();
            assert!(loss.item().unwrap().is_nan());
            assert!(backward(&x, &saved, &one).unwrap().to_vec().unwrap()[4].is_nan());
        }
    }

    #[test]
    fn masked_rows_equal_the_reference() {
        let golden = golden::open("op-cross_entropy-masked-1e10");
        let mask = golden.f32("input.mask");
        let z: Vec<f32> = golden.f32("input.x").iter().zip(&mask).map(|(x, m)| x * m + (1.0 - m) * -1e10).collect();
        for gpu in gpus() {
            let logits = Tensor::from_slice(&gpu, golden.shape("input.x"), &z).unwrap();
            let (loss, saved) = forward(&logits, &golden.u32("input.target")).unwrap();
            golden.check("loss.total", &loss.to_vec().unwrap());
            let dz = backward(&logits, &saved, &Tensor::from_slice(&gpu, [], &[1.0]).unwrap()).unwrap();
            let dx: Vec<f32> = dz.to_vec().unwrap().iter().zip(&mask).map(|(d, m)| d * m).collect();
            golden.check("grad_input.x", &dx);
        }
    }

    #[test]
    fn info_nce_of_cosines_equals_the_reference() {
        let golden = golden::open("op-info_nce-symmetric");
        let &[n, d] = golden.shape("input.a") else { panic!() };
        let unit = |name: &str| -> (Vec<f64>, Vec<f64>) {
            let x = wide(&golden.f32(name));
            let norms: Vec<f64> = x.chunks(d).map(|r| r.iter().map(|v| v * v).sum::<f64>().sqrt()).collect();
            (x.iter().enumerate().map(|(i, v)| v / norms[i / d]).collect(), norms)
        };
        let ((a, a_norms), (b, b_norms)) = (unit("input.a"), unit("input.b"));
        let scale = f64::from(golden.f32("input.logit_scale")[0]).exp();
        let dot = |i: usize, j: usize| (0..d).map(|k| a[i * d + k] * b[j * d + k]).sum::<f64>();
        let s: Vec<f32> = (0..n * n).map(|k| (scale * dot(k / n, k % n)) as f32).collect();
        golden.check("output.y", &s);
        for gpu in gpus() {
            let scores = Tensor::from_slice(&gpu, [n, n], &s).unwrap();
            let (loss, saved) = info_nce(&scores).unwrap();
            golden.check("loss.total", &loss.to_vec().unwrap());
            let ds = info_nce_backward(&scores, &saved, &Tensor::from_slice(&gpu, [], &[1.0]).unwrap()).unwrap();
            let ds = wide(&ds.to_vec().unwrap());
            let d_scale: f64 = ds.iter().zip(&s).map(|(g, &s)| g * f64::from(s)).sum();
            golden.check("grad_input.logit_scale", &[d_scale as f32]);
            // Back through the scaled product and the norms.
            let grad = |x: &[f64], y: &[f64], norms: &[f64], g: &dyn Fn(usize, usize) -> f64| -> Vec<f32> {
                let through = |i: usize, k: usize| scale * (0..n).map(|j| g(i, j) * y[j * d + k]).sum::<f64>();
                let along = |i: usize| (0..d).map(|k| x[i * d + k] * through(i, k)).sum::<f64>();
                (0..n * d).map(|e| ((through(e / d, e % d) - x[e] * along(e / d)) / norms[e / d]) as f32).collect()
            };
            golden.check("grad_input.a", &grad(&a, &b, &a_norms, &|i, j| ds[i * n + j]));
            golden.check("grad_input.b", &grad(&b, &a, &b_norms, &|i, j| ds[j * n + i]));
        }
    }

    #[test]
    fn wrong_shapes_and_targets_are_errors() {
        for gpu in gpus() {
            let x = noise_tensor(&gpu, &[2, 3], 1);
            assert!(matches!(forward(&x, &[0]), Err(Error::Shape { argument: "targets", .. })));
            assert!(matches!(forward(&x, &[0, 3]), Err(Error::IndexOutOfRange { index: 3, len: 3, .. })));
            assert!(matches!(info_nce(&x), Err(Error::Shape { argument: "scores", .. })));
            let (_, saved) = forward(&x, &[0, 2]).unwrap();
            assert!(matches!(backward(&x, &saved, &x), Err(Error::Shape { argument: "upstream", .. })));
            let empty = Tensor::from_slice(&gpu, [0, 3], &[]).unwrap();
            let (loss, saved) = forward(&empty, &[]).unwrap();
            assert_eq!(loss.item().unwrap(), 0.0);
            assert!(backward(&empty, &saved, &loss).unwrap().is_empty());
        }
    }

    /// Software adapters end loops that are too long.
    #[test]
    fn long_rows_are_summed_to_their_end() {
        for gpu in gpus() {
            let c = 600_001;
            let x = noise(2 * c, 6);
            let targets = [5, c as u32 - 1];
            let (loss, _) = cpu::loss_and_gradient(&wide(&x), c, &targets);
            let logits = poisoned(&gpu, &[2, c], &x);
            assert_close(&forward(&logits, &targets).unwrap().0, &[loss as f32], 1e-5, 0.0);
        }
    }
}
