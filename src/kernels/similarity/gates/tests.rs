use super::*;
use crate::kernels::testing::{
    assert_slices_close, differences, gpus, inner, noise, noise_tensor, poisoned, to_f32, to_f64,
};

const T: f32 = 0.5;

/// One problem on the host: dot products, Gram matrices of real frames, and a mask that hides some frames, and all of
/// the first video's if there are several.
struct Problem {
    extents: cpu::Extents,
    dots: Vec<f32>,
    grams: Vec<f32>,
    mask: Vec<f32>,
}

impl Problem {
    fn new(extents: cpu::Extents, seed: u64) -> Self {
        let [rows, videos, frames] = extents;
        let width = 5;
        let z = noise(videos * frames * width, seed);
        let frame = |i: usize| &z[i * width..][..width];
        let gram = |i: usize| {
            let (first, a, b) = (i / frames / frames * frames, i / frames % frames, i % frames);
            frame(first + a).iter().zip(frame(first + b)).map(|(a, b)| a * b).sum::<f32>()
        };
        let on = |i: usize| (videos == 1 || i >= frames) && (i * 7 + i / 3) % 5 != 2;
        Self {
            extents,
            dots: noise(rows * videos * frames, seed + 1),
            grams: (0..videos * frames * frames).map(gram).collect(),
            mask: (0..videos * frames).map(|i| f32::from(u8::from(on(i)))).collect(),
        }
    }

    /// NaN where the mask hides what is there.
    fn upload(&self, gpu: &Gpu, masked: bool) -> [Tensor; 3] {
        let [rows, videos, frames] = self.extents;
        let hidden = |video: usize, f: usize| masked && self.mask[video * frames + f] == 0.0;
        let (mut dots, mut grams) = (self.dots.clone(), self.grams.clone());
        for (i, d) in dots.iter_mut().enumerate().filter(|(i, _)| hidden(i / frames % videos, i % frames)) {
            *d = if i % 2 == 0 { f32::NAN } else { 1e30 };
        }
        for (i, k) in grams.iter_mut().enumerate() {
            let video = i / frames / frames;
            if hidden(video, i / frames % frames) || hidden(video, i % frames) {
                *k = f32::NAN;
            }
        }
        [
            poisoned(gpu, &[rows, videos, frames], &dots),
            poisoned(gpu, &[videos, frames, frames], &grams),
            poisoned(gpu, &[videos, frames], &self.mask),
        ]
    }

    fn mask(&self, masked: bool) -> Vec<f32> {
        if masked { self.mask.clone() } else { vec![1.0; self.mask.len()] }
    }

    fn twin(&self, masked: bool) -> Vec<f64> {
        let [rows, videos, frames] = self.extents;
        let places: Vec<usize> = (0..rows * videos).map(|i| i % videos).collect();
        cpu::forward(frames, &to_f64(&self.dots), &to_f64(&self.grams), &self.mask(masked), &places, T.into())
    }
}

const EXTENTS: [cpu::Extents; 11] = [
    [1, 1, 1],
    [3, 2, 2],
    [5, 3, 4],
    [7, 5, 6],
    [2, 3, 8],
    [33, 3, 12],
    [5, 2, 16],
    [3, 5, 17],
    [4, 3, 37],
    [3, 2, 64],
    [2, 2, MOST_FRAMES],
];

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn gates_equal_their_twin() {
    for gpu in gpus() {
        for extents in EXTENTS {
            let problem = Problem::new(extents, 3);
            for masked in [false, true] {
                let [dots, grams, mask] = problem.upload(&gpu, masked);
                let once = || forward(&dots, &grams, masked.then_some(&mask), None, T).unwrap();
                let gates = once();
                assert_eq!(gates.shape(), &extents);
                let gates = gates.to_vec().unwrap();
                assert_slices_close(&gates, &to_f32(&problem.twin(masked)), 1e-4, 1e-6);
                assert_eq!(bits(&gates), bits(&once().to_vec().unwrap()), "two runs differ");
            }
        }
    }
}

/// What gates are for: a dot product with an average of length 1.
#[test]
fn gates_are_dot_products_with_a_guided_average() {
    let (frames, width) = (7, 6);
    let (z, q, x) = (noise(frames * width, 1), noise(width, 2), noise(width, 3));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let with_frames = |v: &[f32]| z.chunks_exact(width).map(|f| dot(v, f)).collect::<Vec<f32>>();
    let grams: Vec<f32> = z.chunks_exact(width).flat_map(with_frames).collect();
    let dots = with_frames(&q);
    let total: f32 = dots.iter().map(|d| (d / T).exp()).sum();
    let mut average = vec![0.0; width];
    for (d, frame) in dots.iter().zip(z.chunks_exact(width)) {
        average.iter_mut().zip(frame).for_each(|(a, f)| *a += (d / T).exp() / total * f);
    }
    let expected = dot(&x, &average) / dot(&average, &average).sqrt();
    for gpu in gpus() {
        let dots = Tensor::from_slice(&gpu, [1, 1, frames], &dots).unwrap();
        let grams = Tensor::from_slice(&gpu, [1, frames, frames], &grams).unwrap();
        let gates = forward(&dots, &grams, None, None, T).unwrap().to_vec().unwrap();
        assert!((dot(&gates, &with_frames(&x)) - expected).abs() < 1e-5);
    }
}

