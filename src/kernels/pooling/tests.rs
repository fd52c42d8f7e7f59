use super::*;
use crate::kernels::elementwise::dropout::Dropout;
use crate::kernels::elementwise::unary::cpu::value_and_derivative;
use crate::kernels::elementwise::unary::{Activation, Unary};
use crate::kernels::testing::{
    assert_close, assert_slices_close, differences, gpus, inner, noise, noise_tensor, to_f32, to_f64,
};
use crate::parity::golden;
use crate::{Error, Gpu};

const FILLS: [Masked; 3] = [Masked::Hide, Masked::Fill(-1e10), Masked::Fill(-1e19)];
/// Batch, length, channels: one of each, both editions, more than a workgroup, a length that is no round number.
const SHAPES: [[usize; 3]; 7] = [[1, 1, 1], [1, 1, 4], [3, 7, 5], [2, 13, 64], [5, 3, 260], [4, 6, 63], [2, 33, 8]];

/// Ragged lengths; the first row is masked in full where there are several, the last not at all.
fn ragged(batch: usize, length: usize) -> Vec<f32> {
    let valid = |b: usize| if batch > 1 { (b * length).div_ceil(batch - 1).min(length) } else { length };
    (0..batch * length).map(|i| f32::from(u8::from(i % length < valid(i / length)))).collect()
}

/// As [`ragged`], with weights that are not 1 and holes.
fn weighted(batch: usize, length: usize) -> Vec<f32> {
    ragged(batch, length).iter().enumerate().map(|(i, &m)| m * [1.0, 0.5, 0.0, 0.25][i % 4]).collect()
}

fn masks(batch: usize, length: usize) -> [Option<Vec<f32>>; 3] {
    [None, Some(ragged(batch, length)), Some(weighted(batch, length))]
}

fn upload(gpu: &Gpu, shape: &[usize], data: &[f32]) -> Tensor {
    Tensor::from_slice(gpu, shape, data).unwrap()
}

fn dropouts() -> [Option<Dropout>; 2] {
    [None, Some(Dropout { probability: 0.25, seed: 5, stream: 9 })]
}

#[test]
fn mean_equals_its_twin() {
    for gpu in gpus() {
        for shape @ [b, s, d] in SHAPES {
            for mask in masks(b, s) {
                let (x, g) = (noise(b * s * d, 1), noise(b * d, 2));
                let tmask = mask.as_ref().map(|m| upload(&gpu, &[b, s], m));
                let mask = mask.as_deref().map(to_f64);
                let y = mean(&upload(&gpu, &shape, &x), tmask.as_ref()).unwrap();
                assert_close(&y, &to_f32(&cpu::mean(&to_f64(&x), shape, mask.as_deref())), 1e-5, 1e-6);
                let dx = mean_backward(&upload(&gpu, &[b, d], &g), s, tmask.as_ref()).unwrap();
                assert_close(&dx, &to_f32(&cpu::mean_backward(&to_f64(&g), shape, mask.as_deref())), 1e-5, 1e-6);
            }
        }
    }
}

#[test]
fn max_equals_its_twin() {
    for gpu in gpus() {
        for shape @ [b, s, d] in SHAPES {
            for mask in masks(b, s) {
                for masked in FILLS {
                    // Few values, so that there are ties.
                    let x: Vec<f32> = noise(b * s * d, 1).iter().map(|v| (v * 3.0).round()).collect();
                    let g = noise(b * d, 2);
                    let tmask = mask.as_ref().map(|m| upload(&gpu, &[b, s], m));
                    let mask = mask.as_deref().map(to_f64);
                    let (y, at) = max(&upload(&gpu, &shape, &x), tmask.as_ref(), masked).unwrap();
                    let (ey, eat) = cpu::max(&to_f64(&x), shape, mask.as_deref(), masked);
                    assert_close(&y, &to_f32(&ey), 1e-6, 0.0);
                    // Beside a huge fill, f32 cannot tell apart what f64 can: then compare where x decides.
                    let positions = at.to_u32().unwrap();
                    for (column, (&got, &expected)) in positions.iter().zip(&eat).enumerate() {
                        assert!(got == expected || ey[column] < -1e8, "column {column}: {got}, {expected}");
                    }
                    let dx = max_backward(&upload(&gpu, &[b, d], &g), &at, s, tmask.as_ref(), masked).unwrap();
                    let edx = cpu::max_backward(&to_f64(&g), &positions, shape, mask.as_deref(), masked);
                    assert_close(&dx, &to_f32(&edx), 1e-6, 0.0);
                }
            }
        }
    }
}

