use super::*;
use crate::kernels::testing::{assert_close, gpus, half_noise, noise, noise_tensor, poisoned, poisoned_halves};

/// Storage order of a `rows` by `columns` matrix.
fn stored(batch: &[usize], rows: usize, columns: usize, transposed: bool) -> Vec<usize> {
    let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
    [batch, &[rows, columns]].concat()
}

fn tolerance(k: usize) -> f32 {
    1e-6 + 4e-7 * (k as f32).sqrt()
}

/// Runs a product of noise and compares it with the twin.
#[track_caller]
fn compare(gpu: &Gpu, [z, m, n, k]: [usize; 4], (ta, tb): (bool, bool), plan: impl Fn(&Gpu, &Problem) -> Plan) {
    let batch = if z == 1 { vec![] } else { vec![z] };
    let (a, b) = (noise(z * m * k, 1), noise(z * k * n, 2));
    let call =
        cpu::Call { extents: [z, m, n, k], transpose_a: ta, transpose_b: tb, alpha: 0.5, ..cpu::Call::default() };
    let (y, _) = cpu::forward(&call, &a, &b);
    let a = poisoned(gpu, &stored(&batch, m, k, ta), &a);
    let b = poisoned(gpu, &stored(&batch, k, n, tb), &b);
    let options = Options { transpose_a: ta, transpose_b: tb, alpha: 0.5, ..Options::default() };
    let got = run(&a, &b, &options, plan).unwrap().y;
    assert_eq!(got.shape(), [batch.as_slice(), &[m, n]].concat());
    assert_close(&got, &y, 1e-5, tolerance(k));
}

fn fixed(plan: Plan) -> impl Fn(&Gpu, &Problem) -> Plan {
    move |_, _| plan
}

