use super::*;
use crate::gpu::Gpu;
use crate::kernels::testing::{assert_close, gpus, half_noise, noise, noise_tensor, poisoned, poisoned_halves};

/// The splits that a device's family may use.
fn splits(gpu: &Gpu) -> impl Iterator<Item = Split> {
    let family = gpu.family();
    Split::all().filter(move |split| match (family, split) {
        (
            KernelFamily::Subgroup { size },
            Split::Teams { lanes, count: 1, .. } | Split::Items(Tile::Subgroup { lanes, .. }),
        ) => size == *lanes,
        (KernelFamily::Tiled, Split::Teams { count: 4, .. }) => true,
        _ => false,
    })
}

/// Pairs in which videos come in runs of several lengths, come again, or are missing, and texts are in no order.
fn some_pairs(count: usize, texts: usize, videos: usize) -> Vec<[u32; 2]> {
    let run = |i: usize| (0..).take_while(|r| r * (r + 1) / 2 <= i).count();
    (0..count).map(|i| [(i * 5 % texts) as u32, (run(i) * 3 % videos) as u32]).collect()
}

#[test]
fn every_tile_equals_its_twin() {
    for gpu in gpus() {
        for split in splits(&gpu) {
            for [texts, q, pairs, n, r, d] in [
                [1, 1, 1, 1, 1, 4],
                [3, 1, 2, 5, 7, 12],
                [2, 2, 5, 4, 13, 68],
                [2, 3, 3, 9, 8, 64],
                [2, 4, 8, 3, 4, 32],
                [3, 5, 4, 20, 9, 20],
                [7, 1, 130, 4, 37, 12],
                [2, 33, 5, 3, 13, 12],
                [1, 66, 3, 6, 12, 132],
            ] {
                let listed = some_pairs(pairs, texts, n);
                // Halves in either edition, so that both compute the same.
                let x = half_noise(n * r * d, 2);
                let queries = noise(texts * q * d, 1);
                let expected = cpu::forward([q, r, d], &queries, &x, &listed);
                let gq = poisoned(&gpu, &[texts, q, d], &queries);
                let whole = poisoned(&gpu, &[n, r, d], &x);
                let packed = poisoned_halves(&gpu, &[n, r, d], &x);
                let once = |x: &Tensor, most| run(&gq, x, &listed, |_, _| split, most).unwrap();
                let y = once(&whole, u64::MAX);
                assert_eq!(y.shape(), [pairs, q, r]);
                assert_close(&y, &expected, 1e-5, 1e-5);
                let bits = |y: Tensor| y.to_vec().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                let (y, at) = (bits(y), [texts, q, pairs, n, r, d]);
                assert_eq!(y, bits(once(&whole, 1)), "{split:?} {at:?} in single workgroups");
                assert_eq!(y, bits(once(&packed, u64::MAX)), "{split:?} {at:?} as halves");
            }
        }
    }
}

#[test]
fn the_rules_choose_tiles_that_are_listed() {
    for gpu in gpus() {
        for (q, pairs) in [(1, 1), (2, 1), (3, 1), (9, 2), (1, 300)] {
            let (queries, x, listed) = (noise(2 * q * 16, 1), noise(2 * 4 * 16, 2), some_pairs(pairs, 2, 2));
            let expected = cpu::forward([q, 4, 16], &queries, &x, &listed);
            let queries = Tensor::from_slice(&gpu, [2, q, 16], &queries).unwrap();
            let x = Tensor::from_slice(&gpu, [2, 4, 16], &x).unwrap();
            assert_close(&forward(&queries, &x, &listed).unwrap(), &expected, 1e-5, 1e-5);
        }
    }
}

#[test]
fn nothing_in_gives_nothing_out() {
    for gpu in gpus() {
        for ([texts, q, n, r], pairs) in
            [([0, 1, 3, 4], vec![]), ([2, 0, 3, 4], vec![[0, 1]]), ([2, 1, 0, 4], vec![]), ([2, 1, 3, 0], vec![[1, 2]])]
        {
            let (queries, x) = (noise_tensor(&gpu, &[texts, q, 8], 1), noise_tensor(&gpu, &[n, r, 8], 2));
            assert_eq!(forward(&queries, &x, &pairs).unwrap().shape(), [pairs.len(), q, r]);
        }
    }
}

#[test]
fn wrong_arguments_are_errors() {
    for gpu in gpus() {
        let t = |shape: &[usize]| noise_tensor(&gpu, shape, 1);
        let h = |shape: &[usize]| Tensor::from_slice_f16(&gpu, shape, &vec![0.0; shape.iter().product()]).unwrap();
        let of = |q: &Tensor, x: &Tensor, pairs: &[[u32; 2]]| forward(q, x, pairs).map(drop).unwrap_err();
        let (q, x, pairs) = (t(&[2, 3, 8]), t(&[5, 4, 8]), [[0, 0], [1, 4]]);
        assert!(forward(&q, &h(&[5, 4, 8]), &pairs).is_ok());
        assert!(matches!(of(&t(&[2, 8]), &x, &pairs), Error::Shape { argument: "queries", .. }));
        assert!(matches!(of(&t(&[2, 3, 6]), &t(&[5, 4, 6]), &pairs), Error::Shape { argument: "queries", .. }));
        assert!(matches!(of(&t(&[2, 3, 0]), &t(&[5, 4, 0]), &pairs), Error::Shape { argument: "queries", .. }));
        assert!(matches!(of(&q, &t(&[5, 4, 4]), &pairs), Error::Shape { argument: "items", .. }));
        assert!(matches!(of(&q, &h(&[5, 4, 4]), &pairs), Error::Shape { argument: "items", .. }));
        for (pair, wrong, length) in [([2, 0], 2, 2), ([1, 5], 5, 5), ([1, u32::MAX], u32::MAX.into(), 5)] {
            let error = of(&q, &x, &[[0, 0], pair]);
            assert!(
                matches!(error, Error::IndexOutOfRange { index, len, .. } if (index, len) == (wrong, length)),
                "{error}"
            );
        }
    }
}
