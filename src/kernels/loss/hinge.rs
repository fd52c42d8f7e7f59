//! Bidirectional max-margin loss on a square matrix of scores whose positives are on the diagonal.

use crate::Result;
use crate::gpu::KernelFamily;
use crate::kernels::loss::total;
use crate::kernels::{lanes, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};

const WGSL: &str = include_str!("../../../shaders/loss/hinge.wgsl");
const WGSL_GRAD: &str = include_str!("../../../shaders/loss/hinge_grad.wgsl");

/// Which negatives count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Negatives {
    /// All of them, summed.
    All,
    /// In each row and in each column the one with the highest score; the first of equals.
    Hardest,
}

/// What [`backward`] needs besides the scores.
#[derive(Clone, Debug)]
pub struct Saved {
    negatives: Negatives,
    margin: f32,
    /// See `shaders/hinge.wgsl`.
    saved: Tensor,
}

params! {
    struct Params { n: u32, margin: f32 }
}

params! {
    struct GradParams { n: u32, chunks: u32, margin: f32 }
}

fn variant(negatives: Negatives, family: KernelFamily) -> Variant {
    let hardest = negatives == Negatives::Hardest;
    Variant::own::<Params>("hinge", WGSL).all(lanes::defines(family)).on("HARDEST", hardest)
}

fn grad_variant(negatives: Negatives) -> Variant {
    Variant::own::<GradParams>("hinge_grad", WGSL_GRAD).on("HARDEST", negatives == Negatives::Hardest)
}

pub(crate) fn variants() -> Vec<Variant> {
    [Negatives::All, Negatives::Hardest]
        .into_iter()
        .flat_map(|negatives| {
            let forward = lanes::FAMILIES.map(|family| variant(negatives, family));
            forward.into_iter().chain([grad_variant(negatives)])
        })
        .collect()
}

/// The sum over a ≠ b of max(0, margin + s_ab - s_aa) + max(0, margin + s_ab - s_bb), or with
/// [`Negatives::Hardest`] the sum of each row's largest first term and each column's largest second term. `scores` is
/// `[batch, batch]`; the loss has shape `[]` and is 0 for a batch of one. NaN scores make it NaN.
///
/// # Errors
/// [`crate::Error::Shape`] unless `scores` is square, [`crate::Error::DType`] unless f32; device errors.
pub fn forward(scores: &Tensor, margin: f32, negatives: Negatives) -> Result<(Tensor, Saved)> {
    let op = "hinge";
    let n = lanes::expect_square(op, scores)?;
    let gpu = scores.gpu();
    let part = Tensor::uninit(gpu, op, [n])?;
    let rows = if negatives == Negatives::Hardest { 2 } else { 1 };
    let saved = Tensor::uninit_of(gpu, op, [rows, n], DType::U32)?;
    let params = Params { n: n as u32, margin };
    launch(op, &variant(negatives, gpu.family()), &[scores, &part, &saved], &params, gpu.grid(n), 0)?;
    Ok((total::forward(op, &part, 1.0)?, Saved { negatives, margin, saved }))
}

/// The gradient with respect to `scores`, given that of the loss (one element). A term at exactly 0 passes the gradient
/// on, as a clamp with a minimum of 0 does.
///
/// # Errors
/// [`crate::Error::Shape`] unless `scores` is what [`forward`] had and `upstream` has one element; device errors.
pub fn backward(scores: &Tensor, saved: &Saved, upstream: &Tensor) -> Result<Tensor> {
    let op = "hinge backward";
    let n = lanes::expect_square(op, scores)?;
    saved.saved.expect_shape(op, "saved", &[saved.saved.shape()[0], n])?;
    lanes::expect_scalar(op, upstream)?;
    let gpu = scores.gpu();
    let ds = Tensor::uninit(gpu, op, scores.shape())?;
    let chunks = n.div_ceil(256);
    let params = GradParams { n: n as u32, chunks: chunks as u32, margin: saved.margin };
    let variant = grad_variant(saved.negatives);
    let grid = gpu.grid(n * chunks);
    match saved.negatives {
        Negatives::All => launch(op, &variant, &[scores, &saved.saved, upstream, &ds], &params, grid, 0)?,
        Negatives::Hardest => launch(op, &variant, &[&saved.saved, upstream, &ds], &params, grid, 0)?,
    }
    Ok(ds)
}

/// The same in plain Rust.
pub mod cpu {
    use super::Negatives;

    /// The loss and its gradient, for `n * n` scores.
    pub fn loss_and_gradient(scores: &[f64], n: usize, margin: f64, negatives: Negatives) -> (f64, Vec<f64>) {
        let mut loss = 0.0;
        let mut gradient = vec![0.0; n * n];
        // One term: the score at (a, b) against the positive d.
        let mut term = |a: usize, b: usize, d: usize| {
            let value = margin + scores[a * n + b] - scores[d * n + d];
            if value >= 0.0 {
                loss += value;
                gradient[a * n + b] += 1.0;
                gradient[d * n + d] -= 1.0;
            }
        };
        for d in 0..n {
            let others = (0..n).filter(|&b| b != d);
            match negatives {
                Negatives::All => others.for_each(|b| {
                    term(d, b, d);
                    term(b, d, d);
                }),
                Negatives::Hardest => {
                    let in_row = hardest(others.clone(), |b| scores[d * n + b]);
                    let in_column = hardest(others, |b| scores[b * n + d]);
                    in_row.into_iter().for_each(|b| term(d, b, d));
                    in_column.into_iter().for_each(|b| term(b, d, d));
                }
            }
        }
        (loss, gradient)
    }

