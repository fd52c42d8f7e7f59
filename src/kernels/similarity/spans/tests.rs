use super::*;
use crate::gpu::Gpu;
use crate::kernels::testing::{
    assert_slices_close, gpus, half_noise, noise, noise_tensor, poisoned, poisoned_halves, to_f32, to_f64,
};

/// A search with its tensors' contents on the host.
struct Case {
    sizes: [usize; 5],
    queries: Vec<Vec<f32>>,
    clips: Vec<Vec<f32>>,
    mask: Vec<f32>,
    candidates: Vec<u32>,
    taps: [Vec<f32>; 2],
    half: bool,
    mask_similarity: bool,
}

impl Case {
    /// Sizes are queries, candidates, videos, length, width. The last video has no clips, the others fewer and fewer,
    /// and two candidates are no videos.
    fn new(sizes: [usize; 5], streams: usize, taps: usize, half: bool, mask_similarity: bool) -> Self {
        let [n, k, videos, length, width] = sizes;
        let values = |count, seed| if half { half_noise(count, seed) } else { noise(count, seed) };
        let mut mask = vec![0.0; videos * length];
        for (v, row) in mask.chunks_mut(length).enumerate() {
            let clips = if v + 1 == videos && videos > 1 { 0 } else { length - length * v / (videos + 1) };
            row[..clips].fill(1.0);
        }
        let mut candidates: Vec<u32> = (0..n * k).map(|i| (i * 7 % videos) as u32).collect();
        if n * k > 2 {
            candidates[1] = u32::MAX;
            candidates[2] = videos as u32;
        }
        Self {
            sizes,
            queries: (0..streams).map(|s| values(n * width, s as u64)).collect(),
            clips: (0..streams).map(|s| values(videos * length * width, 10 + s as u64)).collect(),
            mask,
            candidates,
            taps: [noise(taps, 20), noise(taps, 21)],
            half,
            mask_similarity,
        }
    }

    fn run(&self, gpu: &Gpu, logits_only: bool) -> (Vec<f32>, Vec<f32>) {
        let [n, k, videos, length, width] = self.sizes;
        let queries: Vec<Tensor> = self.queries.iter().map(|q| poisoned(gpu, &[n, width], q)).collect();
        let clips: Vec<Tensor> = self.clips.iter().map(|x| self.upload_clips(gpu, x)).collect();
        let stream = |s: usize| Stream { queries: &queries[s], clips: &clips[s] };
        let taps = self.taps.clone().map(|t| poisoned(gpu, &[t.len()], &t));
        let search = Search {
            first: stream(0),
            second: (queries.len() > 1).then(|| stream(1)),
            mask: &poisoned(gpu, &[videos, length], &self.mask),
            candidates: &Tensor::from_u32(gpu, [n, k], &self.candidates).unwrap(),
        };
        let predictor = Predictor { start: &taps[0], end: &taps[1], mask_similarity: self.mask_similarity };
        let (starts, ends) =
            if logits_only { logits(&search, &predictor) } else { probabilities(&search, &predictor) }.unwrap();
        assert_eq!(starts.shape(), &[n, k, length]);
        assert_eq!(ends.shape(), &[n, k, length]);
        (starts.to_vec().unwrap(), ends.to_vec().unwrap())
    }

    fn upload_clips(&self, gpu: &Gpu, x: &[f32]) -> Tensor {
        let [_, _, videos, length, width] = self.sizes;
        let upload = if self.half { poisoned_halves } else { poisoned };
        upload(gpu, &[videos, length, width], x)
    }

    /// Logits and probabilities, starts and ends of each.
    fn expected(&self) -> [(Vec<f32>, Vec<f32>); 2] {
        let [_, k, videos, length, width] = self.sizes;
        let mut parts = [const { Vec::new() }; 4];
        for (pair, &video) in self.candidates.iter().enumerate() {
            let video = video as usize;
            if video >= videos {
                parts.iter_mut().for_each(|p| p.extend(vec![0.0; length]));
                continue;
            }
            let mask = &self.mask[video * length..][..length];
            let mut similarity = vec![0.0; length];
            for (queries, clips) in self.queries.iter().zip(&self.clips) {
                let query = to_f64(&queries[pair / k * width..][..width]);
                let one = cpu::similarity(&query, &to_f64(&clips[video * length * width..][..length * width]));
                similarity.iter_mut().zip(one).for_each(|(sum, v)| *sum += v / self.queries.len() as f64);
            }
            if self.mask_similarity {
                similarity.iter_mut().zip(mask).filter(|(_, m)| **m == 0.0).for_each(|(s, _)| *s = 0.0);
            }
            for (i, taps) in self.taps.iter().enumerate() {
                let logits = cpu::logits(&similarity, mask, &to_f64(taps));
                parts[i].extend(to_f32(&logits));
                parts[2 + i].extend(to_f32(&cpu::probabilities(&logits, mask)));
            }
        }
        let [a, b, c, d] = parts;
        [(a, b), (c, d)]
    }
}