/// As many positions as software adapters allow, and one more.
#[test]
fn the_longest_axis_is_pooled_to_its_end() {
    for gpu in gpus().into_iter().filter(|gpu| gpu.report().is_software()) {
        let shape @ [b, s, d] = [1, 21_839, 1];
        let x = noise(b * s * d, 1);
        let (tx, g) = (upload(&gpu, &shape, &x), upload(&gpu, &[b, d], &[1.0]));
        let (dropout, masked) = (dropouts()[1], Masked::Hide);
        for logit_shape in [vec![b, s], shape.to_vec()] {
            let options = AttentionPool { masked, dropout };
            let pooled = attention(&tx, &upload(&gpu, &logit_shape, &x), None, options).unwrap();
            let (y, weights) = cpu::attention(&to_f64(&x), &to_f64(&x), shape, None, options);
            assert_close(&pooled.weights, &to_f32(&weights), 1e-3, 0.0);
            assert_close(&pooled.y, &to_f32(&y), 1e-3, 1e-5);
            let (dx, _) = attention_backward(&g, &tx, &pooled, None, options).unwrap();
            let (edx, _) = cpu::attention_backward(&[1.0], &to_f64(&x), &to_f64(&x), shape, None, options);
            assert_close(&dx, &to_f32(&edx), 1e-3, 0.0);
        }
        let longer = noise_tensor(&gpu, &[1, s + 1, 1], 1);
        assert!(matches!(mean(&longer, None), Err(Error::LimitExceeded { .. })));
    }
}

#[test]
fn attention_equals_its_twin() {
    for gpu in gpus() {
        for shape @ [b, s, d] in SHAPES {
            for (mask, dropout, masked, shared) in attention_cases(b, s) {
                let options = AttentionPool { masked, dropout };
                let logit_shape = if shared { vec![b, s] } else { shape.to_vec() };
                let count: usize = logit_shape.iter().product();
                let (x, g) = (noise(b * s * d, 1), noise(b * d, 2));
                let a: Vec<f32> = noise(count, 3).iter().map(|v| 4.0 * v).collect();
                let tmask = mask.as_ref().map(|m| upload(&gpu, &[b, s], m));
                let mask = mask.as_deref().map(to_f64);
                let mask = mask.as_deref();
                let tx = upload(&gpu, &shape, &x);
                let pooled = attention(&tx, &upload(&gpu, &logit_shape, &a), tmask.as_ref(), options).unwrap();
                let (x, a, g64) = (to_f64(&x), to_f64(&a), to_f64(&g));
                let (y, weights) = cpu::attention(&x, &a, shape, mask, options);
                assert_close(&pooled.weights, &to_f32(&weights), 1e-5, 1e-6);
                assert_close(&pooled.y, &to_f32(&y), 1e-5, 2e-6);
                let tg = upload(&gpu, &[b, d], &g);
                let (dx, da) = attention_backward(&tg, &tx, &pooled, tmask.as_ref(), options).unwrap();
                let (edx, eda) = cpu::attention_backward(&g64, &x, &a, shape, mask, options);
                assert_close(&dx, &to_f32(&edx), 1e-5, 2e-6);
                assert_close(&da, &to_f32(&eda), 2e-5, 1e-6 * (d as f32).sqrt());
            }
        }
    }
}