    /// The place with the highest score; the first of equals.
    fn hardest(places: impl Iterator<Item = usize>, score: impl Fn(usize) -> f64) -> Option<usize> {
        places.reduce(|best, b| if score(b) > score(best) { b } else { best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::gpu::Gpu;
    use crate::kernels::testing::{assert_close, gpus, noise, noise_tensor, poisoned};
    use crate::parity::golden;

    const BOTH: [Negatives; 2] = [Negatives::All, Negatives::Hardest];

    fn run(gpu: &Gpu, scores: &[f32], n: usize, margin: f32, negatives: Negatives, g: f32) -> (Vec<f32>, Vec<f32>) {
        let s = poisoned(gpu, &[n, n], scores);
        let (loss, saved) = forward(&s, margin, negatives).unwrap();
        assert_eq!(loss.shape(), &[] as &[usize]);
        let g = Tensor::from_slice(gpu, [], &[g]).unwrap();
        (loss.to_vec().unwrap(), backward(&s, &saved, &g).unwrap().to_vec().unwrap())
    }

    #[test]
    fn equals_its_twin() {
        for gpu in gpus() {
            for n in [1usize, 2, 7, 8, 9, 63, 64, 65, 257] {
                // Multiples of 1/8 make ties, and terms at exactly 0.
                for (grain, margin) in [(8.0f32, 0.25f32), (1024.0, 0.2)] {
                    let s: Vec<f32> = noise(n * n, n as u64).iter().map(|v| (v * grain).round() / grain).collect();
                    let wide: Vec<f64> = s.iter().map(|&v| v.into()).collect();
                    for negatives in BOTH {
                        let (loss, gradient) = cpu::loss_and_gradient(&wide, n, margin.into(), negatives);
                        let (got, ds) = run(&gpu, &s, n, margin, negatives, -0.5);
                        assert!((f64::from(got[0]) - loss).abs() <= 1e-5 * loss + 1e-6, "{n}: {} {loss}", got[0]);
                        let expected: Vec<f32> = gradient.iter().map(|&d| -0.5 * d as f32).collect();
                        assert_eq!(ds, expected, "{n} {negatives:?}");
                        assert_eq!((got, ds), run(&gpu, &s, n, margin, negatives, -0.5), "two runs differ");
                    }
                }
            }
        }
    }

    #[test]
    fn twin_agrees_with_finite_differences() {
        let n = 6;
        let s: Vec<f64> = noise(n * n, 3).iter().map(|&v| v.into()).collect();
        for negatives in BOTH {
            let (_, gradient) = cpu::loss_and_gradient(&s, n, 0.3, negatives);
            for i in 0..n * n {
                let at = |h: f64| {
                    let mut moved = s.clone();
                    moved[i] += h;
                    cpu::loss_and_gradient(&moved, n, 0.3, negatives).0
                };
                let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
                assert!((slope - gradient[i]).abs() < 1e-6, "{i}: {slope} {}", gradient[i]);
            }
        }
    }

    #[test]
    fn a_batch_of_one_costs_nothing_and_nan_is_not_hidden() {
        for gpu in gpus() {
            for negatives in BOTH {
                assert_eq!(run(&gpu, &[0.7], 1, 0.2, negatives, 1.0), (vec![0.0], vec![0.0]));
                let mut s = noise(81, 5);
                s[3] = f32::NAN;
                assert!(run(&gpu, &s, 9, 0.2, negatives, 1.0).0[0].is_nan());
            }
        }
    }

    #[test]
    fn equals_the_reference() {
        for (file, negatives) in
            [("op-triplet_hinge-sum", Negatives::All), ("op-triplet_hinge-hardest", Negatives::Hardest)]
        {
            let golden = golden::open(file);
            let margin = golden.config["margin"].as_f64().unwrap() as f32;
            let n = golden.shape("input.sim")[0];
            for gpu in gpus() {
                let (loss, ds) = run(&gpu, &golden.f32("input.sim"), n, margin, negatives, 1.0);
                golden.check("loss.total", &loss);
                golden.check("grad_input.sim", &ds);
            }
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        for gpu in gpus() {
            let s = noise_tensor(&gpu, &[3, 4], 1);
            assert!(matches!(forward(&s, 0.2, Negatives::All), Err(Error::Shape { argument: "scores", .. })));
            let s = noise_tensor(&gpu, &[3, 3], 1);
            let (_, saved) = forward(&s, 0.2, Negatives::All).unwrap();
            let g = noise_tensor(&gpu, &[2], 1);
            assert!(matches!(backward(&s, &saved, &g), Err(Error::Shape { .. })));
            let empty = Tensor::from_slice(&gpu, [0, 0], &[]).unwrap();
            let (loss, saved) = forward(&empty, 0.2, Negatives::Hardest).unwrap();
            assert_close(&loss, &[0.0], 0.0, 0.0);
            assert!(backward(&empty, &saved, &loss).unwrap().is_empty());
        }
    }
}
