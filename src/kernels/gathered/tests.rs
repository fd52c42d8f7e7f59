use half::f16;

use super::*;
use crate::gpu::Gpu;
use crate::kernels::testing::{assert_close, gpus, noise, noise_tensor, poisoned};

/// The tiles that a device's family may use.
fn tiles(gpu: &Gpu) -> Vec<Tile> {
    let fits = |tile: &Tile| match (gpu.family(), tile) {
        (KernelFamily::Subgroup { size }, Tile::Teams { lanes, count: 1, .. } | Tile::Subgroup { lanes, .. }) => {
            size == *lanes
        }
        (KernelFamily::Tiled, Tile::Teams { count: 4, .. }) => true,
        _ => false,
    };
    Tile::all().into_iter().filter(fits).collect()
}

/// Ids of all kinds: repeated, in no order, and some that do not exist.
fn some_ids(batch: usize, candidates: usize, videos: usize) -> Vec<u32> {
    let id = |i: usize| if i % 11 == 7 { [videos as u32, u32::MAX][i % 2] } else { (i * 7 % videos) as u32 };
    (0..batch * candidates).map(id).collect()
}

/// Uploads ids with ids behind the end that would show.
fn upload_ids(gpu: &Gpu, shape: &[usize], ids: &[u32]) -> Tensor {
    let long: Vec<u32> = ids.iter().copied().chain([u32::MAX; 64]).collect();
    Tensor::from_u32(gpu, [long.len()], &long).unwrap().view(0, shape).unwrap()
}

/// Values as f16, two in each u32, with NaN behind the end.
fn pack(gpu: &Gpu, shape: &[usize], x: &[f32]) -> Tensor {
    let bits = |v: f32| u32::from(f16::from_f32(v).to_bits());
    let packed = x.chunks_exact(2).map(|c| bits(c[0]) | bits(c[1]) << 16);
    let packed: Vec<u32> = packed.chain([0x7e00_7e00; 64]).collect();
    Tensor::from_u32(gpu, [packed.len()], &packed).unwrap().view(0, shape).unwrap()
}

#[test]
fn every_tile_equals_its_twin() {
    for gpu in gpus() {
        for tile in tiles(&gpu) {
            for extents in [
                [1, 1, 1, 1, 1, 4],
                [3, 1, 2, 5, 7, 12],
                [2, 2, 5, 4, 13, 68],
                [2, 3, 3, 9, 8, 64],
                [2, 4, 8, 3, 4, 32],
                [3, 5, 4, 20, 9, 20],
                [2, 33, 5, 3, 13, 12],
                [1, 66, 3, 6, 12, 132],
            ] {
                let [b, q, k, n, r, d] = extents;
                let ids = some_ids(b, k, n);
                // Halves in either edition, so that both compute the same.
                let x: Vec<f32> = noise(n * r * d, 2).iter().map(|&v| f16::from_f32(v).to_f32()).collect();
                let queries = noise(b * q * d, 1);
                let expected = cpu::forward(extents, &queries, &x, &ids);
                let gq = poisoned(&gpu, &[b, q, d], &queries);
                let ids = upload_ids(&gpu, &[b, k], &ids);
                let whole = poisoned(&gpu, &[n, r, d], &x);
                let packed = pack(&gpu, &[n, r, d / 2], &x);
                let once = |x: &Tensor, most| run(&gq, x, &ids, Some(tile), most).unwrap();
                let y = once(&whole, u64::MAX);
                assert_eq!(y.shape(), [b, q, k, r]);
                assert_close(&y, &expected, 1e-5, 1e-5);
                let bits = |y: Tensor| y.to_vec().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                let y = bits(y);
                assert_eq!(y, bits(once(&whole, 1)), "{tile:?} {extents:?} in single workgroups");
                assert_eq!(y, bits(once(&packed, u64::MAX)), "{tile:?} {extents:?} as halves");
            }
        }
    }
}

#[test]
fn the_rules_choose_tiles_that_are_listed() {
    for gpu in gpus() {
        for q in [1, 2, 3, 9, 17] {
            let extents = [2, q, 3, 5, 4, 16];
            let (queries, x, ids) = (noise(2 * q * 16, 1), noise(5 * 4 * 16, 2), some_ids(2, 3, 5));
            let expected = cpu::forward(extents, &queries, &x, &ids);
            let queries = Tensor::from_slice(&gpu, [2, q, 16], &queries).unwrap();
            let x = Tensor::from_slice(&gpu, [5, 4, 16], &x).unwrap();
            assert_close(&forward(&queries, &x, &upload_ids(&gpu, &[2, 3], &ids)).unwrap(), &expected, 1e-5, 1e-5);
        }
    }
}

#[test]
fn nothing_in_gives_nothing_out() {
    for gpu in gpus() {
        for [b, q, k, n, r] in [[0, 1, 2, 3, 4], [2, 0, 2, 3, 4], [2, 1, 0, 3, 4], [2, 1, 2, 0, 4], [2, 1, 2, 3, 0]] {
            let ids = Tensor::from_u32(&gpu, [b, k], &vec![0; b * k]).unwrap();
            let y = forward(&noise_tensor(&gpu, &[b, q, 8], 1), &noise_tensor(&gpu, &[n, r, 8], 2), &ids).unwrap();
            assert_eq!(y.shape(), [b, q, k, r]);
            assert!(y.to_vec().unwrap().iter().all(|&v| v == 0.0));
        }
    }
}

#[test]
fn wrong_arguments_are_errors() {
    for gpu in gpus() {
        let t = |shape: &[usize]| noise_tensor(&gpu, shape, 1);
        let u = |shape: &[usize]| Tensor::from_u32(&gpu, shape, &vec![0; shape.iter().product()]).unwrap();
        let of = |q: &Tensor, x: &Tensor, ids: &Tensor| forward(q, x, ids).map(drop).unwrap_err();
        let (q, x, ids) = (t(&[2, 3, 8]), t(&[5, 4, 8]), u(&[2, 6]));
        assert!(forward(&q, &u(&[5, 4, 4]), &ids).is_ok());
        assert!(matches!(of(&t(&[2, 8]), &x, &ids), Error::Shape { argument: "queries", .. }));
        assert!(matches!(of(&t(&[2, 3, 6]), &t(&[5, 4, 6]), &ids), Error::Shape { argument: "queries", .. }));
        assert!(matches!(of(&t(&[2, 3, 0]), &t(&[5, 4, 0]), &ids), Error::Shape { argument: "queries", .. }));
        assert!(matches!(of(&q, &t(&[5, 4, 4]), &ids), Error::Shape { argument: "items", .. }));
        assert!(matches!(of(&q, &u(&[5, 4, 8]), &ids), Error::Shape { argument: "items", .. }));
        assert!(matches!(of(&q, &x, &u(&[3, 6])), Error::Shape { argument: "ids", .. }));
        assert!(matches!(of(&q, &x, &t(&[2, 6])), Error::DType { argument: "ids", .. }));
    }
}