type AttentionCase = (Option<Vec<f32>>, Option<Dropout>, Masked, bool);

fn attention_cases(batch: usize, length: usize) -> Vec<AttentionCase> {
    let mut cases = Vec::new();
    for shared in [false, true] {
        for dropout in dropouts() {
            cases.push((None, dropout, Masked::Hide, shared));
            for masked in [Masked::Hide, Masked::Fill(-1e19)] {
                cases.push((Some(ragged(batch, length)), dropout, masked, shared));
            }
            cases.push((Some(weighted(batch, length)), dropout, Masked::Hide, shared));
            // Fractions of a mask under a fill that leaves something of the logits.
            cases.push((Some(weighted(batch, length)), dropout, Masked::Fill(-3.0), shared));
        }
    }
    cases
}

#[test]
fn gradients_equal_finite_differences_of_the_twin() {
    let shape @ [b, s, d] = [3, 5, 2];
    let (x, g) = (to_f64(&noise(b * s * d, 1)), to_f64(&noise(b * d, 2)));
    let close = |got: Vec<f64>, expected: Vec<f64>| assert_slices_close(&to_f32(&got), &to_f32(&expected), 1e-5, 1e-7);
    for mask in masks(b, s) {
        let mask = mask.as_deref().map(to_f64);
        let mask = mask.as_deref();
        let dx = differences(&x, |x| inner(&cpu::mean(x, shape, mask), &g));
        close(cpu::mean_backward(&g, shape, mask), dx);
        for masked in [Masked::Hide, Masked::Fill(-3.0)] {
            let (_, at) = cpu::max(&x, shape, mask, masked);
            let dx = differences(&x, |x| inner(&cpu::max(x, shape, mask, masked).0, &g));
            close(cpu::max_backward(&g, &at, shape, mask, masked), dx);
            for dropout in dropouts() {
                for count in [b * s, b * s * d] {
                    let a = to_f64(&noise(count, 3));
                    let options = AttentionPool { masked, dropout };
                    let loss = |x: &[f64], a: &[f64]| inner(&cpu::attention(x, a, shape, mask, options).0, &g);
                    let (dx, da) = cpu::attention_backward(&g, &x, &a, shape, mask, options);
                    close(dx, differences(&x, |x| loss(x, &a)));
                    close(da, differences(&a, |a| loss(&x, a)));
                }
            }
        }
    }
}