#[test]
fn probabilities_equal_the_twin() {
    for gpu in gpus() {
        for (i, sizes) in [
            [1, 1, 1, 1, 1],
            [1, 1, 1, 3, 2],
            [2, 3, 4, 7, 6],
            [3, 2, 5, 8, 8],
            [2, 2, 3, 9, 10],
            [1, 4, 3, 63, 13],
            [2, 3, 3, 64, 64],
            [2, 2, 2, 65, 66],
            [1, 2, 2, 131, 100],
            [1, 2, 2, 512, 20],
        ]
        .into_iter()
        .enumerate()
        {
            for streams in [1, 2] {
                for half in [false, true].into_iter().filter(|&half| !half || sizes[4] % 2 == 0) {
                    let taps = [1, 3, 5, 15][(i + streams) % 4];
                    let case = Case::new(sizes, streams, taps, half, half ^ (streams == 1));
                    let [logits, probabilities] = case.expected();
                    let got = case.run(&gpu, true);
                    assert_slices_close(&got.0, &logits.0, 1e-4, 1e-4);
                    assert_slices_close(&got.1, &logits.1, 1e-4, 1e-4);
                    let got = case.run(&gpu, false);
                    assert_slices_close(&got.0, &probabilities.0, 1e-3, 1e-6);
                    assert_slices_close(&got.1, &probabilities.1, 1e-3, 1e-6);
                    for (got, expected) in got.0.iter().zip(&probabilities.0) {
                        assert!(*expected != 0.0 || *got == 0.0, "padding has {got}");
                    }
                    assert_eq!(got, case.run(&gpu, false), "two runs differ");
                }
            }
        }
    }
}

/// Probabilities as they come: a few large ones, many small, some 0, some equal.
fn spread(n: usize, seed: u64, grain: f32) -> Vec<f32> {
    noise(n, seed).iter().map(|v| ((v.abs() * grain).round() / grain).powi(4)).collect()
}

fn check_decode(gpu: &Gpu, [n, k, length]: [usize; 3], lengths: Range<usize>, top: usize, values: [&[f32]; 3]) {
    let starts = poisoned(gpu, &[n, k, length], values[0]);
    let ends = poisoned(gpu, &[n, k, length], values[1]);
    let weights = poisoned(gpu, &[n, k], values[2]);
    let (scores, spans) = decode(&starts, &ends, &weights, lengths.clone(), top).unwrap();
    assert_eq!((scores.shape(), spans.shape()), (&[n, top][..], &[n, top, 3][..]));
    let (scores, spans) = (scores.to_vec().unwrap(), spans.to_u32().unwrap());
    for q in 0..n {
        let row = |values: &[f32]| values[q * k * length..][..k * length].to_vec();
        let mut expected =
            cpu::decode(&row(values[0]), &row(values[1]), &values[2][q * k..][..k], lengths.clone(), top);
        expected.resize(top, (0.0, [u32::MAX; 3]));
        for (i, (score, span)) in expected.into_iter().enumerate() {
            let at = q * top + i;
            let got = (scores[at], [spans[3 * at], spans[3 * at + 1], spans[3 * at + 2]]);
            assert_eq!(got, (score, span), "query {q} of {n}, place {i} of {top}, {k} x {length}, {lengths:?}");
        }
    }
    let again = decode(&starts, &ends, &weights, lengths, top).unwrap();
    assert_eq!((again.0.to_vec().unwrap(), again.1.to_u32().unwrap()), (scores, spans));
}

#[test]
fn decoding_equals_sorting_all_spans() {
    for gpu in gpus() {
        for (sizes, lengths, top) in [
            ([1, 1, 1], 0..1, 1),
            ([1, 1, 1], 1..5, 3),
            ([2, 3, 7], 2..4, 10),
            ([2, 1, 9], 0..100, 45),
            ([3, 5, 16], 2..16, 64),
            ([2, 4, 17], 3..5, 1024),
            ([3, 7, 33], 2..16, 200),
            ([1, 40, 64], 2..16, 200),
            // Cut into parts.
            ([1, 37, 65], 0..65, 100),
            ([2, 100, 31], 1..20, 1000),
        ] {
            let [n, k, length] = sizes;
            for grain in [4.0, 1e5] {
                let values =
                    [spread(n * k * length, 1, grain), spread(n * k * length, 2, grain), spread(n * k, 3, grain)];
                check_decode(&gpu, sizes, lengths.clone(), top, [&values[0], &values[1], &values[2]]);
            }
        }
    }
}

#[test]
fn equal_scores_at_the_edge_go_by_candidate_start_and_end() {
    for gpu in gpus() {
        let (n, k, length) = (2, 50, 40);
        let mut starts = vec![0.25; n * k * length];
        check_decode(&gpu, [n, k, length], 2..16, 300, [&starts, &starts, &vec![1.0; n * k]]);
        // A few better ones somewhere behind, and what is no moment.
        for (i, value) in starts.iter_mut().enumerate() {
            *value = match i % 97 {
                96 => 0.5,
                13 => f32::NAN,
                14 => 0.0,
                15 => -0.25,
                _ => *value,
            };
        }
        let ends = vec![0.25; n * k * length];
        check_decode(&gpu, [n, k, length], 2..16, 1024, [&starts, &ends, &vec![1.0; n * k]]);
        check_decode(&gpu, [n, k, length], 2..16, 1, [&starts, &ends, &vec![1.0; n * k]]);
    }
}