#[test]
fn lists_of_videos_take_their_matrices_and_masks() {
    for gpu in gpus() {
        let [rows, places, items, frames] = [5, 7, 4, 9];
        let problem = Problem::new([rows, items, frames], 5);
        let dots = noise(rows * places * frames, 9);
        // One beyond the end, as lists that are not full have.
        let which: Vec<u32> =
            (0..rows * places).map(|i| if i % 11 == 4 { u32::MAX } else { (i * 3 % 5) as u32 }).collect();
        let videos: Vec<usize> = which.iter().map(|&w| (w as usize).min(items)).collect();
        for masked in [false, true] {
            let [_, grams, mask] = problem.upload(&gpu, masked);
            let expected =
                cpu::forward(frames, &to_f64(&dots), &to_f64(&problem.grams), &problem.mask(masked), &videos, T.into());
            let dots = poisoned(&gpu, &[rows, places, frames], &dots);
            let list = Tensor::from_u32(&gpu, [rows, places], &which).unwrap();
            let gates = forward(&dots, &grams, masked.then_some(&mask), Some(&list), T).unwrap();
            assert_slices_close(&gates.to_vec().unwrap(), &to_f32(&expected), 1e-4, 1e-6);
        }
    }
}

#[test]
fn frames_of_nothing_have_gates_of_nothing_and_nan_shows() {
    for gpu in gpus() {
        let dots = Tensor::from_slice(&gpu, [1, 3, 2], &[1.0, 2.0, f32::NAN, 0.0, -9e4, 9e4]).unwrap();
        let grams = [0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 0.5, 1.0, 4.0, 0.0, 0.0, 16.0];
        let grams = Tensor::from_slice(&gpu, [3, 2, 2], &grams).unwrap();
        let gates = forward(&dots, &grams, None, None, 0.01).unwrap();
        let values = gates.to_vec().unwrap();
        assert_eq!((&values[..2], &values[4..]), (&[0.0, 0.0][..], &[0.0, 0.25][..]));
        assert!(values[2].is_nan());
        let upstream = Tensor::from_slice(&gpu, [1, 3, 2], &[1.0; 6]).unwrap();
        let [ddots, dgrams] = backward(&upstream, &gates, &grams, 0.01, [true; 2]).unwrap();
        assert_eq!(ddots.unwrap().to_vec().unwrap()[..2], [0.0; 2]);
        assert_eq!(dgrams.unwrap().to_vec().unwrap()[..4], [0.0; 4]);
    }
}

#[test]
fn gradients_equal_the_twin() {
    for gpu in gpus() {
        // The last ones have several parts of the sum over rows.
        for extents in EXTENTS.into_iter().chain([[SPAN, 2, 3], [SPAN + 1, 3, 5], [SPAN * MOST_PARTS + 7, 1, 6]]) {
            let mut problem = Problem::new(extents, 11);
            // A matrix need not be symmetric.
            problem
                .grams
                .iter_mut()
                .zip(noise(extents[1] * extents[2] * extents[2], 4))
                .for_each(|(k, n)| *k += 0.1 * n);
            for masked in [false, true] {
                let [dots, grams, mask] = problem.upload(&gpu, masked);
                let gates = forward(&dots, &grams, masked.then_some(&mask), None, T).unwrap();
                let g = noise(gates.len(), 6);
                let (ddots, dgrams) = cpu::backward(
                    extents,
                    &to_f64(&g),
                    &to_f64(&gates.to_vec().unwrap()),
                    &to_f64(&problem.grams),
                    T.into(),
                );
                let upstream = poisoned(&gpu, &extents, &g);
                let run = |wanted| {
                    let found = backward(&upstream, &gates, &grams, T, wanted).unwrap();
                    found.map(|t| t.map(|t| t.to_vec().unwrap()))
                };
                let both = run([true, true]);
                // With one frame the gradient is a difference of equals.
                let bound = |v: &[f64]| 1e-6 + 1e-5 * v.iter().fold(0.0f64, |m, v| m.max(v.abs())) as f32;
                assert_slices_close(both[0].as_ref().unwrap(), &to_f32(&ddots), 1e-4, bound(&ddots));
                assert_slices_close(both[1].as_ref().unwrap(), &to_f32(&dgrams), 1e-4, bound(&dgrams));
                let again = run([true, true]);
                assert_eq!(both.each_ref().map(|v| v.as_deref().map(bits)), again.map(|v| v.as_deref().map(bits)));
                assert_eq!(run([true, false]), [both[0].clone(), None]);
                assert_eq!(run([false, true]), [None, both[1].clone()]);
            }
        }
    }
}