fn plan(tile: Tile, slices: usize) -> impl Fn(&Gpu, &Problem) -> Plan {
    fixed(Plan { tile, slices, limit: 65_535, most_flops: u64::MAX })
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

const LAYOUTS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn every_tile_equals_its_twin() {
    for gpu in gpus() {
        for tile in tiles(&gpu) {
            let (rows, columns) = tile.extent();
            let shapes = [
                [1, 1, 1, 1],
                [1, rows - 1, columns - 1, 15],
                [2, rows, columns, 16],
                [2, rows + 1, columns + 1, 20],
                [1, 13, 37, 61],
                [2, rows + 4, columns + 4, 36],
                [1, 8, 2 * columns + 4, 3],
            ];
            // Compiling takes longest; of the tiled family, the other tiles differ from this one in two numbers.
            let brief = matches!(tile, Tile::Tiled { .. }) && tile != Tile::SMALL;
            for shape in shapes.into_iter().filter(|s| !brief || s.iter().skip(1).all(|d| d % 4 == 0)) {
                for layout in LAYOUTS {
                    compare(&gpu, shape, layout, plan(tile, 1));
                }
            }
        }
    }
}

#[test]
fn slices_of_k_add_up() {
    for gpu in gpus() {
        let tile = tiles(&gpu)[0];
        for shape in [[1, 12, 20, 1000], [1, 7, 5, 515], [1, 64, 64, 2051]] {
            for slices in [2, 3, 7] {
                compare(&gpu, shape, (true, false), plan(tile, slices));
                compare(&gpu, shape, (false, true), plan(tile, slices));
            }
            compare(&gpu, shape, (true, false), Plan::new);
            compare(&gpu, shape, (false, false), Plan::new);
        }
    }
}

/// Software adapters end loops that are too long.
#[test]
fn no_slice_of_k_is_too_long() {
    for gpu in gpus() {
        for (m, n, k) in [(1, 1, 1 << 31), (128, 128, LONGEST + 1), (8, 4096, 300_001), (4096, 4096, 1 << 19)] {
            let layout = Layout::new([m, n, k], true, false, false);
            let p = Problem { z: 1, m, n, k, stride_a: 0, stride_b: 0, layout };
            let slices = Plan::new(&gpu, &p).slices;
            assert!(slice_len(k, slices) <= LONGEST, "{m} {n} {k}: {slices} slices");
        }
        let (a, b) = (noise_tensor(&gpu, &[2, 1, 262_145], 1), noise_tensor(&gpu, &[2, 262_145, 1], 2));
        if gpu.report().is_software() {
            assert!(matches!(forward(&a, &b, &Options::default()), Err(Error::LimitExceeded { .. })));
        }
    }
}

#[test]
fn the_rules_choice_equals_the_twin() {
    for gpu in gpus() {
        for shape in [[1, 1, 300, 64], [1, 8, 64, 1024], [1, 200, 96, 24], [1, 100, 101, 31], [70, 3, 4, 5]] {
            for layout in LAYOUTS {
                compare(&gpu, shape, layout, Plan::new);
            }
        }
    }
}

#[test]
fn what_follows_equals_the_twin() {
    let activations = std::iter::once(None).chain(Activation::ALL.map(Some));
    for gpu in gpus() {
        for activation in activations.clone() {
            // A fused kernel, a scalar one with a reduction, a sliced one, and no product at all.
            for ([m, k, n], ta) in [([9, 8, 12], false), ([5, 7, 3], false), ([4, 1030, 8], true), ([3, 0, 4], false)] {
                let bias = noise(n, 3);
                let residual = noise(m * n, 4);
                let (a, b) = (noise(m * k, 1), noise(k * n, 2));
                let ga = poisoned(&gpu, &stored(&[], m, k, ta), &a);
                let gb = poisoned(&gpu, &[k, n], &b);
                let (gbias, gresidual) = (poisoned(&gpu, &[n], &bias), poisoned(&gpu, &[m, n], &residual));
                for (bits, keep) in [(0, true), (1, false), (2, true), (3, false), (3, true)] {
                    let call = cpu::Call {
                        extents: [1, m, n, k],
                        transpose_a: ta,
                        alpha: 1.5,
                        bias: (bits & 1 > 0).then_some(&bias),
                        activation,
                        residual: (bits & 2 > 0).then_some(&residual),
                        ..cpu::Call::default()
                    };
                    let options = Options {
                        transpose_a: ta,
                        alpha: 1.5,
                        bias: (bits & 1 > 0).then_some(&gbias),
                        activation,
                        residual: (bits & 2 > 0).then_some(&gresidual),
                        keep_pre_activation: keep,
                        ..Options::default()
                    };
                    let (y, pre) = cpu::forward(&call, &a, &b);
                    let got = forward(&ga, &gb, &options).unwrap();
                    assert_close(&got.y, &y, 1e-5, 2.0 * tolerance(k));
                    assert_eq!(got.pre_activation.is_some(), keep);
                    if let Some(got) = got.pre_activation {
                        assert_close(&got, &pre, 1e-5, 2.0 * tolerance(k));
                    }
                }
            }
        }
    }
}

#[test]
fn one_operand_may_serve_the_batch() {
    for gpu in gpus() {
        let (m, n, k) = (6, 8, 12);
        for batch in [vec![3], vec![2, 2], vec![1]] {
            let z: usize = batch.iter().product();
            for (transpose_a, transpose_b) in LAYOUTS {
                for shared_a in [true, false] {
                    let of = |shared: bool| if shared { (1, vec![]) } else { (z, batch.clone()) };
                    let ((za, batch_a), (zb, batch_b)) = (of(shared_a), of(!shared_a));
                    let (a, b) = (noise(za * m * k, 1), noise(zb * k * n, 2));
                    let call = cpu::Call {
                        extents: [z, m, n, k],
                        transpose_a,
                        transpose_b,
                        shared_a,
                        shared_b: !shared_a,
                        alpha: 1.0,
                        ..cpu::Call::default()
                    };
                    let (y, _) = cpu::forward(&call, &a, &b);
                    let a = Tensor::from_slice(&gpu, stored(&batch_a, m, k, transpose_a), &a).unwrap();
                    let b = Tensor::from_slice(&gpu, stored(&batch_b, k, n, transpose_b), &b).unwrap();
                    let options = Options { transpose_a, transpose_b, ..Options::default() };
                    let got = forward(&a, &b, &options).unwrap().y;
                    assert_eq!(got.shape(), [batch.as_slice(), &[m, n]].concat());
                    assert_close(&got, &y, 1e-5, tolerance(k));
                }
            }
        }
    }
}

#[test]
fn two_runs_are_equal_bit_by_bit() {
    for gpu in gpus() {
        for [m, n, k] in [[70, 68, 300], [16, 16, 3000]] {
            let (a, b) = (noise_tensor(&gpu, &[k, m], 1), noise_tensor(&gpu, &[k, n], 2));
            let bits = || -> Vec<u32> {
                let options = Options { transpose_a: true, ..Options::default() };
                forward(&a, &b, &options).unwrap().y.to_vec().unwrap().iter().map(|v| v.to_bits()).collect()
            };
            assert_eq!(bits(), bits());
        }
    }
}

#[test]
fn a_grid_that_is_too_large_or_takes_too_long_is_cut() {
    for gpu in gpus() {
        let tile = tiles(&gpu)[0];
        let (rows, columns) = tile.extent();
        for (shape, slices) in [([5, 2 * rows, 4 * columns + 1, 8], 1), ([1, 4 * rows + 4, 2 * columns, 70], 3)] {
            for layout in LAYOUTS {
                compare(&gpu, shape, layout, fixed(Plan { tile, slices, limit: 2, most_flops: u64::MAX }));
                // Single tiles, and several.
                for tiles in [0, 3] {
                    let most_flops = tiles * 2 * (rows * columns * shape[3].div_ceil(slices)) as u64;
                    compare(&gpu, shape, layout, fixed(Plan { tile, slices, limit: 65_535, most_flops }));
                }
            }
        }
    }
    assert_eq!(runs(7, 3).collect::<Vec<_>>(), [(0, 3), (3, 3), (6, 1)]);
}

#[test]
fn nothing_in_nothing_out() {
    for gpu in gpus() {
        let empty = |shape: &[usize]| Tensor::from_slice(&gpu, shape, &[]).unwrap();
        let b = noise_tensor(&gpu, &[3, 4], 1);
        let options = Options { keep_pre_activation: true, activation: Some(Activation::Gelu), ..Options::default() };
        let out = forward(&empty(&[0, 3]), &b, &options).unwrap();
        assert_eq!((out.y.shape(), out.pre_activation.unwrap().shape()), ([0, 4].as_slice(), [0, 4].as_slice()));
        let y = forward(&empty(&[5, 0]), &empty(&[0, 7]), &Options::default()).unwrap().y;
        assert_eq!(y.to_vec().unwrap(), [0.0; 35]);
    }
}

#[test]
fn wrong_arguments_are_named() {
    for gpu in gpus() {
        let t = |shape: &[usize]| noise_tensor(&gpu, shape, 1);
        let plain = Options::default();
        assert!(matches!(forward(&t(&[3]), &t(&[3, 4]), &plain), Err(Error::Shape { argument: "a", .. })));
        assert!(matches!(forward(&t(&[2, 3]), &t(&[4, 5]), &plain), Err(Error::ShapeMismatch { .. })));
        assert!(matches!(forward(&t(&[2, 2, 3]), &t(&[4, 3, 5]), &plain), Err(Error::ShapeMismatch { .. })));
        let transposed = Options { transpose_a: true, transpose_b: true, ..plain };
        assert!(matches!(forward(&t(&[2, 3]), &t(&[3, 4]), &transposed), Err(Error::ShapeMismatch { .. })));
        let short = t(&[4]);
        let wrong = Options { bias: Some(&short), ..plain };
        assert!(matches!(forward(&t(&[2, 3]), &t(&[3, 5]), &wrong), Err(Error::Shape { argument: "bias", .. })));
        let wrong = Options { residual: Some(&short), ..plain };
        assert!(matches!(forward(&t(&[2, 3]), &t(&[3, 2]), &wrong), Err(Error::Shape { argument: "residual", .. })));
        let ids = Tensor::from_u32(&gpu, [3, 4], &[0; 12]).unwrap();
        assert!(matches!(forward(&t(&[2, 3]), &ids, &plain), Err(Error::DType { argument: "b", .. })));
    }
}

#[test]
fn halves_give_the_product_of_their_values() {
    for gpu in gpus() {
        for tile in tiles(&gpu) {
            let (rows, columns) = tile.extent();
            let shapes = [
                [1, 1, 1, 4],
                [1, rows + 1, columns + 1, 20],
                [2, 3, 5, 8],
                [1, rows, columns + 4, 36],
                [1, 9, 12, 1028],
            ];
            for [z, m, n, k] in shapes {
                let batch = if z == 1 { vec![] } else { vec![z] };
                let rounded = half_noise(z * n * k, 2);
                let a = poisoned(&gpu, &stored(&batch, m, k, false), &noise(z * m * k, 1));
                let whole = poisoned(&gpu, &stored(&batch, k, n, true), &rounded);
                let packed = poisoned_halves(&gpu, &stored(&batch, k, n, true), &rounded);
                let (bias, residual) =
                    (noise_tensor(&gpu, &[n], 3), noise_tensor(&gpu, &stored(&batch, m, n, false), 4));
                for slices in [1, 3] {
                    for activation in [None, Some(Activation::QuickGelu)] {
                        let options = Options {
                            transpose_b: true,
                            bias: activation.map(|_| &bias),
                            residual: activation.map(|_| &residual),
                            activation,
                            ..Options::default()
                        };
                        let of = |b: &Tensor| {
                            let y = run(&a, b, &options, plan(tile, if z == 1 { slices } else { 1 })).unwrap().y;
                            y.to_vec().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                        };
                        assert_eq!(of(&packed), of(&whole), "{tile:?} {z} {m} {n} {k}");
                    }
                }
                // The fourth layout turns a.
                let turned = permute::transpose(&a).unwrap();
                let options = Options { transpose_a: true, transpose_b: true, ..Options::default() };
                let of = |b: &Tensor| forward(&turned, b, &options).unwrap().y.to_vec().unwrap();
                assert_close(&Tensor::from_slice(&gpu, [z * m * n], &of(&packed)).unwrap(), &of(&whole), 1e-5, 1e-5);
            }
        }
    }
}

#[test]
fn halves_are_refused_where_they_do_not_fit() {
    for gpu in gpus() {
        let b = |shape: &[usize]| Tensor::from_slice_f16(&gpu, shape, &vec![0.0; shape.iter().product()]).unwrap();
        let a = noise_tensor(&gpu, &[3, 8], 1);
        let transposed = Options { transpose_b: true, ..Options::default() };
        assert_eq!(forward(&a, &b(&[5, 8]), &transposed).unwrap().y.shape(), [3, 5]);
        assert!(matches!(forward(&a, &b(&[5, 4]), &transposed), Err(Error::ShapeMismatch { .. })));
        assert!(matches!(forward(&a, &b(&[8, 5]), &Options::default()), Err(Error::DType { argument: "b", .. })));
        assert!(matches!(forward(&b(&[3, 8]), &a, &transposed), Err(Error::DType { argument: "a", .. })));
        let a = noise_tensor(&gpu, &[3, 6], 1);
        assert!(matches!(forward(&a, &b(&[5, 6]), &transposed), Err(Error::Shape { argument: "b", .. })));
    }
}