/// Software adapters end loops that are too long: a video alone may be more than one invocation may look at.
#[test]
fn long_videos_and_all_lengths_are_searched_to_their_end() {
    let gpu = &gpus()[0];
    let (k, length) = (3, 512);
    let values = [spread(k * length, 1, 1e5), spread(k * length, 2, 1e5), vec![1.0; k]];
    check_decode(gpu, [1, k, length], 0..length, 100, [&values[0], &values[1], &values[2]]);
}

/// As many lengths as software adapters allow, and one more.
#[test]
fn the_widest_choice_of_lengths_is_searched_to_its_end() {
    for gpu in gpus().into_iter().filter(|gpu| gpu.report().is_software()) {
        let length = 3400;
        let mut starts = vec![0.0; length];
        starts[3] = 0.5;
        let ends = spread(length, 2, 1e5);
        check_decode(&gpu, [1, 1, length], 0..3373, 100, [&starts, &ends, &[1.0]]);
        let [s, e] = [&starts, &ends].map(|v| Tensor::from_slice(&gpu, [1, 1, length], v).unwrap());
        let one = Tensor::from_slice(&gpu, [1, 1], &[1.0]).unwrap();
        assert!(matches!(decode(&s, &e, &one, 0..3374, 1), Err(Error::LimitExceeded { .. })));
    }
}

#[test]
fn wrong_arguments_are_errors_and_nothing_is_nothing() {
    for gpu in gpus() {
        let t = |shape: &[usize]| noise_tensor(&gpu, shape, 1);
        let (starts, ends, weights) = (t(&[2, 3, 5]), t(&[2, 3, 5]), t(&[2, 3]));
        let wrong = |r: Result<(Tensor, Tensor)>| r.err().map(|e| e.to_string()).expect("an error");
        assert!(wrong(decode(&starts, &ends, &weights, 0..3, 1025)).contains("top"));
        assert!(wrong(decode(&weights, &ends, &weights, 0..3, 1)).contains("starts"));
        assert!(wrong(decode(&starts, &weights, &weights, 0..3, 1)).contains("ends"));
        assert!(wrong(decode(&starts, &ends, &starts, 0..3, 1)).contains("weights"));
        assert_eq!(decode(&starts, &ends, &weights, 0..3, 0).unwrap().1.shape(), &[2, 0, 3]);
        for (a, b, lengths) in [(&starts, &weights, 3..3), (&t(&[2, 0, 5]), &t(&[2, 0]), 0..3)] {
            let (scores, spans) = decode(a, a, b, lengths, 2).unwrap();
            assert_eq!(scores.to_vec().unwrap(), [0.0; 4]);
            assert_eq!(spans.to_u32().unwrap(), [u32::MAX; 12]);
        }

        let (queries, clips, mask, taps) = (t(&[2, 6]), t(&[3, 5, 6]), t(&[3, 5]), t(&[3]));
        let candidates = Tensor::from_u32(&gpu, [2, 2], &[0, 1, 2, 0]).unwrap();
        let first = Stream { queries: &queries, clips: &clips };
        let good = Search { first, second: None, mask: &mask, candidates: &candidates };
        let predictor = Predictor { start: &taps, end: &taps, mask_similarity: false };
        assert!(probabilities(&good, &predictor).is_ok());
        let fails = |search: Search, predictor: Predictor| wrong(probabilities(&search, &predictor));
        assert!(fails(good, Predictor { start: &t(&[4]), end: &t(&[4]), ..predictor }).contains("even"));
        assert!(fails(good, Predictor { end: &t(&[5]), ..predictor }).contains("end"));
        assert!(fails(Search { mask: &t(&[3, 4]), ..good }, predictor).contains("mask"));
        assert!(fails(Search { candidates: &t(&[2, 2]), ..good }, predictor).contains("candidates"));
        let other = t(&[3, 5, 7]);
        let second = Some(Stream { queries: &queries, clips: &other });
        assert!(fails(Search { second, ..good }, predictor).contains("clips"));
        assert!(fails(Search { first: Stream { queries: &clips, ..first }, ..good }, predictor).contains("queries"));
        let halves = Tensor::from_slice_f16(&gpu, [3, 5, 7], &[0.0; 105]).unwrap();
        let odd = Stream { queries: &t(&[2, 7]), clips: &halves };
        assert!(fails(Search { first: odd, ..good }, predictor).contains("even"));

        let none = Tensor::from_u32(&gpu, [2, 0], &[]).unwrap();
        assert_eq!(probabilities(&Search { candidates: &none, ..good }, &predictor).unwrap().0.shape(), &[2, 0, 5]);
        let no_clips = Stream { queries: &queries, clips: &t(&[0, 5, 6]) };
        let search = Search { first: no_clips, mask: &t(&[0, 5]), ..good };
        assert_eq!(probabilities(&search, &predictor).unwrap().1.to_vec().unwrap(), [0.0; 20]);
    }
}
