//! The cosine-similarity matrix, forward and with gradients.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use reelgrad::Tensor;
use reelgrad::autograd::Tape;
use reelgrad::random::Random;

mod common;

fn cosine(c: &mut Criterion) {
    let (n, d) = (1000, 512);
    for gpu in common::gpus() {
        let mut random = Random::new(0, 0);
        let mut rows = || {
            let data: Vec<f32> = (0..n * d).map(|_| random.normal()).collect();
            Tensor::from_slice(&gpu, [n, d], &data).expect("the device has room")
        };
        let (a, b, g) = (rows(), rows(), Tensor::zeros(&gpu, "gradient", [n, n]).expect("the device has room"));
        let mut group = c.benchmark_group(format!("cosine matrix {n}x{n}x{d}, {}", gpu.family()));
        group.sample_size(10).throughput(Throughput::Elements((2 * n * n * d) as u64));
        group.bench_function("forward", |bench| {
            bench.iter(|| {
                let tape = Tape::inference(&gpu);
                tape.constant(a.clone()).cosine_matrix(&tape.constant(b.clone())).expect("it runs");
                gpu.synchronize().expect("the device answers");
            });
        });
        group.throughput(Throughput::Elements((6 * n * n * d) as u64));
        group.bench_function("forward and backward", |bench| {
            bench.iter(|| {
                let tape = Tape::new(&gpu);
                let y = tape.leaf(a.clone()).cosine_matrix(&tape.leaf(b.clone())).expect("it runs");
                tape.backward_from(&y, g.clone()).expect("it runs");
                gpu.synchronize().expect("the device answers");
            });
        });
        group.finish();
    }
}

criterion_group!(benches, cosine);
criterion_main!(benches);
