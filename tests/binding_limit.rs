//! What is larger than a binding is bound in parts: with an artificially small limit every op that reads or writes
//! weights gives what it gives without one.

mod common;

use reelgrad::autograd::{Tape, Var};
use reelgrad::kernels::elementwise::binary;
use reelgrad::kernels::elementwise::unary::Activation;
use reelgrad::kernels::linear::embedding;
use reelgrad::kernels::linear::matmul::{self, Options};
use reelgrad::kernels::optimizer::{self, Group, Numbers, Update};
use reelgrad::models::Model;
use reelgrad::models::clip::{Clip, ClipConfig, TowerConfig};
use reelgrad::random::Random;
use reelgrad::{Error, Gpu, Result, Tensor};

/// Bytes of a binding: 16 times the smallest step between two views, and a block of the optimiser with room for its ends.
const LIMIT: u64 = 20 * 1024;

fn gpus() -> [Gpu; 2] {
    [common::builder().build().unwrap(), common::builder().binding_limit(LIMIT).build().unwrap()]
}

fn values(len: usize, stream: u64) -> Vec<f32> {
    let mut random = Random::new(7, stream);
    (0..len).map(|_| random.normal()).collect()
}

/// The results of `f` with and without the limit, of which some must have needed parts.
fn compare(tolerance: f32, f: impl Fn(&Gpu) -> Vec<Tensor>) {
    let [whole, parts] = gpus().map(|gpu| f(&gpu).iter().map(|t| t.to_vec().unwrap()).collect::<Vec<_>>());
    assert_eq!(whole.len(), parts.len());
    for (i, (a, b)) in whole.iter().zip(&parts).enumerate() {
        assert_eq!(a.len(), b.len());
        for (j, (x, y)) in a.iter().zip(b).enumerate() {
            assert!((x - y).abs() <= tolerance * (1.0 + x.abs()), "result {i}, element {j}: {x} and {y}");
        }
    }
}

#[test]
fn products_with_each_operand_too_large() {
    let layouts = [(false, false), (false, true), (true, false), (true, true)];
    // (m, n, k): a; b; the result; all of them; and rows that are no multiples of anything. Both transposed, one is copied
    // whole, so that one must fit.
    for (layouts, [m, n, k]) in [
        (&layouts[..], [300, 24, 40]),
        (&layouts, [24, 300, 40]),
        (&layouts, [200, 180, 8]),
        (&layouts[..3], [264, 256, 76]),
        (&layouts[..3], [79, 77, 75]),
    ] {
        for &(transpose_a, transpose_b) in layouts {
            compare(2e-4, |gpu| {
                let a = Tensor::from_slice(gpu, if transpose_a { [k, m] } else { [m, k] }, &values(m * k, 1)).unwrap();
                let b = Tensor::from_slice(gpu, if transpose_b { [n, k] } else { [k, n] }, &values(n * k, 2)).unwrap();
                let bias = Tensor::from_slice(gpu, [n], &values(n, 3)).unwrap();
                let residual = Tensor::from_slice(gpu, [m, n], &values(m * n, 4)).unwrap();
                let plain = Options { transpose_a, transpose_b, alpha: 0.5, ..Options::default() };
                let fused = Options {
                    bias: Some(&bias),
                    activation: Some(Activation::Relu),
                    residual: Some(&residual),
                    keep_pre_activation: true,
                    ..plain
                };
                let (y, all) = (matmul::forward(&a, &b, &plain).unwrap(), matmul::forward(&a, &b, &fused).unwrap());
                assert_eq!(y.y.shape(), [m, n]);
                vec![y.y, all.y, all.pre_activation.unwrap()]
            });
        }
    }
}

#[test]
fn tables_of_rows_and_their_gradients() {
    for width in [24, 7] {
        let ids: Vec<u32> = (0..90).map(|i| i * i * 31 % 1000).chain([0, 999, 999, 512]).collect();
        compare(0.0, |gpu| {
            let table = Tensor::from_slice(gpu, [1000, width], &values(1000 * width, 1)).unwrap();
            let rows = embedding::forward(&table, &ids, &[ids.len()]).unwrap();
            let gradient = Tensor::from_slice(gpu, [ids.len(), width], &values(ids.len() * width, 2)).unwrap();
            let back = embedding::backward(&gradient, &ids, 1000).unwrap();
            binary::add_assign(&table, &back).unwrap();
            vec![rows, back, table]
        });
    }
}

