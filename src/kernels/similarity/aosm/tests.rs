use super::*;
use crate::gpu::Gpu;
use crate::kernels::testing::{
    assert_slices_close, differences, gpus, inner, noise, noise_tensor, poisoned, to_f32, to_f64,
};

const T: f32 = 0.25;

/// x, y and a matrix near the identity.
fn problem([texts, rows, videos, frames]: cpu::Extents, seed: u64) -> [Vec<f32>; 3] {
    let n = texts * rows * videos * frames;
    let matrix = noise(rows * rows, seed).into_iter().enumerate();
    let matrix = matrix.map(|(i, v)| 0.1 * v + f32::from(u8::from(i % (rows + 1) == 0))).collect();
    [noise(n, seed + 1), noise(n, seed + 2), matrix]
}

fn upload(gpu: &Gpu, extents: cpu::Extents, [x, y, matrix]: &[Vec<f32>; 3]) -> [Tensor; 3] {
    let rows = extents[1];
    [poisoned(gpu, &extents, x), poisoned(gpu, &extents, y), poisoned(gpu, &[rows, rows], matrix)]
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn largest(values: &[f64]) -> f32 {
    values.iter().fold(0.0, |m: f64, v| m.max(v.abs())) as f32
}

/// One row, quads and blocks that are full and not, the most rows there may be, and more frames than invocations.
const EXTENTS: [cpu::Extents; 15] = [
    [1, 1, 1, 1],
    [2, 2, 3, 3],
    [3, 3, 2, 6],
    [2, 4, 1, 12],
    [1, 5, 4, 7],
    [3, 31, 2, 6],
    [2, 32, 3, 12],
    [1, 33, 2, 13],
    [1, 63, 2, 9],
    [1, 64, 1, 64],
    [1, 65, 1, 5],
    [1, 128, 1, 128],
    [1, 129, 1, 2],
    [1, MOST_ROWS, 1, 3],
    [1, 9, 2, 300],
];

#[test]
fn scores_equal_their_twin() {
    for gpu in gpus() {
        for extents in EXTENTS {
            let host = problem(extents, 5);
            let [x, y, matrix] = upload(&gpu, extents, &host);
            let [hx, hy, hm] = host.each_ref().map(|v| to_f64(v));
            let expected = cpu::forward(extents, &hx, &hy, &hm, T.into());
            for most_iterations in [1, ITERATIONS] {
                let once = || run(&x, &y, &matrix, T, most_iterations).unwrap();
                let scores = once();
                assert_eq!(scores.shape(), &[extents[0], extents[2], extents[1]]);
                let scores = scores.to_vec().unwrap();
                assert_slices_close(&scores, &to_f32(&expected), 1e-4, 1e-5 * largest(&expected));
                assert_eq!(bits(&scores), bits(&once().to_vec().unwrap()), "two runs differ");
            }
        }
    }
}

#[test]
fn gradients_equal_the_twin() {
    for gpu in gpus() {
        for extents in EXTENTS {
            let [texts, rows, videos, _] = extents;
            let host = problem(extents, 9);
            let [x, y, matrix] = upload(&gpu, extents, &host);
            let [hx, hy, hm] = host.each_ref().map(|v| to_f64(v));
            let g = noise(texts * videos * rows, 4);
            let expected = cpu::backward(extents, &to_f64(&g), &hx, &hy, &hm, T.into());
            let scores = run(&x, &y, &matrix, T, ITERATIONS).unwrap();
            let upstream = poisoned(&gpu, &[texts, videos, rows], &g);
            let run = |wanted, most_iterations| {
                let found = run_backward(&upstream, [&x, &y, &matrix, &scores], T, wanted, most_iterations).unwrap();
                found.map(|t| t.map(|t| t.to_vec().unwrap()))
            };
            let all = run([true; 3], ITERATIONS);
            for (got, expected) in all.iter().zip(&expected) {
                assert_slices_close(got.as_ref().unwrap(), &to_f32(expected), 1e-4, 2e-5 * largest(expected));
            }
            let again = run([true; 3], ITERATIONS);
            assert_eq!(all.each_ref().map(|v| v.as_deref().map(bits)), again.map(|v| v.as_deref().map(bits)));
            for i in 0..3 {
                let mut wanted = [false; 3];
                wanted[i] = true;
                let mut alone = [None, None, None];
                alone[i] = all[i].clone();
                assert_eq!(run(wanted, ITERATIONS), alone);
            }
        }
    }
}

/// As each family's rule has it: in one kernel, or by products of matrices.
#[test]
fn each_family_equals_the_twin() {
    for gpu in gpus() {
        for extents in [[1, 1, 1, 1], [2, 3, 4, 5], [3, 31, 2, 6], [1, 33, 2, 13]] {
            let [texts, rows, videos, _] = extents;
            let host = problem(extents, 9);
            let [x, y, matrix] = upload(&gpu, extents, &host);
            let [hx, hy, hm] = host.each_ref().map(|v| to_f64(v));
            let Output { scores, kept } = forward(&x, &y, &matrix, T).unwrap();
            let expected = cpu::forward(extents, &hx, &hy, &hm, T.into());
            assert_slices_close(&scores.to_vec().unwrap(), &to_f32(&expected), 1e-4, 1e-5 * largest(&expected));
            let g = noise(texts * videos * rows, 4);
            let expected = cpu::backward(extents, &to_f64(&g), &hx, &hy, &hm, T.into());
            let upstream = poisoned(&gpu, &[texts, videos, rows], &g);
            for wanted in [[true; 3], [true, false, false], [false, true, false], [false, false, true]] {
                let found = backward(&upstream, &kept, T, wanted).unwrap();
                assert_eq!(found.each_ref().map(Option::is_some), wanted);
                for (got, expected) in found.iter().zip(&expected) {
                    let Some(got) = got else { continue };
                    assert_slices_close(&got.to_vec().unwrap(), &to_f32(expected), 1e-4, 2e-5 * largest(expected));
                }
            }
        }
    }
}

/// More pairs than workgroups, in one dispatch and in several.
#[test]
fn workgroups_have_several_pairs() {
    for gpu in gpus() {
        let extents = [37, 3, 31, 2];
        let host = problem(extents, 2);
        let [x, y, matrix] = upload(&gpu, extents, &host);
        let [hx, hy, hm] = host.each_ref().map(|v| to_f64(v));
        let g = noise(37 * 3 * 31, 4);
        let expected = cpu::backward(extents, &to_f64(&g), &hx, &hy, &hm, T.into());
        let upstream = poisoned(&gpu, &[37, 31, 3], &g);
        let scores_expected = to_f32(&cpu::forward(extents, &hx, &hy, &hm, T.into()));
        for most_iterations in [ITERATIONS, 1] {
            let scores = run(&x, &y, &matrix, T, most_iterations).unwrap();
            assert_slices_close(&scores.to_vec().unwrap(), &scores_expected, 1e-4, 1e-5);
            let found = run_backward(&upstream, [&x, &y, &matrix, &scores], T, [true; 3], most_iterations).unwrap();
            for (got, expected) in found.into_iter().zip(&expected) {
                let got = got.unwrap().to_vec().unwrap();
                assert_slices_close(&got, &to_f32(expected), 1e-4, 2e-5 * largest(expected));
            }
        }
    }
}

/// The published temperature picks one product of a row.
#[test]
fn a_low_temperature_takes_the_largest_product() {
    for gpu in gpus() {
        let t = |shape: &[usize], v: &[f32]| Tensor::from_slice(&gpu, shape, v).unwrap();
        let x = t(&[1, 2, 1, 1], &[300.0, -2.0]);
        let y = t(&[1, 2, 1, 1], &[-40.0, 50.0]);
        let matrix = t(&[2, 2], &[1.0, 0.5, 0.25, 2.0]);
        // The products are -12000, 15000 and 80, -100.
        let scores = forward(&x, &y, &matrix, 0.01).unwrap().scores;
        assert_eq!(scores.to_vec().unwrap(), [0.25 * -12000.0 + 2.0 * 15000.0, 80.0 - 0.5 * 100.0]);
    }
}

#[test]
fn twin_agrees_with_finite_differences() {
    let extents = [2, 3, 2, 4];
    let [x, y, matrix] = problem(extents, 7).map(|v| to_f64(&v));
    let g = to_f64(&noise(12, 1));
    let t = 0.5;
    let [dx, dy, dm] = cpu::backward(extents, &g, &x, &y, &matrix, t);
    let by_x = differences(&x, |x| inner(&cpu::forward(extents, x, &y, &matrix, t), &g));
    let by_y = differences(&y, |y| inner(&cpu::forward(extents, &x, y, &matrix, t), &g));
    let by_matrix = differences(&matrix, |m| inner(&cpu::forward(extents, &x, &y, m, t), &g));
    for (found, expected) in [(by_x, dx), (by_y, dy), (by_matrix, dm)] {
        assert_slices_close(&to_f32(&found), &to_f32(&expected), 1e-5, 1e-6);
    }
}

#[test]
fn nothing_in_gives_nothing_out() {
    for gpu in gpus() {
        for [b, n, v, f] in [[0, 3, 2, 4], [2, 0, 3, 4], [2, 3, 0, 4], [2, 3, 4, 0]] {
            let x = noise_tensor(&gpu, &[b, n, v, f], 1);
            let matrix = noise_tensor(&gpu, &[n, n], 2);
            let Output { scores, kept } = forward(&x, &x, &matrix, T).unwrap();
            assert_eq!(scores.to_vec().unwrap(), vec![0.0; b * v * n]);
            let [dx, dy, dmatrix] = backward(&scores, &kept, T, [true; 3]).unwrap();
            assert!(dx.unwrap().is_empty() && dy.unwrap().is_empty());
            assert_eq!(dmatrix.unwrap().to_vec().unwrap(), vec![0.0; n * n]);
        }
    }
}

#[test]
fn wrong_arguments_are_errors() {
    for gpu in gpus() {
        let t = |shape: &[usize]| noise_tensor(&gpu, shape, 1);
        let (x, matrix) = (t(&[2, 3, 4, 5]), t(&[3, 3]));
        let of = |x: &Tensor, y: &Tensor, m: &Tensor| forward(x, y, m, T).map(drop).unwrap_err();
        assert!(matches!(of(&t(&[2, 3, 20]), &x, &matrix), Error::Shape { argument: "x", .. }));
        assert!(matches!(of(&x, &t(&[2, 3, 5, 4]), &matrix), Error::Shape { argument: "y", .. }));
        assert!(matches!(of(&x, &x, &t(&[4, 4])), Error::Shape { argument: "matrix", .. }));
        let n = MOST_ROWS + 1;
        let error = of(&t(&[1, n, 1, 1]), &t(&[1, n, 1, 1]), &t(&[n, n]));
        assert!(matches!(error, Error::LimitExceeded { limit, .. } if limit == MOST_ROWS as u64));
        assert!(matches!(forward(&x, &x, &matrix, 0.0), Err(Error::Argument { argument: "temperature", .. })));
        let kept = forward(&x, &x, &matrix, T).unwrap().kept;
        let error = backward(&t(&[2, 3, 4]), &kept, T, [true; 3]).map(drop).unwrap_err();
        assert!(matches!(error, Error::Shape { argument: "upstream", .. }));
    }
}

/// Software adapters end loops that are too long.
#[test]
fn too_many_frames_for_a_software_adapter_are_an_error() {
    for gpu in gpus().into_iter().filter(|gpu| gpu.report().is_software()) {
        let x = noise_tensor(&gpu, &[1, 1, 1, 70_000], 1);
        let matrix = noise_tensor(&gpu, &[1, 1], 1);
        assert!(matches!(run(&x, &x, &matrix, T, ITERATIONS), Err(Error::LimitExceeded { .. })));
    }
}