#[test]
fn what_is_masked_has_no_influence() {
    for gpu in gpus() {
        for d in [4, 5] {
            let [b, s] = [2, 3];
            // The first row has nothing, the second its middle.
            let mask = upload(&gpu, &[b, s], &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
            let mut x = vec![f32::NAN; b * s * d];
            x[4 * d..5 * d].fill(2.0);
            let x = upload(&gpu, &[b, s, d], &x);
            let g = noise_tensor(&gpu, &[b, d], 1);
            let half = [vec![0.0; d], vec![2.0; d]].concat();
            let mask = Some(&mask);
            assert_eq!(mean(&x, mask).unwrap().to_vec().unwrap(), half);
            let (y, at) = max(&x, mask, Masked::Hide).unwrap();
            assert_eq!(y.to_vec().unwrap(), half);
            assert_eq!(at.to_u32().unwrap(), [vec![u32::MAX; d], vec![1; d]].concat());
            let dx = max_backward(&g, &at, s, mask, Masked::Hide).unwrap().to_vec().unwrap();
            assert!(dx[..3 * d].iter().all(|&v| v == 0.0));
            for logits in [&x, &upload(&gpu, &[b, s], &[f32::NAN, 0.0, f32::NAN, f32::NAN, 1.0, f32::NAN])] {
                let options = AttentionPool::default();
                let pooled = attention(&x, logits, mask, options).unwrap();
                assert_eq!(pooled.y.to_vec().unwrap(), half);
                let (dx, da) = attention_backward(&g, &x, &pooled, mask, options).unwrap();
                let all = [dx.to_vec().unwrap(), da.to_vec().unwrap(), pooled.weights.to_vec().unwrap()].concat();
                assert!(all.iter().all(|v| v.is_finite()), "{all:?}");
            }
            // Filled, the row without anything has equal weights, and its logits no gradient.
            let x = noise_tensor(&gpu, &[b, s, d], 3);
            let options = AttentionPool { masked: Masked::Fill(-1e19), dropout: None };
            let pooled = attention(&x, &noise_tensor(&gpu, &[b, s, d], 4), mask, options).unwrap();
            let weights = pooled.weights.to_vec().unwrap();
            assert_slices_close(&weights[..3 * d], &vec![1.0 / 3.0; 3 * d], 1e-6, 0.0);
            let (_, da) = attention_backward(&g, &x, &pooled, mask, options).unwrap();
            assert_eq!(da.to_vec().unwrap()[..3 * d], vec![0.0; 3 * d]);
        }
    }
}

#[test]
fn two_runs_have_equal_bits() {
    for gpu in gpus() {
        let x = noise_tensor(&gpu, &[8, 17, 100], 1);
        let g = noise_tensor(&gpu, &[8, 100], 2);
        let run = || {
            let mut all = Vec::new();
            for shape in [vec![8, 17], vec![8, 17, 100]] {
                let options = AttentionPool { dropout: dropouts()[1], ..Default::default() };
                let pooled = attention(&x, &noise_tensor(&gpu, &shape, 3), None, options).unwrap();
                let (dx, da) = attention_backward(&g, &x, &pooled, None, options).unwrap();
                let tensors = [&pooled.y, &pooled.weights, &dx, &da];
                all.extend(tensors.iter().flat_map(|t| t.to_vec().unwrap()).map(f32::to_bits));
            }
            all
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn empty_extents_give_empty_or_zero_results() {
    for gpu in gpus() {
        for shape @ [b, s, d] in [[0, 3, 4], [2, 0, 4], [2, 0, 3], [2, 3, 0], [0, 0, 0]] {
            let x = upload(&gpu, &shape, &vec![0.0; b * s * d]);
            let g = upload(&gpu, &[b, d], &vec![1.0; b * d]);
            let mask = upload(&gpu, &[b, s], &vec![1.0; b * s]);
            for mask in [None, Some(&mask)] {
                assert_eq!(mean(&x, mask).unwrap().to_vec().unwrap(), vec![0.0; b * d]);
                assert!(mean_backward(&g, s, mask).unwrap().is_empty());
                let (y, at) = max(&x, mask, Masked::Hide).unwrap();
                assert_eq!(y.to_vec().unwrap(), vec![0.0; b * d]);
                assert!(max_backward(&g, &at, s, mask, Masked::Hide).unwrap().is_empty());
                for logits in [&x, &upload(&gpu, &[b, s], &vec![0.0; b * s])] {
                    let pooled = attention(&x, logits, mask, AttentionPool::default()).unwrap();
                    assert_eq!(pooled.y.to_vec().unwrap(), vec![0.0; b * d]);
                    let (dx, da) = attention_backward(&g, &x, &pooled, mask, AttentionPool::default()).unwrap();
                    assert!(dx.is_empty());
                    assert_eq!(da.to_vec().unwrap(), vec![0.0; logits.len()]);
                }
            }
        }
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let gpu = &gpus()[0];
    let x = noise_tensor(gpu, &[2, 3, 4], 1);
    let g = noise_tensor(gpu, &[2, 4], 1);
    let ids = Tensor::from_u32(gpu, [2, 3, 4], &[0; 24]).unwrap();
    let wrong = noise_tensor(gpu, &[3, 2], 1);
    let plain = AttentionPool::default();
    assert!(matches!(mean(&g, None), Err(Error::Shape { argument: "x", .. })));
    assert!(matches!(mean(&ids, None), Err(Error::DType { .. })));
    assert!(matches!(mean(&x, Some(&wrong)), Err(Error::Shape { argument: "mask", .. })));
    assert!(matches!(mean_backward(&x, 3, None), Err(Error::Shape { argument: "gradient", .. })));
    assert!(matches!(mean_backward(&g, usize::MAX, None), Err(Error::LimitExceeded { .. })));
    assert!(matches!(max(&x, Some(&wrong), Masked::Hide), Err(Error::Shape { argument: "mask", .. })));
    assert!(matches!(max_backward(&g, &g, 3, None, Masked::Hide), Err(Error::DType { argument: "positions", .. })));
    assert!(matches!(attention(&x, &g, None, plain), Err(Error::Shape { argument: "logits", .. })));
    let dropout = Some(Dropout { probability: 1.0, seed: 0, stream: 0 });
    let options = AttentionPool { dropout, ..plain };
    assert!(matches!(attention(&x, &x, None, options), Err(Error::Argument { .. })));
    let pooled = attention(&x, &x, None, plain).unwrap();
    assert!(matches!(attention_backward(&wrong, &x, &pooled, None, plain), Err(Error::Shape { .. })));
}

#[test]
fn golden_mean_and_max() {
    let (means, maxima) = (golden::open("op-masked_mean-clip4clip"), golden::open("op-masked_max-over-length"));
    for gpu in gpus() {
        let golden = &means;
        let [x, mask, g] = ["x", "mask", "cotangent"].map(|n| golden.upload(&gpu, &format!("input.{n}")));
        let y = mean(&x, Some(&mask)).unwrap().to_vec().unwrap();
        golden.check("output.y", &y);
        golden.check_loss(&y);
        golden.check("grad_input.x", &mean_backward(&g, x.shape()[1], Some(&mask)).unwrap().to_vec().unwrap());

        let golden = &maxima;
        let [x, mask, g] = ["x", "mask", "cotangent"].map(|n| golden.upload(&gpu, &format!("input.{n}")));
        let masked = Masked::Fill(-1e10);
        let (y, at) = max(&x, Some(&mask), masked).unwrap();
        golden.check("output.y", &y.to_vec().unwrap());
        golden.check_loss(&y.to_vec().unwrap());
        let dx = max_backward(&g, &at, x.shape()[1], Some(&mask), masked).unwrap();
        golden.check("grad_input.x", &dx.to_vec().unwrap());
    }
}

#[test]
fn golden_attention_with_one_score() {
    let golden = golden::open("op-attention_pool-single-score");
    for gpu in gpus() {
        let [x, mask, g] = ["x", "mask", "cotangent"].map(|n| golden.upload(&gpu, &format!("input.{n}")));
        let w = golden.f32("input.w");
        let d = w.len();
        let values = golden.f32("input.x");
        let scores: Vec<f32> = values.chunks(d).map(|row| inner(&to_f64(row), &to_f64(&w)) as f32).collect();
        let options = AttentionPool { masked: Masked::Fill(-1e10), dropout: None };
        let scores = upload(&gpu, mask.shape(), &scores);
        let pooled = attention(&x, &scores, Some(&mask), options).unwrap();
        golden.check("output.y", &pooled.y.to_vec().unwrap());
        golden.check_loss(&pooled.y.to_vec().unwrap());
        let (dx, da) = attention_backward(&g, &x, &pooled, Some(&mask), options).unwrap();
        let (mut dx, da) = (dx.to_vec().unwrap(), da.to_vec().unwrap());
        let mut dw = vec![0.0; d];
        for (i, dx) in dx.iter_mut().enumerate() {
            *dx += da[i / d] * w[i % d];
            dw[i % d] += da[i / d] * values[i];
        }
        golden.check("grad_input.x", &dx);
        golden.check("grad_input.w", &dw);
    }
}

/// `rows x inner` times `inner x columns`, either operand transposed where its strides say so: (values, row step,
/// column step).
fn product(a: (&[f64], usize, usize), b: (&[f64], usize, usize), [m, k, n]: [usize; 3]) -> Vec<f64> {
    let at = |i: usize, j: usize| (0..k).map(|l| a.0[i * a.1 + l * a.2] * b.0[l * b.1 + j * b.2]).sum();
    (0..m * n).map(|i| at(i / n, i % n)).collect()
}

#[test]
fn golden_attention_of_bicnet() {
    let golden = golden::open("op-attention_pool-bicnet");
    let input = |name: &str| to_f64(&golden.f32(&format!("input.{name}")));
    let [x, w1, b1, w2, b2] = ["x", "w1", "b1", "w2", "b2"].map(input);
    let &[heads, d, hidden] = golden.shape("input.w1") else { unreachable!() };
    let out = golden.shape("input.w2")[2];
    let rows = x.len() / d;
    let gelu = |v: f64| value_and_derivative(Unary::Activation(Activation::Gelu), v);
    // The logits of each head, next to each other on the channel axis.
    let mut logits = vec![0.0; rows * heads * out];
    let mut inside = Vec::new();
    for h in 0..heads {
        let (w1, w2) = (&w1[h * d * hidden..][..d * hidden], &w2[h * hidden * out..][..hidden * out]);
        let mut u = product((&x, d, 1), (w1, hidden, 1), [rows, d, hidden]);
        u.iter_mut().enumerate().for_each(|(i, u)| *u += b1[h * hidden + i % hidden]);
        let v: Vec<f64> = u.iter().map(|&u| gelu(u).0).collect();
        for (i, a) in product((&v, hidden, 1), (w2, out, 1), [rows, hidden, out]).into_iter().enumerate() {
            logits[i / out * heads * out + h * out + i % out] = a + b2[h * out + i % out];
        }
        inside.push((u, v));
    }
    for gpu in gpus() {
        let [tx, mask, g] = ["x", "mask", "cotangent"].map(|n| golden.upload(&gpu, &format!("input.{n}")));
        let options = AttentionPool { masked: Masked::Fill(-1e19), dropout: None };
        let logits = upload(&gpu, tx.shape(), &to_f32(&logits));
        let pooled = attention(&tx, &logits, Some(&mask), options).unwrap();
        golden.check("output.y", &pooled.y.to_vec().unwrap());
        golden.check("output.weights", &pooled.weights.to_vec().unwrap());
        golden.check_loss(&pooled.y.to_vec().unwrap());
        let (dx, da) = attention_backward(&g, &tx, &pooled, Some(&mask), options).unwrap();
        let (mut dx, da) = (to_f64(&dx.to_vec().unwrap()), to_f64(&da.to_vec().unwrap()));
        let [mut dw1, mut db1, mut dw2, mut db2] = [const { Vec::new() }; 4];
        for (h, (u, v)) in inside.iter().enumerate() {
            let (w1, w2) = (&w1[h * d * hidden..][..d * hidden], &w2[h * hidden * out..][..hidden * out]);
            let da = &da[h * out..];
            dw2.extend(product((v, 1, hidden), (da, heads * out, 1), [hidden, rows, out]));
            db2.extend((0..out).map(|c| (0..rows).map(|r| da[r * heads * out + c]).sum::<f64>()));
            let mut du = product((da, heads * out, 1), (w2, 1, out), [rows, out, hidden]);
            du.iter_mut().zip(u).for_each(|(du, &u)| *du *= gelu(u).1);
            dw1.extend(product((&x, 1, d), (&du, hidden, 1), [d, rows, hidden]));
            db1.extend((0..hidden).map(|c| (0..rows).map(|r| du[r * hidden + c]).sum::<f64>()));
            let through = product((&du, hidden, 1), (w1, 1, hidden), [rows, hidden, d]);
            dx.iter_mut().zip(through).for_each(|(dx, t)| *dx += t);
        }
        for (name, got) in [("x", dx), ("w1", dw1), ("b1", db1), ("w2", dw2), ("b2", db2)] {
            golden.check(&format!("grad_input.{name}"), &to_f32(&got));
        }
    }
}
