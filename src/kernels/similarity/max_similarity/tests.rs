use super::*;
use crate::gpu::Gpu;
use crate::kernels::testing::{
    assert_slices_close, differences, gpus, inner, noise, noise_tensor, poisoned, poisoned_halves, to_f32, to_f64,
};

/// One problem on the host.
struct Problem {
    extents: cpu::Extents,
    q: Vec<f32>,
    x: Vec<f32>,
    mask: Vec<f32>,
    scale: Vec<f32>,
}

impl Problem {
    /// Coarse values, so that sums are exact and ties are frequent. Of five videos, one is padded and has holes, one is
    /// empty, and the others have holes. Where the mask is 0 there is NaN.
    fn new(extents: cpu::Extents, seed: u64) -> Self {
        let [queries, videos, clips, width] = extents;
        let coarse = |n, seed| noise(n, seed).iter().map(|v| (v * 4.0).round() / 4.0).collect::<Vec<f32>>();
        let on = |n: usize, l: usize| match n % 5 {
            4 => false,
            n if n % 3 == 2 => l < clips.div_ceil(2) && l % 3 != 1,
            _ => (l * 7 + n) % 5 != 4,
        };
        let mask: Vec<f32> = (0..videos * clips).map(|i| f32::from(u8::from(on(i / clips, i % clips)))).collect();
        let mut x = coarse(videos * clips * width, seed + 1);
        for (row, &m) in x.chunks_exact_mut(width).zip(&mask) {
            if m == 0.0 {
                row.fill(f32::NAN);
            }
        }
        let scale =
            noise(videos * clips, seed + 2).iter().map(|v| [0.5, 1.0, -2.0][(v.abs() * 3.0) as usize % 3]).collect();
        Self { extents, q: coarse(queries * width, seed), x, mask, scale }
    }

    fn upload(&self, gpu: &Gpu) -> [Tensor; 4] {
        let [queries, videos, clips, width] = self.extents;
        [
            poisoned(gpu, &[queries, width], &self.q),
            poisoned(gpu, &[videos, clips, width], &self.x),
            poisoned(gpu, &[videos, clips], &self.mask),
            poisoned(gpu, &[videos, clips], &self.scale),
        ]
    }

    fn twin(&self, scaled: bool) -> (Vec<f32>, Vec<u32>) {
        let scale = if scaled { to_f64(&self.scale) } else { vec![1.0; self.scale.len()] };
        let (scores, positions) = cpu::forward(self.extents, &to_f64(&self.q), &to_f64(&self.x), &self.mask, &scale);
        (to_f32(&scores), positions)
    }
}