/// The result of `f` and the gradients of all of its arguments, by a random one of the result.
fn with_gradients(gpu: &Gpu, shapes: &[&[usize]], f: impl Fn(&[Var]) -> Result<Var>) -> Vec<Tensor> {
    let tape = Tape::new(gpu);
    let noise =
        |shape: &[usize], stream| Tensor::from_slice(gpu, shape, &values(shape.iter().product(), stream)).unwrap();
    let arguments: Vec<Var> = shapes.iter().zip(1..).map(|(shape, i)| tape.leaf(noise(shape, i))).collect();
    let y = f(&arguments).unwrap();
    let seed = noise(y.shape(), 99);
    let gradients = tape.backward_from(&y, seed).unwrap();
    let of = |x: &Var| gradients.get(x).unwrap().clone();
    arguments.iter().map(of).chain([y.value().clone()]).collect()
}

#[test]
fn layers_and_their_gradients() {
    compare(2e-4, |gpu| {
        with_gradients(gpu, &[&[16, 24], &[300, 24], &[300], &[16, 300]], |x| {
            x[0].linear(&x[1], Some(&x[2]), Some(Activation::QuickGelu), Some(&x[3]))
        })
    });
    compare(2e-4, |gpu| with_gradients(gpu, &[&[2, 3, 8, 8], &[400, 3, 4, 4]], |x| x[0].patch_embed(&x[1])));
    compare(2e-4, |gpu| with_gradients(gpu, &[&[1000, 24]], |x| x[0].embedding(&[3, 999, 3, 512, 0, 7], &[2, 3])));
    // Halves: 32 KB of them.
    compare(2e-4, |gpu| {
        let weight = Tensor::from_slice_f16(gpu, [400, 40], &values(400 * 40, 2)).unwrap();
        let x = Tensor::from_slice(gpu, [9, 40], &values(9 * 40, 1)).unwrap();
        let options = Options { transpose_b: true, ..Options::default() };
        vec![matmul::forward(&x, &weight, &options).unwrap().y]
    });
}

/// A published model's table of tokens is larger than 128 MiB; here it is larger than the limit.
#[test]
fn a_text_tower_trains() {
    compare(1e-3, |gpu| {
        let config = ClipConfig {
            image_size: 8,
            patch_size: 4,
            vision: TowerConfig { width: 64, heads: 1, layers: 1, mlp: 64 },
            text: TowerConfig { width: 64, heads: 1, layers: 1, mlp: 64 },
            vocabulary: 300,
            positions: 7,
            joint: 16,
            ..ClipConfig::vit_b_32()
        };
        let clip = Clip::new(gpu, config, 5).unwrap();
        let tape = Tape::training(gpu, 1, 0);
        let ids: Vec<u32> = (0..3).flat_map(|i| [298, 5 + i, 90 * i, 299, 0, 0, 0]).collect();
        let texts = clip.towers().text.encode(&tape, &ids, 7, None, false).unwrap().sentence;
        let loss = texts.square().unwrap().mean_all().unwrap();
        tape.backward(&loss).unwrap();
        let mut found = vec![texts.value().clone()];
        found.extend(clip.store().parameters().iter().filter_map(|p| p.gradient().cloned()));
        found
    });
}

#[test]
fn optimisers_step_and_clip_long_buffers() {
    const LEN: usize = 30_016;
    let ranges = [(0, 100), (128, 20_001), (20_160, 3), (20_224, LEN - 20_224)];
    let numbers = Numbers { rate: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-6, decay: 0.1, step: 3, max: None };
    compare(0.0, |gpu| {
        let flat = |stream| Tensor::from_slice(gpu, [LEN], &values(LEN, stream)).unwrap();
        let (params, grads, m) = (flat(1), flat(2), flat(3));
        let v = Tensor::from_slice(gpu, [LEN], &values(LEN, 4).iter().map(|x| x * x).collect::<Vec<_>>()).unwrap();
        let group = Group::new(gpu, &ranges).unwrap();
        let global = optimizer::clip_global(&grads, &group, 1.0).unwrap();
        let each = optimizer::clip_ranges(&grads, &group, 0.5, Some(&global.scale)).unwrap();
        for update in [Update::AdamW(numbers), Update::BertAdam(numbers)] {
            optimizer::step(&params, &grads, &m, &v, &group, &update, Some(&each.scale)).unwrap();
        }
        vec![params, m, v, global.norm, each.norm, each.scale]
    });
}

#[test]
fn rows_beyond_a_binding_are_refused_with_the_limit() {
    let [_, gpu] = gpus();
    let (a, b) = (Tensor::zeros(&gpu, "test", [2, 6000]).unwrap(), Tensor::zeros(&gpu, "test", [3, 6000]).unwrap());
    let options = Options { transpose_b: true, ..Options::default() };
    match matmul::forward(&a, &b, &options) {
        Err(Error::LimitExceeded { limit: LIMIT, .. }) => {}
        other => panic!("{other:?}"),
    }
}
