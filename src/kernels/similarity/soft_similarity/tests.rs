use super::*;
use crate::kernels::testing::{
    assert_close, assert_slices_close, differences, gpus, noise, noise_tensor, poisoned, to_f32, to_f64,
};

/// A mask with holes, whose second row is all 0.
fn holes(groups: usize, n: usize) -> Vec<f32> {
    (0..groups * n).map(|i| f32::from(u8::from(i / n != 1 && (i * 7 + i / n) % 5 < 3))).collect()
}

/// NaN where nobody may look.
fn hide(scores: &mut [f32], mask: &[f32], n: usize) {
    let groups = mask.len() / n;
    for (i, s) in scores.iter_mut().enumerate() {
        if mask[i / n % groups * n + i % n] == 0.0 {
            *s = f32::NAN;
        }
    }
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec().unwrap().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn rows_equal_the_twin() {
    for gpu in gpus() {
        for (count, groups, n) in
            [(1, 1, 1), (9, 3, 3), (34, 2, 16), (6, 6, 31), (9, 3, 65), (14, 7, 588), (3, 3, 1029), (2, 2, 12_544)]
        {
            for (masked, temperature) in [(false, 0.01), (true, 0.01), (true, 0.7)] {
                let mut s = noise(count * n, 1);
                let mask = masked.then(|| holes(groups, n));
                if let Some(mask) = &mask {
                    hide(&mut s, mask, n);
                }
                let g = noise(count, 2);
                let row_mask = |r: usize| mask.as_ref().map(|m| &m[r % groups * n..][..n]);
                let row = |r: usize| to_f64(&s[r * n..][..n]);
                let wide = f64::from(temperature);
                let expected: Vec<(f64, f64)> = (0..count).map(|r| cpu::forward(&row(r), row_mask(r), wide)).collect();
                let scores = poisoned(&gpu, &[count, n], &s);
                let gpu_mask = mask.as_ref().map(|m| poisoned(&gpu, &[groups, n], m));
                let (y, lse) = rows(&scores, gpu_mask.as_ref(), temperature).unwrap();
                assert_eq!(y.shape(), [count]);
                assert_close(&y, &to_f32(&expected.iter().map(|e| e.0).collect::<Vec<_>>()), 1e-5, 1e-6);
                assert_close(&lse, &to_f32(&expected.iter().map(|e| e.1).collect::<Vec<_>>()), 1e-6, 1e-5);

                let gradient = || {
                    let d = poisoned(&gpu, &[count, n], &s);
                    rows_backward(&d, gpu_mask.as_ref(), temperature, (&y, &lse), &poisoned(&gpu, &[count], &g))
                        .unwrap();
                    d
                };
                let d: Vec<f64> =
                    (0..count).flat_map(|r| cpu::backward(&row(r), row_mask(r), wide, g[r].into())).collect();
                let got = gradient();
                assert_close(&got, &to_f32(&d), 1e-4, 3e-5);
                assert_eq!(bits(&got), bits(&gradient()), "two runs differ");
                assert_eq!(bits(&y), bits(&rows(&scores, gpu_mask.as_ref(), temperature).unwrap().0));
            }
        }
    }
}

#[test]
fn the_twins_gradient_equals_differences() {
    let scores = to_f64(&noise(7, 1));
    let mask = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0];
    for mask in [None, Some(&mask[..])] {
        let numeric = differences(&scores, |s| 0.7 * cpu::forward(s, mask, 0.3).0);
        assert_slices_close(&to_f32(&cpu::backward(&scores, mask, 0.3, 0.7)), &to_f32(&numeric), 1e-5, 1e-7);
    }
}