/// The tiles that a device's family may use.
fn tiles(gpu: &Gpu) -> Vec<Tile> {
    let fits = |tile: &Tile| match (gpu.family(), tile) {
        (KernelFamily::Subgroup { size }, Tile::Subgroup { lanes, .. }) => size == *lanes,
        (KernelFamily::Tiled, Tile::Tiled { .. }) => true,
        _ => false,
    };
    super::tiles().filter(fits).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_tile_equals_its_twin() {
    for gpu in gpus() {
        for tile in tiles(&gpu) {
            let (rows, columns) = tile.extent();
            for extents in [
                [1, 1, 1, 1],
                [1, 2, 3, 4],
                [rows - 1, 6, columns - 1, 18],
                [rows, 5, columns, 16],
                [rows + 1, 6, columns + 1, 20],
                [3, 7, 2 * columns + 5, 7],
                [2 * rows + 3, 3, 13, 33],
            ] {
                let problem = Problem::new(extents, 7);
                let [q, x, mask, scale] = problem.upload(&gpu);
                for scaled in [false, true] {
                    let (scores, positions) = problem.twin(scaled);
                    let scale = scaled.then_some(&scale);
                    // Dispatches of one workgroup as well as one of all.
                    for most_flops in [1, u64::MAX] {
                        let of = |clips| {
                            let (s, p) = run(&q, clips, [Some(&mask), scale], |_, _| tile, most_flops).unwrap();
                            assert_eq!(s.shape(), &extents[..2]);
                            (s.to_vec().unwrap(), p.to_u32().unwrap())
                        };
                        let (s, p) = of(&x);
                        assert_eq!((&s, &p), (&scores, &positions), "{tile:?} {extents:?} scaled {scaled}");
                        let [_, videos, clips, width] = extents;
                        if width % 2 == 0 {
                            let packed = poisoned_halves(&gpu, &[videos, clips, width], &problem.x);
                            assert_eq!(of(&packed), (s, p), "half {tile:?} {extents:?} scaled {scaled}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_rules_choose_tiles_that_are_listed_and_runs_repeat() {
    for gpu in gpus() {
        for queries in [1, 8, 9, 16, 17, 64, 65] {
            let [m, n, l, d] = [queries, 3, 29, 24];
            let (q, x) = (noise(m * d, 1), noise(n * l * d, 2));
            let ones = vec![1.0; n * l];
            let scale = vec![1.0; n * l];
            let (expected, _) = cpu::forward([m, n, l, d], &to_f64(&q), &to_f64(&x), &ones, &scale);
            let (q, x) = (poisoned(&gpu, &[m, d], &q), poisoned(&gpu, &[n, l, d], &x));
            let once = || forward(&q, &x, None, None).unwrap().0.to_vec().unwrap();
            let scores = once();
            assert_slices_close(&scores, &to_f32(&expected), 1e-5, 1e-5);
            assert_eq!(bits(&scores), bits(&once()), "two runs differ");
        }
    }
}

#[test]
fn nan_and_infinities_of_valid_clips_show() {
    for gpu in gpus() {
        let q = Tensor::from_slice(&gpu, [1, 1], &[1.0]).unwrap();
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let x = [2.0, nan, 3.0, nan, -inf, -inf, -inf, -inf, inf, 0.0, inf, 1.0, -0.0, 0.0, -0.0, -1.0];
        let x = Tensor::from_slice(&gpu, [4, 4, 1], &x).unwrap();
        let (scores, positions) = forward(&q, &x, None, None).unwrap();
        let scores = scores.to_vec().unwrap();
        assert!(scores[0].is_nan(), "{scores:?}");
        assert_eq!(scores[1..], [-inf, inf, 0.0]);
        assert_eq!(positions.to_u32().unwrap(), [1, 0, 0, 0]);
    }
}

/// As many clips as software adapters allow, and some more.
#[test]
fn the_longest_video_is_searched_to_its_end() {
    for gpu in gpus().into_iter().filter(|gpu| gpu.report().is_software()) {
        let width = 8;
        let tile = choose(gpu.family(), 1);
        let per_step = iterations(tile, &Extents { queries: 1, videos: 1, clips: 1, width, half: false }) - 64;
        let most = (crate::kernels::MOST_ITERATIONS - 64) / per_step * tile.extent().1;
        let mut x = noise(most * width, 1);
        x[(most - 1) * width] = 99.0;
        let mut q = vec![0.0; width];
        q[0] = 1.0;
        let q = Tensor::from_slice(&gpu, [1, width], &q).unwrap();
        let (_, at) = forward(&q, &Tensor::from_slice(&gpu, [1, most, width], &x).unwrap(), None, None).unwrap();
        assert_eq!(at.to_u32().unwrap(), [most as u32 - 1]);
        let longer = noise_tensor(&gpu, &[1, most + 1, width], 1);
        assert!(matches!(forward(&q, &longer, None, None), Err(Error::LimitExceeded { .. })));
    }
}

#[test]
fn gradients_equal_the_twin() {
    for gpu in gpus() {
        for extents in [[1, 1, 1, 1], [5, 7, 9, 3], [33, 6, 13, 20], [7, 3, 65, 65], [64, 2, 5, 8]] {
            let [m, n, _, _] = extents;
            let mut problem = Problem::new(extents, 3);
            // The gradients do not look at masked clips, but the twin's product with 0 would.
            problem.x.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = 9.0);
            let [q, x, mask, scale] = problem.upload(&gpu);
            let g = noise(m * n, 11);
            let upstream = poisoned(&gpu, &[m, n], &g);
            for scaled in [false, true] {
                let given = scaled.then_some(&scale);
                let (_, positions) = forward(&q, &x, Some(&mask), given).unwrap();
                let at = positions.to_u32().unwrap();
                let scale = if scaled { to_f64(&problem.scale) } else { vec![1.0; problem.scale.len()] };
                let (dq, dx) =
                    cpu::backward(extents, &to_f64(&problem.q), &to_f64(&problem.x), &at, &scale, &to_f64(&g));
                let run = |wanted| {
                    let found = backward(&q, &x, &positions, given, &upstream, wanted).unwrap();
                    found.map(|t| t.map(|t| t.to_vec().unwrap()))
                };
                let both = run([true, true]);
                assert_slices_close(both[0].as_ref().unwrap(), &to_f32(&dq), 1e-5, 1e-5);
                assert_slices_close(both[1].as_ref().unwrap(), &to_f32(&dx), 1e-5, 1e-5);
                assert_eq!(both, run([true, true]), "two runs differ");
                assert_eq!(run([true, false]), [both[0].clone(), None]);
                assert_eq!(run([false, true]), [None, both[1].clone()]);
            }
        }
    }
}

#[test]
fn twin_agrees_with_finite_differences() {
    let extents = [3, 4, 5, 6];
    let [m, n, l, d] = extents;
    let (q, x) = (to_f64(&noise(m * d, 1)), to_f64(&noise(n * l * d, 2)));
    // The constant score of the first video, which has no clip, would leave differences no digits.
    let g: Vec<f64> =
        noise(m * n, 3).iter().enumerate().map(|(i, &g)| if i % n == 0 { 0.0 } else { g.into() }).collect();
    let mask: Vec<f32> = (0..n * l).map(|i| f32::from(u8::from(i >= l && i % 4 != 1))).collect();
    let scale = to_f64(&noise(n * l, 4));
    let (_, positions) = cpu::forward(extents, &q, &x, &mask, &scale);
    assert!(positions.iter().step_by(n).all(|&p| p == u32::MAX), "the first video has no clip");
    let (dq, dx) = cpu::backward(extents, &q, &x, &positions, &scale, &g);
    let by_q = differences(&q, |q| inner(&cpu::forward(extents, q, &x, &mask, &scale).0, &g));
    let by_x = differences(&x, |x| inner(&cpu::forward(extents, &q, x, &mask, &scale).0, &g));
    assert_slices_close(&to_f32(&by_q), &to_f32(&dq), 1e-5, 1e-6);
    assert_slices_close(&to_f32(&by_x), &to_f32(&dx), 1e-5, 1e-6);
}

#[test]
fn nothing_in_gives_nothing_out() {
    for gpu in gpus() {
        for [m, n, l] in [[0, 3, 4], [2, 0, 4], [0, 0, 0]] {
            let (q, x) = (noise_tensor(&gpu, &[m, 8], 1), noise_tensor(&gpu, &[n, l, 8], 1));
            let (scores, positions) = forward(&q, &x, None, None).unwrap();
            assert_eq!((scores.shape(), positions.shape()), (&[m, n][..], &[m, n][..]));
            let [dq, dx] = backward(&q, &x, &positions, None, &scores, [true; 2]).unwrap();
            assert!(dq.unwrap().to_vec().unwrap().iter().chain(&dx.unwrap().to_vec().unwrap()).all(|&v| v == 0.0));
        }
        let (q, x) = (noise_tensor(&gpu, &[2, 8], 1), noise_tensor(&gpu, &[3, 0, 8], 1));
        let (scores, positions) = forward(&q, &x, None, None).unwrap();
        assert_eq!(scores.to_vec().unwrap(), [NO_CLIP; 6]);
        assert_eq!(positions.to_u32().unwrap(), [u32::MAX; 6]);
        let [dq, dx] = backward(&q, &x, &positions, None, &scores, [true; 2]).unwrap();
        assert_eq!(dq.unwrap().to_vec().unwrap(), [0.0; 16]);
        assert!(dx.unwrap().is_empty());
    }
}

#[test]
fn wrong_arguments_are_errors() {
    for gpu in gpus() {
        let t = |shape: &[usize]| noise_tensor(&gpu, shape, 1);
        let (q, x) = (t(&[2, 6]), t(&[3, 4, 6]));
        let of = |q: &Tensor, x: &Tensor, mask: Option<&Tensor>, scale: Option<&Tensor>| {
            forward(q, x, mask, scale).map(drop).unwrap_err()
        };
        assert!(matches!(of(&t(&[6]), &x, None, None), Error::Shape { argument: "queries", .. }));
        assert!(matches!(of(&t(&[2, 5]), &x, None, None), Error::Shape { argument: "clips", .. }));
        assert!(matches!(of(&q, &t(&[4, 6]), None, None), Error::Shape { argument: "clips", .. }));
        assert!(matches!(of(&t(&[2, 0]), &t(&[3, 4, 0]), None, None), Error::Shape { argument: "clips", .. }));
        assert!(matches!(of(&q, &x, Some(&t(&[4, 3])), None), Error::Shape { argument: "mask", .. }));
        assert!(matches!(of(&q, &x, None, Some(&t(&[12]))), Error::Shape { argument: "scale", .. }));
        let halves = |width| Tensor::from_slice_f16(&gpu, [3, 4, width], &vec![0.0; 12 * width]).unwrap();
        assert!(forward(&q, &halves(6), None, None).is_ok());
        assert!(matches!(of(&q, &halves(3), None, None), Error::Shape { argument: "clips", .. }));
        assert!(matches!(of(&t(&[2, 7]), &halves(7), None, None), Error::Shape { argument: "clips", .. }));
        let (scores, positions) = forward(&q, &x, None, None).unwrap();
        let back = |p: &Tensor, g: &Tensor| backward(&q, &x, p, None, g, [true; 2]).map(drop).unwrap_err();
        assert!(matches!(back(&scores, &scores), Error::DType { argument: "positions", .. }));
        assert!(matches!(back(&positions, &t(&[3, 2])), Error::Shape { argument: "upstream", .. }));
    }
}
