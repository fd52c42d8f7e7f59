//! NaN is never hidden: one that takes part shows in the result, and one that is masked has no effect.

use crate::gpu::Gpu;
use crate::kernels::attention::{self, Keys, Layout};
use crate::kernels::elementwise::binary::{self, Binary};
use crate::kernels::elementwise::unary::{self, Activation, Unary};
use crate::kernels::linear::matmul;
use crate::kernels::loss::{cross_entropy, hinge};
use crate::kernels::pooling::{self, AttentionPool, Masked};
use crate::kernels::rows::{l2_normalize, layer_norm, reduce, softmax};
use crate::kernels::similarity::{aosm, gates, max_similarity, soft_similarity, spans};
use crate::kernels::testing::{gpus, noise};
use crate::tensor::Tensor;

/// Widths with and without vectors, within a subgroup's registers and beyond them.
const WIDTHS: [usize; 8] = [1, 3, 16, 31, 64, 128, 512, 1030];

fn tensor(gpu: &Gpu, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(gpu, shape, values).unwrap()
}

/// Noise with NaN at the places `at`.
fn with_nan(n: usize, seed: u64, at: &[usize]) -> Vec<f32> {
    let mut values = noise(n, seed);
    at.iter().for_each(|&i| values[i] = f32::NAN);
    values
}

/// Asserts which elements are NaN.
#[track_caller]
fn assert_nan(got: &Tensor, expected: impl Fn(usize) -> bool) {
    for (i, v) in got.to_vec().unwrap().into_iter().enumerate() {
        assert_eq!(v.is_nan(), expected(i), "element {i} of {:?} is {v}", got.shape());
    }
}

#[test]
fn in_softmax_and_its_kin() {
    type Forward = fn(&Tensor, f32, Option<&Tensor>) -> crate::Result<Tensor>;
    let kin: [(Forward, bool); 3] =
        [(softmax::softmax, true), (softmax::log_softmax, true), (softmax::logsumexp, false)];
    for gpu in gpus() {
        for n in WIDTHS {
            // Of three rows the first has NaN at its end, the second none, the third NaN under its mask.
            let mut mask = vec![1.0; 3 * n];
            mask[2 * n + n / 2] = 0.0;
            let x = tensor(&gpu, &[3, n], &with_nan(3 * n, 1, &[n - 1, 2 * n + n / 2]));
            let mask = tensor(&gpu, &[3, n], &mask);
            for (forward, wide) in kin {
                let width = if wide { n } else { 1 };
                assert_nan(&forward(&x, 1.5, None).unwrap(), |i| i / width != 1);
                let masked = forward(&x, 1.5, Some(&mask)).unwrap().to_vec().unwrap();
                for (i, v) in masked.into_iter().enumerate() {
                    assert_eq!(v.is_nan(), i / width == 0, "element {i} of width {n} is {v}");
                }
            }
        }
    }
}

#[test]
fn in_norms() {
    for gpu in gpus() {
        for n in WIDTHS {
            let x = tensor(&gpu, &[2, n], &with_nan(2 * n, 1, &[n - 1]));
            for divisor in [l2_normalize::Divisor::Clamped { eps: 1e-6 }, l2_normalize::Divisor::Added { eps: 1e-6 }] {
                assert_nan(&l2_normalize::forward(&x, divisor).unwrap().0, |i| i < n);
            }
            let (gain, bias) = (tensor(&gpu, &[n], &vec![1.0; n]), tensor(&gpu, &[n], &vec![0.0; n]));
            let output = layer_norm::forward(&x, None, &gain, &bias, layer_norm::Norm::Biased { eps: 1e-5 }).unwrap();
            assert_nan(&output.y, |i| i < n);
        }
    }
}