#[test]
fn an_early_maximum_and_a_late_one_give_the_same() {
    for gpu in gpus() {
        let mut s: Vec<f32> = (0..1000).map(|i| i as f32 * 0.1 - 50.0).collect();
        let first = rows(&Tensor::from_slice(&gpu, [1000], &s).unwrap(), None, 0.05).unwrap().0.item().unwrap();
        s.reverse();
        let second = rows(&Tensor::from_slice(&gpu, [1000], &s).unwrap(), None, 0.05).unwrap().0.item().unwrap();
        assert_slices_close(&[first], &[second], 1e-6, 0.0);
        let (y, _) = rows(&Tensor::from_slice(&gpu, [3], &[1.0, f32::NAN, 2.0]).unwrap(), None, 0.1).unwrap();
        assert!(y.item().unwrap().is_nan());
        let (y, _) = rows(&Tensor::from_slice(&gpu, [4], &[f32::NAN; 4]).unwrap(), None, 0.1).unwrap();
        assert!(y.item().unwrap().is_nan());
    }
}

/// The pair op by rows of the twin: scores, and the gradients of texts and items.
fn twin(e: &Extents, t: &[f64], x: &[f64], mask: Option<&[f32]>, tau: f64, g: &[f64]) -> [Vec<f64>; 3] {
    let (mut y, mut dt, mut dx) = (Vec::new(), vec![0.0; t.len()], vec![0.0; x.len()]);
    for i in 0..e.texts {
        for j in 0..e.videos {
            let text = &t[i * e.width..][..e.width];
            let item = |r: usize| (j * e.items + r) * e.width;
            let s: Vec<f64> = (0..e.items).map(|r| text.iter().zip(&x[item(r)..]).map(|(a, b)| a * b).sum()).collect();
            let mask = mask.map(|m| &m[j * e.items..][..e.items]);
            y.push(cpu::forward(&s, mask, tau).0);
            for (r, d) in cpu::backward(&s, mask, tau, g[i * e.videos + j]).into_iter().enumerate() {
                for k in 0..e.width {
                    dt[i * e.width + k] += d * x[item(r) + k];
                    dx[item(r) + k] += d * text[k];
                }
            }
        }
    }
    [y, dt, dx]
}

#[test]
fn pairs_equal_the_twin_in_any_parts() {
    for gpu in gpus() {
        for (texts, videos, items, width) in
            [(1, 1, 1, 1), (3, 5, 7, 12), (70, 9, 12, 16), (5, 70, 3, 7), (130, 3, 33, 8)]
        {
            let e = Extents { texts, videos, items, width };
            let (t, x, g) = (noise(texts * width, 1), noise(videos * items * width, 2), noise(texts * videos, 3));
            for masked in [false, true] {
                let mask = masked.then(|| holes(videos, items));
                let tau = 0.2f32;
                let [y, dt, dx] = twin(&e, &to_f64(&t), &to_f64(&x), mask.as_deref(), tau.into(), &to_f64(&g));
                let gt = poisoned(&gpu, &[texts, width], &t);
                let gx = poisoned(&gpu, &[videos, items, width], &x);
                let gm = mask.as_ref().map(|m| poisoned(&gpu, &[videos, items], m));
                let gg = poisoned(&gpu, &[texts, videos], &g);
                for limits in [LIMITS, Limits { scores: 64 * items * 4, items: 1 }, Limits { scores: 1, items: 1 }] {
                    let once = |wanted| {
                        let (y, lse) = run(&gt, &gx, gm.as_ref(), tau, limits).unwrap();
                        let d = run_backward(&gt, &gx, gm.as_ref(), tau, (&y, &lse), &gg, wanted, limits).unwrap();
                        (y, d)
                    };
                    let (got, [got_t, got_x]) = once([true, true]);
                    assert_close(&got, &to_f32(&y), 1e-5, 2e-5);
                    let (got_t, got_x) = (got_t.unwrap(), got_x.unwrap());
                    assert_close(&got_t, &to_f32(&dt), 1e-4, 3e-4);
                    assert_close(&got_x, &to_f32(&dx), 1e-4, 3e-4);
                    let (_, [only, none]) = once([true, false]);
                    assert_eq!(bits(&only.unwrap()), bits(&got_t));
                    assert!(none.is_none());
                    let (_, [none, only]) = once([false, true]);
                    assert_eq!(bits(&only.unwrap()), bits(&got_x));
                    assert!(none.is_none());
                }
            }
        }
    }
}