#[test]
fn twin_agrees_with_finite_differences() {
    let extents = [3, 2, 5];
    let [rows, videos, frames] = extents;
    let problem = Problem::new(extents, 2);
    let (dots, mut grams) = (to_f64(&problem.dots), to_f64(&problem.grams));
    grams.iter_mut().zip(noise(videos * frames * frames, 8)).for_each(|(k, n)| *k += 0.05 * f64::from(n));
    let places: Vec<usize> = (0..rows * videos).map(|i| i % videos).collect();
    let u = to_f64(&noise(dots.len(), 3));
    let of = |dots: &[f64], grams: &[f64]| cpu::forward(frames, dots, grams, &problem.mask, &places, 0.5);
    let (ddots, dgrams) = cpu::backward(extents, &u, &of(&dots, &grams), &grams, 0.5);
    let by_dots = differences(&dots, |d| inner(&of(d, &grams), &u));
    let by_grams = differences(&grams, |k| inner(&of(&dots, k), &u));
    assert_slices_close(&to_f32(&by_dots), &to_f32(&ddots), 1e-5, 1e-6);
    assert_slices_close(&to_f32(&by_grams), &to_f32(&dgrams), 1e-5, 1e-6);
}

#[test]
fn nothing_in_gives_nothing_out() {
    for gpu in gpus() {
        for [r, v, f] in [[0, 3, 4], [2, 0, 4], [2, 3, 0]] {
            let (dots, grams) = (noise_tensor(&gpu, &[r, v, f], 1), noise_tensor(&gpu, &[v, f, f], 2));
            let gates = forward(&dots, &grams, None, None, T).unwrap();
            assert_eq!(gates.shape(), &[r, v, f]);
            let [ddots, dgrams] = backward(&gates, &gates, &grams, T, [true; 2]).unwrap();
            assert!(ddots.unwrap().is_empty());
            assert!(dgrams.unwrap().to_vec().unwrap().iter().all(|&v| v == 0.0));
        }
        // A list of no videos.
        let (dots, grams) = (noise_tensor(&gpu, &[2, 1, 3], 1), noise_tensor(&gpu, &[0, 3, 3], 2));
        let which = Tensor::from_u32(&gpu, [2, 1], &[0, 0]).unwrap();
        assert_eq!(forward(&dots, &grams, None, Some(&which), T).unwrap().to_vec().unwrap(), [0.0; 6]);
    }
}

#[test]
fn wrong_arguments_are_errors() {
    for gpu in gpus() {
        let t = |shape: &[usize]| noise_tensor(&gpu, shape, 1);
        let (dots, grams) = (t(&[2, 3, 4]), t(&[3, 4, 4]));
        let of = |dots: &Tensor, grams: &Tensor, mask: Option<&Tensor>, which: Option<&Tensor>| {
            forward(dots, grams, mask, which, T).map(drop).unwrap_err()
        };
        assert!(matches!(of(&t(&[6, 4]), &grams, None, None), Error::Shape { argument: "dots", .. }));
        assert!(matches!(of(&dots, &t(&[2, 4, 4]), None, None), Error::Shape { argument: "grams", .. }));
        assert!(matches!(of(&dots, &grams, Some(&t(&[2, 4])), None), Error::Shape { argument: "mask", .. }));
        assert!(matches!(of(&dots, &grams, None, Some(&t(&[2, 3]))), Error::DType { argument: "which", .. }));
        let which = Tensor::from_u32(&gpu, [3, 2], &[0; 6]).unwrap();
        assert!(matches!(of(&dots, &grams, None, Some(&which)), Error::Shape { argument: "which", .. }));
        let (wide, most) = (MOST_FRAMES + 1, MOST_FRAMES as u64);
        let error = of(&t(&[1, 1, wide]), &t(&[1, wide, wide]), None, None);
        assert!(matches!(error, Error::LimitExceeded { limit, .. } if limit == most));
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-45] {
            let error = forward(&dots, &grams, None, None, temperature).map(drop).unwrap_err();
            assert!(matches!(error, Error::Argument { argument: "temperature", .. }));
        }
        let error = backward(&t(&[2, 4, 3]), &dots, &grams, T, [true; 2]).map(drop).unwrap_err();
        assert!(matches!(error, Error::Shape { argument: "upstream", .. }));
    }
}