#[test]
fn in_maxima() {
    for gpu in gpus() {
        for width in [3, 4, 16] {
            // (2, 5, width), NaN in the third of five for the first of two, at column 1.
            let x = tensor(&gpu, &[2, 5, width], &with_nan(10 * width, 1, &[2 * width + 1, 4 * width + 1]));
            let (y, at) = reduce::max(&x, 1).unwrap();
            assert_nan(&y, |i| i == 1);
            assert_eq!(at.to_u32().unwrap()[1], 2, "the first NaN");
            let (y, at) = pooling::max(&x, None, Masked::Hide).unwrap();
            assert_nan(&y, |i| i == 1);
            assert_eq!(at.to_u32().unwrap()[1], 2, "the first NaN");
            let mask = tensor(&gpu, &[2, 5], &[1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
            for masked in [Masked::Hide, Masked::Fill(-1e10)] {
                assert_nan(&pooling::max(&x, Some(&mask), masked).unwrap().0, |_| false);
            }
        }
        // Long enough for several stages.
        let n = 20_000;
        let x = tensor(&gpu, &[1, n], &with_nan(n, 1, &[7_777, 15_000]));
        let (y, at) = reduce::max(&x, 1).unwrap();
        assert_nan(&y, |_| true);
        assert_eq!(at.to_u32().unwrap(), [7_777]);
    }
}

#[test]
fn in_functions_of_elements() {
    for gpu in gpus() {
        let x = tensor(&gpu, &[4], &[f32::NAN, 1.0, -1.0, -f32::NAN]);
        for activation in Activation::ALL {
            assert_nan(&unary::forward(Unary::Activation(activation), &x).unwrap(), |i| i == 0 || i == 3);
            let one = tensor(&gpu, &[1, 1], &[1.0]);
            let options = matmul::Options { activation: Some(activation), ..Default::default() };
            let x = x.view(0, [4, 1]).unwrap();
            assert_nan(&matmul::forward(&x, &one, &options).unwrap().y, |i| i == 0 || i == 3);
        }
        for n in [3, 4] {
            let a = tensor(&gpu, &[n], &with_nan(n, 1, &[0]));
            let b = tensor(&gpu, &[n], &with_nan(n, 2, &[1]));
            for op in Binary::ALL {
                assert_nan(&binary::forward(op, &a, &b).unwrap(), |i| i < 2);
            }
        }
    }
}

#[test]
fn in_losses() {
    for gpu in gpus() {
        for n in [2, 5, 70] {
            let x = tensor(&gpu, &[n, n], &with_nan(n * n, 1, &[n]));
            let targets = vec![1; n];
            assert_nan(&cross_entropy::forward(&x, &targets).unwrap().0, |_| true);
            assert_nan(&cross_entropy::info_nce(&x).unwrap().0, |_| true);
            for negatives in [hinge::Negatives::All, hinge::Negatives::Hardest] {
                assert_nan(&hinge::forward(&x, 0.2, negatives).unwrap().0, |_| true);
            }
        }
    }
}

#[test]
fn in_attention() {
    for gpu in gpus() {
        for (queries, keys, width) in [(1, 1, 4), (3, 5, 3), (40, 70, 16), (40, 70, 7)] {
            let q = tensor(&gpu, &[1, queries, width], &with_nan(queries * width, 1, &[0]));
            let k = tensor(&gpu, &[1, keys, width], &noise(keys * width, 2));
            let v = tensor(&gpu, &[1, keys, width], &noise(keys * width, 3));
            // A bias of NaN at the last query and the last key.
            let mut bias = vec![0.0; queries * keys];
            bias[queries * keys - 1] = f32::NAN;
            let bias = tensor(&gpu, &[1, 1, queries, keys], &bias);
            for bias in [None, Some(&bias)] {
                let options = attention::Options {
                    layout: Layout::TokensFirst { heads: 1 },
                    scale: 0.5,
                    causal: false,
                    keys: Keys::All,
                    bias,
                    dropout: None,
                };
                let broken = |row: usize| row == 0 || (bias.is_some() && row == queries - 1);
                let output = attention::forward(&q, &k, &v, &options).unwrap();
                assert_nan(&output.y, |i| broken(i / width));
                assert_nan(&output.lse, broken);
                let shares = attention::probabilities(&q, &k, &output.lse, &options).unwrap();
                assert_nan(&shares, |i| broken(i / keys));
                // Where no key is valid, nothing takes part.
                let lengths = Tensor::from_u32(&gpu, [1], &[0]).unwrap();
                let options = attention::Options { keys: Keys::Lengths(&lengths), bias: None, ..options };
                let output = attention::forward(&q, &k, &v, &options).unwrap();
                assert_nan(&output.y, |_| false);
                assert_nan(&output.lse, |_| false);
            }
        }
    }
}

#[test]
fn in_pooling() {
    for gpu in gpus() {
        for width in [3, 8] {
            // Position 1 of the first of two is NaN.
            let x = tensor(&gpu, &[2, 4, width], &noise(8 * width, 1));
            let mask = tensor(&gpu, &[2, 4], &[1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
            let wide = tensor(&gpu, &[2, 4, width], &with_nan(8 * width, 2, &(width..2 * width).collect::<Vec<_>>()));
            let narrow = tensor(&gpu, &[2, 4], &with_nan(8, 2, &[1]));
            for logits in [&wide, &narrow] {
                let pooled = pooling::attention(&x, logits, None, AttentionPool::default()).unwrap();
                assert_nan(&pooled.y, |i| i < width);
                assert_nan(&pooled.weights, |i| i < pooled.weights.len() / 2);
                for masked in [Masked::Hide, Masked::Fill(-1e10)] {
                    let options = AttentionPool { masked, ..Default::default() };
                    assert_nan(&pooling::attention(&x, logits, Some(&mask), options).unwrap().y, |_| false);
                }
            }
            assert_nan(&pooling::mean(&wide, None).unwrap(), |i| i < width);
            assert_nan(&pooling::mean(&wide, Some(&mask)).unwrap(), |_| false);
        }
    }
}

#[test]
fn in_soft_similarity() {
    for gpu in gpus() {
        for n in WIDTHS {
            let scores = tensor(&gpu, &[3, n], &with_nan(3 * n, 1, &[n - 1, 2 * n + n / 2]));
            let (y, lse) = soft_similarity::rows(&scores, None, 0.1).unwrap();
            assert_nan(&y, |i| i != 1);
            assert_nan(&lse, |i| i != 1);
            let mut mask = vec![1.0; 3 * n];
            mask[2 * n + n / 2] = 0.0;
            let (y, lse) = soft_similarity::rows(&scores, Some(&tensor(&gpu, &[3, n], &mask)), 0.1).unwrap();
            assert_nan(&y, |i| i == 0);
            assert_nan(&lse, |i| i == 0);
        }
    }
}

#[test]
fn in_gates() {
    for gpu in gpus() {
        for frames in [1, 3, 12, 70] {
            // One row, two videos; NaN in the dots of the first.
            let dots = tensor(&gpu, &[1, 2, frames], &with_nan(2 * frames, 1, &[frames - 1]));
            let grams: Vec<f32> =
                (0..2 * frames * frames).map(|i| ((i / frames % frames == i % frames) as u32) as f32).collect();
            let clean = tensor(&gpu, &[2, frames, frames], &grams);
            assert_nan(&gates::forward(&dots, &clean, None, None, 0.5).unwrap(), |i| i < frames);
            let mut mask = vec![1.0; 2 * frames];
            mask[frames - 1] = 0.0;
            let mask = tensor(&gpu, &[2, frames], &mask);
            assert_nan(&gates::forward(&dots, &clean, Some(&mask), None, 0.5).unwrap(), |_| false);
            // NaN in a Gram matrix.
            let mut broken = grams;
            broken[0] = f32::NAN;
            let broken = tensor(&gpu, &[2, frames, frames], &broken);
            let dots = tensor(&gpu, &[1, 2, frames], &noise(2 * frames, 1));
            assert_nan(&gates::forward(&dots, &broken, None, None, 0.5).unwrap(), |i| i < frames);
        }
    }
}

#[test]
fn in_attention_over_similarities() {
    for gpu in gpus() {
        for (rows, frames) in [(1, 1), (3, 4), (32, 5)] {
            // Two texts, one video; NaN in row 0 of the first.
            let x = tensor(&gpu, &[2, rows, 1, frames], &with_nan(2 * rows * frames, 1, &[0]));
            let y = tensor(&gpu, &[2, rows, 1, frames], &noise(2 * rows * frames, 2));
            let matrix = tensor(&gpu, &[rows, rows], &noise(rows * rows, 3));
            assert_nan(&aosm::forward(&x, &y, &matrix, 0.5).unwrap().scores, |i| i == 0);
        }
    }
}

#[test]
fn in_similarities() {
    for gpu in gpus() {
        for (queries, clips, width) in [(1, 1, 1), (5, 9, 7), (40, 33, 16)] {
            let q = tensor(&gpu, &[queries, width], &noise(queries * width, 1));
            let x = tensor(&gpu, &[2, clips, width], &with_nan(2 * clips * width, 2, &[clips * width - 1]));
            let (scores, at) = max_similarity::forward(&q, &x, None, None).unwrap();
            assert_nan(&scores, |i| i % 2 == 0);
            assert_eq!(at.to_u32().unwrap()[0], clips as u32 - 1);
            let mut mask = vec![1.0; 2 * clips];
            mask[clips - 1] = 0.0;
            let mask = tensor(&gpu, &[2, clips], &mask);
            assert_nan(&max_similarity::forward(&q, &x, Some(&mask), None).unwrap().0, |_| false);

            let mask = tensor(&gpu, &[2, clips], &vec![1.0; 2 * clips]);
            let candidates = Tensor::from_u32(&gpu, [queries, 2], &[0, 1].repeat(queries)).unwrap();
            let taps = tensor(&gpu, &[1], &[1.0]);
            let first = spans::Stream { queries: &q, clips: &x };
            let search = spans::Search { first, second: None, mask: &mask, candidates: &candidates };
            let predictor = spans::Predictor { start: &taps, end: &taps, mask_similarity: false };
            let (starts, ends) = spans::probabilities(&search, &predictor).unwrap();
            for found in [starts, ends] {
                assert_nan(&found, |i| i / clips % 2 == 0);
            }
        }
    }
}