#[test]
fn parts_cover_all_and_stay_within_the_limits() {
    for (texts, videos, items, width) in
        [(128, 128, 588, 512), (4917, 4917, 12_544, 512), (1000, 1000, 589, 511), (1, 9, 1, 1)]
    {
        let e = Extents { texts, videos, items, width };
        let parts = e.parts(LIMITS);
        assert_eq!(parts.iter().map(|p| p.texts * p.videos).sum::<usize>(), texts * videos);
        for p in parts {
            assert!(p.texts * p.videos * items <= LIMITS.scores);
            assert!(p.first_text * width % 64 == 0 && p.first_video * items * width % 64 == 0);
        }
    }
}

#[test]
fn nothing_in_gives_nothing_out() {
    for gpu in gpus() {
        for [b, n, r] in [[0, 3, 4], [2, 0, 4], [2, 3, 0]] {
            let (t, x) = (noise_tensor(&gpu, &[b, 8], 1), noise_tensor(&gpu, &[n, r, 8], 1));
            let (y, lse) = forward(&t, &x, None, 0.1).unwrap();
            assert_eq!(y.to_vec().unwrap(), vec![0.0; b * n]);
            let d = backward(&t, &x, None, 0.1, (&y, &lse), &y, [true; 2]).unwrap();
            assert!(d.iter().flat_map(|t| t.as_ref().unwrap().to_vec().unwrap()).all(|v| v == 0.0));
        }
        let (y, lse) = rows(&noise_tensor(&gpu, &[2, 3, 0], 1), None, 0.1).unwrap();
        assert_eq!((y.to_vec().unwrap(), lse.to_vec().unwrap()), (vec![0.0; 6], vec![f32::MIN; 6]));
        assert_eq!(rows(&noise_tensor(&gpu, &[0, 5], 1), None, 0.1).unwrap().0.shape(), [0]);
    }
}

#[test]
fn wrong_arguments_are_errors() {
    for gpu in gpus() {
        let t = |shape: &[usize]| noise_tensor(&gpu, shape, 1);
        let of = |a: &Tensor, b: &Tensor, mask: Option<&Tensor>| forward(a, b, mask, 0.1).map(drop).unwrap_err();
        assert!(matches!(of(&t(&[6]), &t(&[3, 4, 6]), None), Error::ShapeMismatch { .. }));
        assert!(matches!(of(&t(&[2, 5]), &t(&[3, 4, 6]), None), Error::ShapeMismatch { .. }));
        assert!(matches!(of(&t(&[2, 0]), &t(&[3, 4, 0]), None), Error::ShapeMismatch { .. }));
        assert!(matches!(of(&t(&[2, 6]), &t(&[3, 4, 6]), Some(&t(&[4, 3]))), Error::Shape { argument: "mask", .. }));
        let ids = Tensor::from_u32(&gpu, [3, 4, 6], &[0; 72]).unwrap();
        assert!(matches!(of(&t(&[2, 6]), &ids, None), Error::DType { argument: "items", .. }));
        for temperature in [0.0, -1.0, f32::NAN, 1e-40, 1e38, f32::INFINITY] {
            let error = rows(&t(&[2, 6]), None, temperature).map(drop).unwrap_err();
            assert!(matches!(error, Error::Argument { argument: "temperature", .. }));
        }
        for mask in [t(&[4, 6]), t(&[3, 5]), t(&[6])] {
            let error = rows(&t(&[6, 6]), Some(&mask), 0.1).map(drop).unwrap_err();
            assert!(matches!(error, Error::Shape { argument: "mask", .. }), "{error}");
        }
        let (y, lse) = rows(&t(&[6, 6]), None, 0.1).unwrap();
        let error = rows_backward(&t(&[6, 6]), None, 0.1, (&y, &lse), &t(&[5])).unwrap_err();
        assert!(matches!(error, Error::Shape { argument: "gradient", .. }));
    }
}
